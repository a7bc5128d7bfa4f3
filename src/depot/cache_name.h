/* The names of caches: what programs create. A name (struct slab_cache, the handle that programs hold) leads to its
 * cache. Names of the same size and alignment share one, unless something tells them apart, as in Linux's SLUB.
 *
 *     slab_cache "conn"  --.
 *     slab_cache "peer"  ----> slm_cache (size 192, two names) --> depots --> slabs
 *
 * Everything here is guarded by the cache mutex, which callers hold; allocations read a name's slot words without it.
 *
 * Destroyed names are kept aside. When there are over 256 of them the oldest is used again: so the use of a destroyed
 * one is seen. */
#pragma once

#include <slabmalloc.h>

#include "depot/cache.h"

/* No object has this slot word: comparing with it sends every free into its slow half. */
enum { SLM_SLOT_WORD_NEVER = 0xffff };

struct slab_cache {
    uint32_t alloc_slot_word;              /* slot words, 0 where calls are to take the slow path: of allocations, ... */
    uint32_t free_slot_word;               /* ... of frees (never, where they are), ... */
    uint32_t marked_slot_word;             /* ... and of allocations of a limited cache */
    _Atomic(struct slm_cache *) cache; /* NULL: destroyed */
    struct slm_list link;              /* in the order of creation, or of destruction */
    bool zero;                         /* SLAB_ZERO */
    uint32_t pins;                     /* visitors that stand at it */
    char name[SLM_CACHE_NAME_BYTES];
};

/* The cache of a name; ends the process in the name of `call` where it has been destroyed. */
struct slm_cache *slm_cache_name_cache(const struct slab_cache *named, const char *call);

/* What slab_cache_create promises, but for checking its arguments. */
struct slab_cache *slm_cache_name_create(const char *name, size_t size, const struct slab_cache_attr *attr);

/* Drop a name that is not the cache's last. */
void slm_cache_name_drop(struct slab_cache *named);

/* Drop the last name, and the cache with it: nobody uses it any more. It waits without a name while the caller looks
 * after it, until slm_cache_name_settle; while slabs of it are retired; and where threads may have something of it in
 * their hands until they have attended to the recall of that number (0: they have not). */
void slm_cache_name_destroy(struct slab_cache *named, uint32_t recall);
void slm_cache_name_settle(struct slm_cache *cache);

/* Get rid of caches that wait no longer; all threads have attended to the recall of that number. */
void slm_cache_name_sweep(uint32_t recalled);

/* True while caches wait. */
bool slm_cache_name_some_leave(void);

/* The name behind this one in the order of creation, the size classes' first; NULL: the first, or that there are no
 * more. Pinned, and `after` unpinned: a pinned name stays where it is, even destroyed. */
struct slab_cache *slm_cache_name_next(struct slab_cache *after);
void slm_cache_name_unpin(struct slab_cache *named);
