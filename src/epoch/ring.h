/* The deferred-free ring: what is retired, and waits for its grace period. One a node.
 *
 *     ring: | segment 0 | segment 1 | segment 2 | segment 3 | ripe |
 *
 *     segment: stamp, and a chain each of    magazines   full of retired objects of one cache, or mixed
 *                                            heads       inside their objects, for which there was no magazine
 *                                            functions   slab_epoch_call's heads
 *                                            large       objects, by their descriptors
 *
 * A stamp that has not passed is that of the grace period under way or the next one, so that four segments, each for
 * the stamps that are alike modulo four, are more than enough: who puts something into a segment that has an older
 * stamp finds its grace period over, and moves what is there to `ripe`, by a pointer a chain. (The kernel's segmented
 * callback lists do the same.) Functions are all on the first ring, so that they keep their order.
 *
 * A magazine that is ripe enters its depot's stock as it is, in one exchange: its rounds are not looked at. Heads,
 * large objects and mixed magazines are freed one by one.
 *
 * Hands. What has been taken off a ring and is not freed yet is in somebody's hands: counted, so that a barrier can
 * wait for it. There are two counts, of which one grows at a time: a barrier makes it the other one, so that the
 * first comes to zero although ripe things are taken all the time. A taker counts before it locks the ring: a barrier
 * that has locked the ring behind it sees the count. */
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
void slm_ring_start(void);

/* Retire; the caller has made it unreachable for readers that enter a section from now on. Counted from here on,
 * until it is freed. Any thread; takes the ring's lock. */
void slm_ring_put_magazine(unsigned node, struct slm_magazine *magazine);
void slm_ring_put_head(unsigned node, struct slm_epoch_head *head, void *object);
void slm_ring_put_large(unsigned node, struct slm_large *large);

/* One object of the heap that is no span, without a magazine of the thread's: into one of the ring's. False: there is
 * no memory for that. And: let those magazines wait with the others, however full. */
bool slm_ring_put_object(unsigned node, void *object);
void slm_ring_put_open_away(void);

void slm_ring_put_function(struct slm_epoch_head *head, void (*function)(struct slm_epoch_head *head));

/* A magazine for retired objects, so many at least; NULL: there is no memory, or a test has it so. */
struct slm_magazine *slm_ring_make_block(uint32_t rounds);

/* A copy of n rounds of the cache with this number. How many it is: all, or what the last block has room for, or
 * none.
 */
size_t slm_ring_put_rounds(unsigned node, unsigned number, void *const *rounds, size_t n);

/* Objects and bytes on all rings and in hands; figures. */
extern slm_hidden _Atomic uint64_t slm_ring_objects, slm_ring_bytes;

/* The size of an object of the heap that is no span. */
uint64_t slm_ring_bytes_of(const void *object);

/* The most bytes that should wait. How often threads waited since more did, and magazines and the like were put here
 * all the same; objects left unfreed for want of memory. */
uint64_t slm_ring_limit_bytes(void);
extern slm_hidden _Atomic uint64_t slm_ring_waits, slm_ring_excesses, slm_ring_unfreed;

/* Free what is ripe on the node's ring, at most so many magazines and the like; false: there was nothing. No lock is
 * held. The call's own way for objects of the heap that are no spans and that nobody reads: their slabs. */
bool slm_ring_ripen(unsigned node, unsigned most);
void slm_ring_free_objects(void *const *objects, unsigned n);

/* The same on all rings, and everything. */
bool slm_ring_ripen_all(void);

/* Wait until what is in other threads' hands now is freed. */
void slm_ring_await_hands(void);

/* Call the functions that are due, unless some thread is at it already; true: one was called. Not inside a section;
 * no lock is held, and the calling thread works on no block. */
bool slm_ring_call_functions(void);

/* Is the calling thread inside such a function? */
bool slm_ring_is_calling(void);

/* How many were ever put, and wait to be called; wait until so many have been, and call them if nobody does. */
uint64_t slm_ring_functions_put(void);
uint64_t slm_ring_functions_waiting(void);
void slm_ring_await_functions(uint64_t put);

/* In the child of a fork. */
void slm_ring_fork_child(void);

/* Walk all rings and stop the process when something does not add up. */
void slm_ring_check(void);
