/* Noticing a fork. The kernel clears a page of ours in every child (MADV_WIPEONFORK, Linux 4.14), however that was
 * made: fork(), _Fork() in a signal handler, a bare clone(). Every slow path looks at the page before it touches a
 * lock. The first that finds it cleared counts the process's generation up, and restarts what cannot go on as it
 * was. Where the kernel has no such page, pthread_atfork does the same at once.
 *
 * Nothing happens at fork itself, so there is nothing to deadlock on: no lock of ours is taken or held over it.
 *
 * The restart is a function of a higher floor (process/lifecycle.c), called from here. Could a slow path up there not
 * do it when it finds a new generation? No: the first to look may stand below. A handler forks when its thread is
 * past the look of its slow path; then the next look is that of a lock for which the thread waits, or of a reader
 * that registers. What follows there needs the restart, not only the generation:
 *   - The lists of threads and of readers hold records of lost threads, perhaps with a link half written. Who only
 *     tries a lock is not told that its holder is lost. So both lists must be empty by then.
 *   - A later restart would have to keep readers that have registered before it. It could not find them: the list
 *     leads through the thread-local storage of lost threads, which libc hands to new ones.
 *   - What waits on the rings is counted anew, before any thread of the child changes a figure.
 * So the restart takes place once, on one thread; others wait for it, and handlers of that thread do not. */
#pragma once

#include "base/atomic.h"

extern slm_hidden uint32_t slm_fork_generation;      /* counted up once in each child */
extern slm_hidden _Atomic uint32_t *slm_fork_canary; /* 1; 0 in a child that has not noticed yet, 2 while it does */

/* Set the page up. `function` is called in each child, on the first thread that gets to a slow path there, when the
 * generation has been counted up. */
void slm_fork_start(void (*function)(void));

/* Count the generation up and restart, if no other thread is faster; else wait until it has. */
void slm_fork_notice(void);

slm_inline void slm_fork_check(void)
{
    if (unlikely(load_relaxed(slm_fork_canary) != 1))
        slm_fork_notice();
}
