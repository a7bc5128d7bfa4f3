/* C11's atomics under short names. A use's comment names its partner; a relaxed one without is a figure that
 * may lag. */
#pragma once

#include <stdatomic.h>

#include "base/compiler.h"

#define load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define sub_relaxed(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_relaxed)

/* Orders this thread against a signal handler that runs on it; no instruction. */
#define signal_fence() atomic_signal_fence(memory_order_seq_cst)

/* A fence among all threads that execute it. ThreadSanitizer knows only atomic operations, so there it is one. */
slm_inline void slm_fence(void)
{
#ifdef __SANITIZE_THREAD__
    static _Atomic int nothing;
    atomic_fetch_add(&nothing, 0);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* Compare and exchange, atomic only against signal handlers on this thread: on x86 no lock prefix is needed. */
slm_inline bool slm_signal_exchange(_Atomic uint32_t *word, uint32_t expected, uint32_t wanted)
{
#if (defined(__x86_64__) || defined(__i386__)) && !defined(__SANITIZE_THREAD__)
    bool done;
    __asm__ volatile("cmpxchgl %3, %1" : "=@ccz"(done), "+m"(*word), "+a"(expected) : "r"(wanted) : "memory");
    return done;
#else
    return atomic_compare_exchange_strong_explicit(word, &expected, wanted, memory_order_relaxed,
                                                   memory_order_relaxed);
#endif
}

/* Orders earlier plain stores before later ones, as seen by a child that another thread forks. */
slm_inline void slm_store_fence(void)
{
#ifdef __SANITIZE_THREAD__
    signal_fence();
#else
    atomic_thread_fence(memory_order_release);
#endif
}

slm_inline void slm_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}
