/* A lock is one word, spun on briefly, then slept on with futex(2) (Drepper, "Futexes Are Tricky").
 *
 *     word = 0                       nobody holds it
 *     word = generation << 2 | 1     held
 *     word = generation << 2 | 2     held, and a thread may sleep on it
 *
 * The generation is the process's count of forks, from 1 (sync/fork.h). Fork takes no lock of ours, and no handler
 * waits for one: a thread that asks us for memory while it holds a stream's lock in stdio would hang fork. If a child
 * finds a lock held in an older generation, the holder does not exist there. Acquiring the lock then succeeds and
 * says so, and the caller restarts what the lock guards.
 *
 * A thread takes locks in rising rank only; checked builds stop one that does not. */
#pragma once

#include "base/seam.h"
#include "sync/fork.h"

enum slm_rank {
    SLM_RANK_START,   /* the process's one start */
    SLM_RANK_CACHES,  /* the cache mutex: the list of caches, never an allocation */
    SLM_RANK_THREADS, /* the list of threads' blocks */
    SLM_RANK_DEPOT,
    SLM_RANK_DEFER_QUEUE,   /* retired objects that wait; only metadata is taken under it */
    SLM_RANK_PENDING_SLABS, /* vacant slabs that wait */
    SLM_RANK_SPANS,         /* an area's free spans and frontier */
    SLM_RANK_PERCPU,        /* blocks of per-CPU memory */
    SLM_RANK_METADATA,      /* free lists of the allocator's own memory; bookkeeping; anchors */
    SLM_RANK_READERS,       /* the list of epochs' readers; a handler may take it under all others */
    SLM_RANK_CLASSES,       /* the making of size classes' caches; as above */
    SLM_RANKS,
};

struct slm_lock {
    _Atomic uint32_t word;
    uint8_t rank;
    _Atomic uint64_t acquired;  /* how often; written by the holder alone */
    _Atomic uint64_t contended; /* how often it was found held */
};

#define SLM_LOCK_HELD 1u
#define SLM_LOCK_SLEPT_ON 2u

bool slm_lock_acquire_slow(struct slm_lock *lock);
void slm_lock_release_slow(struct slm_lock *lock);

/* Checked builds: the rank is about to be held; it is held no more; in the child of a fork, none is held. */
void slm_lock_rank_enter(const struct slm_lock *lock);
void slm_lock_rank_leave(const struct slm_lock *lock);
void slm_lock_rank_forget(void);

slm_inline void slm_lock_count(struct slm_lock *lock)
{
    const uint64_t acquired = load_relaxed(&lock->acquired) + 1;
    store_relaxed(&lock->acquired, acquired);
    slm_seam_lock_acquired(lock->rank, acquired);
}

/* True: its holder is lost in a fork, and what it guards may be torn. Acquire pairs with slm_lock_release. */
slm_inline bool slm_lock_acquire(struct slm_lock *lock)
{
    if (slm_checked)
        slm_lock_rank_enter(lock);
    uint32_t nobody = 0;
    const bool had = atomic_compare_exchange_strong_explicit(
        &lock->word, &nobody, slm_fork_generation << 2 | SLM_LOCK_HELD, memory_order_acquire, memory_order_relaxed);
    const bool dead = unlikely(!had) && slm_lock_acquire_slow(lock);
    slm_lock_count(lock);
    return dead;
}

/* Is it held at the moment, by a thread that exists? A figure that lags: look again under the lock. */
slm_inline bool slm_lock_is_held(const struct slm_lock *lock)
{
    return load_relaxed(&lock->word) >> 2 == slm_fork_generation;
}

/* Acquire it without waiting; false: it is held. What it guards must be usable even if torn by a fork. */
slm_inline bool slm_lock_try(struct slm_lock *lock)
{
    uint32_t word = load_relaxed(&lock->word);
    if (word >> 2 == slm_fork_generation ||
        !atomic_compare_exchange_strong_explicit(&lock->word, &word, slm_fork_generation << 2 | SLM_LOCK_HELD,
                                                 memory_order_acquire, memory_order_relaxed))
        return false;
    if (slm_checked)
        slm_lock_rank_enter(lock);
    slm_lock_count(lock);
    return true;
}

/* Release pairs with slm_lock_acquire and slm_lock_try. */
slm_inline void slm_lock_release(struct slm_lock *lock)
{
    const uint64_t end = slm_seam_ticks();
    const uint32_t word = atomic_exchange_explicit(&lock->word, 0, memory_order_release);
    if (unlikely(word & SLM_LOCK_SLEPT_ON))
        slm_lock_release_slow(lock);
    if (slm_checked)
        slm_lock_rank_leave(lock);
    slm_seam_lock_released(lock->rank, end);
}
