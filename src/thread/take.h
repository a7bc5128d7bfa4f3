/* Taking from other threads: working on the blocks of threads that are not looking, at one membarrier(2) for all of
 * them, and nothing on their hot paths. Shrinking, tuning and destroying a cache need it, and limits.
 *
 *     taker                                          owner
 *       hot: block -> slm_taken (exchange)             hot path: loads hot, then at most one pop or push
 *       membarrier                                     enter:    busy = 1; loads hot; taken: waits; else hot =
 * nothing busy is 0, then hot is still taken?            leave:    hot = block; busy = 0 works on the block hot =
 * what it was
 *
 * Argument. The barrier falls at one point of the owner's program. What the owner did before that point the taker
 * sees afterwards; after it the owner sees slm_taken.
 *   - A hot operation that begins after the point finds no magazine and goes to the slow path. One may have begun
 *     before and may not have ended, perhaps for long: so at most one pop or push is under way, and it touches the
 *     top alone (thread/slots.h). The taker reads `top` once, leaves the round below it, and takes those that lie
 *     deeper by raising `bottom`: a pop under way ends with top == bottom, a push above.
 *   - A slow path that begins after the point waits. One that began before and has not ended has set `busy` before
 *     the point: seen, and the taker leaves this thread alone. One that has ended between the exchange and the point
 *     has loaded hot before the exchange (else it would have waited), and its leave has stored the block over
 *     slm_taken: seen, as hot is read after busy. One that begins before the point and ends after it is seen by
 * either. So a thread is taken from or missed; nobody waits for an owner, who may be stopped in the middle of
 * anything. Who must have them all tries again. A thread with a closed cache's call under way says so in `counting`.
 *
 * Only one takes at a time: the lock of the list of threads, under which threads are also born and unlinked, so that
 * a block and its owner's TLS are valid meanwhile. In the child of a fork a taker may be missing: the child's one
 * thread takes slm_taken off itself. Where membarrier is missing nothing is taken; SLM_ATTEND_RECALL asks each owner
 * to put everything back at its next slow path.
 *
 * On arm64 a hot path's load of a slot depends on its load of hot, which orders them. A model of this is checked by
 * test/model. */
#pragma once

#include "thread/thread_list.h"

/* The owner has found itself taken: wait until that is over. */
void slm_take_wait(void);

/* The owner: keep handlers and takers out of the calling thread's block. */
slm_inline void slm_thread_claim(struct slm_tls *tls)
{
    for (;;) {
        store_relaxed(&tls->busy, 1);
        signal_fence(); /* pairs with the barrier of slm_take_from_all */
        if (likely(__atomic_load_n(&tls->hot, __ATOMIC_ACQUIRE) != slm_taken)) /* sees what a taker has done */
            break;
        store_release(&tls->busy, 0);
        slm_take_wait();
    }
    slm_thread_unload(tls);
    signal_fence(); /* pairs with the one in leave: a handler stays out of the block while it is worked on */
}

/* For work on all threads' blocks: the caller's, NULL if it has none, and no handler of its own interferes. It may
 * hold the cache mutex meanwhile: no user's code runs at the end. */
struct slm_thread *slm_thread_hide(void);
void slm_thread_unhide(struct slm_thread *thread);

struct slm_take {
    /* Is there anything of interest? Called without any order; NULL: always. */
    bool (*wants)(struct slm_thread *thread, void *context);
    /* Works on a block that is taken; no lock of lower rank than a depot's, no waiting. */
    void (*work)(struct slm_thread *thread, void *context);
    void *context;
    bool always; /* issue the barrier even where no thread has anything */
    bool insist; /* ask those that are missed to pause behind their slow path, where another attempt finds them */
};

/* Do it to all threads but the caller's, who is in a slow path (so that a handler of its own keeps out). Returns how
 * many were missed, of those that wanted. Takes the lock of the list of threads. */
unsigned slm_take_from_all(const struct slm_take *take);

/* Ask all threads but the caller's for everything they hold, at their next slow path. Returns the recall's number. */
uint32_t slm_take_recall(void);

/* The latest recall that every thread has attended to. */
uint32_t slm_take_recalled(void);

/* The owner, outside of its slow path, has been asked to pause: for an attempt, or some milliseconds. */
void slm_take_pause(void);

/* In the child of a fork, on its one thread: the taker does not exist, and what other threads held of named caches is
 * lost, and no longer counted. Before slm_thread_list_fork_child. */
void slm_take_fork_child(void);

enum slm_take_how {
    SLM_TAKE_SPARE,      /* all but the top rounds */
    SLM_TAKE_INSISTING,  /* the same, and missed threads are asked to pause */
    SLM_TAKE_EVERYTHING, /* nobody uses the cache: to the last round, and slots, reserves and windows too; insisting
                          */
};

/* Rounds of one cache. */
struct slm_take_rounds {
    struct slm_cache *cache;
    enum slm_take_how how;
    struct slm_magazine *taken; /* by their `next`: to be handed on */
    bool doubtful;              /* a pop of a limited cache was under way: it has a round, or has left one */
};

unsigned slm_take_rounds(struct slm_take_rounds *rounds, bool always);

/* The owner's part of it: take all there is of the cache out of the caller's own block. */
void slm_take_own(struct slm_thread *thread, struct slm_take_rounds *rounds);
