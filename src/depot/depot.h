/* Depots: a NUMA node's stock of one cache. Full magazines change hands whole, by one lock and one pointer each;
 * below them are the partial slabs. The fullest is used first, so that sparse ones can become vacant. */
#pragma once

#include "base/magazine.h"
#include "depot/limit.h"
#include "slab/slab.h"
#include "sync/lock.h"

enum { SLM_DEPOT_BUCKETS = 8 };

/* What an exchange of magazines touches lies in the first two cache lines. */
struct slm_depot {
    struct slm_lock lock;
    uint32_t full_count, full_low; /* magazines, and their least since the last trim: that many were surplus */
    struct slm_magazine *full, *empty;
    _Atomic uint64_t stock_rounds;
    uint32_t generation; /* of the lists: what is marked as listed in an older one is in no list */
    uint32_t occupied;   /* one bit for each bucket; a bucket whose bit is clear is not initialised */
    _Atomic uint64_t exchanges, gets, rounds_got, rounds_put; /* of magazines; written under the lock */
    _Atomic uint64_t fills, rounds_taken;                     /* from slabs; written under the lock */
    const struct slm_slab_shape *shape;
    const char *cache_name;                     /* in messages; NULL: malloc's objects are named by their size */
    struct slm_slab *vacant;                    /* a listed one, kept to spare making slabs over and over */
    struct slm_list buckets[SLM_DEPOT_BUCKETS]; /* partial slabs by the share of free objects, least first */
    unsigned node;
    bool vacant_seen;             /* at the last trim */
    _Atomic uint64_t objects_out; /* of slabs: live, or in magazines */
    _Atomic uint64_t slabs_made, slabs_released;
    _Atomic uint64_t drains_home;            /* magazines whose rounds went to their slabs */
    uint64_t locks_before, contended_before; /* of the lock, when the depot was made another cache's */
} slm_cacheline;

/* Raise a figure that one thread at a time writes, and others read. */
slm_inline void slm_count(_Atomic uint64_t *figure, uint64_t n)
{
    store_relaxed(figure, load_relaxed(figure) + n);
}

/* How often its lock was taken, and found held, since it was last initialised. */
slm_inline uint64_t slm_depot_locks(const struct slm_depot *depot)
{
    return load_relaxed(&depot->lock.acquired) - depot->locks_before;
}

slm_inline uint64_t slm_depot_contended(const struct slm_depot *depot)
{
    return load_relaxed(&depot->lock.contended) - depot->contended_before;
}

/* How many slabs there are. Read in this order, or a thread that is stopped between the two loads may count fewer
 * than none: a released slab was made before. Acquire: pairs with their release. */
slm_inline uint64_t slm_depot_slabs(const struct slm_depot *depot)
{
    const uint64_t released = load_acquire(&depot->slabs_released);
    return load_relaxed(&depot->slabs_made) - released;
}

/* How many magazines have come or gone, and how often a thread has taken objects from slabs. Takes the lock. */
uint64_t slm_depot_moves(struct slm_depot *depot);

/* Is the object in a magazine of the stock? */
bool slm_depot_stock_has(struct slm_depot *depot, const void *object);

/* Slabs that slm_depot_give_nolock has left to be relinked. */
extern slm_hidden struct slm_slab *_Atomic slm_depot_pending;

void slm_depot_init(struct slm_depot *depot, const struct slm_slab_shape *shape, const char *cache_name,
                    unsigned node);

/* Exchange an empty magazine (or NULL) for one with rounds. False: the stock is empty, and *magazine is unchanged. */
bool slm_depot_get(struct slm_depot *depot, struct slm_magazine **magazine);

/* Exchange a magazine with rounds for an empty one (or NULL). False: the stock would exceed `limit_rounds`, and
 * *magazine is unchanged. */
bool slm_depot_put(struct slm_depot *depot, struct slm_magazine **magazine, uint64_t limit_rounds);

/* Take up to n objects from partial slabs, else from a new one: the lowest address last, as a stack hands it out
 * first. Returns how many; 0 and ENOMEM when the kernel has no more, EDQUOT when the cache's limit is met. If objects
 * have a constructor no slab is made: 0 and EAGAIN ask for slm_depot_grow. No lock is held while slabs are read. */
unsigned slm_depot_fill(struct slm_depot *depot, void **rounds, unsigned n);

/* Take n objects whose pages are clean, out of a slab that is kept apart for that: *aside, NULL at first. Fewer
 * without memory. No key is set. n = 0 puts it back if it is vacant. One caller at a time; malloc's caches only. In a
 * child of fork *aside is no longer apart, and must be NULL. */
unsigned slm_depot_fill_clean(struct slm_depot *depot, struct slm_slab **aside, void **rounds, unsigned n);

/* Put objects back into their slabs, whatever their node and cache. A pointer that is no object ends the process in
 * the name of `call`. */
void slm_depot_give(void *const *rounds, unsigned n, const char *call);

/* In the child of a fork: n objects were in magazines of threads that it does not have. They stay out of their slabs,
 * but are no longer counted. */
void slm_depot_lose(struct slm_depot *depot, uint64_t n);

/* Make a slab, construct its objects, and list it; false: there is no memory (ENOMEM), or the caller is a constructor
 * of this very cache's objects (EDEADLK). No lock is held, and the thread's block is not claimed: the constructor may
 * call anything. */
bool slm_depot_grow(struct slm_depot *depot);

/* Is the calling thread inside a constructor of the cache's objects? */
bool slm_depot_is_constructing(const struct slm_depot *depot);

/* Put one object back into its slab without a lock, also in signal handlers; false: it is no small object.
 * relink the slabs that this has left pending. */
bool slm_depot_give_nolock(void *object, const char *call);
void slm_depot_relink_pending(void);

/* Purge free pages inside sparse slabs whose count has not changed since the last call, or of `all`; the bytes. */
size_t slm_depot_sweep(struct slm_depot *depot, bool all);

/* Does the depot keep a vacant slab? A figure. */
bool slm_depot_keeps_vacant(const struct slm_depot *depot);

/* Give the rounds of surplus magazines (those not needed since the last trim, or all) back to their slabs, all empty
 * magazines back to metadata, and a vacant slab that was there at the last trim too (or any) to the spans. True if
 * there was anything to trim. */
bool slm_depot_trim(struct slm_depot *depot, bool all);
