/* When memory goes back; see reclaim.h.
 *
 * Depots keep their working set: magazines that nobody missed for an interval are surplus (Bonwick and Adams). Dirty
 * spans are purged once they are `purge_delay_ms` old, and at once beyond `dirty_bytes` or a quarter of the heap,
 * whichever is more: memory that is about to be used again should not go to the kernel and back. */
#include "heap/reclaim.h"

#include "base/options.h"
#include "os/sys.h"
#include "os/topology.h"

enum { interval_ms = 1000 };

static _Atomic uint64_t purge_due_ms, trim_due_ms;

static uint64_t dirty_limit(void)
{
    uint64_t heap_bytes, metadata_bytes;
    slm_reservation_figures(&heap_bytes, &metadata_bytes);
    return heap_bytes / 4 > slm_options.dirty_bytes ? heap_bytes / 4 : slm_options.dirty_bytes;
}

/* True for one caller when `due` has come; the next time is `interval` from now. */
static bool claim(_Atomic uint64_t *due, uint64_t now, uint64_t interval)
{
    uint64_t was = load_relaxed(due);
    return now >= was && atomic_compare_exchange_strong(due, &was, now + interval);
}

static void trim_cache(struct slm_cache *cache, bool all)
{
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct slm_depot *depot = slm_cache_depot_made(cache, node);
        if (depot && load_relaxed(&depot->stock_rounds) > 0)
            slm_depot_trim(depot, all);
    }
}

static void trim_depots(bool all)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        trim_cache(&slm_class_caches[class], all);
}

void slm_reclaim_tick(struct slm_thread *thread)
{
    const uint64_t now = slm_sys_now_ms();
    if ((uint32_t)now - thread->adapted_ms >= interval_ms) {
        thread->adapted_ms = (uint32_t)now;
        slm_thread_adapt(thread);
    }
    if (claim(&trim_due_ms, now, interval_ms))
        trim_depots(false);
    if (slm_span_dirty_bytes() > 0 && claim(&purge_due_ms, now, slm_options.purge_delay_ms / 4 + 1))
        slm_span_purge(slm_options.purge_delay_ms, dirty_limit());
}

void slm_reclaim_after_free(void)
{
    const uint64_t dirty = slm_span_dirty_bytes();
    if (likely(dirty <= slm_options.dirty_bytes) || dirty <= dirty_limit())
        return;
    slm_span_purge(UINT64_MAX, dirty_limit() / 2);
}

size_t slm_reclaim_all(void)
{
    trim_depots(true);
    return slm_span_purge(0, 0);
}
