/* Many threads at a cache's limit. Promised: live bytes never exceed the limit, nobody is refused below it, wherever
 * the free objects lie, and the figure of live objects is exact as soon as no call is under way.
 *
 * The test's own count is raised after an allocation has returned and lowered before a free is called, so it is at no
 * time more than what lives: if it ever exceeds the limit, the library's count did. Threads work in rounds, and
 * between two of them, when none runs, the library's count is compared with the test's:
 *
 *   greedy   each thread takes all that it can get; there is far less than all want
 *   frugal   each thread has a share, and all shares and the slots together are the limit: no call may fail */
#include "caches.h"

enum { OBJECTS_A_THREAD = 160, SHARE = 40, SLOTS = 16, STEPS = 3000, MAX_BATCH = 12, LEAST_ROUNDS = 4 };

static struct limited {
    struct pool pool;
    size_t object_size; /* as the library counts: rounded up to the alignment */
} all_limited[] = {
    {{.name = "limit-plain", .size = 56}, 56},
    {{.name = "limit-lines", .size = 48, .flags = SLAB_ACCOUNT | SLAB_CACHELINE_ALIGN}, 64},
    {{.name = "limit-constructed", .size = 200, .flags = POOL_CONSTRUCTED}, 200},
    {{.name = "limit-zero", .size = 4800, .flags = SLAB_ZERO}, 4800},
};

static struct party {
    pthread_t thread;
    uint64_t ordinal, random, sequence, refusals;
    unsigned held;
    struct holding own[OBJECTS_A_THREAD];
} parties[MAX_THREADS];

static struct pool *pool; /* of this round */
static bool greedy;       /* this round */
static size_t object_size;
static int64_t most_objects;

static _Atomic int64_t counted; /* never more than what lives */
static _Atomic(struct object *) slots[SLOTS];

static unsigned most_to_hold(void)
{
    return greedy ? OBJECTS_A_THREAD : SHARE;
}

/* -- a thread ---------------------------------------------------------------------------------------------------- */

static void count_up(size_t taken)
{
    int64_t now = atomic_fetch_add(&counted, (int64_t)taken) + (int64_t)taken;
    if (now > most_objects)
        fail(FOUND_WRONG, "%s: %" PRId64 " objects live, the limit is %" PRId64, pool->name, now, most_objects);
}

static void refuse(struct party *self, size_t wanted)
{
    self->refusals++;
    if (errno != ENOMEM)
        fail(FOUND_WRONG, "%s: %zu objects were refused with errno %d", pool->name, wanted, errno);
    if (!greedy)
        fail(FOUND_WRONG, "%s: %zu objects were refused below the limit", pool->name, wanted);
}

static struct holding *free_place(struct party *self)
{
    struct holding *place = self->own;
    while (place->object != NULL)
        place++;
    return place;
}

static void keep(struct party *self, void *memory)
{
    *free_place(self) = object_accept(pool, pool->size, memory, self->ordinal, ++self->sequence);
    self->held++;
}

static void take_one(struct party *self)
{
    void *memory = object_alloc(pool, &self->random);
    if (memory == NULL) {
        refuse(self, 1);
        return;
    }
    count_up(1);
    keep(self, memory);
}

static void take_many(struct party *self)
{
    void *memory[MAX_BATCH];
    size_t room = most_to_hold() - self->held;
    size_t count = draw_between(&self->random, 1, room < MAX_BATCH ? room : MAX_BATCH);
    doing("slab_cache_alloc_bulk");
    if (slab_cache_alloc_bulk(pool->cache, count, memory) != count) {
        refuse(self, count);
        return;
    }
    count_up(count);
    for (size_t i = 0; i < count; i++)
        keep(self, memory[i]);
}

static void give_one(struct party *self, struct holding *place)
{
    atomic_fetch_sub(&counted, 1);
    object_free(place, &self->random);
    self->held--;
}

static void give_many(struct party *self)
{
    void *memory[OBJECTS_A_THREAD];
    size_t count = 0;
    for (unsigned i = 0; i < OBJECTS_A_THREAD; i++) {
        if (self->own[i].object != NULL && once_in(&self->random, 2))
            memory[count++] = object_part(&self->own[i]);
    }
    self->held -= (unsigned)count;
    atomic_fetch_sub(&counted, (int64_t)count);
    doing("slab_cache_free_bulk");
    slab_cache_free_bulk(pool->cache, count, memory);
    atomic_fetch_sub(&pool->live, (int64_t)count);
}

static void exchange(struct party *self, struct holding *place)
{
    object_check(place);
    struct object *other =
        atomic_exchange_explicit(&slots[draw(&self->random) % SLOTS], place->object, memory_order_acq_rel);
    place->object = NULL;
    if (other != NULL)
        *place = object_adopt(other, self->ordinal, ++self->sequence);
    else
        self->held--;
}

static void *take_part(void *argument)
{
    struct party *self = argument;
    start_work(FIRST_WORKER + (unsigned)(self - parties), self->ordinal);
    for (unsigned step = 0; step < STEPS; step++) {
        struct holding *place = &self->own[draw(&self->random) % OBJECTS_A_THREAD];
        unsigned what = draw(&self->random) % 32;
        if (what == 0)
            give_many(self);
        else if (place->object == NULL && self->held == most_to_hold())
            continue;
        else if (place->object == NULL && what == 1)
            take_many(self);
        else if (place->object == NULL)
            take_one(self);
        else if (what < 24)
            give_one(self, place);
        else
            exchange(self, place);
    }
    return NULL;
}

/* -- between the rounds ------------------------------------------------------------------------------------------ */

static void compare(void)
{
    slab_cache_stats stats;
    doing("counting");
    if (slab_cache_get_stats(pool->cache, &stats) != 0)
        fail(FOUND_WRONG, "%s: %s", pool->name, strerror(errno));
    if (stats.active_objects != (uint64_t)atomic_load(&counted))
        fail(FOUND_MISSING, "%s: %" PRIu64 " objects are active, %" PRId64 " live", pool->name, stats.active_objects,
             counted);
    if (stats.object_size != object_size)
        fail(FOUND_WRONG, "%s: objects of %zu bytes, and not %zu", pool->name, stats.object_size, object_size);
    if (stats.limit_bytes != pool->limit_bytes)
        fail(FOUND_WRONG, "%s: the limit is %" PRIu64 " bytes, %zu were said", pool->name, stats.limit_bytes,
             pool->limit_bytes);
}

/* One thread alone can have all up to the limit and not one more, whichever way it asks. */
static void fill_up(struct party *self)
{
    void *memory, **more;
    size_t left = (size_t)(most_objects - atomic_load(&counted)), taken = 0;
    struct holding *all = calloc(left + 1, sizeof *all);
    more = calloc(left + 1, sizeof *more);

    doing("filling up");
    for (; (memory = slab_cache_alloc(pool->cache)) != NULL; taken++) {
        if (taken == left)
            fail(FOUND_WRONG, "%s: an object more than the limit has", pool->name);
        all[taken] = object_accept(pool, pool->size, memory, self->ordinal, ++self->sequence);
    }
    if (taken != left || errno != ENOMEM)
        fail(FOUND_WRONG, "%s: %zu objects of %zu up to the limit, errno %d", pool->name, taken, left, errno);
    if (slab_cache_alloc_nolock(pool->cache) != NULL || slab_cache_alloc_node(pool->cache, 0) != NULL ||
        slab_cache_alloc_bulk(pool->cache, 1, &memory) != 0)
        fail(FOUND_WRONG, "%s: an object at the limit", pool->name);
    while (taken > 0) {
        object_free(&all[--taken], &self->random);
        doing("filling up");
        if (slab_cache_alloc_bulk(pool->cache, left - taken + 1, more) != 0 || errno != ENOMEM)
            fail(FOUND_WRONG, "%s: %zu objects where there were %zu", pool->name, left - taken + 1, left - taken);
    }
    free(all);
    free(more);
}

/* Down to the shares that all can have at the same time. */
static void give_down(struct party *self)
{
    for (unsigned i = 0; i < OBJECTS_A_THREAD && self->held > SHARE; i++) {
        if (self->own[i].object != NULL)
            give_one(self, &self->own[i]);
    }
}

/* In a thread, so that it has other magazines each time. */
static void *settle(void *argument)
{
    struct party self = {.ordinal = MAX_THREADS + *(unsigned *)argument};
    self.random = random_of(self.ordinal);
    start_work(FIRST_OTHER, self.ordinal);
    compare();
    fill_up(&self);
    compare();
    for (unsigned i = 0; i < options.threads; i++)
        give_down(&parties[i]);
    compare();
    return NULL;
}

static void in_a_thread(void *(*run)(void *), void *argument)
{
    pthread_join(start_thread(run, argument), NULL);
}

static void run_round(unsigned number)
{
    greedy = number % 2 == 0;
    for (unsigned i = 0; i < options.threads; i++)
        parties[i].thread = start_thread(take_part, &parties[i]);
    for (unsigned i = 0; i < options.threads; i++)
        pthread_join(parties[i].thread, NULL);
    in_a_thread(settle, &number);
}

/* -- the mode ---------------------------------------------------------------------------------------------------- */

static void *give_all(void *argument)
{
    (void)argument;
    start_work(FIRST_OTHER, 0);
    for (unsigned i = 0; i < options.threads; i++) {
        for (unsigned k = 0; k < OBJECTS_A_THREAD; k++) {
            if (parties[i].own[k].object != NULL)
                give_one(&parties[i], &parties[i].own[k]);
        }
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        struct object *object = atomic_exchange(&slots[i], NULL);
        if (object == NULL)
            continue;
        struct holding holding = object_adopt(object, 1, ++parties[0].sequence);
        atomic_fetch_sub(&counted, 1);
        object_free(&holding, &parties[0].random);
    }
    compare();
    return NULL;
}

static uint64_t refusals_of_all(void)
{
    uint64_t refusals = 0;
    for (unsigned i = 0; i < options.threads; i++)
        refusals += parties[i].refusals;
    return refusals;
}

static void run_pool(struct limited *limited)
{
    double end = now_in_seconds() + options.seconds / COUNT(all_limited);
    unsigned rounds = 0;

    pool = &limited->pool;
    object_size = limited->object_size;
    most_objects = (int64_t)options.threads * SHARE + SLOTS;
    pool->limit_bytes = (size_t)most_objects * object_size + object_size / 2; /* half an object is none */
    for (unsigned i = 0; i < options.threads; i++)
        parties[i].refusals = 0;
    pool_create(pool);
    for (; rounds < LEAST_ROUNDS || refusals_of_all() == 0 || now_in_seconds() < end; rounds++) {
        doing("waiting for the threads of a round");
        run_round(rounds);
    }
    in_a_thread(give_all, NULL);
    pool_retire(pool);
    printf("caches: %s: %u rounds, %" PRIu64 " refusals at the limit of %" PRId64 " objects\n", pool->name, rounds,
           refusals_of_all(), most_objects);
}

void run_limits(void)
{
    for (unsigned i = 0; i < options.threads; i++) {
        parties[i].ordinal = i + 1;
        parties[i].random = random_of(i + 1);
    }
    for (unsigned i = 0; i < COUNT(all_limited); i++)
        run_pool(&all_limited[i]);
}
