/* Giving everything back; see give_back.h. */
#include "process/give_back.h"

#include "deferred/retire.h"
#include "depot/pending_slabs.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "process/lifecycle.h"
#include "process/reclaim.h"
#include "sync/epoch.h"
#include "thread/park.h"

enum { probe_bytes = 64 << 20 };

/* `wait`: for the cache mutex; allocations do not. Returns the bytes purged. */
static size_t purge(bool wait, enum slm_purge_reason reason)
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
    slm_epoch_poll();
    slm_defer_queue_ripen_all();
    return slm_reclaim_all(wait, reason);
}

/* Other threads keep their magazines; the caller's own, the depots' and all dirty spans can help. */
bool slm_give_back_for(size_t n)
{
    const uint64_t heap_bytes = slm_reservation_heap_bytes();
    if (!slm_process_started() || n / 4 > heap_bytes + probe_bytes) /* all that there is would not help */
        return false;
    slm_span_unmap_free(SLM_PURGE_LIMIT);
    purge(false, SLM_PURGE_LIMIT);
    return true;
}

size_t slm_give_back_all(void)
{
    slm_pending_slabs_poll();
    slm_pending_slabs_release(NULL);
    if (slm_process_started())
        slm_park_all();
    return purge(true, SLM_PURGE_TRIM);
}
