/* Giving memory back: surplus magazines to slabs, vacant slabs to spans, free spans' RAM to the kernel. In a process
 * with one thread its own slow paths do it; in one with several a worker thread does, idle or not. */
#pragma once

#include "thread/thread_cache.h"

/* On a thread's slow path, now and then: does what has become due; no more than a look at the clock otherwise. */
void slm_reclaim_tick(struct slm_thread *thread);

/* After a large object has gone: purge at once when too much is dirty. */
void slm_reclaim_after_free(void);

/* After slabs may have become free, or part of a large object has: the same where address space is scarce. Elsewhere
 * their RAM waits for the working set to be known. */
void slm_reclaim_if_scarce(void);

/* What is retired (floor epoch): a pass over what ages, if one is due, a look at the readers, and what is ripe is
 * freed. `self`: as for slm_retire_pass. */
void slm_reclaim_deferred(struct slm_thread *self);

/* After something was retired, or a function given: it is to be looked after within deferred_max_delay_ms. */
void slm_reclaim_note_deferred(void);

/* At a thread's birth, when there are several now: see to it that there is a worker. Allocates (a stack). */
void slm_reclaim_start_worker(void);

/* After a thread's exit: a worker that is alone with one thread goes. */
void slm_reclaim_thread_gone(void);

/* In the child of a fork: there is no worker. */
void slm_reclaim_fork_child(void);

/* Everything that can go without the calling thread's own magazines; bytes purged. `wait`: for the cache mutex. */
size_t slm_reclaim_all(bool wait);
