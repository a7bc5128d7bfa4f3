/* The deferred-free queue: retired objects that wait for their grace period. There is one for each node. Its four
 * segments are the deferred-free ring of the library's design.
 *
 *     queue: | segment 0 | segment 1 | segment 2 | segment 3 | ripe |
 *
 *     segment: a stamp, and four chains:     magazines   of retired objects of one cache, or mixed
 *                                            heads       inside objects for which there was no magazine
 *                                            large       objects, by their descriptors
 *                                            functions   heads that slab_epoch_call was given
 *
 * What is put on the queue is stamped (slm_epoch_stamp), and goes into the segment of its stamp modulo four. Only two
 * stamps can still be waiting: that of the grace period under way, and the next one. So if a segment is needed that
 * has an older stamp, that one has passed, and the segment's chains move to `ripe`, each by a pointer. The kernel's
 * segmented callback lists do the same. All functions are on the first queue, so that they keep their order.
 *
 * A ripe magazine enters its depot's stock as it is, in one exchange; its rounds are not examined. Heads, large
 * objects and mixed magazines are freed one by one.
 *
 * Freers. A thread that has taken things off a queue, and has not freed them all yet, is a freer. Freers are counted,
 * so that a barrier can wait for them. There are two counts, of which one grows at a time. A barrier lets the other
 * one grow, so that the first comes to zero although there are new freers all the time. A freer is counted before it
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

/* Once, at start, in builds that use ranks. */
void slm_defer_queue_start(void);

/* Put on the queue what readers that enter a section from now on cannot reach. It is counted until it is freed. Any
 * thread; takes the queue's lock. */
void slm_defer_queue_put_magazine(unsigned node, struct slm_magazine *magazine);
void slm_defer_queue_put_head(unsigned node, struct slm_epoch_head *head, void *object);
void slm_defer_queue_put_large(unsigned node, struct slm_large *large);
void slm_defer_queue_put_function(struct slm_epoch_head *head, void (*function)(struct slm_epoch_head *head));

/* The same for one small object: it goes into a magazine that is on the queue. False: there is no memory for one. */
bool slm_defer_queue_put_object(unsigned node, void *object);

/* A magazine for that many retired objects; NULL: there is no memory, or a test refuses it. */
struct slm_magazine *slm_defer_queue_make_magazine(uint32_t rounds);

/* Put a copy of n rounds of the cache on the queue, and raise `*bottom` past them. Returns how many were put:
 * without memory, as many as the queues' last block has room for, or none if that is in use. They are counted
 * before `*bottom` is raised, so that a barrier misses none, and on the queue after that: a child of a fork in
 * between has lost them, and never has them twice. */
size_t slm_defer_queue_take_rounds(unsigned node, unsigned cache_id, void ***bottom, size_t n);

/* Objects and bytes on all queues, or with freers; figures. */
extern slm_hidden _Atomic uint64_t slm_defer_queue_objects, slm_defer_queue_bytes;

/* The most bytes that should wait. Figures: how often threads then waited, or could not; and how
 * many objects stayed unfreed for want of memory. */
uint64_t slm_defer_queue_limit_bytes(void);
extern slm_hidden _Atomic uint64_t slm_defer_queue_waits, slm_defer_queue_excesses, slm_defer_queue_unfreed;

/* Free what is ripe on the node's queue, at most `batch` magazines, heads and large objects each, or all that is ripe
 * on any queue; false: there was nothing. No lock is held. */
bool slm_defer_queue_ripen(unsigned node, unsigned batch);
bool slm_defer_queue_ripen_all(void);

/* Wait until all threads that are freers now have freed what they took. */
void slm_defer_queue_await_freers(void);

/* Call the functions that are due, unless a thread is calling them already; true: one was called. Not inside a
 * section; no lock is held, and the calling thread's block is not claimed. */
bool slm_defer_queue_call_functions(void);

/* Is the calling thread inside such a function? */
bool slm_defer_queue_is_calling(void);

/* How many wait to be called; and wait until all of them have been called, and call them if no other thread does. */
uint64_t slm_defer_queue_functions_waiting(void);
void slm_defer_queue_await_functions(void);

void slm_defer_queue_fork_child(void);

/* Stop the process if there is more on a queue than was counted. */
void slm_defer_queue_check(void);
