/* Answers that have more than one figure, as tables. */
#pragma once

#include <stddef.h>

/* The first `bytes` bytes of a slab_stats: an older library's is shorter. */
void figures_print(const void *stats, size_t bytes);
