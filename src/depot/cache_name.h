/* The names of caches, which programs create. A name (struct slab_cache, the handle that programs hold) leads
 * to its cache. Names of the same size and alignment share one, unless something keeps them apart, as in
 * Linux's SLUB.
 *
 *     slab_cache "conn"  --.
 *     slab_cache "peer"  ----> slm_cache (size 192, two names) --> depots --> slabs
 *
 * Everything here is guarded by the cache mutex, which callers hold; allocations read a name's slot offsets
 * without it.
 *
 * Destroyed names are kept aside. Beyond 256 of them the oldest is reused, so that the use of a destroyed one
 * is seen. */
#pragma once

#include <slabmalloc.h>

#include "depot/cache.h"

/* No object has this slot offset: comparing with it sends every free into its slow half. */
enum { SLM_SLOT_OFFSET_NEVER = 1 << 20 };

struct slab_cache {
    uint32_t alloc_slot_offset;        /* for allocations; 0: they take the slow path */
    uint32_t marked_slot_offset;       /* for marked pops, where there is a limit or no key; 0: none */
    uint32_t free_slot_offset;         /* the page map's, for frees; SLM_SLOT_OFFSET_NEVER: they take the slow path */
    bool keyed;                        /* as its objects */
    _Atomic(struct slm_cache *) cache; /* NULL: destroyed */
    struct slm_list link;              /* in the order of creation, or of destruction */
    bool zero;                         /* SLAB_ZERO */
    uint32_t size;                     /* of an object, as it was asked for */
    uint32_t pins;                     /* of visitors */
    char name[SLM_CACHE_NAME_BYTES];
};

_Noreturn void slm_cache_name_refuse(const struct slab_cache *named, const char *call);

/* The cache of a name; ends the process in the name of `call` if it has been destroyed, or the name is NULL. */
slm_inline struct slm_cache *slm_cache_name_cache(const struct slab_cache *named, const char *call)
{
    struct slm_cache *cache = likely(named != NULL) ? load_acquire(&named->cache) : NULL; /* pairs with lead_to */
    if (unlikely(!cache))
        slm_cache_name_refuse(named, call);
    return cache;
}

/* As slab_cache_create promises, without checking its arguments. NULL and ENOMEM. */
struct slab_cache *slm_cache_name_create(const char *name, size_t size, const struct slab_cache_attr *attr);

/* Drop a name that is not the cache's last. */
void slm_cache_name_drop(struct slab_cache *named);

/* Drop the last name, and the cache with it, which is not used any more. It waits without a name until the caller
 * has cleared `attended`, while slabs of it are pending, and until all threads have attended to that recall (0:
 * to none). */
void slm_cache_name_destroy(struct slab_cache *named, uint32_t recall);

/* Remove caches that need not wait; `recalled` is the latest recall that all threads have attended to. */
void slm_cache_name_sweep(uint32_t recalled);

/* True while caches wait. */
bool slm_cache_name_some_leave(void);

/* Call `visit` for each name of the program's, in the order of creation; it must not create or destroy any. And of
 * the caches that have a name, the one with the lowest id from `first` on; NULL: there is none. Classes are no
 * concern of either. */
void slm_cache_name_each(void (*visit)(const char *name, struct slm_cache *cache, void *context), void *context);
struct slm_cache *slm_cache_name_find(const char *name, unsigned first);

/* The next name in the order of creation, the size classes' first. `after` NULL: the first; the result NULL:
 * there are no more. The result is pinned and `after` unpinned: a pinned name stays in the list, even when it
 * is destroyed. */
struct slab_cache *slm_cache_name_next(struct slab_cache *after);
void slm_cache_name_unpin(struct slab_cache *named);
