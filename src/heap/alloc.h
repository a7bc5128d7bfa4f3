/* malloc's hot path: one load finds the slot of the size, a pop takes its top round. */
#pragma once

#include "heap/slow.h"

slm_inline void *slm_alloc(size_t n)
{
    if (unlikely(n > SLM_TABLE_MAX))
        return slm_alloc_medium(n);
    if (slm_sample_due(n))
        return slm_alloc_due_slow(n);
    void *object = slm_pop_keyed(slm_size_slot_offset[n]);
    return likely(object != NULL) ? object : slm_alloc_slow(n);
}
