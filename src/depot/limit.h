/* A cache's limit: the most objects that may be out of its slabs, live or free in threads and depots.
 *
 * Objects are charged when they leave slabs (slm_depot_fill), and the charge is returned when they come back. So
 * calls that a magazine serves pay nothing, and no more than the limit can ever be live. A thread that meets the
 * limit gathers the free objects that other threads and nodes hold before its call fails (thread/gather.h). Reserves,
 * which it cannot gather, are not charged (thread/reserve.h).
 *
 * A charge is a release and an acquire: a thread that finds the limit met by a charge of another one also finds that
 * one's slot unloaded (has_rounds in thread/gather.c). */
#pragma once

#include "base/atomic.h"
#include "base/bits.h"

struct slm_limit {
    uint64_t objects;         /* 0: not one fits */
    uint64_t bytes;           /* as asked */
    _Atomic uint64_t charged; /* objects */
    _Atomic uint64_t hands;   /* how many threads carry free objects: see slm_limit_carry */
};

/* A charge takes at most one such share of the room that is left, so that all threads can have some. */
enum { SLM_LIMIT_SHARES = 8 };

/* Charge up to n objects; returns how many. Here and below `limit` may be NULL. */
slm_inline unsigned slm_limit_charge(struct slm_limit *limit, unsigned n)
{
    if (likely(!limit))
        return n;
    uint64_t charged = load_acquire(&limit->charged), some;
    do {
        const uint64_t room = charged < limit->objects ? limit->objects - charged : 0;
        some = slm_min(n, room < SLM_LIMIT_SHARES ? slm_min(room, 1) : room / SLM_LIMIT_SHARES);
    } while (some > 0 && !atomic_compare_exchange_weak_explicit(&limit->charged, &charged, charged + some,
                                                                memory_order_acq_rel, memory_order_acquire));
    return (unsigned)some;
}

/* Charge n objects, even beyond the limit: they have been out all the time. */
slm_inline void slm_limit_recharge(struct slm_limit *limit, uint64_t n)
{
    if (unlikely(limit != NULL))
        atomic_fetch_add_explicit(&limit->charged, n, memory_order_release); /* behind slm_limit_carry */
}

slm_inline void slm_limit_return(struct slm_limit *limit, uint64_t n)
{
    if (unlikely(limit != NULL))
        sub_relaxed(&limit->charged, n);
}

/* Between these two calls the thread carries free objects that no slot, stock or slab shows. Sequentially consistent:
 * a thread that finds no object there, and then no carrier, finds the charge of those that were carried returned. The
 * upper half counts how often anybody has begun to: who reads the same before and after a look knows that nobody has
 * carried any meanwhile. */
#define SLM_LIMIT_HAND (UINT64_C(1) << 32 | 1)

slm_inline uint32_t slm_limit_hands(uint64_t hands)
{
    return (uint32_t)hands;
}

slm_inline void slm_limit_carry(struct slm_limit *limit)
{
    if (unlikely(limit != NULL))
        atomic_fetch_add(&limit->hands, SLM_LIMIT_HAND);
}

slm_inline void slm_limit_carried(struct slm_limit *limit)
{
    if (unlikely(limit != NULL) && slm_limit_hands(atomic_load(&limit->hands)) > 0) /* 0: a fork was in between */
        atomic_fetch_sub(&limit->hands, 1);
}
