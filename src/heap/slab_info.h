/* What can be seen of caches: figures of one, a walk over all names, and the table of /proc/slabinfo. */
#pragma once

#include "depot/cache_name.h"

/* As slab_cache_get_stats, slab_cache_foreach and slab_info promise. */
int slm_info_stats(struct slab_cache *named, struct slab_cache_stats *out);
int slm_info_foreach(int (*visit)(struct slab_cache *named, void *context), void *context);
int slm_info_print(FILE *out);
