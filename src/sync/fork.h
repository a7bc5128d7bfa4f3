/* Noticing a fork. The kernel clears a page of ours in every child (MADV_WIPEONFORK, Linux 4.14), whether it was made
 * by fork(), by _Fork() in a signal handler or by a bare clone(). Every slow path looks at the page before it touches
 * a lock. The first that finds it cleared increments the process's generation, and restarts what cannot go on as it
 * was. Where the kernel has no such page, pthread_atfork does the same at once. Nothing happens at fork itself, and
 * no lock of ours is taken or held over it, so nothing can deadlock there.
 *
 * The restart is a function of a higher floor (process/lifecycle.c), called from here. It cannot be left to a slow
 * path up there, because the first look may be one below: if a handler forks after the look of its thread's slow
 * path, the next look is that of a lock for which the thread waits, or of a reader that registers. From there on the
 * restart must be done, not only the generation be new:
 *   - The lists of threads and of readers have records of lost threads, perhaps with a link half written. A thread
 *     that only tries a lock is not told that its holder is lost. So both lists must be empty by then.
 *   - A later restart could not find the readers that have registered before it: the list leads through the
 *     thread-local storage of lost threads, which libc hands to new ones.
 *   - What waits in the defer queues is counted again, before any thread of the child changes a figure.
 * So the restart takes place once, on one thread; other threads wait for it, and handlers of that thread do not. */
#pragma once

#include "base/atomic.h"

extern slm_hidden uint32_t slm_fork_generation;      /* one more in each child */
extern slm_hidden _Atomic uint32_t *slm_fork_canary; /* 1; 0 in a child that has not noticed yet, 2 while it does */

/* Set the page up. `function` is the restart: called in each child, on its first thread that gets to a slow path. */
void slm_fork_start(void (*function)(void));

/* Increment the generation and restart, or wait until another thread has done so. */
void slm_fork_notice(void);

slm_inline void slm_fork_check(void)
{
    if (unlikely(load_relaxed(slm_fork_canary) != 1))
        slm_fork_notice();
}
