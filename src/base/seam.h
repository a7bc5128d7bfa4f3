/* The seam: where the bench's build does more than the library. It measures how long locks are held and waited for,
 * and can make slabs under the depot's lock. test/variants/bench.c has all of that; every other build has nothing
 * here. (Simulated machines and mutants need no seam in the source; see test/variants/meson.build.) */
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
#define slm_seam_ticks() ((uint64_t)0)
#define slm_seam_lock_acquired(rank, acquired) ((void)(rank), (void)(acquired))
#define slm_seam_lock_released(rank, end) ((void)(rank), (void)(end))
#define slm_seam_lock_waited(rank, begin) ((void)(rank), (void)(begin))
#define slm_seam_grow_locked() false
#endif
