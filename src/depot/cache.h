/* Caches: a type of objects with one depot a node. Every size class is a cache; programs make named ones
 * (depot/cache_name.h). The cache mutex guards their list, and their making, tuning, shrinking and destruction. No
 * allocation takes it.
 *
 * A cache has an id, and so a slot in every thread's block (thread/slots.h). The page map names that slot for the
 * cache's objects.
 *
 * A destroyed cache's memory is only used for caches again: a late look at one of its depots is harmless. */
#pragma once

#include "depot/depot.h"

struct slab_cache;

enum { SLM_CACHE_NAME_BYTES = 64 };

struct slm_cache {
    struct slm_list link; /* guarded by the cache mutex, as is all that is neither atomic nor fixed when it is made */
    struct slm_slab_shape shape;
    uint32_t id;
    uint32_t generation;                           /* of the process, when it was made */
    _Atomic uint32_t tuned;                        /* how often it was; threads compare */
    _Atomic uint32_t start_rounds, most_rounds;    /* of a thread's magazines */
    _Atomic uint32_t fixed_rounds;                 /* what a program has asked for; 0: automatic */
    uint32_t fixed_magazines;                      /* what a program has asked for; 0: automatic */
    _Atomic uint64_t depot_rounds;                 /* that a depot keeps at most */
    _Atomic(_Atomic(struct slm_depot *) *) others; /* depots by node, from 1 on: made on first use */
    struct slm_limit limit;                        /* shape.limit, if it has one */
    struct slm_object_hooks hooks;                     /* shape.life, if it has one */
    struct slab_cache *first_name;                 /* the oldest of those that lead to it; NULL: it is leaving */
    uint32_t names;                                /* how many lead to it */
    uint32_t align;
    bool merges;             /* with others of its size and alignment */
    bool attended;               /* while it leaves: somebody looks after it */
    uint32_t recall;         /* while it leaves: goes when all threads have attended to this one */
    struct slm_cache *next;  /* of its bucket of caches that merge, of those that leave, or of those unused */
    char name[SLM_CACHE_NAME_BYTES];
    struct slm_depot first; /* node 0 */
};

extern slm_hidden struct slm_cache slm_class_caches[SLM_CLASSES];
extern slm_hidden struct slm_cache *_Atomic slm_caches[SLM_CACHE_IDS]; /* named ones, by number */

/* The cache of a number; NULL where there is none. */
slm_inline struct slm_cache *slm_cache_of(unsigned number)
{
    return number < SLM_CLASSES ? &slm_class_caches[number] : load_relaxed(&slm_caches[number]);
}

slm_inline bool slm_cache_is_class(const struct slm_cache *cache)
{
    return cache->id < SLM_CLASSES;
}

/* The cache that a depot belongs to: depots know its shape. */
slm_inline struct slm_cache *slm_cache_of_depot(const struct slm_depot *depot)
{
    return slm_container(depot->shape, struct slm_cache, shape);
}

/* The cache that the small object at the pointer was cut for; NULL if there is none. */
slm_inline struct slm_cache *slm_cache_of_object(const void *pointer)
{
    const struct slm_slab *slab = slm_slab_of(pointer);
    const struct slm_depot *depot = slab ? load_relaxed(&slab->owner) : NULL;
    return depot ? slm_cache_of_depot(depot) : NULL;
}

/* Name and cut the size classes; once, before the first allocation. */
void slm_cache_start(void);

/* Ready a cache whose name, number and shape.object_size are set, and alignment, life and limit where it has any; and
 * list it last. Under the cache mutex, once there are threads. */
void slm_cache_add(struct slm_cache *cache);

/* Take it off the list again; its depots stay, and what they have counted is added to slm_cache_gone. Under the cache
 * mutex. */
void slm_cache_remove(struct slm_cache *cache);

/* By node, of destroyed caches. */
struct slm_depot_counts {
    uint64_t locks, contended, made, released;
};
extern slm_hidden struct slm_depot_counts slm_cache_gone[SLM_NODES_MAX]; /* guarded by the cache mutex */

/* Add what a depot has counted. */
void slm_depot_add_counts(const struct slm_depot *depot, struct slm_depot_counts *sums);

/* The bounds that depend on options; again when these have been read. */
void slm_cache_tune_all(void);

/* Rounds of a magazine and magazines of a depot from now on, 0: automatic. Under the cache mutex. */
void slm_cache_tune(struct slm_cache *cache, uint32_t rounds, uint32_t magazines);

struct slm_depot *slm_cache_depot_other(struct slm_cache *cache, unsigned node);

/* The node's depot, made if it is not there; node 0's where there is no memory for another. */
slm_inline struct slm_depot *slm_cache_depot(struct slm_cache *cache, unsigned node)
{
    return likely(node == 0) ? &cache->first : slm_cache_depot_other(cache, node);
}

/* The node's depot if it has been made, else NULL. */
struct slm_depot *slm_cache_depot_made(struct slm_cache *cache, unsigned node);

/* How many slabs there are, those in the hands of some thread's slow path included. Pairs with their release:
 * acquire. */
uint64_t slm_cache_slabs(struct slm_cache *cache);

/* In the child of a fork: nobody carries objects any more (depot/limit.h). */
void slm_cache_fork_child(void);

/* The cache mutex. Housekeeping tries, and goes without when somebody holds it. */
void slm_cache_lock(void);
bool slm_cache_try_lock(void);
void slm_cache_unlock(void);

/* Call `visit` for each cache, in the order of creation, under the cache mutex, which the caller holds; `visit` must
 * not create or destroy. */
void slm_cache_each(void (*visit)(struct slm_cache *cache, void *context), void *context);

/* The same, and take the mutex. */
void slm_cache_foreach(void (*visit)(struct slm_cache *cache, void *context), void *context);
