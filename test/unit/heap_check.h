/* A walk over all structures of the heap. */
#pragma once

#include "deferred/defer_queue.h"
#include "depot/cache.h"
#include "os/topology.h"
#include "spans.h"

static inline void check_cache(struct slm_cache *cache, void *context)
{
    (void)context;
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct slm_depot *depot = slm_cache_depot_made(cache, node);
        if (depot)
            slm_depot_check(depot);
    }
}

static inline void check_heap(void)
{
    slm_cache_foreach(check_cache, NULL);
    slm_defer_queue_check();
    for (unsigned area = 0; area < slm_area_count(); area++)
        slm_span_check(area);
}
