/* Contenders of caches.c that hand out memory and no more: GLib's slices (BY_GSLICE), Boost's pools (BY_BOOST, or
 * BY_BOOST_UNLOCKED), malloc. What else the loops ask for is done as a program would do it that has nothing better:
 * objects are made ready at each birth, live bytes are counted in one atomic word, objects in bulk come one by one.
 *
 * GLib's slices have magazines for objects up to about 500 bytes and take larger ones from malloc. Boost's pools know
 * nothing of zeroed objects. */
#ifndef BENCH_CACHES_BY_HAND_H
#define BENCH_CACHES_BY_HAND_H

#include <stdatomic.h>

#if defined(BY_GSLICE)
#include <glib.h>
#define GET(pool) g_slice_alloc((pool)->bytes)
#define GET_ZEROED(pool) g_slice_alloc0((pool)->bytes)
#define PUT(pool, object) g_slice_free1((pool)->bytes, object)
#elif defined(BY_BOOST)
#include "caches_boost.h"
#define GET(pool) boost_pool_get((pool)->boost)
#define PUT(pool, object) boost_pool_put((pool)->boost, object)
#elif defined(BY_BOOST_UNLOCKED)
#include "caches_boost.h"
#define GET(pool) boost_pool_get_unlocked((pool)->boost)
#define PUT(pool, object) boost_pool_put_unlocked((pool)->boost, object)
#else
#define GET(pool) malloc((pool)->bytes)
#define GET_ZEROED(pool) calloc(1, (pool)->bytes)
#define PUT(pool, object) ((void)(pool), free(object)) /* malloc knows where it belongs */
#endif
#ifndef GET_ZEROED
#define GET_ZEROED(pool) memset(GET(pool), 0, (pool)->bytes)
#endif

typedef struct {
    size_t bytes;
    struct boost_pool *boost; /* with Boost only */
    _Atomic size_t live_bytes;
} contender;

#ifdef BY_BOOST_UNLOCKED
static const bool pool_is_shared = false;
#else
static const bool pool_is_shared = true;
#endif

static inline contender *pool_open(size_t bytes, enum kind kind)
{
    static contender only;
    (void)kind;
    only = (contender){.bytes = bytes};
#if defined(BY_BOOST) || defined(BY_BOOST_UNLOCKED)
    only.boost = bench_check(boost_pool_open(bytes));
#endif
    return &only;
}

static inline void pool_close(contender *pool)
{
#if defined(BY_BOOST) || defined(BY_BOOST_UNLOCKED)
    boost_pool_close(pool->boost);
#endif
    if (atomic_load(&pool->live_bytes) != 0)
        bench_die("the live bytes are wrong");
}

static inline void *get(contender *pool)
{
    return GET(pool);
}

static inline void put(contender *pool, void *object)
{
    PUT(pool, object);
}

static inline void *get_zeroed(contender *pool)
{
    return GET_ZEROED(pool);
}

static inline void *get_constructed(contender *pool)
{
    void *object = GET(pool);
    session_construct(object, NULL);
    return object;
}

static inline void put_constructed(contender *pool, void *object)
{
    session_destruct(object, NULL);
    PUT(pool, object);
}

static inline void *get_accounted(contender *pool)
{
    atomic_fetch_add_explicit(&pool->live_bytes, pool->bytes, memory_order_relaxed);
    return GET(pool);
}

static inline void put_accounted(contender *pool, void *object)
{
    PUT(pool, object);
    atomic_fetch_sub_explicit(&pool->live_bytes, pool->bytes, memory_order_relaxed);
}

static inline void *get_limited(contender *pool)
{
    size_t before = atomic_fetch_add_explicit(&pool->live_bytes, pool->bytes, memory_order_relaxed);
    if (before + pool->bytes > FAR_LIMIT)
        bench_die("the limit is not so far");
    return GET(pool);
}

static const struct {
    void *(*get)(contender *pool);
    void (*put)(contender *pool, void *object);
} pool_ways[] = {
    [PLAIN] = {get, put},
    [ZEROED] = {get_zeroed, put},
    [CONSTRUCTED] = {get_constructed, put_constructed},
    [ACCOUNTED] = {get_accounted, put_accounted},
    [LIMITED] = {get_limited, put_accounted},
};

static inline void pool_get_bulk(contender *pool, size_t count, void **objects)
{
    for (size_t i = 0; i < count; i++)
        objects[i] = GET(pool);
}

static inline void pool_put_bulk(contender *pool, size_t count, void **objects)
{
    for (size_t i = 0; i < count; i++)
        PUT(pool, objects[i]);
}

#endif
