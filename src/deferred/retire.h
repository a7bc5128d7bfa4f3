/* A thread's retired magazines: by the place of its objects' cache, as its other ones (thread/slots.h, second half).
 *
 *     closed --slm_retire_push--> open --full, or aged--> on the queue (deferred/defer_queue.h)
 *
 * The hot path of slab_free_deferred (heap/deferred.h) pushes into an open one. When it is full, the owner puts it on
 * its node's queue and opens another. What does not fill up ages: in a pass, which comes several times in a
 * deferred_max_delay_ms, whoever makes it takes the rounds out of all slots that have stood open since the pass
 * before, its own and other threads', and closes these.
 *
 * Closing under the owner's eyes. A taker (thread/ownership.h) finds at most one push under way, which stores its object
 * at the top that it has read, and then raises `top` by one, with a release: so what lies below the top that the
 * taker reads is whole, and was unreachable before, the push's own round too if it shows. The taker moves `bottom`
 * and `limit` to that top; a push that comes to its end later leaves one round above a limit that it has passed, and
 * the next one goes to the slow path, as a slot takes while top is *below* limit. That one round is found by a later
 * pass: there are some for about a second after the thread's last slot was closed. A push, two stores, takes longer
 * only if its thread is stopped in between; then the round waits for the slot's next use, the thread's end, or a
 * barrier. The array stays the slot's: a push may be writing into it.
 *
 * Without membarrier(2) nobody could take what ages: then retired objects go to the queue one by one
 * (slm_defer_queue_put_object). If it is refused later, what other threads have in their magazines waits for them.
 *
 * Where there is no memory for a copy, a pass leaves rounds where they are: the next one tries again. */
#pragma once

#include "deferred/defer_queue.h"
#include "thread/ownership.h"

/* The owner of the block, in a slow path: retire an object of the heap that is no span. False: there is no memory for
 * a magazine, and the object is as it was. */
bool slm_retire_push(struct slm_thread *thread, size_t place, void *object);

/* The owner, in a slow path, or at its end: what its slots hold goes to the queue. Needs no memory. */
void slm_retire_empty_slots(struct slm_thread *thread);

/* Bytes and objects in a thread's retired magazines; figures. */
struct slm_retired_sums {
    uint64_t objects, bytes;
};
void slm_retire_count(struct slm_thread *thread, struct slm_retired_sums *sums);

/* A pass: put on the queue what has stood open in any thread since the last pass, or (`all`) everything there is.
 * `self`: the calling thread's block, on which it is in a slow path; NULL: it has none. How many threads that hold
 * something were missed (in the middle of a slow path), or could not be relieved of everything. `*open`: another pass
 * has to follow. Takes the lock of the list of threads. */
unsigned slm_retire_pass(struct slm_thread *self, bool all, bool *open);
