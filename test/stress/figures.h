/* The figures of the library, for the stress tests that know that they run on it. */
#pragma once

#include <errno.h>
#include <slabmalloc.h>
#include <string.h>

#include "at_work.h"

static inline slab_stats figures(void)
{
    slab_stats stats;
    if (slab_get_stats(&stats, sizeof stats) != 0)
        fail(FOUND_WRONG, "no figures: %s", strerror(errno));
    return stats;
}
