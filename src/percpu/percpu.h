/* Per-CPU memory: objects with a copy for each possible CPU; the contract is in include/slabmalloc.h. */
#pragma once

#include <slabmalloc.h>

#include "base/atomic.h"
#include "percpu/blocks.h"

/* As slab_percpu_alloc and slab_percpu_free; after the process's start. */
slab_percpu slm_percpu_alloc(size_t size, size_t align);
void slm_percpu_free(slab_percpu object);

/* The number of copies; 0 if it cannot be found out. Starts per-CPU memory, as allocating does. */
unsigned slm_percpu_cpus(void);

/* Does the address lie in per-CPU memory? It may be an object's or a copy's. */
bool slm_percpu_owns(const void *address);

/* How many CPUs there are; 0: per-CPU memory has not started. Set under its lock, and read by threads that have one
 * of its objects. */
extern slm_hidden _Atomic unsigned slm_percpu_found;

/* Give vacant blocks back: without `all` only one, if it was vacant at the last call already. True: there was one. */
bool slm_percpu_trim_started(bool all);
slm_inline bool slm_percpu_trim(bool all)
{
    return unlikely(load_relaxed(&slm_percpu_found) != 0) && slm_percpu_trim_started(all);
}

void slm_percpu_count(struct slm_percpu_figures *figures);
