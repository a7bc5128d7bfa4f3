/* The calling thread's copy of a per-CPU object, and changes that are whole on one CPU; see include/slabmalloc.h. */
#pragma once

#include <slabmalloc.h>

#include "base/atomic.h"

/* Once, before there are objects: choose between restartable sequences and atomic operations, for the whole process.
 * `by_cid`: index copies by concurrency id, if the kernel has them. True: they are indexed by CPU number. */
bool slm_here_start(unsigned cpus, bool by_cid);

/* The copy of a CPU, as the header's slab_percpu_ptr has it for programs. */
slm_inline void *slm_here_copy_of(slab_percpu object, unsigned cpu)
{
    return (char *)(uintptr_t)object + (((size_t)cpu + 1) << SLAB_PERCPU_SHIFT);
}

/* The copy of the CPU that the thread is on, found without a sequence. */
void *slm_here_copy(slab_percpu object);

void slm_here_add(slab_percpu object, uint64_t value);
uintptr_t slm_here_exchange(slab_percpu object, uintptr_t value);
uintptr_t slm_here_compare_exchange(slab_percpu object, uintptr_t expected, uintptr_t value);
void slm_here_push(slab_percpu head, slab_percpu_node *node);
slab_percpu_node *slm_here_pop(slab_percpu head);
