/* A walk over all structures of the heap. */
#pragma once

#include "checks.h"
#include "deferred/defer_queue.h"
#include "depot/cache.h"
#include "os/topology.h"
#include "spans.h"

static inline void check_cache(struct slm_cache *cache, void *context)
{
    (void)context;
    slm_for_each_depot (depot, cache)
        check_depot(depot);
}

static inline void check_heap(void)
{
    slm_cache_lock();
    slm_cache_each(check_cache, NULL);
    slm_cache_unlock();
    slm_defer_queue_check();
    for (unsigned area = 0; area < slm_area_count(); area++)
        slm_span_check(area);
}
