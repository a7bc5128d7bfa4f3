/* Noticing a fork. A page of ours is cleared by the kernel in every child (MADV_WIPEONFORK, Linux 4.14), however it
 * was made: fork(), _Fork() in a signal handler, a bare clone(). Every slow path looks before it touches a lock; the
 * first that finds the page cleared counts the process's generation up. Where the kernel has no such page,
 * pthread_atfork does the same at once.
 *
 * Nothing happens at fork itself, so there is nothing to deadlock on: no lock of ours is taken or held over it. */
#pragma once

#include "base/atomic.h"

extern slm_hidden uint32_t slm_fork_generation;      /* changed by a child that has one thread alone */
extern slm_hidden _Atomic uint32_t *slm_fork_canary; /* 1; 0 in a child that has not noticed yet, 2 while it does */

/* Set the page up; `child` is called in each child, on the first thread that gets to a slow path there, when the
 * generation has been counted up. */
void slm_fork_start(void (*child)(void));

/* Count the generation up, if no other thread is faster. */
void slm_fork_notice(void);

slm_inline void slm_fork_check(void)
{
    if (unlikely(load_relaxed(slm_fork_canary) != 1))
        slm_fork_notice();
}
