/* The life of the process and of its threads, as the allocator sees it: start, birth, exit, fork.
 *
 *     thread:  none --first slow path--> live --pthread key's destructor--> none, or gone after a few lives
 *
 * First use may come before any constructor, inside ld.so; last use after every destructor. A thread that is gone,
 * one whose birth found no memory, and a signal handler that interrupts its own thread's slow path go to the depots
 * and slabs directly, object by object. */
#pragma once

#include "thread/ownership.h"
#include "thread/reserve.h"

/* The calling thread's block, to be worked on until slm_thread_leave; NULL: go to the depots directly. A free does
 * not bring a thread back that has exited, nor does it bring one to life before it has freed a number of objects: a
 * thread that never allocated frees some of libc's at its very end, under libc's locks and after all destructors. */
struct slm_thread *slm_thread_enter_slow(bool is_alloc);
void slm_thread_tick(struct slm_thread *thread);

/* On machines with several nodes: has the thread come to another one? */
void slm_thread_look_where(struct slm_thread *thread);

/* What signal handlers and other threads have asked of the calling thread; see enum slm_attention. */
void slm_thread_attend(void);

slm_inline struct slm_thread *slm_thread_enter(bool is_alloc)
{
    struct slm_tls *tls = &slm_tls;
    if (unlikely(load_relaxed(&tls->busy) || tls->state != SLM_THREAD_LIVE))
        return slm_thread_enter_slow(is_alloc);
    slm_fork_check();
    slm_thread_claim(tls);
    if (unlikely(slm_nodes > 1))
        slm_thread_look_where(tls->self);
    return tls->self;
}

/* Programs so small that they make few passes never look at the clock. */
enum { SLM_PASSES_A_TICK = 32, SLM_PASSES_BEFORE_TICKS = 256 };

slm_inline void slm_thread_leave(struct slm_thread *thread)
{
    if (unlikely(++thread->passes % SLM_PASSES_A_TICK == 0 && thread->passes >= SLM_PASSES_BEFORE_TICKS))
        slm_thread_tick(thread);
    if (slm_checked)
        slm_thread_check(thread);
    slm_thread_unclaim(thread);
    if (unlikely(load_relaxed(&thread->attention) != 0))
        slm_thread_attend();
}

/* From now on a child of fork() is noticed by the thread that forked, not by the first that passes a slow path. */
void slm_process_watch_forks(void);

/* Is the calling thread live, and sure to have its exit noticed? In a later life it is among its last destructors. */
bool slm_thread_exit_expected(void);

/* True once the process's structures are there; starts them. For the direct ways. */
bool slm_process_started(void);

/* The node whose depots the direct ways use. */
unsigned slm_direct_node(void);

/* Before an object goes straight to its slab: is it a remote free? */
void slm_direct_count(const void *object);
