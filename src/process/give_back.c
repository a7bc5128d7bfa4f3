/* Giving everything back; see give_back.h. */
#include "process/give_back.h"

#include <limits.h>

#include "deferred/retire.h"
#include "depot/pending_slabs.h"
#include "page/charge.h"
#include "page/free_spans.h"
#include "page/metadata.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "os/sys.h"
#include "process/legacy.h"
#include "process/lifecycle.h"
#include "process/limits.h"
#include "process/reclaim.h"
#include "sample/samples.h"
#include "slab/guard.h"
#include "sync/epoch.h"
#include "thread/park.h"

enum { probe_bytes = 64 << 20, probe_ms = 1000 };

/* `wait`: for the cache mutex; allocations do not. Returns the bytes purged. */
static slm_seldom size_t purge(bool wait, enum slm_purge_reason reason)
{
    if (!slm_process_started())
        return 0;
    struct slm_thread *thread = slm_thread_enter(false);
    if (thread) {
        slm_retire_empty_slots(thread);
        slm_thread_empty(thread, SLM_TO_SLABS);
        slm_reserve_empty(thread, false);
        slm_thread_leave(thread);
    }
    while (load_relaxed(&slm_orphans) > 0)
        slm_process_bury(UINT_MAX);
    slm_legacy_bury(true);
    slm_park_all(wait);
    slm_epoch_poll();
    slm_defer_queue_ripen_all();
    const size_t purged = slm_reclaim_all(wait, reason);
    if (reason == SLM_PURGE_TRIM) {
        slm_span_purge_descriptors();
        slm_samples_purge();
        slm_metadata_purge();
    }
    return purged;
}

/* It is the limit that refuses, not the kernel. Nothing need go back if it has risen. */
static slm_seldom bool give_back_below_limit(size_t n)
{
    if (slm_limits_make_room(n))
        return true;
    if (n > load_relaxed(&slm_charge.limit))
        return false;
    slm_guard_drain();
    purge(false, SLM_PURGE_LIMIT);
    return true;
}

/* Programs ask for more than there can be, to find out how much there is, or on bad input. Nobody is to pay much for
 * that: it gives all back once a second, and address space is not scarce because of it. */
static slm_seldom bool give_back_for_probe(void)
{
    static _Atomic uint64_t due_ms;
    if (!slm_reclaim_claim(&due_ms, slm_sys_now_ms(), probe_ms))
        return false;
    slm_span_unmap_free(SLM_PURGE_LIMIT);
    purge(false, SLM_PURGE_LIMIT);
    slm_span_set_scarce(false);
    return true;
}

/* All threads' magazines, the depots' stock and all dirty spans can help. */
slm_seldom bool slm_give_back_for(size_t n)
{
    if (!slm_process_started() || n > SLM_GRANULES_MAX << SLM_GRANULE_SHIFT)
        return false;
    if (slm_charge_exceeds(&slm_charge.stop, n + SLM_LIMITS_SLAB_MOST))
        return give_back_below_limit(n);
    if (n / 4 > slm_reservation_heap_bytes() + probe_bytes && !slm_span_scarce())
        return give_back_for_probe();
    slm_guard_drain();
    slm_span_unmap_free(SLM_PURGE_LIMIT);
    purge(false, SLM_PURGE_LIMIT);
    return true;
}

slm_seldom size_t slm_give_back_undestructed(void)
{
    return purge(true, SLM_PURGE_TRIM);
}

slm_seldom size_t slm_give_back_all(void)
{
    slm_pending_slabs_poll();
    slm_pending_slabs_release(NULL);
    return purge(true, SLM_PURGE_TRIM);
}
