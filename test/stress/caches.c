/* A stress test of object caches: caches MODE [OPTION...], where MODE is one of
 *
 *   --race     caches are shrunk and tuned as fast as it goes, while threads use them, are born and end
 *              (caches_race.c)
 *   --forks    the same, and the process forks all the time
 *   --limits   threads at the limit of an accounted cache (caches_limits.c)
 *   --signals  calls without a lock in signal handlers that interrupt everything else (caches_signals.c)
 *
 * All random numbers follow from the seed; the interleaving does not. What is wrong is one line on standard error,
 * and the exit status says of what kind it is: enum found in at_work.h. Here are the objects, the pools and the
 * program; caches.h says what they are. */
#include "caches.h"
#include "clock.h"

/* -- objects ----------------------------------------------------------------------------------------------------- */

#define OWNER_CONSTRUCTOR UINT64_MAX

static size_t words_of(const struct object *object)
{
    return (object->size - sizeof *object) / 8;
}

static uint64_t pattern_of(const struct object *object)
{
    return mix((uintptr_t)object ^ mix(object->owner ^ mix(object->sequence ^ options.seed)));
}

static void stamp(struct object *object, uint64_t owner, uint64_t sequence)
{
    object->owner = owner;
    object->sequence = sequence;
    uint64_t pattern = pattern_of(object);
    for (size_t i = 0; i < words_of(object); i++)
        object->words[i] = (pattern + i) * 0x9e3779b97f4a7c15u;
}

static const char *name_of(const struct pool *pool)
{
    return pool != NULL ? pool->name : "malloc";
}

void object_check(const struct holding *holding)
{
    const struct object *object = holding->object;
    if (object->owner != holding->owner || object->sequence != holding->sequence || object->pool != holding->pool)
        fail(FOUND_BROKEN,
             "object %p of %s is held by %" PRIu64 " (its number %" PRIu64 "), and not by %" PRIu64 " (%" PRIu64 ")",
             (const void *)object, name_of(holding->pool), object->owner, object->sequence, holding->owner,
             holding->sequence);
    uint64_t pattern = pattern_of(object);
    for (size_t i = 0; i < words_of(object); i++) {
        if (object->words[i] != (pattern + i) * 0x9e3779b97f4a7c15u)
            fail(FOUND_BROKEN, "object %p of %s, held by %" PRIu64 " (its number %" PRIu64 "), word %zu is %#" PRIx64,
                 (const void *)object, name_of(holding->pool), object->owner, object->sequence, i, object->words[i]);
    }
}

static void check_zero(const struct pool *pool, const void *memory)
{
    for (size_t i = 0; i < pool->size / 8; i++) {
        if (((const uint64_t *)memory)[i] != 0)
            fail(FOUND_BROKEN, "object %p of %s is not zero at byte %zu", memory, pool->name, i * 8);
    }
}

struct holding object_accept(struct pool *pool, size_t size, void *memory, uint64_t owner, uint64_t sequence)
{
    struct object *object = memory;
    size_t alignment = pool == NULL ? 16 : pool->flags & SLAB_CACHELINE_ALIGN ? 64 : 8;
    if ((uintptr_t)memory % alignment != 0)
        fail(FOUND_WRONG, "object %p of %s is not aligned to %zu", memory, name_of(pool), alignment);
    if (pool != NULL && pool->flags & POOL_CONSTRUCTED)
        object_check(&(struct holding){object, pool, OWNER_CONSTRUCTOR, 0});
    if (pool != NULL && pool->flags & SLAB_ZERO)
        check_zero(pool, memory);
    object->pool = pool;
    object->size = size;
    stamp(object, owner, sequence);
    if (pool != NULL)
        atomic_fetch_add_explicit(&pool->live, 1, memory_order_relaxed);
    return (struct holding){object, pool, owner, sequence};
}

struct holding object_adopt(struct object *object, uint64_t owner, uint64_t sequence)
{
    object_check(&(struct holding){object, object->pool, object->owner, object->sequence});
    stamp(object, owner, sequence);
    return (struct holding){object, object->pool, owner, sequence};
}

void *object_part(struct holding *holding)
{
    struct object *object = holding->object;
    object_check(holding);
    if (object->pool != NULL && object->pool->flags & POOL_CONSTRUCTED)
        stamp(object, OWNER_CONSTRUCTOR, 0);
    else
        object->owner = 0; /* an object that is freed twice is not its holder's the second time */
    holding->object = NULL;
    return object;
}

void *object_alloc(struct pool *pool, uint64_t *random)
{
    void *memory = NULL;
    switch (draw(random) % 8) {
    case 0:
        doing("slab_cache_alloc_nolock");
        memory = slab_cache_alloc_nolock(pool->cache);
        break;
    case 1:
        doing("slab_cache_alloc_node");
        memory = slab_cache_alloc_node(pool->cache, once_in(random, 2) ? 0 : -1);
        break;
    case 2:
        doing("slab_cache_alloc_bulk");
        if (slab_cache_alloc_bulk(pool->cache, 1, &memory) != 1)
            memory = NULL;
        break;
    default:
        break;
    }
    if (memory != NULL)
        return memory;
    doing("slab_cache_alloc");
    return slab_cache_alloc(pool->cache);
}

void object_free(struct holding *holding, uint64_t *random)
{
    struct pool *pool = holding->object->pool;
    doing("before free");
    void *object = object_part(holding);
    errno = 4711;
    doing("free");
    switch (draw(random) % (pool != NULL ? 8 : 4)) {
    case 0:
        slab_free_bulk(1, &object);
        break;
    case 1:
        slab_free_nolock(object);
        break;
    case 2:
    case 3:
        free(object);
        break;
    case 4:
        slab_cache_free_bulk(pool->cache, 1, &object);
        break;
    case 5:
        slab_cache_free(pool->twin->cache, object);
        break;
    default:
        slab_cache_free(pool->cache, object);
    }
    if (errno != 4711)
        fail(FOUND_WRONG, "freeing %p set errno to %d", object, errno);
    /* Pairs with the acquire of whoever waits until nobody uses the pool any more. */
    if (pool != NULL)
        atomic_fetch_sub_explicit(&pool->live, 1, memory_order_release);
}

/* -- pools ------------------------------------------------------------------------------------------------------- */

/* Long enough for a signal at 10 kHz to arrive now and then. */
static void take_time(void)
{
    double end = now_in_seconds() + 2e-6;
    while (now_in_seconds() < end)
        continue;
    void *memory = malloc(100);
    free(memory);
}

static void construct(void *memory, void *context)
{
    struct object *object = memory;
    struct pool *pool = context;
    if (pool->flags & POOL_SLOWLY)
        take_time();
    object->pool = pool;
    object->size = pool->size;
    stamp(object, OWNER_CONSTRUCTOR, 0);
    atomic_fetch_add_explicit(&pool->constructed, 1, memory_order_relaxed);
}

/* Pairs with the acquire in whoever has destroyed the cache. */
static void destruct(void *memory, void *context)
{
    struct pool *pool = context;
    object_check(&(struct holding){memory, pool, OWNER_CONSTRUCTOR, 0});
    if (pool->flags & POOL_SLOWLY)
        take_time();
    ((struct object *)memory)->owner = 0;
    atomic_fetch_sub_explicit(&pool->constructed, 1, memory_order_release);
}

void pool_create(struct pool *pool)
{
    bool constructed = pool->flags & POOL_CONSTRUCTED;
    slab_cache_attr attr = {
        .flags = pool->flags & ~(POOL_CONSTRUCTED | POOL_SLOWLY),
        .magazine_rounds = pool->magazine_rounds,
        .limit_bytes = pool->limit_bytes,
        .ctor = constructed ? construct : NULL,
        .dtor = constructed ? destruct : NULL,
        .context = pool,
    };
    doing("slab_cache_create");
    pool->cache = slab_cache_create(pool->name, pool->size, &attr);
    if (pool->cache == NULL)
        fail(FOUND_WRONG, "%s: %s", pool->name, strerror(errno));
    if (pool->twin == NULL)
        pool->twin = pool;
}

static bool has_given_all_back(const struct pool *pool)
{
    slab_cache_stats stats;
    if (slab_cache_get_stats(pool->cache, &stats) != 0)
        fail(FOUND_WRONG, "%s has no figures: %s", pool->name, strerror(errno));
    return stats.active_objects == 0 && stats.slabs == 0 && stats.magazine_rounds == 0 && stats.depot_rounds == 0;
}

/* The library's worker may be giving a slab back, which counts until that is done. What never goes hangs here, and
 * says so. */
void pool_retire(struct pool *pool)
{
    doing("retiring");
    if (atomic_load(&pool->live) != 0)
        fail(FOUND_WRONG, "%s: the test has lost %" PRId64 " objects", pool->name, atomic_load(&pool->live));
    slab_cache_shrink(pool->cache);
    doing("waiting until all is given back");
    while (!has_given_all_back(pool))
        sleep_for(1e-4);
    if (slab_cache_destroy(pool->cache) != 0)
        fail(FOUND_WRONG, "%s: destroy: %s", pool->name, strerror(errno));
    if (atomic_load_explicit(&pool->constructed, memory_order_acquire) != 0)
        fail(FOUND_MISSING, "%s is destroyed, but %" PRId64 " objects were not", pool->name,
             atomic_load(&pool->constructed));
}

/* -- the program ------------------------------------------------------------------------------------------------- */

static const struct mode modes[] = {
    {"race", "caches are shrunk and tuned while threads use them, are born and end", run_race},
    {"forks", "the same, and the process forks all the time", run_forks},
    {"limits", "threads at the limit of an accounted cache", run_limits},
    {"signals", "calls without a lock in signal handlers that interrupt everything else", run_signals},
    {NULL, NULL, NULL},
};

static const struct program program = {
    .name = "caches",
    .about = "A stress test of object caches. --limits and --signals share the seconds among their variants.",
    .modes = modes,
    .knows = KNOWS_CHILDREN | KNOWS_ONLY,
    .least_threads = 1,
};

int main(int count, char **words)
{
    options.seconds = 5;
    options.threads = 4;
    options.children = 200;
    const struct mode *mode = parse_options(&program, count, words);
    printf("caches: %s, seed %" PRIu64 "\n", mode->name, options.seed);
    fflush(stdout);
    begin_work(program.name, options.seed);
    start_work(1, 0);
    mode->run();
    printf("caches: %s, nothing wrong (seed %" PRIu64 ")\n", mode->name, options.seed);
    return FOUND_NOTHING;
}
