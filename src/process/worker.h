/* Which thread reclaims memory (process/reclaim.h), and looks after retired objects. In a process with one thread its
 * own slow paths do it; in one with several a worker thread does, whether they are idle or not. */
#pragma once

#include <pthread.h>

#include "page/span_alloc.h"
#include "thread/thread_cache.h"

/* On a thread's slow path, now and then: do what has become due, or tell the worker that threads are active. */
void slm_worker_tick(struct slm_thread *thread);

/* The same of a thread that has not passed many slow paths: the worker looks around for a while. */
void slm_worker_note_active(void);

/* After a large object, ripe objects or per-CPU memory were freed: purge what a fall of use leaves. The caller holds
 * no lock. */
void slm_worker_note_freed(void);

/* The thread has begun to keep large objects (slab/kept.h): the worker should look around for a while. */
void slm_worker_note_kept(void);

/* The same after a large object of so many bytes, if there were many since the last look. Others are seen to
 * by slm_worker_note_slabs. */
void slm_worker_note_large(size_t bytes);

/* After slabs may have become free, or part of a large object has: the same if use has fallen, address space is
 * scarce, or a limit near. And after spans may have been taken: make up for new memory. */
void slm_worker_look_at_spans(void);
slm_inline void slm_worker_note_slabs(void)
{
    if (unlikely(load_relaxed(&slm_span_look_due)))
        slm_worker_look_at_spans();
}

/* In a slow path: there is a command in the mailbox. The worker is to look, or, where there is none, this thread at
 * the end of the slow path (slm_thread_attend). */
void slm_worker_note_mail(struct slm_thread *thread);

/* After an object was retired, or a function given to slab_epoch_call: it is due within deferred_max_delay_ms. */
void slm_worker_note_deferred(void);

/* A pass over retired objects that age, if one is due; a look at the readers; and ripe objects are freed. `self`: as
 * for slm_retire_pass. `all`: retired objects of any age, now. */
void slm_worker_do_deferred(struct slm_thread *self, bool all);

/* The library's pthread_create. */
typedef int (*slm_thread_creator)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

/* Before it creates a thread: see to it that there is a worker, if that is wanted. Allocates. And after that has
 * failed: try again if this returns true, as there is a thread less. */
void slm_worker_thread_comes(bool with_worker, slm_thread_creator create);
bool slm_worker_thread_failed(void);

/* A thread that was not created so, and is not the first, allocates for the first time: the same, in a process where
 * no creation has been seen. */
void slm_worker_thread_found(void);

/* After a thread's exit, also of one without a block; `was_seen`: it is the first, or was seen by one of these. A
 * worker that is alone with one thread ends. It is gone when the call returns, unless it runs the program's functions
 * or destructors, has done so before, or waits for a reader. No lock is held. */
void slm_worker_thread_gone(bool was_seen);

/* A sandbox is near: the library makes no calls by itself but those of every allocation (thread/park.h). If the
 * worker sleeps in one, it wakes up. */
void slm_worker_forbid(void);

/* In the child of a fork: there is no worker. */
void slm_worker_fork_child(void);
