/* Named caches: what programs create. A name (struct slab_cache, the handle that programs hold) leads to its cache;
 * those of the same size and alignment share one, unless something tells them apart, as in Linux's SLUB.
 *
 *     slab_cache "conn"  --.
 *     slab_cache "peer"  ----> slm_cache (size 192, two names) --> depots --> slabs
 *
 * Everything here is guarded by the cache mutex, which callers hold, but for the places, which allocations read.
 *
 * Destroyed names are kept aside, the oldest used again first, when there are over 256 of them: so the use of a
 * destroyed one is seen. */
#pragma once

#include <slabmalloc.h>

#include "depot/cache.h"

/* A place that is no object's: comparing with it sends every free into its slow half. */
enum { SLM_PLACE_NEVER = 0xffff };

struct slab_cache {
    uint32_t alloc_place, free_place;  /* closed and never where calls are to take the slow path */
    _Atomic(struct slm_cache *) cache; /* NULL: destroyed */
    struct slm_list link;              /* in the order of creation, or of destruction */
    bool zero;                         /* SLAB_ZERO */
    uint32_t pins;                     /* visitors that stand at it */
    char name[64];
};

/* What slab_cache_create promises, but for checking its arguments. */
struct slab_cache *slm_named_create(const char *name, size_t size, const struct slab_cache_attr *attr);

/* How many names lead to the cache. */
unsigned slm_named_count(const struct slm_cache *cache);

/* Drop a name that is not the cache's last. */
void slm_named_drop(struct slab_cache *named);

/* Drop the last name, and the cache with it: nothing of it is in any thread's hands. The cache waits, without a name,
 * while slabs of it are retired, or `rounds_out` says that rounds of it will still come home; slm_named_sweep gets
 * rid of such. */
void slm_named_destroy(struct slab_cache *named);
void slm_named_sweep(void);

/* The first name of the cache; NULL when it has none any more. */
struct slab_cache *slm_named_first(const struct slm_cache *cache);

/* The name behind this one in the order of creation, the size classes' first; NULL: the first, or that there are no
 * more. Pinned, and `after` unpinned: a pinned name stays where it is, even destroyed. */
struct slab_cache *slm_named_next(struct slab_cache *after);
void slm_named_unpin(struct slab_cache *named);
