/* Caches and threads: exit, late destructors, fork, and thousands of caches at once.
 *
 * Written in: include/slabmalloc.h ("any thread"), pthread_key_create(3p) (destructors may set their value again),
 * fork(2). Promised are the same calls everywhere: in a thread's last moments, in the child of a process whose
 * threads were inside the library, and whatever the number of caches that a thread uses. */
#include "caches.h"

enum { THREADS = 4 };

static void start_all(pthread_t *threads, size_t count, void *(*run)(void *), void *argument)
{
    for (size_t i = 0; i < count; i++)
        require(pthread_create(&threads[i], NULL, run, argument) == 0);
}

static void join_all(pthread_t *threads, size_t count)
{
    for (size_t i = 0; i < count; i++)
        require(pthread_join(threads[i], NULL) == 0);
}

/* -- threads end ------------------------------------------------------------------------------------------------- */

static void use_a_thousand(void *cache)
{
    use_cache(cache, 1000);
}

static void threads_leave_no_stock_behind(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_own("stock", 72);
    for (unsigned i = 0; i < 500; i++)
        run_thread(use_a_thousand, cache);
    slab_cache_stats stats = figures(cache);
    require(stats.magazine_rounds == 0 && stats.active_objects == 0); /* this thread has not used it */
    require(stats.total_objects < 20 * stats.objects_per_slab);
    slab_cache_shrink(cache);
    require(figures(cache).slabs == 0);
    drop(cache);
}

/* A value whose destructor uses caches, as often as the system promises to come again. */
struct late {
    pthread_key_t key;
    unsigned destroyed;
    slab_cache *caches[3];
    void *object;
};

static void late_destructor(void *value)
{
    struct late *late = value;
    require(pattern_holds(late->object, 72, late->destroyed));
    slab_cache_free(late->caches[late->destroyed % 3], late->object);
    for (size_t i = 0; i < 3; i++)
        use_cache(late->caches[i], 300);
    if (++late->destroyed == PTHREAD_DESTRUCTOR_ITERATIONS)
        return;
    late->object = take(late->caches[late->destroyed % 3]);
    pattern_fill(late->object, 72, late->destroyed);
    require(pthread_setspecific(late->key, late) == 0);
}

static void *late_run(void *argument)
{
    struct late *late = argument;
    late->destroyed = 0;
    late->object = take(late->caches[0]);
    pattern_fill(late->object, 72, 0);
    require(pthread_setspecific(late->key, late) == 0);
    return NULL;
}

static void late_destructors_use_caches(const char *argument)
{
    (void)argument;
    const slab_cache_attr counted = {.flags = SLAB_ACCOUNT}, zeroed = {.flags = SLAB_ZERO | SLAB_NO_MERGE};
    static struct late lates[2];
    for (size_t i = 0; i < COUNT(lates); i++) {
        require(pthread_key_create(&lates[i].key, late_destructor) == 0);
        lates[i].caches[0] = make_own("late", 72);
        lates[i].caches[1] = make_cache("late", 72, &counted);
        lates[i].caches[2] = make_cache("late", 72, &zeroed);
    }
    pthread_t threads[COUNT(lates)];
    for (unsigned round = 0; round < 100; round++) {
        for (size_t i = 0; i < COUNT(lates); i++)
            require(pthread_create(&threads[i], NULL, late_run, &lates[i]) == 0);
        join_all(threads, COUNT(lates));
        for (size_t i = 0; i < COUNT(lates); i++)
            require(lates[i].destroyed == PTHREAD_DESTRUCTOR_ITERATIONS);
    }
    for (size_t i = 0; i < COUNT(lates); i++)
        for (size_t n = 0; n < 3; n++) {
            require(active(lates[i].caches[n]) == 0);
            drop(lates[i].caches[n]);
        }
}

/* -- memory that changes hands ----------------------------------------------------------------------------------- */

/* A ring of objects that one thread fills and another empties. */
enum { RING = 1024, PASSED = 100000 };

static struct {
    slab_cache *cache;
    void *slots[RING];
    sem_t full, empty;
} passing;

static void *produce(void *unused)
{
    for (unsigned i = 0; i < PASSED; i++) {
        void *object = take(passing.cache);
        pattern_fill(object, 72, i);
        while (sem_wait(&passing.empty) != 0)
            require(errno == EINTR);
        passing.slots[i % RING] = object;
        require(sem_post(&passing.full) == 0);
    }
    return unused;
}

static void *consume(void *unused)
{
    for (unsigned i = 0; i < PASSED; i++) {
        while (sem_wait(&passing.full) != 0)
            require(errno == EINTR);
        void *object = passing.slots[i % RING];
        require(sem_post(&passing.empty) == 0);
        require(pattern_holds(object, 72, i));
        if (i % 2)
            free(object);
        else
            slab_cache_free(passing.cache, object);
    }
    return unused;
}

static void objects_change_hands(const char *argument)
{
    (void)argument;
    const slab_cache_attr attrs[] = {{.flags = SLAB_NO_MERGE}, {.flags = SLAB_ACCOUNT}};
    require(sem_init(&passing.full, 0, 0) == 0 && sem_init(&passing.empty, 0, RING) == 0);
    for (size_t i = 0; i < COUNT(attrs); i++) {
        pthread_t threads[2];
        passing.cache = make_cache("passed on", 72, &attrs[i]);
        start_all(threads, 1, produce, NULL);
        start_all(threads + 1, 1, consume, NULL);
        join_all(threads, 2);
        slab_cache_stats stats = figures(passing.cache);
        require(stats.active_objects == 0 && stats.total_objects < 50000);
        drop(passing.cache);
    }
}

/* -- fork -------------------------------------------------------------------------------------------------------- */

static bool stop_threads;
static slab_cache *forked_caches[5];

/* Every thread has some objects of each cache at any moment. */
static void *use_all_caches(void *unused)
{
    enum { HELD = 50 };
    while (!__atomic_load_n(&stop_threads, __ATOMIC_RELAXED)) /* partner: the store in fork_beside_users */
        for (size_t c = 0; c < COUNT(forked_caches); c++) {
            void *objects[HELD];
            for (unsigned i = 0; i < HELD; i++) {
                objects[i] = take(forked_caches[c]);
                pattern_fill(objects[i], 72, i);
            }
            for (unsigned i = 0; i < HELD; i++) {
                require(pattern_holds(objects[i], 72, i));
                slab_cache_free(forked_caches[c], objects[i]);
            }
        }
    return unused;
}

/* What the parent's threads had stays with them; the rest is the child's. `mine` was allocated before the fork. */
static void forked_child(void **mine)
{
    watchdog("a forked child hangs in caches");
    for (size_t c = 0; c < COUNT(forked_caches); c++) {
        require(pattern_holds(mine[c], 72, (unsigned)c));
        slab_cache_free(forked_caches[c], mine[c]);
        use_cache(forked_caches[c], 1000);
        slab_cache_shrink(forked_caches[c]);
        require(slab_cache_tune(forked_caches[c], 10, 2) == 0);
        run_thread(use_a_thousand, forked_caches[c]);
    }
    slab_cache *made = make_own("made in the child", 40);
    use_cache(made, 1000);
    drop(made);
    int silence = open("/dev/null", O_WRONLY);
    require(dup2(silence, STDERR_FILENO) == STDERR_FILENO); /* of refused destructions */
    for (size_t c = 0; c < COUNT(forked_caches); c++)
        if (slab_cache_destroy(forked_caches[c]) != 0) {
            require(errno == EBUSY);
            use_cache(forked_caches[c], 1000);
        }
    _exit(0);
}

static void fork_beside_users(const char *argument)
{
    (void)argument;
    const slab_cache_attr attrs[COUNT(forked_caches)] = {
        {0}, {.flags = SLAB_NO_MERGE}, {.flags = SLAB_ACCOUNT}, {.magazine_rounds = 7}, {.limit_bytes = 64 * MIB}};
    pthread_t threads[THREADS];
    for (size_t c = 0; c < COUNT(forked_caches); c++)
        forked_caches[c] = make_cache("forked", 72, &attrs[c]);
    start_all(threads, THREADS, use_all_caches, NULL);
    for (unsigned round = 0; round < scaled(40); round++) {
        void *mine[COUNT(forked_caches)];
        for (size_t c = 0; c < COUNT(forked_caches); c++) {
            mine[c] = take(forked_caches[c]);
            pattern_fill(mine[c], 72, (unsigned)c);
        }
        pid_t child = fork();
        require(child >= 0);
        if (child == 0)
            forked_child(mine);
        require(ended_well(wait_for(child)));
        give_all(forked_caches[0], mine, 1);
        for (size_t c = 1; c < COUNT(forked_caches); c++)
            slab_cache_free(forked_caches[c], mine[c]);
    }
    __atomic_store_n(&stop_threads, true, __ATOMIC_RELAXED); /* partner: the load in use_all_caches */
    join_all(threads, THREADS);
    for (size_t c = 0; c < COUNT(forked_caches); c++) {
        require(active(forked_caches[c]) == 0);
        drop(forked_caches[c]);
    }
}

/* A process of one thread loses nothing by forking: its child may destroy every cache. */
static void fork_of_one_thread(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_own("forked", 72);
    void *object = take(cache);
    use_cache(cache, 3000);
    pid_t child = fork();
    require(child >= 0);
    if (child == 0) {
        watchdog("a forked child hangs in caches");
        require(active(cache) == 1);
        require(slab_cache_destroy(cache) == -1 && errno == EBUSY);
        slab_cache_free(cache, object);
        drop(cache);
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    slab_cache_free(cache, object);
    drop(cache);
}

/* -- many caches ------------------------------------------------------------------------------------------------- */

enum { MANY_CACHES = 800, EACH = 20 };

static slab_cache *many[MANY_CACHES];
static void *many_objects[MANY_CACHES][EACH];

static void use_many(void *unused)
{
    (void)unused;
    static __thread void *objects[MANY_CACHES][EACH];
    for (unsigned round = 0; round < 3; round++) {
        for (size_t n = 0; n < EACH; n++)
            for (size_t c = 0; c < MANY_CACHES; c++) {
                objects[c][n] = take(many[c]);
                pattern_fill(objects[c][n], 72, (unsigned)(c + n));
            }
        for (size_t n = 0; n < EACH; n++)
            for (size_t c = 0; c < MANY_CACHES; c++) {
                require(pattern_holds(objects[c][n], 72, (unsigned)(c + n)));
                if ((c + n) % 3 == 0)
                    free(objects[c][n]);
                else
                    slab_cache_free(many[c], objects[c][n]);
            }
    }
}

static void check_nolock(slab_cache *cache)
{
    void *object = slab_cache_alloc_nolock(cache);
    for (unsigned i = 0; i < 10 && object == NULL; i++) {
        slab_cache_free(cache, take(cache));
        object = slab_cache_alloc_nolock(cache);
    }
    require(object != NULL);
    slab_free_nolock(object);
}

/* The same for caches with a direct slot in every thread and for those beyond: magazines, tuning, shrinking. */
static void eight_hundred_in_a_thread(const char *argument)
{
    (void)argument;
    struct parked parked[2];
    for (size_t c = 0; c < MANY_CACHES; c++)
        many[c] = make_own("many", 72);
    use_many(NULL);
    for (size_t i = 0; i < COUNT(parked); i++)
        park(&parked[i], use_many, use_many, NULL);
    for (size_t c = 0; c < MANY_CACHES; c++) {
        slab_cache_stats stats = figures(many[c]);
        require(stats.active_objects == 0 && stats.magazine_rounds > 0);
        if (c % 2)
            require(slab_cache_tune(many[c], 5, 3) == 0);
        else
            slab_cache_shrink(many[c]);
        require(figures(many[c]).magazine_rounds <= COUNT(parked) + 1);
        require(c % 2 || figures(many[c]).slabs <= COUNT(parked) + 1);
    }
    for (size_t c = 0; c < MANY_CACHES; c++) {
        take_all(many[c], many_objects[c], EACH);
        check_nolock(many[c]);
        require(active(many[c]) == EACH);
    }
    for (size_t i = 0; i < COUNT(parked); i++)
        unpark(&parked[i]);
    for (size_t c = 0; c < MANY_CACHES; c++) {
        give_all(many[c], many_objects[c], EACH);
        require(active(many[c]) == 0);
        drop(many[c]);
    }
}

/* The last caches have slots of the others when those are gone. */
static void slots_are_used_again(const char *argument)
{
    (void)argument;
    struct parked parked;
    for (size_t c = 0; c < MANY_CACHES; c++)
        many[c] = make_own("first", 72);
    park(&parked, use_many, use_many, NULL);
    use_many(NULL);
    for (unsigned round = 0; round < 4; round++) {
        for (size_t c = round % 2; c < MANY_CACHES; c += 2)
            drop(many[c]);
        for (size_t c = round % 2; c < MANY_CACHES; c += 2)
            many[c] = make_own("next", 72 + 8 * round);
        use_many(NULL);
    }
    unpark(&parked);
    for (size_t c = 0; c < MANY_CACHES; c++) {
        require(active(many[c]) == 0);
        drop(many[c]);
    }
}

enum { TENANTS = 10000 };

static slab_cache *tenants[TENANTS];

static void *use_tenants(void *unused)
{
    void **objects = malloc(TENANTS * sizeof *objects);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned c = 0; c < TENANTS; c++) {
            objects[c] = take(tenants[c]);
            pattern_fill(objects[c], 72, c);
        }
        for (unsigned c = 0; c < TENANTS; c++) {
            require(pattern_holds(objects[c], 72, c));
            slab_cache_free(tenants[c], objects[c]);
        }
    }
    free(objects);
    return unused;
}

static void ten_thousand_at_once(const char *argument)
{
    (void)argument;
    pthread_t threads[THREADS];
    uint64_t caches = process_figures().caches;
    for (size_t c = 0; c < TENANTS; c++)
        tenants[c] = make_own("tenant", 72);
    require(process_figures().caches == caches + TENANTS);
    start_all(threads, THREADS, use_tenants, NULL);
    join_all(threads, THREADS);
    use_tenants(NULL);
    for (size_t c = 0; c < TENANTS; c++) {
        require(active(tenants[c]) == 0);
        drop(tenants[c]);
    }
    require(process_figures().caches == caches);
}

/* 10,000 caches that share with none, at least; then ENOMEM, until one goes. */
static void more_than_fit(const char *argument)
{
    (void)argument;
    enum { MOST = 70000 };
    static slab_cache *caches[MOST];
    const slab_cache_attr alone = {.flags = SLAB_NO_MERGE};
    size_t count = 0;
    slab_cache *shared = make_cache("shared", 72, NULL);
    errno = 0;
    while (count < MOST && (caches[count] = slab_cache_create("tenant", 72, &alone)) != NULL)
        count++;
    require(count < MOST && errno == ENOMEM && process_figures().caches >= 10000);
    slab_cache *alias = make_cache("alias", 72, NULL);
    use_cache(alias, 1000);
    drop(alias);
    use_cache(caches[count - 1], 1000);
    drop(caches[count - 1]);
    caches[count - 1] = make_own("tenant", 72);
    use_cache(caches[count - 1], 1000);
    while (count-- > 0)
        drop(caches[count]);
    drop(shared);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"threads_leave_no_stock_behind", threads_leave_no_stock_behind},
        {"late_destructors_use_caches", late_destructors_use_caches},
        {"objects_change_hands", objects_change_hands},
        {"fork_beside_users", fork_beside_users},
        {"fork_of_one_thread", fork_of_one_thread},
        {"eight_hundred_in_a_thread", eight_hundred_in_a_thread},
        {"slots_are_used_again", slots_are_used_again},
        {"ten_thousand_at_once", ten_thousand_at_once},
        {"more_than_fit", more_than_fit},
    };
    return run_scenarios("cache threads", scenarios, COUNT(scenarios), argc, argv);
}
