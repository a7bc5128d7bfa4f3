/* Parked threads: a thread that has been still for long keeps no rounds. What it held goes back to the slabs.
 *
 * A thread is still when none of its slow paths has ended for twice as long as a purge waits. One that allocates and
 * frees in its hot paths alone looks still, too: it meets a slow path more a second.
 *
 *     look        under the lock of the list: who is still, and holds anything?
 *     stand-ins   a free object for the top round of each of their slots, from slabs whose pages are clean
 *     take        one membarrier: all rounds below the top, `previous` and remote magazines (thread/ownership.h)
 *     exchange    R, the top round, leaves the array; N, a stand-in, takes its place
 *     settle      one membarrier more: R goes where the others went
 *
 * Without the exchange a round would stay in each slot, and pin a page or a slab: for a thread that has used all
 * classes, more than half of what it had. A stand-in pins an address, and no memory.
 *
 * Argument. At most one hot operation is under way when the block is taken, and it touches the top of one slot. A pop
 * moves the top first, and then loads the round above it, in the program's order. `top` is read as t before the
 * exchange, and again after the second barrier, which falls at a point P of the owner's program:
 *
 *   - It is t: no pop has moved it before P. One that is under way moves it after P, and loads the round later still:
 *     it gets N. So R is ours.
 *   - It is t + 1: the one operation was a push. R is ours.
 *   - It is t - 1: a pop has moved it before P, and may have loaded R before the exchange, or N. Nobody knows. The
 *     other one of the two stays out for good. That takes a thread that has stood still in the middle of a pop, and
 *     goes on between the two barriers.
 *
 * The array stays, as the operation under way may read t[-1] and write t[0]. Machines that do not keep two stores in
 * order need a barrier between reading t and the exchange: a push may have raised the top while its store of the
 * round is on its way, and that store would come over N. For the same reason there is no exchange where the slot was
 * empty at first, nor where the top has fallen since. test/model has a model of this.
 *
 * The owner finds its block parked (slm_parked) in the first slow path that it gets to, and it gets to one by
 * whatever it does. There it gives the stand-ins back, unused, and begins anew: targets are as before, so that it
 * refills in whole magazines. Until then the thread is passed over.
 *
 * Named caches have no stand-ins: their top rounds stay, as do all reserves. In a child of fork what was taken from
 * the thread that forked, and has not come to its slab, is lost. */
#pragma once

#include "thread/ownership.h"

/* The worker, or a slow path in its place: park who is still, once in a while. Gives the RAM back that this has made
 * free. True if another pass has to follow: a thread was active, or has not been still for long enough yet. */
bool slm_park_pass(uint64_t now_ms);

/* Take from all threads but the caller, still or not. The caller is in no slow path. `wait`: for the cache mutex, and
 * an eighth of a second at most for threads in slow paths; else nothing is taken from these, nor while another
 * thread has the mutex. */
void slm_park_all(bool wait);

/* A sandbox is near: nobody is parked any more, as the calls for that may end the process. No pass is under way when
 * this returns, or one has taken a tenth of a second. */
void slm_park_forbid(void);
