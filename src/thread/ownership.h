/* The ownership of a thread's block: its thread works on it, or for a moment another one that takes from it.
 *
 * The owner's hot paths need the block between two instructions only. All longer work is done between a claim and its
 * end, which keep out a signal handler that interrupts the owner, and a taker. A taker works on the blocks of threads
 * that keep running, at one membarrier(2) for all of them and at no cost to their hot paths. Shrinking, tuning and
 * destroying a cache need that, and limits, and retired objects that wait in partly filled magazines.
 *
 *     taker                                    owner
 *       hot: block -> slm_taken (exchange)       hot path: load hot; then at most one pop or push
 *       membarrier                               claim:    busy = 1; load hot; if taken: wait; else hot = nothing
 *       busy is 0, and then hot still taken?     end:      hot = block; busy = 0
 *         then work on the block
 *       hot: slm_taken -> what it was
 *
 * Argument. The barrier falls at one point of the owner's program. What the owner did before that point the taker
 * sees afterwards; after it the owner sees slm_taken.
 *
 *   - A hot operation that begins after the point finds no magazine and goes to the slow path. One may have begun
 *     before the point and not ended yet. So at most one pop or push is under way, and it touches the top alone
 *     (thread/slots.h). The taker reads `top` once, leaves the round below it, and takes those that lie deeper by
 *     raising `bottom`: a pop under way ends with top == bottom, a push above. In a limited cache pops are marked
 *     (heap/cache_object.h), and the taker leaves a round only if the mark says that a pop is under way. The top
 *     round may then be that of a push under way: on machines other than x86 a second barrier shows it.
 *   - A claim that begins after the point waits. One that began before and has not ended has set `busy` before the
 *     point: the taker sees that, and leaves this thread alone. One that has ended between the exchange and the
 *     point had loaded hot before the exchange (else it would have waited), and its end has stored the block over
 *     slm_taken: the taker sees that, as it reads hot after busy. A claim that begins before the point and ends after
 *     it is seen by one or the other.
 *   - Keys (slab/key.h) need no order of their own, as only who holds an object writes it. A push sets the key, then
 *     stores the round, then top; a pop has taken the round before it clears the key. What a taker takes was pushed
 *     before the point, or its top was seen before the second barrier (x86 keeps the three stores in order): the key
 *     is there when the round is. So nothing that a thread has written to an object comes after what the next holder
 *     writes.
 *
 * So a thread is taken from or missed, and nobody waits for an owner, which may be stopped in the middle of anything.
 * A caller that needs all threads tries again.
 *
 * One thread takes at a time: the one with the lock of the list of threads. Threads are linked and unlinked under
 * that lock, so that a block and its owner's TLS are valid meanwhile. In the child of a fork a taker may be missing:
 * the child's one thread takes slm_taken off itself. Without membarrier nothing is taken; SLM_ATTEND_RECALL asks each
 * owner to put everything back in its next slow path.
 *
 * On arm64 a hot path's load of a slot depends on its load of hot, which orders them. test/model has a model
 * of this. */
#pragma once

#include "thread/thread_list.h"

/* The owner has found its block taken: wait until that is over. Or it has found it parked: it is not any more. */
void slm_take_wait(void);

/* The owner: keep handlers and takers out of the calling thread's block. */
slm_inline void slm_thread_claim(struct slm_tls *tls)
{
    for (;;) {
        store_relaxed(&tls->busy, 1);
        signal_fence(); /* pairs with the barrier of slm_take_from_all */
        if (likely(!slm_hot_stops(__atomic_load_n(&tls->hot, __ATOMIC_ACQUIRE)))) /* sees what a taker has done */
            break;
        store_release(&tls->busy, 0);
        slm_take_wait();
    }
    slm_shared_store(&tls->hot, slm_nothing);
    signal_fence(); /* pairs with the one in slm_thread_unclaim: a handler stays out of the block meanwhile */
}

/* The end of a claim. `thread`: the block. */
slm_inline void slm_thread_unclaim(struct slm_thread *thread)
{
    signal_fence();
    slm_shared_store(&slm_tls.hot, thread);
    store_release(&slm_tls.busy, 0); /* pairs with slm_take_from_all */
}

/* For work on all threads' blocks: claim the caller's, NULL if it has none; handlers of its own are kept out in both
 * cases. The caller may hold the cache mutex: no user's code runs at the end. It counts as so many passes. */
enum { SLM_PASSES_HIDDEN = 32 };
struct slm_thread *slm_thread_hide(void);
void slm_thread_unhide(struct slm_thread *thread);

struct slm_take {
    /* Is the thread of interest? Reads without any order. */
    bool (*wants)(struct slm_thread *thread, void *context);
    /* Works on a block that is taken; no lock of lower rank than a depot's, no waiting. */
    void (*work)(struct slm_thread *thread, void *context);
    /* NULL, or further work on all of them, each after one more barrier; up to a NULL. None after one that fails. */
    void (*const *more)(struct slm_thread *thread, void *context);
    /* NULL, or called once while all that could be taken are, before the first is worked on. */
    void (*still)(void *context);
    void *context;
    bool always; /* issue the barrier even where no thread has anything */
    bool insist; /* ask missed threads to pause after their slow path, where another attempt finds them */
};

/* Do so to all threads except the caller, which is in a slow path (so that its own handlers keep out). Returns how
 * many of interest were missed. Takes the lock of the list of threads. */
unsigned slm_take_from_all(const struct slm_take *take);

/* In `still`: has the thread been taken? All of what it has done is seen, and it does nothing. */
bool slm_take_has(const struct slm_thread *thread);

/* Ask all threads except the caller for everything they hold, at their next slow path. Returns the
 * recall's number. */
uint32_t slm_take_recall(void);

/* The latest recall that every thread has attended to. */
uint32_t slm_take_recalled(void);

/* The owner, outside of its slow path, has been asked to pause: until the next attempt, or a few milliseconds. */
void slm_take_pause(void);

/* In the child of a fork, on its one thread: the taker does not exist. */
void slm_take_fork_child(void);

/* The thread may be lost in a fork, or have gone without being unlinked, by a bare exit(2), or out of a signal
 * handler that came into its slow path. Then `thread->tls` is a stand-in from here on, and what it was at work on is
 * forgotten. Under the lock of the list. */
void slm_thread_look_if_gone(struct slm_thread *thread);
