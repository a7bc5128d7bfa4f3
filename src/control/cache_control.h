/* What crosses threads: creating, destroying, shrinking and tuning a cache. All of it under the cache mutex, in the
 * order of ranks: mutex, list of threads, depots. The mutex keeps them apart from each other: a depot's stock is
 * never drained while somebody changes its bounds, nor a cache destroyed that is being drained. No user's code runs
 * under it: constructors run in slm_depot_grow, destructors in slm_pending_slabs_release, when everything is unlocked
 * again. */
#pragma once

#include "depot/cache_name.h"
#include "heap/slow.h"

/* As the slab_cache_* of the same name promise. */
struct slab_cache *slm_cache_control_create(const char *name, size_t size, const struct slab_cache_attr *attr);
int slm_cache_control_destroy(struct slab_cache *named);
size_t slm_cache_control_shrink(struct slab_cache *named);
int slm_cache_control_tune(struct slab_cache *named, unsigned rounds, unsigned magazines);
