/* What goes back, and when; see reclaim.h.
 *
 * Depots keep their working set: magazines that were not missed for an interval are surplus (Bonwick and Adams).
 * Spans that stayed dirty for `purge_delay_ms` are purged. When a large object is freed, dirty memory beyond
 * `dirty_bytes` or a quarter of the heap, whichever is more, is purged at once. Where address space is scarce, the
 * bound is a sixteenth of the heap and holds for all memory that becomes free: the program's own mappings and
 * threads' stacks cannot wait for a delay. */
#include "process/reclaim.h"

#include "base/options.h"
#include "depot/cache_name.h"
#include "depot/pending_slabs.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "percpu/percpu.h"
#include "slab/large.h"
#include "thread/ownership.h"

enum { scarce_dirty_least = 4 << 20 };

static uint64_t dirty_limit(void)
{
    const uint64_t heap_bytes = slm_reservation_heap_bytes();
    if (slm_span_scarce())
        return slm_min(slm_options.dirty_bytes, slm_max(scarce_dirty_least, heap_bytes / 16));
    return slm_max(slm_options.dirty_bytes, heap_bytes / 4);
}

struct trimming {
    bool all, found;
};

static void trim_cache(struct slm_cache *cache, void *context)
{
    struct trimming *trimming = context;
    slm_for_each_depot (depot, cache)
        if (slm_depot_slabs(depot) > 0 || load_relaxed(&depot->stock_rounds) > 0) /* perhaps of another's slabs */
            trimming->found |= slm_depot_trim(depot, trimming->all);
}

/* True if there was anything to trim, or if the mutex is held and the caller does not `wait`: the next look will. */
static bool trim_depots(bool all, bool wait)
{
    struct trimming trimming = {all, false};
    if (load_relaxed(&slm_depot_pending))
        slm_depot_relink_pending();
    if (wait)
        slm_cache_lock();
    else if (!slm_cache_try_lock())
        return true;
    slm_cache_each(trim_cache, &trimming);
    if (slm_cache_name_some_leave())
        slm_cache_name_sweep(slm_take_recalled());
    slm_cache_unlock();
    return slm_pending_slabs_poll() || trimming.found;
}

void slm_reclaim_excess(void)
{
    if (slm_span_dirty_bytes() > dirty_limit())
        slm_span_purge(dirty_limit() / 2);
}

bool slm_reclaim_due(uint64_t now_ms)
{
    static _Atomic uint64_t purge_due, trim_due;
    bool done = false;
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    if (slm_reclaim_claim(&trim_due, now_ms, SLM_RECLAIM_INTERVAL_MS)) {
        done |= trim_depots(false, false);
        done |= slm_percpu_trim(false);
    }
    if (slm_span_dirty_bytes() > 0 && slm_reclaim_claim(&purge_due, now_ms, slm_options.purge_delay_ms))
        done |= slm_span_purge_surplus() > 0;
    if (slm_span_scarce())
        slm_reclaim_excess();
    return done;
}

size_t slm_reclaim_all(bool wait)
{
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    trim_depots(true, wait);
    slm_percpu_trim(true);
    return slm_span_scarce() ? slm_span_unmap_free() : slm_span_purge(0);
}
