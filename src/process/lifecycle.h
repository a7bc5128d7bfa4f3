/* The life of the process and of its threads, as the allocator sees it: start, birth, exit, fork.
 *
 *     thread:  none --first slow path--> live --pthread key's destructor--> gone
 *
 * The first use may come before any constructor, inside ld.so; the last one after every destructor. A thread that is
 * gone, one whose birth found no memory, and a signal handler that interrupts its own thread's slow path have no
 * block to work on: they use the depots and slabs directly, object by object.
 *
 * Other threads write to the thread-local storage of one that has a block. So a thread gets a block only if its key's
 * destructor is sure to run. libc calls destructors in four rounds, each in the order of the keys. What is set behind
 * its place in the last round is never called. So pthread_create is ours (preload/threads.c), and a thread is *armed*
 * before its function runs: its key is set, and the destructor comes in the first round.
 *
 * Not all threads begin like that. libc makes some itself (for timers, aio, getaddrinfo_a), some programs find
 * pthread_create in libc, and a program that is linked with the archive, or loads the library with a plug-in, has
 * libc's. Such a thread is armed at its first use, by the last of all keys, which has no place behind it. The main
 * thread needs no key, as its storage stays. */
#pragma once

#include "thread/ownership.h"
#include "thread/reserve.h"

/* The calling thread's block, to be worked on until slm_thread_leave; NULL: use the depots directly. A free does not
 * bring a thread back to life that has exited, and brings a new one to life only after a number of frees: a thread
 * that never allocated frees some of libc's objects at its very end, under libc's locks and after all destructors. */
struct slm_thread *slm_thread_enter_slow(bool is_alloc);
void slm_thread_tick(struct slm_thread *thread);

/* On machines with several nodes: notice that the thread runs on another one. */
void slm_thread_look_where(struct slm_thread *thread);

/* Take over what an orphan (thread/thread_list.h) holds: into the depots, at most so many slots of it. When it has
 * none left its block is freed. False: there is none. */
bool slm_process_bury(unsigned slots);

/* Do what signal handlers and other threads have asked of the calling thread; see enum slm_attention. */
void slm_thread_attend(void);

slm_inline struct slm_thread *slm_thread_enter(bool is_alloc)
{
    struct slm_tls *tls = &slm_tls;
    slm_fork_check();
    if (unlikely(load_relaxed(&tls->busy) || tls->state != SLM_THREAD_LIVE))
        return slm_thread_enter_slow(is_alloc);
    slm_thread_claim(tls);
    if (unlikely(slm_nodes > 1))
        slm_thread_look_where(tls->self);
    return tls->self;
}

/* Small programs, with few passes through slow paths, never look at the clock. */
enum { SLM_PASSES_A_TICK = 32, SLM_PASSES_BEFORE_TICKS = 256 };
static_assert(SLM_PASSES_HIDDEN % SLM_PASSES_A_TICK == 0, "hidden ones leave ticks their turn");

slm_inline void slm_thread_leave(struct slm_thread *thread)
{
    if (unlikely(++thread->passes % SLM_PASSES_A_TICK == 0))
        slm_thread_tick(thread);
    slm_thread_worked(thread);
    if (slm_checked)
        slm_thread_check(thread);
    slm_thread_unclaim(thread);
    if (unlikely(load_relaxed(&thread->attention) != 0))
        slm_thread_attend();
}

/* The calling thread, made by the library's pthread_create, begins. */
void slm_thread_begin(void);

/* From now on a fork is noticed in the child by the thread that forked, not by the first thread in a slow path. */
void slm_process_watch_forks(void);

/* Is the calling thread live, and sure to have its exit noticed? */
bool slm_thread_exit_expected(void);

/* Start the process if that has not been done. False: it cannot start, for lack of memory. */
bool slm_process_started(void);

/* A thread without a block takes depots' locks, too. It is busy then, so that its handlers take none. Returns what it
 * was before. */
slm_inline uint8_t slm_direct_begin(void)
{
    const uint8_t before = load_relaxed(&slm_tls.busy);
    store_relaxed(&slm_tls.busy, 1);
    signal_fence();
    return before;
}

slm_inline void slm_direct_end(uint8_t before)
{
    signal_fence();
    store_release(&slm_tls.busy, before); /* as slm_thread_unclaim has it */
}

/* The node whose depots are used without a block. */
unsigned slm_direct_node(void);

/* Count a free without a block, if it is a remote one. */
void slm_direct_count(const void *object);
