/* Closed caches: those that are accounted, and those beyond the numbers that have a place. The page map sends every
 * free of their objects into the slow path, so that no object passes uncounted; here is what then happens, for the
 * most part still without a lock: a count in the thread's window, and a pop or push of the slot in its leaf.
 *
 * `counting` covers the count and the magazine together, so that a taker can tell whether a call is under way; it is
 * one of the hot operations of thread/take.h. */
#pragma once

#include "thread/account.h"

/* True: the call may go on in this thread's slot. */
slm_inline struct slm_far_slot *slm_closed_begin(unsigned number)
{
    store_relaxed(&slm_tls.counting, 1);
    signal_fence(); /* pairs with the barrier of slm_take_from_all */
    return slm_slot_far(slm_hot(), number);
}

slm_inline void slm_closed_end(void)
{
    store_release(&slm_tls.counting, 0); /* pairs with thread/account.c */
}

/* An object from the thread's magazine; NULL: it is empty, or at the edge of its window. */
slm_inline void *slm_closed_pop(struct slm_cache *cache)
{
    void *round = NULL;
    struct slm_far_slot *far = slm_closed_begin(cache->number);
    if (likely(far != NULL)) {
        void **top = far->slot.top;
        if (likely(top != slm_shared_load(&far->slot.bottom) && (!cache->account || far->net != far->high))) {
            far->net++;
            round = slm_slot_pop(&far->slot, top);
        }
    }
    slm_closed_end();
    return round;
}

/* False: the magazine is full, or at the edge of its window. */
slm_inline bool slm_closed_push(struct slm_cache *cache, void *object)
{
    bool done = false;
    struct slm_far_slot *far = slm_closed_begin(cache->number);
    if (likely(far != NULL)) {
        void **top = far->slot.top;
        done = top != far->slot.limit && (!cache->account || far->net != far->low);
        if (likely(done)) {
            far->net--;
            slm_slot_push(&far->slot, top, object);
        }
    }
    slm_closed_end();
    return done;
}

/* Free an object of the cache; `call` is the name for a misuse's report. */
void slm_closed_free(struct slm_cache *cache, void *object, const char *call);
