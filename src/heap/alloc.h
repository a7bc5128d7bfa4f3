/* malloc's hot path: one load finds the place of the size's magazine, a pop takes its top round. */
#pragma once

#include "heap/heap.h"

/* n bytes from the magazine at `place`, that of n's class. */
slm_inline void *slm_alloc_at(size_t place, size_t n)
{
    struct slm_thread *thread = slm_hot();
    void **top = slm_shared_load(&slm_slot_at(thread, place)->top);
    slm_forget(place);
    if (unlikely(top == slm_shared_load(&slm_slot_at(thread, place)->bottom)))
        return slm_alloc_slow(n);
    slm_forget(place);
    return slm_slot_pop(slm_slot_at(thread, place), top);
}

slm_inline void *slm_alloc(size_t n)
{
    if (unlikely(n > SLM_TABLE_MAX))
        return slm_alloc_medium(n);
    return slm_alloc_at(slm_size_place[n], n);
}
