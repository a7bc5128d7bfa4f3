/* Answers that have more than one figure, as tables. */
#pragma once

#include <stddef.h>

#include "base/inspect.h"

/* The first `bytes` bytes of a slab_stats: an older library's is shorter. */
void figures_print(const void *stats, size_t bytes);

/* A table of caches, those first whose slabs have most; sorts them. */
void caches_print(struct slm_command_cache *caches, size_t count);
