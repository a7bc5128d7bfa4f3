/* Caches: a type of object, with one depot for each node. Every size class is a cache; programs make named ones
 * (depot/cache_name.h). The cache mutex guards their list, and their making, tuning, shrinking and destruction. No
 * allocation takes it.
 *
 * A cache has an id, and so a slot in every thread's block (thread/slots.h). The page map has the slot offset for
 * the cache's objects. A destroyed cache's memory is reused only for caches: a late look at one of its depots
 * is harmless. */
#pragma once

#include "depot/depot.h"
#include "os/sys.h"
#include "os/topology.h"
#include "page/demand.h"

struct slab_cache;

enum { SLM_CACHE_NAME_BYTES = 64 };

/* What a thread's trip to the depot reads lies in the first line, and in those that depot/partial.h names. */
struct slm_cache {
    struct slm_slab_shape shape;
    uint16_t id;
    bool merges;                                /* with others of its size and alignment */
    bool attended;                              /* while it leaves: slab_cache_destroy still works on it */
    _Atomic uint32_t tuned;                     /* how often it was tuned; threads compare */
    _Atomic uint32_t start_rounds, most_rounds; /* of a thread's magazines */
    _Atomic uint32_t fixed_rounds;              /* as the program asked; 0: automatic */
    _Atomic uint32_t stock_rounds;              /* the most that a depot keeps: see slm_cache_stock_rounds */
    _Atomic uint32_t sent_home_ms;              /* when a stock had no room last, and for how many rounds of late: */
    _Atomic uint16_t sent_home, made_then;      /* and what slm_depot_granules_made was then */
    struct slm_list link; /* guarded by the cache mutex, as is all that is neither atomic nor fixed when it is made */
    uint32_t generation;  /* of the process, when it was made */
    _Atomic uint32_t fixed_magazines; /* as the program asked; 0: automatic */
    _Atomic uint32_t depot_rounds;    /* the most that a depot ever keeps */
    uint32_t recall;                  /* while it leaves: what all threads must have attended to before */
    _Atomic(_Atomic(struct slm_depot *) *) others; /* made on first use: depots of the nodes from 1 on, and those of
                                                    * sampled objects, the first node's at 0 */
    struct slab_cache *first_name;                 /* the oldest; NULL: the cache is leaving */
    uint32_t names;                                /* how many it has */
    uint32_t align;
    struct slm_cache *next; /* in its bucket of caches that merge, among those that leave, or among those unused */
    struct slm_depot first; /* node 0 */
};

static_assert(sizeof(struct slm_cache) == 512, "eight lines: most processes have records of thirty classes");
static_assert(offsetof(struct slm_cache, link) == 64, "one line for a trip");

/* What named caches have besides, behind their struct slm_cache. */
struct slm_cache_own {
    struct slm_limit limit;        /* shape.limit, if it has one */
    struct slm_object_hooks hooks; /* shape.hooks, if it has any */
    char name[SLM_CACHE_NAME_BYTES];
};

slm_inline struct slm_cache_own *slm_cache_own(const struct slm_cache *cache)
{
    return (struct slm_cache_own *)(uintptr_t)(cache + 1);
}

/* The size classes' caches, each made when it is first asked for: most processes use a third of them, which lie side
 * by side. NULL: it has not been made. */
extern slm_hidden struct slm_cache *_Atomic slm_class_caches[SLM_CLASSES];
extern slm_hidden struct slm_cache *_Atomic slm_caches[SLM_CACHE_IDS]; /* named ones, by id */

/* Make a class's cache unless that is done. NULL, only if it may not `wait`: a thread is at it, perhaps this one. */
struct slm_cache *slm_class_cache_make(unsigned class, bool wait);

/* Acquire: pairs with slm_class_cache_make. */
slm_inline struct slm_cache *slm_class_cache(unsigned class)
{
    struct slm_cache *cache = load_acquire(&slm_class_caches[class]);
    return likely(cache != NULL) ? cache : slm_class_cache_make(class, true);
}

/* In a signal handler, perhaps, which may have interrupted the making: then NULL. */
slm_inline struct slm_cache *slm_class_cache_nolock(unsigned class)
{
    struct slm_cache *cache = load_acquire(&slm_class_caches[class]);
    return likely(cache != NULL) ? cache : slm_class_cache_make(class, false);
}

/* NULL: no cache has that id. */
slm_inline struct slm_cache *slm_cache_of(unsigned id)
{
    return id < SLM_CLASSES ? slm_class_cache(id) : load_relaxed(&slm_caches[id]);
}

slm_inline bool slm_cache_is_class(const struct slm_cache *cache)
{
    return cache->id < SLM_CLASSES;
}

slm_inline struct slm_cache *slm_cache_of_depot(const struct slm_depot *depot)
{
    return slm_container(depot->shape, struct slm_cache, shape);
}

/* The cache of the object that the pointer lies in, in that slab (NULL: none). NULL: there is none. */
struct slm_cache *slm_cache_of_slab(const struct slm_slab *slab, const void *pointer);

/* The cache of the small object that the pointer lies in; NULL: there is none. */
struct slm_cache *slm_cache_of_object(const void *pointer);

/* The name of a size class; `name` has SLM_CACHE_NAME_BYTES, all 0. */
void slm_cache_name_class(char *name, unsigned class);

/* Initialise a cache whose name, id and shape.object_size are set (alignment, hooks and limit where it has any), and
 * list it last. Under the cache mutex, once there are threads. */
void slm_cache_add(struct slm_cache *cache);

/* Take it off the list. Its depots stay; their counts are added to slm_cache_gone. Under the cache mutex. */
void slm_cache_remove(struct slm_cache *cache);

/* The counts of destroyed caches by node; guarded by the cache mutex. */
struct slm_depot_counts {
    uint64_t locks, contended, made, released;
};
extern slm_hidden struct slm_depot_counts slm_cache_gone[SLM_NODES_MAX];
void slm_depot_add_counts(const struct slm_depot *depot, struct slm_depot_counts *sums);

/* Compute the classes' bounds again, once the options have been read; of those that are made. */
void slm_cache_tune_all(void);

/* The same of all caches, after the options have changed: threads exchange their magazines at their next slow path,
 * and depots keep no more than they may. Under the cache mutex. */
void slm_cache_tune_again(void);

/* Rounds of a magazine and magazines of a depot from now on, 0: automatic. Under the cache mutex. */
void slm_cache_tune(struct slm_cache *cache, uint32_t rounds, uint32_t magazines);

/* Depots that have more in stock than they may ever keep now have none. Under the cache mutex. */
void slm_cache_trim_stock(struct slm_cache *cache);

/* The most rounds that a depot keeps now. A phase of a program frees the objects of a size and goes on with others:
 * what a stock keeps then is lost to these. So there is little room at first, and what it has no room for goes home,
 * to slabs. If rounds are taken from there less than `purge_delay_ms` later, and few slabs were made meanwhile (so
 * that there was no other use for the memory), each of them makes room for one more: the second of two equal cycles
 * finds room for all that the first one had to send home. All stocks together have `depot_bytes` at most, and each
 * has 32768 rounds. A surplus halves the room again. Where the program has fixed it, it stays. */
slm_inline uint64_t slm_cache_stock_rounds(const struct slm_cache *cache)
{
    return load_relaxed(&cache->stock_rounds);
}

/* So many rounds have gone home for lack of room. */
void slm_cache_note_sent_home(struct slm_cache *cache, uint32_t rounds);

/* So many were taken from slabs, as there was no stock. */
void slm_cache_widen_stock(struct slm_cache *cache, uint32_t rounds);
slm_inline void slm_cache_note_taken(struct slm_cache *cache, uint32_t rounds)
{
    if (unlikely(load_relaxed(&cache->sent_home) != 0))
        slm_cache_widen_stock(cache, rounds);
}

/* A stock had a surplus; or nothing enters or leaves it any more. */
void slm_cache_narrow_stock(struct slm_cache *cache);
void slm_cache_forget_stock(struct slm_cache *cache);

/* The node's depot, made if it is not there; node 0's where there is no memory for another. */
struct slm_depot *slm_cache_depot_other(struct slm_cache *cache, unsigned node);
slm_inline struct slm_depot *slm_cache_depot(struct slm_cache *cache, unsigned node)
{
    return likely(node == 0) ? &cache->first : slm_cache_depot_other(cache, node);
}

/* The node's depot of sampled objects, made if it is not there; NULL: there is no memory for it. It has slabs of its
 * own (slm_slab_make), and no stock. */
struct slm_depot *slm_cache_sampled_depot(struct slm_cache *cache, unsigned node);

/* The node's depot if it has been made, else NULL. */
struct slm_depot *slm_cache_depot_made(struct slm_cache *cache, unsigned node);

/* For each shard of each depot of the cache that has been made, in the order of nodes (depot->node); behind a node's
 * shards comes its depot of sampled objects. */
#define slm_for_each_depot(depot, cache)                                                                             \
    for (struct slm_depot *depot = &(cache)->first; /* NOLINT(bugprone-macro-parentheses): a name */                 \
         (depot); (depot) = slm_cache_depot_after((cache), (depot)))
struct slm_depot *slm_cache_depot_after(struct slm_cache *cache, const struct slm_depot *depot);

/* Has the depot of its first node shards, or are there several nodes? */
slm_inline bool slm_cache_has_shards(const struct slm_cache *cache)
{
    return load_relaxed(&cache->first.shards) || slm_nodes > 1;
}

/* How many slabs there are, with those that slow paths hold. Acquire: pairs with their release. */
uint64_t slm_cache_slabs(struct slm_cache *cache);

/* In the child of a fork: nobody carries objects any more (depot/limit.h). */
void slm_cache_fork_child(void);

/* The cache mutex. Housekeeping only tries, and goes without it if that fails. */
void slm_cache_lock(void);
bool slm_cache_try_lock(void);
void slm_cache_unlock(void);

/* Call `visit` for each cache: size classes that are made, then the others in the order of creation, under the cache
 * mutex; it must not create or destroy any. */
void slm_cache_each(void (*visit)(struct slm_cache *cache, void *context), void *context);
