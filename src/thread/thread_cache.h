/* What a thread does with its slots (thread/slots.h): refill an empty magazine from the depot, drain a full one into
 * it, adapt their sizes to what is needed. All functions here run on the thread that owns the block, between
 * slm_thread_enter and slm_thread_leave (process/lifecycle.h). */
#pragma once

#include "slab/key.h"
#include "thread/remote.h"

/* An object of the cache whose loaded magazine is empty; NULL and errno as slm_depot_fill. */
void *slm_thread_refill(struct slm_thread *thread, unsigned cache_id);

/* An object, from the loaded magazine if it has one. */
void *slm_thread_pop(struct slm_thread *thread, unsigned cache_id);

/* Push an object whose loaded magazine is full. */
void slm_thread_drain(struct slm_thread *thread, unsigned cache_id, void *object);

/* Push an object, the magazine full or not. */
void slm_thread_push(struct slm_thread *thread, unsigned cache_id, void *object);

/* Up to n objects from the magazines and whole ones of the depot's stock, then from slabs; fewer, even 0, with errno
 * as slm_thread_refill. Their keys are cleared. */
size_t slm_thread_pop_bulk(struct slm_thread *thread, unsigned cache_id, size_t n, void **out);

/* Free an object of the cache: push it, or, if it is another node's, leave it to a remote magazine. */
void slm_thread_free(struct slm_thread *thread, unsigned cache_id, void *object);

/* Push the first of n keyed objects and those after it that lie in the same granule, are objects and not free, up to
 * the first that is not so, or as many as there is room for. Returns how many, even 0. */
size_t slm_thread_push_run(struct slm_thread *thread, unsigned cache_id, size_t n, void *const *objects);

enum slm_whereto { SLM_TO_DEPOT, SLM_TO_SLABS };

/* Put all rounds of the cache back, and forget how large its magazines were; and the same for all caches. */
void slm_thread_empty_slot(struct slm_thread *thread, unsigned cache_id, enum slm_whereto whereto);
void slm_thread_empty(struct slm_thread *thread, enum slm_whereto whereto);

/* The thread ends, and leaves its block to another one: put back what is not for that, which is all of named caches,
 * as they may be destroyed, and have limits, and much of a class. Returns the bytes that stay. */
size_t slm_thread_leave_behind(struct slm_thread *thread);

/* Halve the magazines of caches that have not been missed since the last look. */
void slm_thread_adapt(struct slm_thread *thread);

/* Memory is short of what others could do without: classes that have not missed a round since the last call put
 * theirs into their slabs. */
void slm_thread_cool(struct slm_thread *thread);

/* The thread runs on another node from now on: what it holds goes to the depots of the nodes where it lies. */
void slm_thread_move(struct slm_thread *thread, unsigned node);

/* Stop the process if a slot's cursors are not in order. */
void slm_thread_check(struct slm_thread *thread);
