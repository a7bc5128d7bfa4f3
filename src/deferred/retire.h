/* A thread's retired magazines, in the slots of the second half of its block (thread/slots.h).
 *
 *     closed --first push--> open --full--> on the queue (deferred/defer_queue.h), and the next one is open
 *                            open --aged--> closed, a copy of its rounds on the queue
 *
 * The hot path of slab_free_deferred (heap/deferred.h) pushes into an open magazine. A full one is put on the node's
 * queue by its owner. One that does not fill up ages: passes come several times in a deferred_max_delay_ms, and each
 * takes the rounds out of all slots, of any thread, that have been open since the pass before, and closes them.
 *
 * Closing a slot that its owner may be using. A taker (thread/ownership.h) finds at most one push under way. That
 * push stores its object at the top that it has read, and then raises `top` by one, with a release. So all rounds
 * below the top that the taker reads are whole, and were unreachable before. The taker moves `bottom` and `limit` to
 * that top, and leaves the array to the owner, who may be writing into it. If the push ends later, it leaves one
 * round above `limit`. The next push takes the slow path, as a slot takes rounds only while top is *below* limit. A
 * later pass finds the one round: passes look for about a second after the thread's last slot was closed. A push is
 * two stores, and takes longer only if its thread is stopped in between. Then the round waits for the slot's next
 * use, the thread's end, or a barrier.
 *
 * Without membarrier(2) nobody could take what ages, so objects go to the queue one by one
 * (slm_defer_queue_put_object). If membarrier is refused later, rounds in other threads' magazines wait for these.
 * A pass that finds no memory for a copy leaves the rounds where they are; the next pass tries again. */
#pragma once

#include "deferred/defer_queue.h"
#include "thread/ownership.h"

/* The owner, in a slow path: retire a small object. False: there is no memory for a magazine. */
bool slm_retire_push(struct slm_thread *thread, size_t slot_offset, void *object);

/* The owner, in a slow path or at its end: put on the queue what its slots hold. Needs no memory. */
void slm_retire_empty_slots(struct slm_thread *thread);

/* Bytes and objects in a thread's retired magazines; figures. */
struct slm_retired_sums {
    uint64_t objects, bytes;
};
void slm_retire_count(struct slm_thread *thread, struct slm_retired_sums *sums);

/* A pass: put on the queue what has been open in any thread since the last pass, or (`all`) everything there is.
 * `self` is the calling thread's block, on which it is in a slow path; NULL: it has none. Returns how many threads
 * with retired objects were missed, being in a slow path, and one more if there was no memory for some rounds.
 * `*open`: another pass has to follow. Takes the lock of the list of threads. */
unsigned slm_retire_pass(struct slm_thread *self, bool all, bool *open);
