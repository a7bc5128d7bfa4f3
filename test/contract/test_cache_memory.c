/* What caches hold and give back: shrinking, tuning, destroying.
 *
 * Written in: include/slabmalloc.h. Promised are that every vacant slab goes, free objects taken out of the magazines
 * of threads that are not looking (at most one stays behind in each), one membarrier(2) for each tuning and none for
 * any creation, and a destruction that tells live objects from those in stock. */
#include "caches.h"

enum { THREADS = 4 };

/* -- shrinking --------------------------------------------------------------------------------------------------- */

/* What it returns is what the slabs fall by; the library's worker may take some, too, where there are threads. */
static size_t shrink(slab_cache *cache)
{
    slab_cache_stats before = figures(cache);
    size_t bytes = slab_cache_shrink(cache);
    slab_cache_stats after = figures(cache);
    size_t fell = (before.slabs - after.slabs) * before.bytes_per_slab;
    require(bytes <= fell && (bytes == fell || process_figures().threads > 1));
    require(after.depot_rounds == 0 && after.active_objects == before.active_objects);
    require(after.total_objects == after.slabs * after.objects_per_slab);
    return bytes;
}

static void shrink_keeps_what_lives(const char *argument)
{
    (void)argument;
    enum { MANY = 50000 };
    static void *objects[MANY];
    slab_cache *cache = make_own("shrunk", 200);
    require(shrink(cache) == 0);
    take_all(cache, objects, MANY);
    for (unsigned i = 0; i < MANY; i++)
        pattern_fill(objects[i], 200, i);
    give_all(cache, objects + MANY / 10, MANY - MANY / 10);
    require(shrink(cache) > 0);
    slab_cache_stats stats = figures(cache);
    require(stats.magazine_rounds <= 1 && stats.active_objects == MANY / 10);
    /* Objects were taken in a row: those that live fill their slabs, but for one at each end of a magazine or so. */
    require(stats.total_objects <= MANY / 10 + 4 * stats.objects_per_slab);
    for (unsigned i = 0; i < MANY / 10; i++)
        require(pattern_holds(objects[i], 200, i));
    give_all(cache, objects, MANY / 10);
    require(shrink(cache) > 0);
    require(figures(cache).slabs <= 1 && shrink(cache) <= figures(cache).bytes_per_slab);
    use_cache(cache, 1000);
    drop(cache);
}

/* What one shrink has given back is there for others, and for the kernel by slab_purge. */
static void shrunk_memory_is_for_others(const char *argument)
{
    (void)argument;
    enum { MANY = 64 * 1024 };
    static void *objects[MANY];
    do_without_huge_pages();
    size_t rss = rss_kib();
    slab_cache *cache = make_own("shrunk", 1000);
    take_all(cache, objects, MANY);
    for (size_t i = 0; i < MANY; i++)
        memset(objects[i], 1, 1000);
    require(rss_kib() > rss + 60 * KIB);
    give_all(cache, objects, MANY);
    require(shrink(cache) > 0);
    uint64_t reserved = process_figures().reserved_bytes;
    slab_cache *other = make_own("other", 3000);
    take_all(other, objects, 15 * 1024);
    require(process_figures().reserved_bytes < reserved + 8 * MIB);
    give_all(other, objects, 15 * 1024);
    shrink(other);
    slab_purge();
    require(rss_kib() < rss + 4 * KIB);
    drop(other);
    drop(cache);
}

struct user {
    slab_cache *cache;
    size_t count;
};

static void use_for_a_while(void *argument)
{
    struct user *user = argument;
    use_cache(user->cache, user->count);
    use_cache(user->cache, user->count);
}

/* The rounds of threads that wait are taken; they find their magazines in order when they go on. */
static void shrink_takes_from_parked_threads(const char *argument)
{
    (void)argument;
    do_without_worker(__func__); /* it gives back what threads have left when they ended */
    struct user user = {make_own("parked", 100), 5000};
    struct parked parked[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        park(&parked[i], use_for_a_while, use_for_a_while, &user);
    require(figures(user.cache).magazine_rounds >= THREADS * 20);
    uint64_t membarriers = process_figures().membarriers;
    require(shrink(user.cache) > 0);
    require(process_figures().membarriers <= membarriers + 1);
    require(figures(user.cache).magazine_rounds <= THREADS + 1);
    require(figures(user.cache).slabs <= THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        unpark(&parked[i]);
    require(active(user.cache) == 0);
    require(shrink(user.cache) > 0 && figures(user.cache).slabs <= 1);
    drop(user.cache);
}

/* -- tuning ------------------------------------------------------------------------------------------------------ */

static void bad_tuning(const char *argument)
{
    (void)argument;
    const unsigned bad[] = {255, 256, 1000, UINT_MAX};
    slab_cache *cache = make_own("tuned", 100);
    for (size_t i = 0; i < COUNT(bad); i++) {
        errno = 0;
        require(slab_cache_tune(cache, bad[i], 0) == -1 && errno == EINVAL);
    }
    use_cache(cache, 1000);
    drop(cache);
}

/* A thread has two magazines of a cache. */
static void tuned_magazines_are_of_the_size(const char *argument)
{
    (void)argument;
    const unsigned rounds[] = {8, 254, 1, 100, 2, 64};
    slab_cache *cache = make_own("tuned", 100);
    for (size_t i = 0; i < COUNT(rounds); i++) {
        require(slab_cache_tune(cache, rounds[i], 0) == 0);
        use_cache(cache, 5000);
        uint64_t held = figures(cache).magazine_rounds;
        require(held >= rounds[i] && held <= 2 * rounds[i]);
    }
    require(slab_cache_tune(cache, 0, 0) == 0);
    for (unsigned i = 0; i < 100; i++)
        use_cache(cache, 5000);
    require(figures(cache).magazine_rounds > 16); /* it has adapted again */
    drop(cache);
}

static void attribute_magazine_rounds(const char *argument)
{
    (void)argument;
    const unsigned rounds[] = {1, 2, 7, 100, 254};
    for (size_t i = 0; i < COUNT(rounds); i++) {
        const slab_cache_attr attr = {.magazine_rounds = rounds[i]};
        slab_cache *cache = make_cache("fixed", 100, &attr);
        use_cache(cache, 5000);
        uint64_t held = figures(cache).magazine_rounds;
        require(held >= rounds[i] && held <= 2 * rounds[i]);
        drop(cache);
    }
}

static void depots_keep_what_they_are_told(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_own("tuned", 100);
    require(slab_cache_tune(cache, 10, 3) == 0);
    use_cache(cache, 10000);
    require(figures(cache).depot_rounds <= 10 * 3 * process_figures().nodes);
    require(slab_cache_tune(cache, 10, 200) == 0);
    use_cache(cache, 10000);
    require(figures(cache).depot_rounds > 10 * 3 &&
            figures(cache).depot_rounds <= 10 * 200 * process_figures().nodes);
    require(slab_cache_tune(cache, 10, 2) == 0);
    use_cache(cache, 10000);
    require(figures(cache).depot_rounds <= 10 * 2 * process_figures().nodes);
    drop(cache);
}

/* Exactly one each, beside parked threads or without; none for ten thousand creations. */
static void membarriers_are_counted(const char *argument)
{
    (void)argument;
    enum { CACHES = 10000 };
    static slab_cache *caches[CACHES];
    struct user user = {make_own("tuned", 100), 1000};
    struct parked parked[2];
    uint64_t before = process_figures().membarriers;
    for (size_t i = 0; i < CACHES; i++)
        caches[i] = i % 2 ? make_own("tenant", 56) : make_cache("tenant", 56, NULL);
    require(process_figures().membarriers == before);
    for (unsigned threads = 0; threads <= COUNT(parked); threads++) {
        for (unsigned i = 1; i <= 10; i++) {
            before = process_figures().membarriers;
            require(slab_cache_tune(user.cache, 10 * i, 0) == 0);
            require(process_figures().membarriers == before + 1);
        }
        if (threads < COUNT(parked))
            park(&parked[threads], use_for_a_while, use_for_a_while, &user);
    }
    for (size_t i = 0; i < COUNT(parked); i++)
        unpark(&parked[i]);
    for (size_t i = 0; i < CACHES; i++)
        drop(caches[i]);
    drop(user.cache);
}

/* The rounds of threads that wait go to the depots, in full magazines; the threads find magazines of the new size. */
static void tuning_hands_rounds_on(const char *argument)
{
    (void)argument;
    do_without_worker(__func__); /* it takes from the depots what nobody has missed for a second */
    struct user user = {make_own("tuned", 100), 150}; /* fits into two magazines: next to nothing is in the depots */
    struct parked parked[THREADS];
    require(slab_cache_tune(user.cache, 100, 0) == 0);
    for (size_t i = 0; i < THREADS; i++)
        park(&parked[i], use_for_a_while, use_for_a_while, &user);
    slab_cache_stats before = figures(user.cache);
    require(before.magazine_rounds >= 100 * THREADS);
    require(slab_cache_tune(user.cache, 20, 1000) == 0);
    slab_cache_stats after = figures(user.cache);
    require(after.magazine_rounds <= THREADS + 1);
    require(after.depot_rounds >= before.depot_rounds + 20 * THREADS);
    require(after.active_objects == 0);
    for (size_t i = 0; i < THREADS; i++)
        unpark(&parked[i]);
    use_cache(user.cache, 1000);
    require(figures(user.cache).magazine_rounds <= 2 * 20 && active(user.cache) == 0);
    drop(user.cache);
}

/* -- beside threads that are busy -------------------------------------------------------------------------------- */

enum { STEPS_OF_EACH = 3000 };

static bool stop_using;
static unsigned users_at_work; /* that have not done their steps yet */

static void use_until_told(void *argument)
{
    enum { HELD = 300 };
    unsigned steps = 0;
    struct user *user = argument;
    struct block blocks[HELD];
    uint64_t random = (uintptr_t)&random | 1;
    memset(blocks, 0, sizeof blocks);
    while (!__atomic_load_n(&stop_using, __ATOMIC_RELAXED)) { /* partner: the store in shrink_and_tune_beside_users */
        if (++steps == STEPS_OF_EACH)
            __atomic_sub_fetch(&users_at_work, 1, __ATOMIC_RELAXED); /* partner: the load there */
        struct block *block = &blocks[random_next(&random) % HELD];
        if (block->ptr != NULL) {
            block_free(block);
            continue;
        }
        *block = (struct block){take(user->cache), 100, (unsigned)random};
        pattern_fill(block->ptr, 100, block->seed);
    }
    for (size_t i = 0; i < HELD; i++)
        block_free(&blocks[i]);
}

static void *use_run(void *argument)
{
    use_until_told(argument);
    return NULL;
}

/* So often, and until each user has done something beside it. */
static void shrink_and_tune_beside_users(const char *argument)
{
    (void)argument;
    struct user user = {make_own("busy", 100), 0};
    const unsigned times = scaled(300);
    pthread_t threads[THREADS];
    users_at_work = THREADS;
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_create(&threads[i], NULL, use_run, &user) == 0);
    /* partner: where users count themselves off */
    for (unsigned calls = 0; calls < times || __atomic_load_n(&users_at_work, __ATOMIC_RELAXED) > 0; calls++) {
        slab_cache_shrink(user.cache);
        require(slab_cache_tune(user.cache, calls % 60, calls % 7) == 0);
        require(figures(user.cache).slabs < 10000); /* made and released ones are counted apart */
    }
    __atomic_store_n(&stop_using, true, __ATOMIC_RELAXED); /* partner: the load in use_until_told */
    for (size_t i = 0; i < THREADS; i++)
        require(pthread_join(threads[i], NULL) == 0);
    require(active(user.cache) == 0);
    slab_cache_shrink(user.cache); /* what the worker is taking meanwhile is nobody's to count */
    require(figures(user.cache).slabs <= 1);
    drop(user.cache);
}

/* -- destroying -------------------------------------------------------------------------------------------------- */

static void destroy_refuses_while_objects_live(const char *argument)
{
    (void)argument;
    const slab_cache_attr attrs[] = {
        {.flags = SLAB_NO_MERGE}, {.flags = SLAB_ACCOUNT}, {.limit_bytes = MIB}, {.magazine_rounds = 254}};
    for (size_t i = 0; i < COUNT(attrs); i++) {
        void *objects[3];
        slab_cache *cache = make_cache("busy cache", 100, &attrs[i]);
        take_all(cache, objects, 3);
        for (unsigned n = 0; n < 3; n++)
            pattern_fill(objects[n], 100, n);
        use_cache(cache, 1000);
        require_busy(cache, "slabmalloc: slab_cache_destroy: busy cache has 3 live objects\n");
        require_busy(cache, "slabmalloc: slab_cache_destroy: busy cache has 3 live objects\n");
        use_cache(cache, 1000);
        require(active(cache) == 3 && strcmp(figures(cache).name, "busy cache") == 0);
        slab_cache_free(cache, objects[0]);
        free(objects[1]);
        require_busy(cache, "slabmalloc: slab_cache_destroy: busy cache has 1 live object\n");
        require(pattern_holds(objects[2], 100, 2));
        slab_free_nolock(objects[2]);
        drop(cache);
    }
}

/* Threads that wait hold free objects of the cache, which is no reason to refuse; they go on without it. */
static void destroy_takes_from_parked_threads(const char *argument)
{
    (void)argument;
    struct user gone = {make_own("gone", 100), 3000};
    struct parked parked[THREADS];
    for (unsigned round = 0; round < 5; round++) {
        uint64_t caches = process_figures().caches;
        for (size_t i = 0; i < THREADS; i++)
            park(&parked[i], use_for_a_while, NULL, &gone);
        drop(gone.cache);
        require(process_figures().caches == caches - 1);
        gone.cache = make_own("next", 100 + 8 * round);
        use_cache(gone.cache, 3000);
        for (size_t i = 0; i < THREADS; i++)
            unpark(&parked[i]);
        require(active(gone.cache) == 0);
    }
    drop(gone.cache);
}

/* A thread whose magazines are of caches that are gone goes on with caches that may have got their places. */
static void use_old_and_new(void *argument)
{
    slab_cache **caches = argument;
    for (size_t i = 0; i < 50; i++)
        use_cache(caches[i], 300);
}

static void caches_come_and_go_under_a_thread(const char *argument)
{
    (void)argument;
    slab_cache *caches[50];
    struct parked parked[2];
    for (unsigned round = 0; round < 20; round++) {
        for (size_t i = 0; i < COUNT(caches); i++)
            caches[i] = make_own("come and go", 40 + 8 * ((i + round) % 30));
        for (size_t i = 0; i < COUNT(parked); i++)
            park(&parked[i], use_old_and_new, use_old_and_new, caches);
        for (size_t i = 0; i < COUNT(caches); i++) {
            drop(caches[i]);
            caches[i] = make_own("new", 36 + 4 * ((i + round) % 50));
        }
        for (size_t i = 0; i < COUNT(parked); i++)
            unpark(&parked[i]);
        for (size_t i = 0; i < COUNT(caches); i++) {
            require(active(caches[i]) == 0);
            drop(caches[i]);
        }
    }
}

/* Thousands of lives leave nothing behind. */
static void lives_leave_nothing(const char *argument)
{
    (void)argument;
    slab_stats first = process_figures();
    for (unsigned life = 0; life < 20000; life++) {
        const slab_cache_attr attr = {.flags = life % 3 == 0 ? SLAB_ACCOUNT : life % 3 == 1 ? SLAB_NO_MERGE : 0};
        slab_cache *cache = make_cache("short life", 56, &attr);
        if (life % 2)
            use_cache(cache, 10);
        drop(cache);
        if (life == 1000)
            first = process_figures();
    }
    slab_stats last = process_figures();
    require(last.caches == first.caches && last.live_bytes <= first.live_bytes + 64 * KIB);
    require(last.metadata_bytes <= first.metadata_bytes + MIB);
    require(last.reserved_bytes <= first.reserved_bytes + 8 * MIB);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"shrink_keeps_what_lives", shrink_keeps_what_lives},
        {"shrunk_memory_is_for_others", shrunk_memory_is_for_others},
        {"shrink_takes_from_parked_threads", shrink_takes_from_parked_threads},
        {"bad_tuning", bad_tuning},
        {"tuned_magazines_are_of_the_size", tuned_magazines_are_of_the_size},
        {"attribute_magazine_rounds", attribute_magazine_rounds},
        {"depots_keep_what_they_are_told", depots_keep_what_they_are_told},
        {"membarriers_are_counted", membarriers_are_counted},
        {"tuning_hands_rounds_on", tuning_hands_rounds_on},
        {"shrink_and_tune_beside_users", shrink_and_tune_beside_users},
        {"destroy_refuses_while_objects_live", destroy_refuses_while_objects_live},
        {"destroy_takes_from_parked_threads", destroy_takes_from_parked_threads},
        {"caches_come_and_go_under_a_thread", caches_come_and_go_under_a_thread},
        {"lives_leave_nothing", lives_leave_nothing},
    };
    return run_scenarios("cache memory", scenarios, COUNT(scenarios), argc, argv);
}
