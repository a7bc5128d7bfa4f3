/* The deferred-free queue: what is retired, and waits for its grace period. There is one for each node. Its four
 * segments are the deferred-free ring of the library's design.
 *
 *     queue: | segment 0 | segment 1 | segment 2 | segment 3 | ripe |
 *
 *     segment: stamp, and a chain each of    magazines   full of retired objects of one cache, or mixed
 *                                            heads       inside their objects, for which there was no magazine
 *                                            functions   slab_epoch_call's heads
 *                                            large       objects, by their descriptors
 *
 * A stamp that has not passed is that of the grace period under way or the next one, so that four segments, each for
 * the stamps that are alike modulo four, are more than enough: who puts something into a segment that has an older
 * stamp finds its grace period over, and moves what is there to `ripe`, by a pointer a chain. (The kernel's segmented
 * callback lists do the same.) Functions are all on the first queue, so that they keep their order.
 *
 * A magazine that is ripe enters its depot's stock as it is, in one exchange: its rounds are not looked at. Heads,
 * large objects and mixed magazines are freed one by one.
 *
 * Freers. A thread that has taken things off a queue, and has not freed them all yet, is a freer. Freers are counted,
 * so that a barrier can wait for them. There are two counts, of which one grows at a time: a barrier makes it the
 * other one, so that the first comes to zero although there are new freers all the time. A freer is counted before it
 * locks the queue: a barrier that locks the queue after it sees the count. */
#pragma once

#include "base/magazine.h"
#include "depot/cache.h"
#include "slab/large.h"

/* slab_epoch_head, and what the library keeps in it. */
struct slm_epoch_head {
    struct slm_epoch_head *next;
    union {
        void *object;
        void (*function)(struct slm_epoch_head *head);
    };
};

/* Once, at start. */
void slm_defer_queue_start(void);

/* Retire; the caller has made it unreachable for readers that enter a section from now on. Counted from here on,
 * until it is freed. Any thread; takes the queue's lock. */
void slm_defer_queue_put_magazine(unsigned node, struct slm_magazine *magazine);
void slm_defer_queue_put_head(unsigned node, struct slm_epoch_head *head, void *object);
void slm_defer_queue_put_large(unsigned node, struct slm_large *large);

/* One object of the heap that is no span, without a magazine of the thread's: into one of the queue's. False: there
 * is no memory for that. */
bool slm_defer_queue_put_object(unsigned node, void *object);

void slm_defer_queue_put_function(struct slm_epoch_head *head, void (*function)(struct slm_epoch_head *head));

/* A magazine for retired objects, so many at least; NULL: there is no memory, or a test has it so. */
struct slm_magazine *slm_defer_queue_make_block(uint32_t rounds);

/* A copy of n rounds of the cache with this number. How many it is: all, or what the last block has room for, or
 * none.
 */
size_t slm_defer_queue_put_rounds(unsigned node, unsigned number, void *const *rounds, size_t n);

/* Objects and bytes on all queues, or with freers; figures. */
extern slm_hidden _Atomic uint64_t slm_defer_queue_objects, slm_defer_queue_bytes;

/* The size of an object of the heap that is no span. */
uint64_t slm_defer_queue_bytes_of(const void *object);

/* The most bytes that should wait. How often threads waited since more did, and magazines and the like were put here
 * all the same; objects left unfreed for want of memory. */
uint64_t slm_defer_queue_limit_bytes(void);
extern slm_hidden _Atomic uint64_t slm_defer_queue_waits, slm_defer_queue_excesses, slm_defer_queue_unfreed;

/* Free what is ripe on the node's queue, at most so many magazines and the like; false: there was nothing. No lock is
 * held. The call's own way for objects of the heap that are no spans and that nobody reads: their slabs. */
bool slm_defer_queue_ripen(unsigned node, unsigned batch);
void slm_defer_queue_free_objects(void *const *objects, unsigned n);

/* The same on all queues, and everything. */
bool slm_defer_queue_ripen_all(void);

/* Wait until all threads that are freers now have freed what they took. */
void slm_defer_queue_await_freers(void);

/* Call the functions that are due, unless some thread is at it already; true: one was called. Not inside a section;
 * no lock is held, and the calling thread works on no block. */
bool slm_defer_queue_call_functions(void);

/* Is the calling thread inside such a function? */
bool slm_defer_queue_is_calling(void);

/* How many wait to be called; wait until all those have been, and call them if nobody does. */
uint64_t slm_defer_queue_functions_waiting(void);
void slm_defer_queue_await_functions(void);

/* In the child of a fork. */
void slm_defer_queue_fork_child(void);

/* Walk all queues and stop the process when something does not add up. */
void slm_defer_queue_check(void);
