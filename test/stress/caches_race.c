/* Shrinking against tuning: one thread shrinks, one tunes, as fast as they can and on the same caches, while workers
 * allocate and free there. (Until 2016 Linux's mm/slab could drain, in a shrink, a shared array that tuning had just
 * freed.) Beside them
 *
 *   workers   take, check, free and exchange objects, live for some hundred operations, and are followed by new ones
 *   tenants   create caches, private ones and further names of merged ones, lend objects to the workers, and destroy
 *   watchers  read all the figures, walk the list of caches, print the table, purge
 *
 *   worker                 slots that all share          worker
 *   +-----------------+    +---+---+---+---+---+---+     +-----------------+
 *   | its own objects | -> |   |   |   |   |   |   | --> | its own objects |
 *   +-----------------+    +---+---+---+---+---+---+     +-----------------+
 *
 * Promised: every object is its holder's alone; when all is freed and the threads have ended nothing is left in the
 * caches. The same crew is at work while --forks forks: the children use the caches, too, and none may hang. */
#include "caches.h"

#include <unistd.h>

enum {
    OWN_OBJECTS = 96,
    SLOTS = 256,
    LOANS = 32,
    MAX_BATCH = 100,
    PUMPED = 4,
    PUMP_STEPS = 500,
    SHORTEST_LIFE = 50,
    LONGEST_LIFE = 4000,
    TENANTS = 2,
    TENANT_OBJECTS = 200,
    LIVELIEST = 64, /* steps of shrinking or tuning on one cache, before the next has its turn */
    MOST_CLASSES = 256,
    LEAST = 8, /* of whatever must have happened */
};

/* Merging: the first two are names of the same cache. */
static struct pool pools[] = {
    {.name = "race-merged", .size = 56, .twin = &pools[1]},
    {.name = "race-merged-too", .size = 56, .twin = &pools[0]},
    {.name = "race-private", .size = 192, .flags = SLAB_NO_MERGE},
    {.name = "race-constructed", .size = 256, .flags = POOL_CONSTRUCTED},
    {.name = "race-typesafe", .size = 64, .flags = SLAB_TYPESAFE_BY_EPOCH},
    {.name = "race-accounted", .size = 128, .flags = SLAB_ACCOUNT, .limit_bytes = 1 << 30},
    {.name = "race-zero", .size = 80, .flags = SLAB_ZERO},
    {.name = "race-lines", .size = 104, .flags = SLAB_CACHELINE_ALIGN, .magazine_rounds = 3},
    {.name = "race-large", .size = 40000, .flags = SLAB_NO_MERGE},
};

#define BREATH 50e-6 /* between them: for tenants, who want the same mutex */

static slab_cache *classes[MOST_CLASSES]; /* malloc's own, which can be shrunk as well */
static unsigned class_count;

static _Atomic(struct object *) slots[SLOTS]; /* a release hands an object on, an acquire takes it */
static _Atomic(struct object *) loans[LOANS]; /* of tenants: whoever finds one frees it at once */

static atomic_bool stopping;
static _Atomic unsigned focus; /* the pool that is being shrunk and tuned */
static _Atomic uint64_t operations, shrinks, shrunk_bytes, tunes, tenancies, births;

struct crewman {
    pthread_t thread;
    unsigned place;
    uint64_t ordinal, random, sequence;
    atomic_bool done; /* set by a worker at its end, for the one who joins it */
    struct holding own[OWN_OBJECTS];
};

static struct crewman workers[MAX_THREADS];
static pthread_key_t late_key;

static bool is_stopping(void)
{
    return atomic_load_explicit(&stopping, memory_order_relaxed);
}

static struct pool *any_pool(uint64_t *random)
{
    /* Large objects are dear to check. */
    return &pools[draw(random) % (COUNT(pools) - !once_in(random, 16))];
}

/* -- workers ----------------------------------------------------------------------------------------------------- */

static void take(struct crewman *self, struct holding *place)
{
    struct pool *pool = any_pool(&self->random);
    void *memory = object_alloc(pool, &self->random);
    if (memory == NULL)
        fail(FOUND_WRONG, "%s has no object: %s", pool->name, strerror(errno));
    *place = object_accept(pool, pool->size, memory, self->ordinal, ++self->sequence);
}

/* Swap with a slot. */
static void exchange(struct crewman *self, struct holding *place)
{
    doing("exchange");
    object_check(place);
    struct object *other =
        atomic_exchange_explicit(&slots[draw(&self->random) % SLOTS], place->object, memory_order_acq_rel);
    place->object = NULL;
    if (other != NULL)
        *place = object_adopt(other, self->ordinal, ++self->sequence);
}

/* Many of one cache at once, and back, most of them. */
static void batch(struct crewman *self)
{
    struct pool *pool = any_pool(&self->random);
    void *memory[MAX_BATCH];
    struct holding taken[MAX_BATCH];
    size_t count = draw_between(&self->random, 1, pool->size > 1024 ? 4 : MAX_BATCH), parted = 0;

    doing("slab_cache_alloc_bulk");
    if (slab_cache_alloc_bulk(pool->cache, count, memory) != count)
        fail(FOUND_WRONG, "%zu objects of %s: %s", count, pool->name, strerror(errno));
    for (size_t i = 0; i < count; i++)
        taken[i] = object_accept(pool, pool->size, memory[i], self->ordinal, ++self->sequence);
    for (size_t i = 0; i < count; i++) {
        if (once_in(&self->random, 4))
            exchange(self, &taken[i]);
        if (taken[i].object != NULL && taken[i].object->pool == pool)
            memory[parted++] = object_part(&taken[i]);
        else if (taken[i].object != NULL)
            object_free(&taken[i], &self->random);
    }
    doing("slab_cache_free_bulk");
    slab_cache_free_bulk(pool->twin->cache, parted, memory);
    atomic_fetch_sub_explicit(&pool->live, (int64_t)parted, memory_order_release);
}

static void free_a_loan(struct crewman *self)
{
    struct object *object = atomic_exchange_explicit(&loans[draw(&self->random) % LOANS], NULL, memory_order_acquire);
    doing("a loan");
    if (object != NULL) {
        struct holding holding = object_adopt(object, self->ordinal, ++self->sequence);
        object_free(&holding, &self->random);
    }
}

static void use_malloc(struct crewman *self)
{
    struct holding taken[8];
    for (size_t i = 0; i < COUNT(taken); i++) {
        size_t size = sizeof(struct object) + draw_between(&self->random, 0, 60) * 8;
        doing("malloc");
        taken[i] = object_accept(NULL, size, malloc(size), self->ordinal, ++self->sequence);
    }
    for (size_t i = 0; i < COUNT(taken); i++)
        object_free(&taken[i], &self->random);
}

/* Allocations and frees of the cache in focus with next to nothing in between: so a thread is often interrupted in
 * the middle of one, and that is where others take its rounds. One word alone tells whose the object is. */
static void pump(struct crewman *self)
{
    struct pool *pool = &pools[atomic_load_explicit(&focus, memory_order_relaxed) % COUNT(pools)];
    uint64_t found[PUMPED];
    volatile struct object *objects[PUMPED];
    doing("pumping");
    for (unsigned step = 0; step < PUMP_STEPS; step++) {
        size_t count = 1 + step % PUMPED;
        for (size_t i = 0; i < count; i++) {
            objects[i] = slab_cache_alloc(pool->cache);
            if (objects[i] == NULL)
                fail(FOUND_WRONG, "%s has no object: %s", pool->name, strerror(errno));
            found[i] = objects[i]->owner;
            objects[i]->owner = self->ordinal;
        }
        for (size_t i = 0; i < count; i++) {
            if (objects[i]->owner != self->ordinal)
                fail(FOUND_BROKEN, "object %p of %s is %" PRIu64 "'s, too", (const void *)objects[i], pool->name,
                     objects[i]->owner);
            objects[i]->owner = found[i];
            slab_cache_free(pool->cache, (void *)objects[i]);
        }
    }
}

static void operate(struct crewman *self)
{
    struct holding *place = &self->own[draw(&self->random) % OWN_OBJECTS];
    unsigned what = draw(&self->random) % 16;
    if (once_in(&self->random, 32))
        pump(self);
    else if (what == 0)
        batch(self);
    else if (what == 1)
        use_malloc(self);
    else if (what < 4)
        free_a_loan(self);
    else if (place->object == NULL)
        take(self, place);
    else if (what < 12)
        object_free(place, &self->random);
    else
        exchange(self, place);
}

/* Runs when the thread's storage goes: the library may have said goodbye to the thread already. */
static void live_on(void *argument)
{
    struct crewman *self = argument;
    for (unsigned i = 0; i < 10; i++)
        operate(self);
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        if (self->own[i].object != NULL)
            object_free(&self->own[i], &self->random);
    }
    atomic_store_explicit(&self->done, true, memory_order_release);
}

static void *work(void *argument)
{
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    uint64_t life = draw_between(&self->random, SHORTEST_LIFE, LONGEST_LIFE), done = 0;
    pthread_setspecific(late_key, self);
    for (; done < life && !is_stopping(); done++)
        operate(self);
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        if (self->own[i].object != NULL && once_in(&self->random, 2))
            exchange(self, &self->own[i]);
        if (self->own[i].object != NULL && once_in(&self->random, 2))
            object_free(&self->own[i], &self->random);
    }
    atomic_fetch_add(&operations, done);
    return NULL;
}

static void start(struct crewman *man, unsigned place, void *(*run)(void *))
{
    man->place = place;
    man->ordinal = atomic_fetch_add(&births, 1) + 1;
    man->random = random_of(man->ordinal);
    man->sequence = 0;
    atomic_store(&man->done, false);
    man->thread = start_thread(run, man);
}

/* Each worker that has ended is followed by another one. */
static void replace_workers(void)
{
    for (unsigned i = 0; i < options.threads; i++) {
        if (!atomic_load_explicit(&workers[i].done, memory_order_acquire))
            continue;
        pthread_join(workers[i].thread, NULL);
        start(&workers[i], FIRST_WORKER + i, work);
    }
}

/* -- shrinking and tuning ---------------------------------------------------------------------------------------- */

static slab_cache *in_focus(uint64_t *random)
{
    if (class_count > 0 && once_in(random, 16))
        return classes[draw(random) % class_count];
    if (once_in(random, 4))
        return any_pool(random)->cache;
    return pools[atomic_load_explicit(&focus, memory_order_relaxed) % COUNT(pools)].cache;
}

static void *shrink(void *argument)
{
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    doing("slab_cache_shrink");
    for (uint64_t step = 1; !is_stopping(); step++) {
        atomic_fetch_add(&shrunk_bytes, slab_cache_shrink(in_focus(&self->random)));
        atomic_fetch_add(&shrinks, 1);
        if (step % LIVELIEST == 0) {
            atomic_fetch_add(&focus, 1);
            sleep_for(BREATH);
        }
    }
    return NULL;
}

static void *tune(void *argument)
{
    static const unsigned rounds[] = {1, 254, 0, 254, 1, 2, 100}, magazines[] = {0, 1, 1000, 2};
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    doing("slab_cache_tune");
    for (uint64_t step = 0; !is_stopping(); step++) {
        if (slab_cache_tune(in_focus(&self->random), rounds[step % COUNT(rounds)],
                            magazines[draw(&self->random) % COUNT(magazines)]) != 0)
            fail(FOUND_WRONG, "%s", strerror(errno));
        atomic_fetch_add(&tunes, 1);
        if (step % LIVELIEST == 0)
            sleep_for(BREATH);
    }
    return NULL;
}

/* -- tenants ----------------------------------------------------------------------------------------------------- */

static void lend(struct crewman *self, struct holding *holding)
{
    object_check(holding);
    struct object *other =
        atomic_exchange_explicit(&loans[draw(&self->random) % LOANS], holding->object, memory_order_acq_rel);
    holding->object = NULL;
    if (other != NULL) {
        struct holding back = object_adopt(other, self->ordinal, ++self->sequence);
        object_free(&back, &self->random);
    }
}

/* Until nobody holds an object of the pool, or is about to. */
static void call_loans_in(struct crewman *self, struct pool *pool)
{
    while (atomic_load_explicit(&pool->live, memory_order_acquire) != 0) {
        for (unsigned i = 0; i < LOANS; i++)
            free_a_loan(self);
        sched_yield();
    }
}

/* It is refused while an object lives, and the cache goes on. */
static void fail_to_destroy(struct crewman *self, struct pool *pool)
{
    void *memory = slab_cache_alloc(pool->cache);
    struct holding holding = object_accept(pool, pool->size, memory, self->ordinal, ++self->sequence);
    doing("slab_cache_destroy while an object lives");
    if (slab_cache_destroy(pool->cache) != -1 || errno != EBUSY)
        fail(FOUND_WRONG, "%s was destroyed", pool->name);
    object_free(&holding, &self->random);
}

static void use_and_destroy(struct crewman *self, struct pool *pool)
{
    unsigned count = draw(&self->random) % TENANT_OBJECTS;
    for (unsigned i = 0; i < count; i++) {
        void *memory = object_alloc(pool, &self->random);
        if (memory == NULL)
            fail(FOUND_WRONG, "%s has no object: %s", pool->name, strerror(errno));
        struct holding holding = object_accept(pool, pool->size, memory, self->ordinal, ++self->sequence);
        if (once_in(&self->random, 2))
            lend(self, &holding);
        else
            object_free(&holding, &self->random);
    }
    doing("a tenant");
    if (once_in(&self->random, 4))
        slab_cache_shrink(pool->cache);
    if (once_in(&self->random, 4) && slab_cache_tune(pool->cache, 1 + draw(&self->random) % 254, 0) != 0)
        fail(FOUND_WRONG, "tuning %s: %s", pool->name, strerror(errno));
    call_loans_in(self, pool);
    if (pool->flags & ~SLAB_ZERO && once_in(&self->random, 200)) /* no name of a merged cache */
        fail_to_destroy(self, pool);
    doing("slab_cache_destroy");
    if (slab_cache_destroy(pool->cache) != 0)
        fail(FOUND_WRONG, "%s: %s", pool->name, strerror(errno));
    if (atomic_load_explicit(&pool->constructed, memory_order_acquire) != 0)
        fail(FOUND_MISSING, "%s is destroyed, but %" PRId64 " objects were not", pool->name,
             atomic_load(&pool->constructed));
}

static void *be_tenant(void *argument)
{
    static const unsigned flags[] = {0,        SLAB_NO_MERGE, POOL_CONSTRUCTED, SLAB_TYPESAFE_BY_EPOCH, SLAB_ACCOUNT,
                                     SLAB_ZERO};
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    while (!is_stopping()) {
        struct pool pool = {.name = "tenant", .flags = flags[draw(&self->random) % COUNT(flags)]};
        pool.size = once_in(&self->random, 2) ? 56 : 8 * draw_between(&self->random, 5, 100);
        pool_create(&pool);
        use_and_destroy(self, &pool);
        atomic_fetch_add(&tenancies, 1);
    }
    return NULL;
}

/* -- watchers ---------------------------------------------------------------------------------------------------- */

/* The pools come in the order of their creation, each once, whatever happens to tenants' caches in between. */
static int expect_pools(slab_cache *cache, void *context)
{
    unsigned *seen = context;
    for (unsigned i = 0; i < COUNT(pools); i++) {
        if (pools[i].cache == cache && i != (*seen)++)
            fail(FOUND_WRONG, "%s was visited when it was %u's turn", pools[i].name, *seen - 1);
    }
    return 0;
}

static void check_figures(struct pool *pool)
{
    slab_cache_stats stats;
    doing("slab_cache_get_stats");
    if (slab_cache_get_stats(pool->cache, &stats) != 0)
        fail(FOUND_WRONG, "%s: %s", pool->name, strerror(errno));
    if (stats.active_objects > UINT32_MAX || stats.magazine_rounds > UINT32_MAX || stats.depot_rounds > UINT32_MAX)
        fail(FOUND_WRONG,
             "%s: a figure went below zero: %" PRIu64 " active, %" PRIu64 " in magazines, %" PRIu64 " in depots",
             pool->name, stats.active_objects, stats.magazine_rounds, stats.depot_rounds);
}

static void check_table(void)
{
    static char table[1 << 18];
    FILE *file = fmemopen(table, sizeof table, "w");
    doing("slab_info");
    if (file == NULL || slab_info(file) != 0 || fclose(file) != 0)
        fail(FOUND_WRONG, "%s", strerror(errno));
    if (strncmp(table, "slabinfo - version: 2.1\n", 24) != 0)
        fail(FOUND_WRONG, "the table begins with '%.30s'", table);
    for (unsigned i = 0; i < COUNT(pools); i++) {
        if (strstr(table, pools[i].name) == NULL)
            fail(FOUND_WRONG, "the table lacks %s", pools[i].name);
    }
}

static void *watch(void *argument)
{
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    while (!is_stopping()) {
        slab_stats stats;
        unsigned seen = 0;
        for (unsigned i = 0; i < COUNT(pools); i++)
            check_figures(&pools[i]);
        check_table();
        doing("slab_get_stats");
        if (slab_get_stats(&stats, sizeof stats) != 0 || stats.live_bytes > (uint64_t)1 << 40)
            fail(FOUND_WRONG, "live bytes: %" PRIu64, stats.live_bytes);
        doing("slab_cache_foreach");
        if (slab_cache_foreach(expect_pools, &seen) != 0 || seen != COUNT(pools))
            fail(FOUND_WRONG, "%u pools were visited", seen);
        if (once_in(&self->random, 8))
            slab_purge();
    }
    return NULL;
}

/* -- the crew ---------------------------------------------------------------------------------------------------- */

static int collect_class(slab_cache *cache, void *context)
{
    (void)context;
    if (class_count < MOST_CLASSES)
        classes[class_count++] = cache;
    return 0;
}

static struct crewman shrinker, tuner, watcher, tenants[TENANTS], sweeper;

static void start_crew(void)
{
    slab_cache_foreach(collect_class, NULL);
    for (unsigned i = 0; i < COUNT(pools); i++)
        pool_create(&pools[i]);
    pthread_key_create(&late_key, live_on);
    for (unsigned i = 0; i < options.threads; i++)
        start(&workers[i], FIRST_WORKER + i, work);
    start(&shrinker, FIRST_OTHER, shrink);
    start(&tuner, FIRST_OTHER + 1, tune);
    start(&watcher, FIRST_OTHER + 2, watch);
    for (unsigned i = 0; i < TENANTS; i++)
        start(&tenants[i], FIRST_OTHER + 3 + i, be_tenant);
}

static void *sweep_slots(void *argument)
{
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    for (unsigned i = 0; i < SLOTS; i++) {
        struct object *object = atomic_exchange_explicit(&slots[i], NULL, memory_order_acquire);
        if (object == NULL)
            continue;
        struct holding holding = object_adopt(object, self->ordinal, ++self->sequence);
        object_free(&holding, &self->random);
    }
    return NULL;
}

static const char *what_is_missing(void)
{
    return tallied(&shrinks) < LEAST                                  ? "waiting for shrinks"
           : tallied(&shrunk_bytes) == 0                              ? "waiting for a shrink that frees slabs"
           : tallied(&tunes) < LEAST                                  ? "waiting for tunings"
           : tallied(&tenancies) < LEAST                              ? "waiting for tenants' caches"
           : tallied(&births) < options.threads + 3 + TENANTS + LEAST ? "waiting for workers to end"
                                                                      : NULL;
}

static void end_crew(void)
{
    doing("waiting for the threads to end");
    atomic_store(&stopping, true);
    for (unsigned i = 0; i < TENANTS; i++)
        pthread_join(tenants[i].thread, NULL);
    for (unsigned i = 0; i < options.threads; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_join(shrinker.thread, NULL);
    pthread_join(tuner.thread, NULL);
    pthread_join(watcher.thread, NULL);
    start(&sweeper, FIRST_OTHER, sweep_slots);
    pthread_join(sweeper.thread, NULL);
    for (unsigned i = 0; i < COUNT(pools); i++)
        pool_retire(&pools[i]);
    printf("caches: %" PRIu64 " operations by %" PRIu64 " threads; %" PRIu64 " shrinks (%" PRIu64 " KiB), %" PRIu64
           " tunings, %" PRIu64 " tenants' caches\n",
           operations, births, shrinks, shrunk_bytes >> 10, tunes, tenancies);
}

void run_race(void)
{
    double end = now_in_seconds() + options.seconds;
    start_crew();
    doing("keeping the crew going");
    while (!is_over(end, what_is_missing)) {
        replace_workers();
        sleep_for(0.002);
    }
    end_crew();
}

/* -- forks ------------------------------------------------------------------------------------------------------- */

static void use_pool_in_child(struct crewman *self, struct pool *pool)
{
    struct holding taken[20];
    for (unsigned i = 0; i < COUNT(taken); i++) {
        void *memory = object_alloc(pool, &self->random);
        if (memory == NULL)
            fail(FOUND_WRONG, "%s has no object in a child: %s", pool->name, strerror(errno));
        taken[i] = object_accept(pool, pool->size, memory, self->ordinal, ++self->sequence);
    }
    for (unsigned i = 0; i < COUNT(taken); i++)
        object_free(&taken[i], &self->random);
    slab_cache_shrink(pool->cache);
    if (slab_cache_tune(pool->cache, 1 + draw(&self->random) % 254, 0) != 0)
        fail(FOUND_WRONG, "tuning %s in a child: %s", pool->name, strerror(errno));
}

/* What other threads held is nobody's here; the forking thread's own objects can be freed. (Objects in slots are
 * left alone: fork copies page by page, so a slot may be older than what it points to.) */
__attribute__((noreturn)) static void live_as_child(struct crewman *self)
{
    struct pool own = {.name = "child", .size = 120, .flags = POOL_CONSTRUCTED};
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        if (self->own[i].object != NULL && once_in(&self->random, 2))
            object_free(&self->own[i], &self->random);
    }
    for (unsigned i = 0; i < COUNT(pools); i++)
        use_pool_in_child(self, &pools[i]);
    pool_create(&own);
    use_pool_in_child(self, &own);
    doing("slab_cache_destroy in a child");
    if (slab_cache_destroy(own.cache) != 0 || atomic_load(&own.constructed) != 0)
        fail(FOUND_MISSING, "%" PRId64 " objects are left", atomic_load(&own.constructed));
    check_table();
    _exit(0);
}

static void *fork_many(void *argument)
{
    struct crewman *self = argument;
    start_work(self->place, self->ordinal);
    for (unsigned i = 0; i < options.children; i++) {
        struct holding *place = &self->own[draw(&self->random) % OWN_OBJECTS];
        if (place->object != NULL)
            object_free(place, &self->random);
        take(self, place);
        pid_t child = fork();
        if (child == 0)
            live_as_child(self);
        doing("waiting for a child");
        await_child(child);
    }
    for (unsigned i = 0; i < OWN_OBJECTS; i++) {
        if (self->own[i].object != NULL)
            object_free(&self->own[i], &self->random);
    }
    atomic_store_explicit(&self->done, true, memory_order_release);
    return NULL;
}

void run_forks(void)
{
    static struct crewman forker;
    start_crew();
    start(&forker, FIRST_OTHER + 3 + TENANTS, fork_many);
    doing("keeping the crew going");
    while (!atomic_load_explicit(&forker.done, memory_order_acquire) || !is_over(0, what_is_missing)) {
        replace_workers();
        sleep_for(0.002);
    }
    pthread_join(forker.thread, NULL);
    end_crew();
}
