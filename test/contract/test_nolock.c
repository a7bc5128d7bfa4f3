/* Calls without a lock: slab_alloc_nolock, slab_cache_alloc_nolock, slab_free_nolock; and slab_free, which takes the
 * same objects.
 *
 * Written in: include/slabmalloc.h; the kernel's kmalloc_nolock is the model. Promised are objects like any other
 * when there are some and NULL when not, a reserve that the next ordinary call fills, no system call, no byte written
 * into what is freed, and nothing lost. Signals that interrupt malloc are another test's. */
#include "caches.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>

static const size_t nolock_sizes[] = {0, 1, 16, 17, 100, 512, 1000, 4096, 10000, 32768};

/* Frees objects in all ways in turn. */
static void free_somehow(void *object, unsigned way)
{
    switch (way % 3) {
    case 0:
        free(object);
        break;
    case 1:
        slab_free_nolock(object);
        break;
    default:
        slab_free_bulk(1, &object);
    }
}

/* No more is in use than there was, once a slow path has looked after what was freed. (The library's worker, a thread
 * that comes and goes, costs libc some hundred bytes each time that one is born before the last one has quite gone.
 * Tests with threads do without.) */
static void require_nothing_lost(const slab_stats *before)
{
    slab_purge();
    require(process_figures().live_bytes <= before->live_bytes + 2 * KIB);
}

/* -- allocating -------------------------------------------------------------------------------------------------- */

static void dry_then_not(size_t size, void (*ordinary)(size_t size))
{
    errno = 4711;
    require(slab_alloc_nolock(size) == NULL && errno == 4711);
    ordinary(size);
    errno = 4711;
    void *object = slab_alloc_nolock(size);
    require(object != NULL && errno == 4711);
    require(is_aligned(object, NATURAL_ALIGNMENT) && malloc_usable_size(object) >= size);
    pattern_fill(object, malloc_usable_size(object), 3);
    ordinary(size);
    require(pattern_holds(object, malloc_usable_size(object), 3));
    slab_free_nolock(object);
    require(errno == 4711);
}

static void *kept_for_free;

static void malloc_and_free(size_t size)
{
    free(opaque(malloc(size)));
}

static void malloc_of_another_size(size_t size)
{
    free(opaque(malloc(size > 1000 ? 48 : 3000)));
}

static void free_alone(size_t size)
{
    (void)size;
    free(kept_for_free);
    kept_for_free = NULL;
}

struct dry {
    size_t size;
    void (*ordinary)(size_t size);
    bool first; /* the thread has made no call of the library's before */
};

static void run_dry(void *argument)
{
    struct dry *dry = argument;
    if (!dry->first)
        free(opaque(malloc(2000)));
    dry_then_not(dry->size, dry->ordinary);
}

/* In a thread of its own each: there the first call finds nothing, and the very next ordinary one brings some. */
static void check_dry(bool first)
{
    void (*const ordinary[])(size_t) = {malloc_and_free, malloc_of_another_size, free_alone};
    for (size_t i = 0; i < COUNT(nolock_sizes); i++)
        for (size_t n = 0; n < COUNT(ordinary); n++) {
            struct dry dry = {nolock_sizes[i], ordinary[n], first};
            kept_for_free = malloc(200);
            run_thread(run_dry, &dry);
            free(kept_for_free);
        }
}

static void the_next_ordinary_call_brings_some(const char *argument)
{
    (void)argument;
    check_dry(false);
}

static void so_it_does_in_a_thread_without_a_past(const char *argument)
{
    (void)argument;
    check_dry(true);
}

static void never_over_32_kib(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {32 * KIB + 1, 40000, MIB, 100 * MIB, PTRDIFF_MAX, SIZE_MAX};
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (unsigned n = 0; n < 100; n++) {
            errno = 4711;
            require(slab_alloc_nolock(sizes[i]) == NULL && errno == 4711);
            free(opaque(malloc(40000)));
        }
}

/* Among ordinary objects: each is its owner's alone. */
static void objects_like_any_other(const char *argument)
{
    (void)argument;
    enum { HELD = 200, STEPS = 100000 };
    static struct block blocks[HELD];
    uint64_t random = 88172645463325252u;
    unsigned asked = 0, got = 0;
    slab_stats before = process_figures();
    for (unsigned step = 0; step < STEPS; step++) {
        struct block *block = &blocks[random_next(&random) % HELD];
        if (block->ptr != NULL) {
            require(pattern_holds(block->ptr, block->size, block->seed));
            free_somehow(block->ptr, step);
            block->ptr = NULL;
            continue;
        }
        block->size = nolock_sizes[random_next(&random) % COUNT(nolock_sizes)];
        block->seed = step;
        if (step % 2) {
            block->ptr = malloc(block->size);
        } else {
            block->ptr = slab_alloc_nolock(block->size);
            asked++;
            got += block->ptr != NULL;
        }
        if (block->ptr != NULL)
            pattern_fill(block->ptr, block->size, block->seed);
    }
    for (size_t i = 0; i < HELD; i++)
        slab_free_nolock(blocks[i].ptr);
    fprintf(stderr, "%u of %u calls without a lock succeeded\n", got, asked);
    require(got > asked / 100);
    require_nothing_lost(&before);
}

/* Threads end with a reserve, and with frees that nobody has looked after. */
static void nolock_life(void *objects)
{
    for (size_t i = 0; i < COUNT(nolock_sizes); i++) {
        free(slab_alloc_nolock(nolock_sizes[i]));
        free(opaque(malloc(nolock_sizes[i])));
    }
    for (size_t i = 0; i < COUNT(nolock_sizes); i++)
        slab_free_nolock(((void **)objects)[i]);
}

static void frees_alone(void *objects)
{
    for (size_t i = 0; i < COUNT(nolock_sizes); i++)
        slab_free_nolock(((void **)objects)[i]);
}

static void ending_threads_lose_nothing(const char *argument)
{
    (void)argument;
    do_without_worker(__func__);
    void *objects[COUNT(nolock_sizes)];
    run_thread(frees_alone, memset(objects, 0, sizeof objects)); /* what the first thread of all costs */
    slab_stats before = process_figures();
    for (unsigned i = 0; i < scaled(300); i++) {
        for (size_t n = 0; n < COUNT(objects); n++)
            objects[n] = malloc(nolock_sizes[n] * (i % 10 == 0 ? 20 : 1));
        run_thread(i % 2 ? nolock_life : frees_alone, objects);
    }
    require_nothing_lost(&before);
}

/* -- freeing ----------------------------------------------------------------------------------------------------- */

static void fill_constructed(void *object, void *context)
{
    (void)context;
    pattern_fill(object, 72, 5);
}

static slab_cache *every_kind[6];

static void make_every_kind(void)
{
    const slab_cache_attr attrs[COUNT(every_kind)] = {
        {0},
        {.flags = SLAB_NO_MERGE},
        {.flags = SLAB_ACCOUNT},
        {.limit_bytes = 72 * 1000},
        {.ctor = fill_constructed},
        {.flags = SLAB_TYPESAFE_BY_EPOCH, .ctor = fill_constructed},
    };
    for (size_t i = 0; i < COUNT(every_kind); i++)
        every_kind[i] = make_cache("kind", 72, &attrs[i]);
}

static void drop_every_kind(void)
{
    for (size_t i = 0; i < COUNT(every_kind); i++) {
        require(active(every_kind[i]) == 0);
        drop(every_kind[i]);
    }
}

static void free_whatever_free_takes(void (*give)(void *object))
{
    const size_t sizes[] = {1, 64, 1000, 32768, 32769, 100000, MIB, 64 * MIB};
    make_every_kind();
    slab_stats before = process_figures();
    for (unsigned round = 0; round < 100; round++) {
        errno = 4711;
        give(NULL);
        for (size_t i = 0; i < COUNT(sizes); i++) {
            give(opaque(malloc(sizes[i])));
            give(opaque(calloc(1, sizes[i])));
            give(opaque(aligned_alloc(4096, sizes[i])));
            give(opaque(slab_alloc_node(sizes[i], -1)));
            give(opaque(slab_alloc_node(sizes[i], 0)));
        }
        for (size_t i = 0; i < COUNT(every_kind); i++)
            for (unsigned n = 0; n < 50; n++)
                give(take(every_kind[i]));
        require(errno == 4711);
    }
    require_nothing_lost(&before);
    drop_every_kind();
}

static void frees_whatever_free_takes(const char *argument)
{
    (void)argument;
    free_whatever_free_takes(slab_free_nolock);
}

static void by_name_frees_whatever_free_takes(const char *argument)
{
    (void)argument;
    free_whatever_free_takes(slab_free);
}

/* Available at once: a hundred large objects, one after the other, need the room of a few. */
static void freed_memory_is_used_again(const char *argument)
{
    (void)argument;
    do_without_huge_pages();
    size_t rss = rss_kib();
    for (unsigned i = 0; i < 100; i++) {
        char *object = malloc(4 * MIB);
        memset(object, 1, 4 * MIB);
        slab_free_nolock(opaque(object));
    }
    require(rss_kib() < rss + 64 * KIB);
    for (unsigned i = 0; i < 1000000; i++)
        slab_free_nolock(opaque(malloc(200)));
    require(rss_kib() < rss + 64 * KIB);
}

/* -- caches ------------------------------------------------------------------------------------------------------ */

static void caches_of_every_kind(const char *argument)
{
    (void)argument;
    make_every_kind();
    for (size_t i = 0; i < COUNT(every_kind); i++) {
        slab_cache *cache = every_kind[i];
        unsigned got = 0;
        errno = 4711;
        require(slab_cache_alloc_nolock(cache) == NULL && errno == 4711);
        for (unsigned n = 0; n < 1000; n++) {
            slab_cache_free(cache, take(cache));
            void *object = slab_cache_alloc_nolock(cache);
            require(errno == 4711);
            if (object == NULL)
                continue;
            require(active(cache) == 1 && malloc_usable_size(object) >= 72);
            require(i < 4 || pattern_holds(object, 72, 5));
            pattern_fill(object, 72, 5);
            if (n % 3 == 0)
                slab_cache_free(cache, object);
            else
                free_somehow(object, n);
            got++;
        }
        require(got > 0);
    }
    drop_every_kind();
}

static void zeroed_caches(const char *argument)
{
    (void)argument;
    const slab_cache_attr zero = {.flags = SLAB_ZERO};
    slab_cache *cache = make_cache("zero", 72, &zero);
    unsigned got = 0;
    for (unsigned n = 0; n < 1000; n++) {
        void *objects[] = {take(cache), slab_cache_alloc_nolock(cache)};
        for (size_t i = 0; i < COUNT(objects); i++)
            if (objects[i] != NULL) {
                require(all_zero(objects[i], 72));
                memset(objects[i], 0xee, 72);
                slab_free_nolock(objects[i]);
            }
        got += objects[1] != NULL;
    }
    require(got > 0);
    drop(cache);
}

/* -- no system call ---------------------------------------------------------------------------------------------- */

/* From prctl on, anything but read, write and exit ends the process by SIGKILL. */
static void no_system_call(const char *argument)
{
    (void)argument;
    static void *objects[4000];
    void *large = malloc(MIB), *cached[COUNT(every_kind)];
    size_t count = 0;
    make_every_kind();
    for (size_t i = 0; i < COUNT(every_kind); i++)
        cached[i] = take(every_kind[i]);
    for (size_t i = 0; i < COUNT(nolock_sizes) / 2; i++) { /* a reserve of some sizes, none of the others */
        slab_free_nolock(slab_alloc_nolock(nolock_sizes[i]));
        free(opaque(malloc(nolock_sizes[i])));
    }
    require(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
    for (unsigned round = 0; round < 100; round++)
        for (size_t i = 0; i < COUNT(nolock_sizes); i++) {
            void *object = slab_alloc_nolock(nolock_sizes[i]);
            if (object != NULL)
                objects[count++] = object;
        }
    bool some = count > 0;
    while (count > 0)
        slab_free_nolock(objects[--count]);
    for (size_t i = 0; i < COUNT(every_kind); i++) {
        slab_free_nolock(cached[i]);
        slab_free_nolock(slab_cache_alloc_nolock(every_kind[i]));
    }
    slab_free_nolock(large);
    slab_free_nolock(NULL);
    syscall(SYS_exit, some ? 0 : 1);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"the_next_ordinary_call_brings_some", the_next_ordinary_call_brings_some},
        {"so_it_does_in_a_thread_without_a_past", so_it_does_in_a_thread_without_a_past},
        {"never_over_32_kib", never_over_32_kib},
        {"objects_like_any_other", objects_like_any_other},
        {"ending_threads_lose_nothing", ending_threads_lose_nothing},
        {"frees_whatever_free_takes", frees_whatever_free_takes},
        {"by_name_frees_whatever_free_takes", by_name_frees_whatever_free_takes},
        {"freed_memory_is_used_again", freed_memory_is_used_again},
        {"caches_of_every_kind", caches_of_every_kind},
        {"zeroed_caches", zeroed_caches},
        {"no_system_call", no_system_call},
    };
    return run_scenarios("calls without a lock", scenarios, COUNT(scenarios), argc, argv);
}
