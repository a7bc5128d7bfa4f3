/* What memory goes back, and when: surplus magazines to slabs, vacant slabs to spans, free spans' RAM to the kernel.
 * process/worker.h has which thread sees to it. */
#pragma once

#include "base/atomic.h"

/* Release what has become due; true if anything was done. */
bool slm_reclaim_due(uint64_t now_ms);

/* Purge at once if too much is dirty. */
void slm_reclaim_excess(void);

/* Release everything except the calling thread's own magazines; bytes purged. `wait`: for the cache mutex. */
size_t slm_reclaim_all(bool wait);

/* True for one caller when `due` has come; the next time is `interval` from now. */
slm_inline bool slm_reclaim_claim(_Atomic uint64_t *due, uint64_t now, uint64_t interval)
{
    uint64_t was = load_relaxed(due);
    return now >= was && atomic_compare_exchange_strong(due, &was, now + interval);
}

enum { SLM_RECLAIM_INTERVAL_MS = 1000 }; /* from one look at depots to the next */
