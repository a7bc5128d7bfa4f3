/* Caches: a named type with one depot a node. Every size class is a cache. The cache mutex guards their list and is
 * never taken by an allocation. */
#pragma once

#include "depot/depot.h"

struct slm_cache {
    struct slm_list link; /* guarded by the cache mutex */
    char name[24];
    struct slm_slab_shape shape;
    uint32_t start_rounds, most_rounds;            /* of a thread's magazines */
    struct slm_depot first;                        /* node 0 */
    _Atomic(_Atomic(struct slm_depot *) *) others; /* by node, from 1 on: made on first use */
};

extern slm_hidden struct slm_cache slm_class_caches[SLM_CLASSES];

/* Name and cut the size classes; once, before the first allocation. */
void slm_cache_start(void);

/* The bounds that depend on options; again when these have been read. */
void slm_cache_tune_all(void);

struct slm_depot *slm_cache_depot_other(struct slm_cache *cache, unsigned node);

/* The node's depot, made if it is not there; node 0's where there is no memory for another. */
slm_inline struct slm_depot *slm_cache_depot(struct slm_cache *cache, unsigned node)
{
    return likely(node == 0) ? &cache->first : slm_cache_depot_other(cache, node);
}

/* The node's depot if it has been made, else NULL. */
struct slm_depot *slm_cache_depot_made(struct slm_cache *cache, unsigned node);

/* Call `visit` for each cache, in the order of creation, under the cache mutex; it must not create or destroy. */
void slm_cache_foreach(void (*visit)(struct slm_cache *cache, void *context), void *context);
