/* Figures of one cache, a walk over all names, and a table like /proc/slabinfo. Only after the process's start.
 * Visitors and stdio run with no lock held: the walk pins the name that it is at. */
#pragma once

#include "depot/cache_name.h"

/* All figures of one cache; `name` has SLM_CACHE_NAME_BYTES. Under the cache mutex. */
void slm_cache_info_gather(const char *name, struct slm_cache *cache, struct slab_cache_stats *out);

/* As slab_cache_get_stats, slab_cache_foreach and slab_info promise. */
int slm_cache_info_stats(struct slab_cache *named, struct slab_cache_stats *out);
int slm_cache_info_foreach(int (*visit)(struct slab_cache *named, void *context), void *context);
int slm_cache_info_print(FILE *out);
