/* What memory goes back, and when: surplus magazines to slabs, vacant slabs to spans, free spans' RAM to the kernel.
 * process/worker.h has which thread sees to it. */
#pragma once

#include "page/purge.h"

/* Release what has become due; true if anything was done. `helped`: by the worker, which will look again.
 * `parked`: threads may have been, just now. */
bool slm_reclaim_due(uint64_t now_ms, bool helped, bool parked);

/* Where address space is scarce: purge at once if too much is dirty. */
void slm_reclaim_excess(void);

/* Use has fallen (page/demand.h): purge at once what will not be wanted again, unless there is a worker to wait and
 * see (`helped`). No lock is held. */
void slm_reclaim_fallen(bool helped);

/* So much was freed in exchange for more (page/demand.h): as much goes of what is dirty. No lock is held. */
void slm_reclaim_replaced(uint64_t bytes);

/* If use has grown by new memory, free pages inside sparse slabs make up for it. No lock is held. */
void slm_reclaim_grown(void);

/* The process is back to one thread, which may never call again: release everything except that thread's magazines,
 * and what threads that come and go take again and again. */
void slm_reclaim_alone(void);

/* Release everything except the calling thread's own magazines; bytes purged. `wait`: for the cache mutex. */
size_t slm_reclaim_all(bool wait, enum slm_purge_reason reason);

/* True for one caller when `due` has come; the next time is `interval` from now. */
slm_inline bool slm_reclaim_claim(_Atomic uint64_t *due, uint64_t now, uint64_t interval)
{
    uint64_t was = load_relaxed(due);
    return now >= was && atomic_compare_exchange_strong(due, &was, now + interval);
}

enum { SLM_RECLAIM_INTERVAL_MS = 1000 }; /* from one look at depots to the next */
