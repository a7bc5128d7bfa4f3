/* Constructors and destructors of cached objects.
 *
 * Written in: include/slabmalloc.h, slab_cache_attr; Bonwick, "The Slab Allocator", USENIX 1994. Promised are one
 * construction for each object while its slab exists, one destruction before the slab goes, a state that free and
 * alloc leave alone, no lock held while they run, and no endless recursion. */
#include "caches.h"

/* -- residents: the objects that are constructed ----------------------------------------------------------------- */

/* Every address between its construction and its destruction, in a table with open addressing; what has been
 * destroyed leaves a mark behind, which a later construction may take. */
enum { RESIDENT_SLOTS = 1 << 17, NEVER = 0, DESTROYED = 1 };

static struct residents {
    pthread_mutex_t lock;
    uintptr_t slots[RESIDENT_SLOTS];
    size_t constructed, destroyed;
} residents = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uintptr_t *resident_find(uintptr_t address)
{
    size_t at = address * (size_t)0x9e3779b97f4a7c15 >> 47, steps = 0;
    while (residents.slots[at] != address && residents.slots[at] != NEVER) {
        at = (at + 1) % RESIDENT_SLOTS;
        require(++steps < RESIDENT_SLOTS);
    }
    return &residents.slots[at];
}

static uintptr_t *resident_room(uintptr_t address)
{
    uintptr_t *slot = resident_find(address);
    require(*slot != address); /* constructed twice */
    size_t at = address * (size_t)0x9e3779b97f4a7c15 >> 47;
    while (residents.slots[at] > DESTROYED)
        at = (at + 1) % RESIDENT_SLOTS;
    return &residents.slots[at];
}

static void resident_add(void *object)
{
    require(pthread_mutex_lock(&residents.lock) == 0);
    *resident_room((uintptr_t)object) = (uintptr_t)object;
    residents.constructed++;
    require(pthread_mutex_unlock(&residents.lock) == 0);
}

static void resident_remove(void *object)
{
    require(pthread_mutex_lock(&residents.lock) == 0);
    uintptr_t *slot = resident_find((uintptr_t)object);
    require(*slot == (uintptr_t)object); /* never constructed, or destroyed twice */
    *slot = DESTROYED;
    residents.destroyed++;
    require(pthread_mutex_unlock(&residents.lock) == 0);
}

static bool is_resident(void *object)
{
    require(pthread_mutex_lock(&residents.lock) == 0);
    bool there = *resident_find((uintptr_t)object) == (uintptr_t)object;
    require(pthread_mutex_unlock(&residents.lock) == 0);
    return there;
}

/* -- items: objects whose every byte a constructor has written --------------------------------------------------- */

enum { ITEM = 200 };

static int item_context;

static unsigned item_seed(const void *object)
{
    return (unsigned)((uintptr_t)object >> 3) + 77;
}

static void item_construct(void *object, void *context)
{
    require(context == &item_context);
    resident_add(object);
    pattern_fill(object, ITEM, item_seed(object));
}

static void item_destroy(void *object, void *context)
{
    require(context == &item_context);
    require(pattern_holds(object, ITEM, item_seed(object)));
    resident_remove(object);
    memset(object, 0xdd, ITEM);
}

static slab_cache *make_items(slab_cache_attr attr)
{
    attr.ctor = item_construct;
    attr.dtor = item_destroy;
    attr.context = &item_context;
    return make_cache("items", ITEM, &attr);
}

static void *take_item(slab_cache *cache)
{
    void *item = take(cache);
    require(is_resident(item) && pattern_holds(item, ITEM, item_seed(item)));
    return item;
}

/* Writes all over it, then leaves it as the constructor did. */
static void work_on_item(void *item)
{
    memset(item, 0xaa, ITEM);
    pattern_fill(item, ITEM, item_seed(item));
}

static size_t resident_count(void)
{
    require(pthread_mutex_lock(&residents.lock) == 0);
    size_t count = residents.constructed - residents.destroyed;
    require(pthread_mutex_unlock(&residents.lock) == 0);
    return count;
}

/* Every object of every slab is constructed, and no other, as soon as the library's worker is not just at one. */
static void check_residents(slab_cache *cache)
{
    while (resident_count() != figures(cache).total_objects)
        sleep_ms(1);
}

static const slab_cache_attr item_attrs[] = {
    {0},
    {.flags = SLAB_ACCOUNT},
    {.flags = SLAB_CACHELINE_ALIGN},
    {.flags = SLAB_TYPESAFE_BY_EPOCH},
    {.magazine_rounds = 1},
    {.limit_bytes = 10 * MIB},
    {.align = 4096},
};

static void check_items(slab_cache *cache)
{
    enum { MANY = 3000 };
    static void *items[MANY];
    check_residents(cache);
    for (unsigned round = 0; round < 4; round++) {
        for (size_t i = 0; i < MANY; i++) {
            items[i] = take_item(cache);
            work_on_item(items[i]);
        }
        check_residents(cache);
        slab_cache_free_bulk(cache, MANY / 4, items);
        for (size_t i = MANY / 4; i < MANY; i++)
            if (i % 3 == 0)
                slab_cache_free(cache, items[i]);
            else if (i % 3 == 1)
                free(items[i]);
            else
                slab_free_nolock(items[i]);
        if (round % 2)
            slab_cache_shrink(cache);
        check_residents(cache);
    }
    require(slab_cache_alloc_bulk(cache, MANY, items) == MANY);
    for (size_t i = 0; i < MANY; i++)
        require(is_resident(items[i]) && pattern_holds(items[i], ITEM, item_seed(items[i])));
    give_all(cache, items, MANY);
    drop(cache);
}

/* Type-safe slabs may outlive their cache by a grace period. */
static void once_for_each_residence(const char *argument)
{
    (void)argument;
    for (size_t i = 0; i < COUNT(item_attrs); i++) {
        check_items(make_items(item_attrs[i]));
        require((item_attrs[i].flags & SLAB_TYPESAFE_BY_EPOCH) || residents.constructed == residents.destroyed);
        residents.constructed = residents.destroyed = 0;
        memset(residents.slots, 0, sizeof residents.slots);
    }
}

static void use_items(void *cache)
{
    enum { MANY = 1000 };
    void *items[MANY];
    for (unsigned round = 0; round < 20; round++) {
        for (size_t i = 0; i < MANY; i++) {
            items[i] = take_item(cache);
            work_on_item(items[i]);
        }
        give_all(cache, items, MANY);
    }
}

static void *use_items_run(void *cache)
{
    use_items(cache);
    return NULL;
}

static void once_among_threads(const char *argument)
{
    (void)argument;
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    slab_cache *cache = make_items((slab_cache_attr){0});
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_create(&threads[i], NULL, use_items_run, cache) == 0);
    for (unsigned i = 0; i < 50; i++) {
        slab_cache_shrink(cache);
        sleep_ms(1);
    }
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_join(threads[i], NULL) == 0);
    slab_cache_shrink(cache);
    check_residents(cache);
    drop(cache);
    require(residents.constructed == residents.destroyed && residents.constructed > 0);
}

static size_t dtor_calls;

static void count_call(void *object, void *context)
{
    (void)object;
    ++*(size_t *)context;
}

/* A destructor alone is called for every object of a slab, a constructor alone as well. */
static void one_of_the_two(const char *argument)
{
    (void)argument;
    const slab_cache_attr destroys = {.dtor = count_call, .context = &dtor_calls};
    slab_cache *cache = make_cache("dtor", 100, &destroys);
    use_cache(cache, 1);
    uint64_t objects = figures(cache).total_objects;
    require(dtor_calls == 0);
    drop(cache);
    require(dtor_calls == objects);
    size_t ctor_calls = 0;
    const slab_cache_attr constructs = {.ctor = count_call, .context = &ctor_calls};
    cache = make_cache("ctor", 100, &constructs);
    use_cache(cache, 5000);
    require(ctor_calls >= 5000 && ctor_calls % figures(cache).objects_per_slab == 0);
    drop(cache);
}

/* -- what constructors may do ------------------------------------------------------------------------------------ */

/* Objects that own memory, as Bonwick's: from malloc, or from another cache. */
struct owner {
    slab_cache *from; /* NULL: malloc */
    size_t parts;
};

struct owning {
    void *part;
    char rest[96];
};

static void owning_construct(void *object, void *context)
{
    struct owner *owner = context;
    struct owning *owning = object;
    free(malloc(owner->parts % 1000));
    owning->part = owner->from ? take(owner->from) : malloc(100);
    pattern_fill(owning->part, 100, 9);
    owner->parts++;
}

static void owning_destroy(void *object, void *context)
{
    struct owner *owner = context;
    struct owning *owning = object;
    require(pattern_holds(owning->part, 100, 9));
    free(owning->part);
    owner->parts--;
}

static void constructors_allocate_elsewhere(const char *argument)
{
    (void)argument;
    slab_cache *parts = make_own("parts", 100);
    struct owner owners[] = {{NULL, 0}, {parts, 0}};
    for (size_t i = 0; i < COUNT(owners); i++) {
        const slab_cache_attr attr = {.ctor = owning_construct, .dtor = owning_destroy, .context = &owners[i]};
        slab_cache *cache = make_cache("owners", sizeof(struct owning), &attr);
        use_cache(cache, 5000);
        require(owners[i].parts == figures(cache).total_objects);
        slab_cache_shrink(cache);
        use_cache(cache, 100);
        drop(cache);
        require(owners[i].parts == 0);
    }
    require(active(parts) == 0);
    drop(parts);
}

static slab_cache *self; /* whose constructor runs */
static unsigned own_attempts, own_refusals;

static void construct_from_own(void *object, void *context)
{
    (void)object;
    (void)context;
    errno = 0;
    void *other = slab_cache_alloc(self);
    int error = errno;
    require(other != object);
    own_attempts++;
    if (other == NULL) {
        require(error == EDEADLK);
        own_refusals++;
    }
    slab_cache_free(self, other);
}

#define OWN_CACHE_LINE "slabmalloc: a constructor allocated from its own cache, which had no free object: own\n"

/* Refused where nothing is free, and said once, whatever the number of objects and caches. */
static void own_cache_is_refused(const char *argument)
{
    (void)argument;
    const slab_cache_attr attr = {.ctor = construct_from_own};
    struct listening listening;
    char said[1024];
    listen_start(&listening);
    for (unsigned life = 0; life < 3; life++) {
        self = make_cache("own", 100, &attr);
        use_cache(self, 3000);
        drop(self);
    }
    listen_end(&listening, said, sizeof said);
    require(own_attempts >= 3 * 3000 && own_refusals > 0);
    require(strcmp(said, OWN_CACHE_LINE) == 0);
}

static void *spare;

static void construct_with_spare(void *object, void *context)
{
    (void)object;
    (void)context;
    if (spare == NULL)
        return;
    slab_cache_free(self, spare);
    spare = slab_cache_alloc(self);
    require(spare != NULL);
}

static void own_cache_gives_what_is_free(const char *argument)
{
    (void)argument;
    enum { MANY = 3000 };
    static void *objects[MANY];
    const slab_cache_attr attr = {.ctor = construct_with_spare};
    self = make_cache("spare", 100, &attr);
    void *first = take(self);
    spare = first;
    take_all(self, objects, MANY);
    require(figures(self).slabs > 1 && active(self) == MANY + 1);
    for (size_t i = 0; i < MANY; i++)
        require(objects[i] != spare);
    give_all(self, objects, MANY);
    slab_cache_free(self, spare);
    spare = NULL;
    drop(self);
}

static slab_cache *ring[3];

static void construct_from_next(void *object, void *context)
{
    (void)object;
    slab_cache **next = context;
    errno = 0;
    void *other = slab_cache_alloc(*next);
    require(other != NULL || errno == EDEADLK);
    slab_cache_free(*next, other);
}

/* Each constructs from the next, the last from the first. */
static void rings_of_constructors_end(const char *argument)
{
    (void)argument;
    for (size_t i = 0; i < COUNT(ring); i++) {
        const slab_cache_attr attr = {.ctor = construct_from_next, .context = &ring[(i + 1) % COUNT(ring)]};
        ring[i] = make_cache("ring", 200 + 8 * i, &attr);
    }
    for (size_t i = 0; i < COUNT(ring); i++)
        use_cache(ring[i], 1000);
    for (size_t i = 0; i < COUNT(ring); i++)
        drop(ring[i]);
}

static void use_self(void *unused)
{
    (void)unused;
    use_cache(self, 500);
}

static unsigned depth, runs;

/* Everything that takes a lock of the library's somewhere, for the first three objects. */
static void construct_with_everything(void *object, void *context)
{
    (void)object;
    (void)context;
    if (runs == 3 || depth != 0)
        return;
    depth++;
    runs++;
    slab_cache_stats stats;
    require(slab_cache_get_stats(self, &stats) == 0);
    slab_cache *made = make_own("made by a constructor", 72);
    use_cache(made, 100);
    drop(made);
    slab_cache_shrink(self);
    require(slab_cache_tune(self, 20, 5) == 0);
    char *table;
    size_t length;
    FILE *memory = open_memstream(&table, &length);
    require(slab_info(memory) == 0 && fclose(memory) == 0);
    require(strstr(table, "everything") != NULL);
    free(table);
    slab_purge();
    run_thread(use_self, NULL);
    depth--;
}

static void constructors_may_call_anything(const char *argument)
{
    (void)argument;
    const slab_cache_attr attr = {.ctor = construct_with_everything};
    self = make_cache("everything", 100, &attr);
    use_cache(self, 3000);
    require(runs == 3);
    drop(self);
    const slab_cache_attr destroys = {.dtor = construct_with_everything};
    runs = 0;
    self = make_cache("everything", 100, &destroys);
    use_cache(self, 3000);
    slab_cache_shrink(self);
    require(runs == 3);
    drop(self);
}

/* -- cancellation ------------------------------------------------------------------------------------------------ */

static sem_t constructing, cancelled;

static void construct_slowly(void *object, void *context)
{
    (void)context;
    memset(object, 1, 1000);
    require(sem_post(&constructing) == 0);
    require(sem_wait(&cancelled) == 0 && sem_post(&cancelled) == 0); /* a cancellation point */
}

static void *allocate_and_end(void *object)
{
    *(void **)object = slab_cache_alloc(self);
    pthread_testcancel();
    return NULL;
}

/* The request waits until the constructors are done. */
static void cancelled_while_constructing(const char *argument)
{
    (void)argument;
    const slab_cache_attr attr = {.ctor = construct_slowly};
    void *object = NULL, *result;
    pthread_t thread;
    require(sem_init(&constructing, 0, 0) == 0 && sem_init(&cancelled, 0, 0) == 0);
    self = make_cache("slow", 1000, &attr);
    require(pthread_create(&thread, NULL, allocate_and_end, &object) == 0);
    require(sem_wait(&constructing) == 0 && pthread_cancel(thread) == 0 && sem_post(&cancelled) == 0);
    require(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    require(object != NULL && *(char *)object == 1);
    slab_cache_free(self, object);
    use_cache(self, 300);
    drop(self);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"once_for_each_residence", once_for_each_residence},
        {"once_among_threads", once_among_threads},
        {"one_of_the_two", one_of_the_two},
        {"constructors_allocate_elsewhere", constructors_allocate_elsewhere},
        {"own_cache_is_refused", own_cache_is_refused},
        {"own_cache_gives_what_is_free", own_cache_gives_what_is_free},
        {"rings_of_constructors_end", rings_of_constructors_end},
        {"constructors_may_call_anything", constructors_may_call_anything},
        {"cancelled_while_constructing", cancelled_while_constructing},
    };
    return run_scenarios("cache constructors", scenarios, COUNT(scenarios), argc, argv);
}
