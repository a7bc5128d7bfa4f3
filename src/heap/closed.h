/* Caches whose every call takes the slow path: accounted ones, so that no object passes uncounted, and far ones. What
 * follows is still without a lock: a count in the thread's window, and a pop or push of its slot.
 *
 * `counting` covers the count and the magazine together, so that a taker can tell whether a call is under way; the
 * two are one of the hot operations of thread/take.h. */
#pragma once

#include "thread/account.h"

slm_inline void slm_closed_begin(void)
{
    store_relaxed(&slm_tls.counting, 1);
    signal_fence(); /* pairs with the barrier of slm_take_from_all */
}

slm_inline void slm_closed_end(void)
{
    store_release(&slm_tls.counting, 0); /* pairs with thread/account.c */
}

/* An object of an accounted cache from the thread's magazine; NULL: it is empty, or at the edge of its window. */
slm_inline void *slm_counted_pop(size_t place)
{
    void *round = NULL;
    slm_closed_begin();
    struct slm_counted_slots *counted = slm_slots_counted(slm_hot(), place);
    void **top = slm_shared_load(&counted->slot.top);
    if (likely(top != slm_shared_load(&counted->slot.bottom) && counted->window.net != counted->window.high)) {
        counted->window.net++;
        round = slm_slot_pop(&counted->slot, top);
    }
    slm_closed_end();
    return round;
}

/* False: the magazine is full, or at the edge of its window. */
slm_inline bool slm_counted_push(size_t place, void *object)
{
    slm_closed_begin();
    struct slm_counted_slots *counted = slm_slots_counted(slm_hot(), place);
    void **top = slm_shared_load(&counted->slot.top);
    const bool room = top != counted->slot.limit && counted->window.net != counted->window.low;
    if (likely(room)) {
        counted->window.net--;
        slm_slot_push(&counted->slot, top, object);
    }
    slm_closed_end();
    return room;
}

/* Free an object of an accounted or far cache; `call` is the name for a misuse's report. */
void slm_closed_free(struct slm_cache *cache, void *object, const char *call);
