/* The seam: where the bench's build does more than the library. It takes the time for which locks are held and waited
 * for, and it can make slabs under the depot's lock. test/variants/bench.c has all of that; in every other build
 * there is nothing here. (Simulated machines and mutants need no seam in the source; see test/variants/meson.build.)
 */
#pragma once

#include "base/compiler.h"

#ifdef SLM_BENCH
/* A counter of fixed frequency that costs little to read. */
uint64_t slm_seam_ticks(void);

/* The calling thread has got a lock of this rank, for the lock's `acquired`th time. */
void slm_seam_lock_acquired(unsigned rank, uint64_t acquired);

/* It has released the lock; `end` is from just before. While it is held nothing that threads share is written. */
void slm_seam_lock_released(unsigned rank, uint64_t end);

/* It has waited for one since `begin`. */
void slm_seam_lock_waited(unsigned rank, uint64_t begin);

/* Hold the depot's lock while a slab is made? */
bool slm_seam_grow_locked(void);
#else
slm_inline uint64_t slm_seam_ticks(void)
{
    return 0;
}

slm_inline void slm_seam_lock_acquired(unsigned rank, uint64_t acquired)
{
    (void)rank, (void)acquired;
}

slm_inline void slm_seam_lock_released(unsigned rank, uint64_t end)
{
    (void)rank, (void)end;
}

slm_inline void slm_seam_lock_waited(unsigned rank, uint64_t begin)
{
    (void)rank, (void)begin;
}

slm_inline bool slm_seam_grow_locked(void)
{
    return false;
}
#endif
