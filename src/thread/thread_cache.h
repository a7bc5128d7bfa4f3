/* What a thread does with its slots (thread/slots.h): refill an empty magazine from below, drain a full one downward,
 * adapt their sizes to what is needed. `number` is a cache's, a size class's is its class.
 *
 * All functions here run on the thread that owns the block, between slm_thread_enter and slm_thread_leave (floor
 * heap). */
#pragma once

#include "thread/remote.h"

/* An object of the cache whose magazine is empty; NULL and ENOMEM, or EAGAIN from slm_depot_fill. */
void *slm_thread_refill(struct slm_thread *thread, unsigned cache_id);

/* An object from the magazine, refilled if it is empty. */
void *slm_thread_pop(struct slm_thread *thread, unsigned cache_id);

/* Make room in the cache's full magazine and push an object. */
void slm_thread_drain(struct slm_thread *thread, unsigned cache_id, void *object);

/* Push an object, the magazine full or not. */
void slm_thread_push(struct slm_thread *thread, unsigned cache_id, void *object);

/* Up to n objects from the magazines and whole ones of the depot's stock, then from slabs; fewer, even 0, with errno
 * as slm_thread_refill. */
size_t slm_thread_pop_bulk(struct slm_thread *thread, unsigned cache_id, size_t n, void **out);

/* Free an object of the cache: push it, or, if it is another node's, leave it to a remote magazine. */
void slm_thread_free(struct slm_thread *thread, unsigned cache_id, void *object);

/* Push n objects of the cache, none NULL. */
void slm_thread_push_bulk(struct slm_thread *thread, unsigned cache_id, size_t n, void *const *objects);

/* Push those of n objects that lie in the same granule as the first, up to the first that does not, or as many as
 * there is room for; at least the first. How many. The look costs next to nothing while they are copied. */
size_t slm_thread_push_run(struct slm_thread *thread, unsigned cache_id, size_t n, void *const *objects);

enum slm_whereto { SLM_TO_DEPOT, SLM_TO_SLABS };

/* Put all rounds of the cache back, and forget how large its magazines were. */
void slm_thread_empty_class(struct slm_thread *thread, unsigned cache_id, enum slm_whereto whereto);

/* The same for all caches. */
void slm_thread_empty(struct slm_thread *thread, enum slm_whereto whereto);

/* Halve the magazines of caches that have not been missed since the last look. */
void slm_thread_adapt(struct slm_thread *thread);

/* The thread runs on another node from now on: what it holds goes to the depots of the one that it comes from. */
void slm_thread_move(struct slm_thread *thread, unsigned node);

/* Stop the process when a slot is not as it should be. */
void slm_thread_check(struct slm_thread *thread);
