/* A contender of caches.c: the library's object caches, which can do all of it themselves. */
#ifndef BENCH_CACHES_SLAB_H
#define BENCH_CACHES_SLAB_H

#include <slabmalloc.h>

typedef slab_cache contender;

static const bool pool_is_shared = true;

static inline contender *pool_open(size_t bytes, enum kind kind)
{
    static const slab_cache_attr attributes[] = {
        [PLAIN] = {0},
        [ZEROED] = {.flags = SLAB_ZERO},
        [CONSTRUCTED] = {.ctor = session_construct, .dtor = session_destruct},
        [ACCOUNTED] = {.flags = SLAB_ACCOUNT},
        [LIMITED] = {.limit_bytes = FAR_LIMIT},
    };
    return bench_check(slab_cache_create("bench", bytes, &attributes[kind]));
}

static inline void pool_close(contender *pool)
{
    if (slab_cache_destroy(pool) != 0)
        bench_die("slab_cache_destroy fails");
}

static const struct {
    void *(*get)(contender *pool);
    void (*put)(contender *pool, void *object);
} pool_ways[] = {
    [PLAIN] = {slab_cache_alloc, slab_cache_free},       [ZEROED] = {slab_cache_alloc, slab_cache_free},
    [CONSTRUCTED] = {slab_cache_alloc, slab_cache_free}, [ACCOUNTED] = {slab_cache_alloc, slab_cache_free},
    [LIMITED] = {slab_cache_alloc, slab_cache_free},
};

static inline void pool_get_bulk(contender *pool, size_t count, void **objects)
{
    if (slab_cache_alloc_bulk(pool, count, objects) != count)
        bench_die("slab_cache_alloc_bulk fails");
}

static inline void pool_put_bulk(contender *pool, size_t count, void **objects)
{
    slab_cache_free_bulk(pool, count, objects);
}

#endif
