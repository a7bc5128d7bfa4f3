/* The slow halves of the lock, and the order of ranks; see lock.h. */
#include "sync/lock.h"

#include "base/panic.h"
#include "os/sys.h"

static __thread uint32_t ranks_held; /* a bit a rank; checked builds */

/* If a handler forks while its thread sleeps here, the child sleeps on: after the time limit it looks again. */
enum { spins = 100, wait_ms = 50 };

/* True: its holder is lost in a fork. */
static bool wait_for(struct slm_lock *lock)
{
    slm_fork_check(); /* a handler may have forked since the slow path looked */
    const uint32_t generation = slm_fork_generation;
    for (unsigned spin = 0; spin < spins; spin++) {
        uint32_t word = load_relaxed(&lock->word);
        if (word >> 2 != generation &&
            atomic_compare_exchange_weak_explicit(&lock->word, &word, generation << 2 | SLM_LOCK_HELD,
                                                  memory_order_acquire, memory_order_relaxed))
            return word != 0;
        slm_cpu_relax();
    }
    for (;;) { /* from here on the word says that a thread may sleep */
        const uint32_t slept_on = slm_fork_generation << 2 | SLM_LOCK_SLEPT_ON;
        const uint32_t word = atomic_exchange_explicit(&lock->word, slept_on, memory_order_acquire);
        if (word >> 2 != slept_on >> 2)
            return word != 0;
        slm_sys_wait(&lock->word, slept_on, wait_ms);
        slm_fork_check();
    }
}

slm_slow bool slm_lock_acquire_slow(struct slm_lock *lock)
{
    add_relaxed(&lock->contended, 1);
    const uint64_t begin = slm_seam_ticks();
    const bool dead = wait_for(lock);
    slm_seam_lock_waited(lock->rank, begin);
    return dead;
}

slm_slow void slm_lock_release_slow(struct slm_lock *lock)
{
    slm_sys_wake(&lock->word);
}

void slm_lock_rank_enter(const struct slm_lock *lock)
{
    if (!slm_checked)
        return;
    if (ranks_held >> lock->rank)
        slm_panic("lock", lock, "taken out of rank", NULL, 0);
    ranks_held |= 1u << lock->rank;
}

void slm_lock_rank_leave(const struct slm_lock *lock)
{
    if (slm_checked)
        ranks_held &= ~(1u << lock->rank);
}

void slm_lock_rank_forget(void)
{
    if (slm_checked)
        ranks_held = 0;
}
