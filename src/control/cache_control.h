/* Creating, destroying, shrinking and tuning a cache. All of it is done under the cache mutex, in the order of ranks:
 * mutex, list of threads, depots. So a depot's stock is never drained while its bounds change, and no cache is
 * destroyed while it is being drained. No user's code runs under the mutex: destructors run in
 * slm_pending_slabs_release, when everything is unlocked again. */
#pragma once

#include "depot/cache_name.h"
#include "heap/slow.h"

/* That a program may ask for: slabmalloc.h says so. The largest magazine has one less. */
enum { SLM_ROUNDS_MOST = 254 };

/* As the slab_cache_* of the same name; errno may change. */
struct slab_cache *slm_cache_control_create(const char *name, size_t size, const struct slab_cache_attr *attr);
int slm_cache_control_destroy(struct slab_cache *named);
size_t slm_cache_control_shrink(struct slab_cache *named);
int slm_cache_control_tune(struct slab_cache *named, unsigned rounds, unsigned magazines);

/* The same of all caches with that name, one of malloc's classes too, or of all caches that there are. The first
 * returns how many there were. So does the last in `count`; it returns 0 or an errno code: ENOENT, EINVAL. `destruct`
 * runs destructors; NULL: none run, and slabs that need one are left pending (depot/pending_slabs.h). */
unsigned slm_cache_control_shrink_called(const char *name, void (*destruct)(void), size_t *bytes);
size_t slm_cache_control_shrink_all(void (*destruct)(void));
int slm_cache_control_tune_called(const char *name, uint64_t rounds, uint64_t magazines, void (*destruct)(void),
                                  unsigned *count);
