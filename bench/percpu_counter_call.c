/* The loop of percpu_counter.c whose adds are calls: SLAB_NO_INLINE is for a whole file. */
#define SLAB_NO_INLINE
#include "percpu_counter.h"

COUNTER_LOOP void counter_loop_call(slab_percpu counter, unsigned turns)
{
    while (turns-- > 0)
        slab_percpu_add_long(counter, 1);
}
