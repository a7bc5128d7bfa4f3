/* Does a depot hold together? If not the process ends with a message. */
#pragma once

#include "base/panic.h"
#include "depot/depot.h"

static inline void check_listed(struct slm_depot *depot, unsigned bucket, struct slm_slab *slab)
{
    if (load_relaxed(&slab->owner) != depot || slab->where != SLM_SLAB_LISTED || slab->bucket != bucket)
        slm_panic("check", slm_slab_start(slab), "a listed slab that is not marked so", depot->cache_name, 0);
    slm_slab_check(slab);
    slm_pages_check(slab);
}

static inline void check_depot(struct slm_depot *depot)
{
    slm_depot_lock(depot); /* if a fork has lost the lock's holder, the lists begin anew */
    slm_lock_release(&depot->lock);
    if (slm_lock_acquire(&depot->lock))
        slm_panic("check", depot, "the lock is that of a lost thread", depot->cache_name, 0);
    for (unsigned bucket = 0; bucket < SLM_DEPOT_BUCKETS; bucket++) {
        const struct slm_list *head = &depot->buckets[bucket];
        for (struct slm_list *at = head->next; depot->occupied >> bucket & 1 && at != head; at = at->next)
            check_listed(depot, bucket, slm_container(at, struct slm_slab, span.link));
    }
    uint64_t rounds = 0;
    uint32_t magazines = 0;
    for (struct slm_magazine *full = depot->full; full; full = full->next, magazines++)
        rounds += full->count;
    if (rounds != load_relaxed(&depot->stock_rounds) || magazines != depot->full_count)
        slm_panic("check", depot, "the stock does not add up", depot->cache_name, 0);
    slm_lock_release(&depot->lock);
}
