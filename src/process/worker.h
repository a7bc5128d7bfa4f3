/* Which thread reclaims memory (process/reclaim.h), and looks after retired objects. In a process with one thread its
 * own slow paths do it; in one with several a worker thread does, whether they are idle or not. */
#pragma once

#include "thread/thread_cache.h"

/* On a thread's slow path, now and then: do what has become due, or tell the worker that threads are active. */
void slm_worker_tick(struct slm_thread *thread);

/* After a large object, ripe objects or per-CPU memory were freed: purge at once when too much is dirty. */
void slm_worker_note_freed(void);

/* After slabs may have become free, or part of a large object has: the same where address space is scarce. Elsewhere
 * their RAM stays until the working set is known. */
void slm_worker_note_freed_if_scarce(void);

/* After an object was retired, or a function given to slab_epoch_call: it is due within deferred_max_delay_ms. */
void slm_worker_note_deferred(void);

/* A pass over retired objects that age, if one is due; a look at the readers; and ripe objects are freed. `self`: as
 * for slm_retire_pass. */
void slm_worker_do_deferred(struct slm_thread *self);

/* At a thread's birth, when there are several now: see to it that there is a worker. Allocates (a stack). */
void slm_worker_start(void);

/* After a thread's exit: a worker that is alone with one thread ends. */
void slm_worker_thread_gone(void);

/* In the child of a fork: there is no worker. */
void slm_worker_fork_child(void);
