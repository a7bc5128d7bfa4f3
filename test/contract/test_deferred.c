/* slab_free_deferred, its form with a head and its bulk form: any pointer that free takes is freed after a grace
 * period, and not a byte of it changes before.
 *
 * Most scenarios use one of each kind of object that there is: all sizes of malloc, large objects of several sizes
 * and alignments, objects of caches of all sorts, far ones among them. Each is filled with a pattern, which a reader
 * checks that has found it; the caches' figures tell when it has been freed. Constructed objects have the pattern
 * from their constructor, and keep it. */
#include "epochs.h"

#include <stdatomic.h>

/* -- objects of each kind ---------------------------------------------------------------------------------------- */

enum {
    CACHES_OF_A_KIND = 12,
    FAR_CACHES = 8,
    CACHES_UNTIL_FAR = 700,
    EACH = 3,
    SPECIMENS = 600,
    CONSTRUCTED_SEED = 0x51
};

struct specimen {
    unsigned char *object;
    size_t size;
    unsigned seed;
    slab_cache *cache; /* or NULL */
};

struct collection {
    struct specimen all[SPECIMENS];
    size_t count;
    bool heads; /* they were retired with heads, which are the library's */
};

struct kind {
    slab_cache *cache;
    size_t size;
    bool constructed, merged;
};

static struct kind kinds[CACHES_OF_A_KIND + FAR_CACHES];
static size_t kinds_count;

static void construct(void *object, void *size)
{
    pattern_fill(object, (size_t)size, CONSTRUCTED_SEED);
}

static void destruct(void *object, void *size)
{
    memset(object, 0, (size_t)size);
}

static void add_kind(const char *name, size_t size, slab_cache_attr attr)
{
    struct kind *kind = &kinds[kinds_count++];
    require(kinds_count <= COUNT(kinds));
    if (attr.ctor != NULL)
        attr.context = (void *)size;
    kind->cache = make_cache(name, size, &attr);
    kind->size = size;
    kind->constructed = attr.ctor != NULL;
    kind->merged = strcmp(name, "merged") == 0;
}

/* Once in a process. The far ones are last. */
static void make_kinds(void)
{
    add_kind("merged", 200, (slab_cache_attr){0});
    add_kind("own", 72, (slab_cache_attr){.flags = SLAB_NO_MERGE});
    add_kind("smallest", 8, (slab_cache_attr){.flags = SLAB_NO_MERGE});
    add_kind("constructed", 104, (slab_cache_attr){.ctor = construct, .dtor = destruct});
    add_kind("accounted", 136, (slab_cache_attr){.flags = SLAB_ACCOUNT});
    add_kind("limited", 168, (slab_cache_attr){.limit_bytes = 168 * 1000});
    add_kind("typesafe", 232, (slab_cache_attr){.flags = SLAB_TYPESAFE_BY_EPOCH});
    add_kind("both", 264, (slab_cache_attr){.flags = SLAB_TYPESAFE_BY_EPOCH | SLAB_ACCOUNT, .ctor = construct});
    add_kind("zeroed", 296, (slab_cache_attr){.flags = SLAB_ZERO | SLAB_NO_MERGE});
    add_kind("lines", 24, (slab_cache_attr){.flags = SLAB_CACHELINE_ALIGN | SLAB_NO_MERGE});
    add_kind("one round", 328, (slab_cache_attr){.magazine_rounds = 1});
    add_kind("largest", 300000, (slab_cache_attr){.flags = SLAB_NO_MERGE, .align = 64 * KIB});
    require(kinds_count == CACHES_OF_A_KIND);
    for (size_t i = 0; i < CACHES_UNTIL_FAR; i++)
        make_own("near", 56);
    for (size_t i = 0; i < FAR_CACHES / 2; i++) {
        add_kind("far", 88 + 16 * i, (slab_cache_attr){.flags = SLAB_NO_MERGE});
        add_kind("far accounted", 88 + 16 * i, (slab_cache_attr){.flags = SLAB_ACCOUNT});
    }
}

static void add_specimen(struct collection *collection, void *object, size_t size, const struct kind *kind)
{
    require(object != NULL && collection->count < SPECIMENS);
    const bool constructed = kind != NULL && kind->constructed;
    struct specimen *specimen = &collection->all[collection->count++];
    specimen->object = (unsigned char *)opaque(object);
    specimen->size = size;
    specimen->seed = constructed ? CONSTRUCTED_SEED : (unsigned)collection->count;
    specimen->cache = kind != NULL ? kind->cache : NULL;
    if (!constructed)
        pattern_fill(object, size, specimen->seed);
}

static void add_of_malloc(struct collection *collection)
{
    static const size_t large[] = {33 * KIB, 100000, 64 * KIB, MIB, 5 * MIB + 1};
    static const size_t alignments[] = {64, 4 * KIB, 64 * KIB, 2 * MIB};
    for (size_t size = 1; size <= 32 * KIB;) {
        void *object = malloc(opaque_size(size));
        add_specimen(collection, object, size, NULL);
        size = malloc_usable_size(object) + 1; /* the next class */
    }
    for (size_t i = 0; i < COUNT(large); i++)
        add_specimen(collection, malloc(large[i]), large[i], NULL);
    for (size_t i = 0; i < COUNT(alignments); i++)
        for (size_t size = 100; size < MIB; size *= 40)
            add_specimen(collection, memalign(alignments[i], size), size, NULL);
    add_specimen(collection, calloc(1, 500), 500, NULL);
    add_specimen(collection, realloc(malloc(10), 70 * KIB), 70 * KIB, NULL);
}

static void collect(struct collection *collection)
{
    collection->count = 0;
    collection->heads = false;
    add_of_malloc(collection);
    for (const struct kind *kind = kinds; kind < kinds + kinds_count; kind++)
        for (unsigned i = 0; i < EACH; i++)
            add_specimen(collection, take(kind->cache), kind->size, kind);
}

/* A pattern that was changed, but for a head that stands at the start. */
static bool changed(const struct specimen *specimen, bool head)
{
    unsigned different = 0;
    for (size_t i = head ? sizeof(slab_epoch_head) : 0; i < specimen->size; i++)
        different |= (unsigned)(specimen->object[i] ^ pattern_byte(i, specimen->seed));
    return different != 0;
}

static void require_unchanged(const struct collection *collection)
{
    for (size_t i = 0; i < collection->count; i++)
        require(!changed(&collection->all[i], collection->heads));
}

/* As many objects of each cache are live as `each` says. Those of merged ones may be others'. */
static void require_active(uint64_t each)
{
    for (const struct kind *kind = kinds; kind < kinds + kinds_count; kind++)
        require(kind->merged || active(kind->cache) == each);
}

static void drop_kinds(void)
{
    for (const struct kind *kind = kinds; kind < kinds + kinds_count; kind++)
        drop(kind->cache);
}

/* -- ways of retiring them --------------------------------------------------------------------------------------- */

static void retire_one_by_one(struct collection *collection)
{
    for (size_t i = 0; i < collection->count; i++)
        slab_free_deferred(collection->all[i].object);
    slab_free_deferred(NULL);
}

/* Those that are too small for a head go without. */
static void retire_by_head(struct collection *collection)
{
    collection->heads = true;
    for (size_t i = 0; i < collection->count; i++)
        if (collection->all[i].size < sizeof(slab_epoch_head))
            slab_free_deferred(collection->all[i].object);
        else
            slab_free_deferred_head(collection->all[i].object, (slab_epoch_head *)(void *)collection->all[i].object);
    slab_free_deferred_head(NULL, NULL);
}

static void retire_in_bulk(struct collection *collection)
{
    void *objects[2 * SPECIMENS], *before[2 * SPECIMENS];
    memset(objects, 0, sizeof objects);
    for (size_t i = 0; i < collection->count; i++)
        objects[2 * i] = collection->all[i].object;
    memcpy(before, objects, sizeof objects);
    slab_free_deferred_bulk(2 * collection->count, objects);
    require(memcmp(objects, before, sizeof objects) == 0);
    slab_free_deferred_bulk(0, NULL);
}

static void (*const ways[])(struct collection *) = {retire_one_by_one, retire_by_head, retire_in_bulk};

/* -- nothing is freed while somebody may read it ----------------------------------------------------------------- */

static struct collection collection, others;

static void look_and_leave(void *context)
{
    require_unchanged((const struct collection *)context);
    slab_epoch_leave();
}

/* All that makes memory go round: if anything has been freed too early, it is somebody else's now. */
static void press(void)
{
    for (unsigned round = 0; round < 3; round++) {
        collect(&others);
        for (size_t i = 0; i < others.count; i++)
            if (others.all[i].cache != NULL)
                slab_cache_free(others.all[i].cache, others.all[i].object);
            else
                free(others.all[i].object);
        for (const struct kind *kind = kinds; kind < kinds + kinds_count; kind++)
            slab_cache_shrink(kind->cache);
        slab_purge();
        slab_epoch_poll();
        sleep_ms(30);
    }
}

static void kept_for_a_reader(void (*retire)(struct collection *))
{
    struct parked reader;
    const uint64_t live = process_figures().live_bytes;
    collect(&collection);
    require_active(EACH);
    park(&reader, enter_section, look_and_leave, &collection);
    retire(&collection);
    press();
    require_unchanged(&collection);
    require_active(EACH);
    const slab_stats stats = process_figures();
    require(stats.deferred_objects == collection.count && stats.live_bytes >= live + stats.deferred_bytes);
    size_t bytes = 0;
    for (size_t i = 0; i < collection.count; i++)
        bytes += collection.all[i].size;
    require(stats.deferred_bytes >= bytes && stats.deferred_unfreed == 0);
    unpark(&reader);
    slab_epoch_barrier();
    require_active(0);
    require_nothing_waits();
}

static void kept_for_readers(const char *argument)
{
    (void)argument;
    make_kinds();
    for (unsigned round = 0; round < 2; round++)
        for (size_t i = 0; i < COUNT(ways); i++)
            kept_for_a_reader(ways[i]);
    drop_kinds();
}

/* The thread's own section counts as any other. */
static void kept_for_the_own_section(const char *argument)
{
    (void)argument;
    make_kinds();
    for (size_t i = 0; i < COUNT(ways); i++) {
        collect(&collection);
        slab_epoch_enter();
        slab_epoch_enter();
        ways[i](&collection);
        slab_epoch_leave();
        press();
        require_unchanged(&collection);
        require_active(EACH);
        slab_epoch_leave();
        poll_until_freed();
        require_active(0);
    }
    drop_kinds();
}

/* A section that was entered before an earlier one's grace period has ended: each retired object waits for those who
 * were there before it, whoever comes and goes meanwhile. */
static void kept_for_each_in_turn(const char *argument)
{
    (void)argument;
    struct parked readers[6];
    void *objects[6];
    slab_cache *cache = make_own("turns", 72);
    for (size_t i = 0; i < COUNT(readers); i++) {
        objects[i] = take(cache);
        pattern_fill(objects[i], 72, (unsigned)i);
        park_inside(&readers[i]);
        slab_free_deferred(objects[i]);
    }
    for (size_t left = 0; left < COUNT(readers); left++) {
        for (unsigned i = 0; i < 300; i++)
            slab_epoch_poll();
        sleep_ms(10);
        for (size_t i = left; i < COUNT(objects); i++)
            require(pattern_holds(objects[i], 72, (unsigned)i));
        require(active(cache) >= COUNT(objects) - left);
        unpark(&readers[left]);
    }
    slab_epoch_barrier();
    require(active(cache) == 0);
    drop(cache);
}

/* -- freed at once where nobody else reads ----------------------------------------------------------------------- */

static void freed_at_once(void)
{
    const slab_stats before = process_figures();
    for (size_t i = 0; i < COUNT(ways); i++) {
        collect(&collection);
        require_active(EACH);
        ways[i](&collection);
        require_active(0);
        require_nothing_waits();
    }
    require(process_figures().live_bytes == before.live_bytes);
}

static void at_once_without_readers(const char *argument)
{
    (void)argument;
    make_kinds();
    collect(&collection); /* whatever else a first use makes */
    retire_one_by_one(&collection);
    freed_at_once();
    require(process_figures().membarriers == 0 && process_figures().grace_periods == 0);
    enter_and_leave(NULL); /* alone as before */
    freed_at_once();
    drop_kinds();
}

static void freed_at_once_in_a_thread(void *context)
{
    (void)context;
    freed_at_once();
}

/* Readers that have ended read no more; and threads that have never read are none. */
static void at_once_when_readers_have_ended(const char *argument)
{
    (void)argument;
    struct parked other;
    make_kinds();
    for (unsigned i = 0; i < 10; i++)
        run_thread(i % 2 ? enter_and_leave : enter_section, NULL);
    park(&other, freed_at_once_in_a_thread, freed_at_once_in_a_thread, NULL);
    freed_at_once();
    unpark(&other);
    require_active(0);
    drop_kinds();
}

/* What is freed so is as good as freed: it can be had again, constructed or zeroed as its cache has it. */
static void objects_come_again(const char *argument)
{
    (void)argument;
    struct parked reader;
    make_kinds();
    park_outside(&reader);
    for (unsigned round = 0; round < 20; round++) {
        collect(&collection);
        for (const struct kind *kind = kinds; kind < kinds + kinds_count; kind++) {
            unsigned char *object = (unsigned char *)take(kind->cache);
            require(!kind->constructed || pattern_holds(object, kind->size, CONSTRUCTED_SEED));
            require(strcmp(figures(kind->cache).name, "zeroed") != 0 || all_zero(object, kind->size));
            slab_cache_free(kind->cache, object);
        }
        if (round % 2)
            retire_one_by_one(&collection);
        else
            retire_in_bulk(&collection);
        slab_epoch_barrier();
        require_active(0);
    }
    unpark(&reader);
    drop_kinds();
}

/* -- what else a call keeps -------------------------------------------------------------------------------------- */

static void keep_errno(struct collection *retired)
{
    for (size_t i = 0; i < COUNT(ways); i++) {
        collect(retired);
        errno = EDOM;
        ways[i](retired);
        require(errno == EDOM);
    }
    slab_epoch_poll();
    require(errno == EDOM);
}

static void errno_is_kept(const char *argument)
{
    (void)argument;
    struct parked reader;
    make_kinds();
    errno = EDOM;
    slab_epoch_enter();
    slab_epoch_leave();
    require(errno == EDOM);
    keep_errno(&collection);
    park_outside(&reader);
    keep_errno(&collection);
    errno = EDOM;
    slab_epoch_synchronize();
    require(errno == EDOM);
    slab_epoch_barrier();
    require(errno == EDOM);
    slab_epoch_enter();
    keep_errno(&collection);
    slab_epoch_leave();
    unpark(&reader);
}

/* They are objects as before. */
static void usable_size_of_what_is_retired(const char *argument)
{
    (void)argument;
    size_t sizes[SPECIMENS];
    make_kinds();
    collect(&collection);
    for (size_t i = 0; i < collection.count; i++)
        sizes[i] = malloc_usable_size(collection.all[i].object);
    slab_epoch_enter();
    retire_one_by_one(&collection);
    for (size_t i = 0; i < collection.count; i++)
        require(malloc_usable_size(collection.all[i].object) == sizes[i]);
    slab_epoch_leave();
    slab_epoch_barrier();
    require_active(0);
    drop_kinds();
}

/* Objects that wait count in their cache's limit. */
static void limits_count_what_waits(const char *argument)
{
    (void)argument;
    enum { MOST = 100 };
    void *objects[MOST];
    struct parked reader;
    const slab_cache_attr attr = {.limit_bytes = MOST * 168};
    slab_cache *cache = make_cache("limited", 168, &attr);
    for (unsigned round = 0; round < 5; round++) {
        take_all(cache, objects, MOST);
        park_inside(&reader);
        retire_all(objects, MOST);
        errno = 0;
        require(slab_cache_alloc(cache) == NULL && errno == ENOMEM);
        unpark(&reader);
        slab_epoch_barrier();
    }
    take_all(cache, objects, MOST);
    give_all(cache, objects, MOST);
    drop(cache);
}

/* -- readers and writers at work --------------------------------------------------------------------------------- */

enum { SHOWN = 16, WRITERS = 2, READERS = 2, REPLACEMENTS = 60000 };

struct shown {
    slab_epoch_head head; /* not for readers */
    size_t size;
    unsigned seed;
    unsigned char load[];
};

static struct shown *_Atomic shown[SHOWN];
static _Atomic bool writers_are_done;
static slab_cache *shown_cache;

static struct shown *make_shown(uint64_t *random)
{
    static const size_t sizes[] = {48, 120, 1000, 3000, 40000};
    const unsigned dice = random_next(random) % 64;
    const size_t size = sizes[dice == 0 ? 4 : dice % 4];
    struct shown *made = size == 120 ? (struct shown *)take(shown_cache) : (struct shown *)malloc(size);
    require(made != NULL);
    made->size = size - sizeof *made;
    made->seed = (unsigned)random_next(random);
    pattern_fill(made->load, made->size, made->seed);
    return made;
}

static void *replace_shown(void *number)
{
    uint64_t random = 99 + (uintptr_t)number;
    for (unsigned i = 0; i < REPLACEMENTS; i++) {
        struct shown *old = atomic_exchange(&shown[random_next(&random) % SHOWN], make_shown(&random));
        if (i % 2)
            slab_free_deferred(old);
        else if (old != NULL)
            slab_free_deferred_head(old, &old->head);
    }
    return NULL;
}

static void *read_shown(void *number)
{
    uint64_t random = 33 + (uintptr_t)number;
    while (!writers_are_done) {
        slab_epoch_enter();
        const struct shown *found = shown[random_next(&random) % SHOWN];
        if (found != NULL)
            require(pattern_holds(found->load, found->size, found->seed));
        slab_epoch_leave();
    }
    return NULL;
}

static void readers_beside_writers(const char *argument)
{
    (void)argument;
    pthread_t writers[WRITERS], readers[READERS];
    shown_cache = make_own("shown", 120);
    for (uintptr_t i = 0; i < READERS; i++)
        require(pthread_create(&readers[i], NULL, read_shown, (void *)i) == 0);
    for (uintptr_t i = 0; i < WRITERS; i++)
        require(pthread_create(&writers[i], NULL, replace_shown, (void *)i) == 0);
    for (size_t i = 0; i < WRITERS; i++)
        require(pthread_join(writers[i], NULL) == 0);
    writers_are_done = true;
    for (size_t i = 0; i < READERS; i++)
        require(pthread_join(readers[i], NULL) == 0);
    for (size_t i = 0; i < SHOWN; i++)
        slab_free_deferred(shown[i]);
    slab_epoch_barrier();
    require_nothing_waits();
    drop(shown_cache);
}

#define ROOM "SLABMALLOC_OPTIONS=deferred_max_bytes=256M"

int main(int argc, char **argv)
{
    static const struct epoch_scenario scenarios[] = {
        {"kept_for_readers", kept_for_readers, ROOM},
        {"kept_for_readers_without_a_worker", kept_for_readers, ROOM ",worker=0"},
        {"kept_for_the_own_section", kept_for_the_own_section, ROOM},
        {"kept_for_each_in_turn", kept_for_each_in_turn, NULL},
        {"at_once_without_readers", at_once_without_readers, NULL},
        {"at_once_when_readers_have_ended", at_once_when_readers_have_ended,
         "SLABMALLOC_OPTIONS=worker=0"}, /* a worker is born at any time, and libc allocates for it */
        {"objects_come_again", objects_come_again, NULL},
        {"errno_is_kept", errno_is_kept, NULL},
        {"usable_size_of_what_is_retired", usable_size_of_what_is_retired, ROOM},
        {"limits_count_what_waits", limits_count_what_waits, NULL},
        {"readers_beside_writers", readers_beside_writers, NULL},
    };
    return run_epoch_scenarios("deferred free", scenarios, COUNT(scenarios), argc, argv);
}
