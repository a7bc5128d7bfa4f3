/* A thread's magazines: per class a loaded and a previous one (Bonwick's pair), so that a thread on the edge does not
 * bounce on the depot.
 *
 *     slm_tls.hot -> | cursors of place 0 | cursors of class 0 | class 1 | ... | pairs | ... |
 *                       top = bottom = limit    top  bottom  limit
 *                                                |     |       |
 *               loaded magazine:   header | rounds ........    .... capacity
 *
 * A pop takes *--top unless top is bottom; a push stores *top++ unless top is limit. Before a thread's first use and
 * after its end, slm_tls.hot points at a constant block in which every magazine is both empty and full, so that these
 * are the slow path and no test on the fast one. The constant block is read-only memory.
 *
 * All functions here run on the thread that owns the block, between slm_thread_enter and slm_thread_leave (floor
 * heap), which keep a signal handler that interrupts them away. */
#pragma once

#include "depot/cache.h"

struct slm_loaded {
    void **top, **bottom, **limit;
};

static_assert(sizeof(struct slm_loaded) == SLM_PLACE_UNITS * 8, "places count in words");

struct slm_pair {
    struct slm_magazine *loaded, *previous; /* NULL until the class is first missed */
    uint32_t target; /* rounds that a magazine of this class should hold; 0 until the class is first missed */
    uint32_t misses; /* trips to the depot since the last look */
};

struct slm_thread {
    struct slm_loaded
        loaded[SLM_CLASSES + 1]; /* by class + 1; the first belongs to place 0 and stays empty and full */
    struct slm_pair pairs[SLM_CLASSES];
    struct slm_list link; /* of live threads: guarded by the lock of the list */
    size_t target_bytes;  /* sum over classes of target times object size, twice: what the pairs may hold */
    uint32_t passes;      /* of the slow path */
    uint32_t number;      /* how many were born before it: deals threads out to simulated nodes */
    uint32_t generation;  /* of the process when it was linked into the list of threads */
    uint32_t adapted_ms;  /* when slm_thread_adapt last ran, cut to 32 bits */
    unsigned node;        /* whose depots this thread uses: looked up at each pass */
    _Atomic uint64_t refills, drains, objects_taken; /* written by the owner alone */
};

enum slm_thread_state { SLM_THREAD_NONE, SLM_THREAD_LIVE, SLM_THREAD_GONE };

struct slm_tls {
    struct slm_thread *hot;  /* what the hot paths use: the thread's block or the constant one */
    struct slm_thread *self; /* the thread's block, NULL before and after its life */
    uint8_t state;           /* enum slm_thread_state */
    volatile uint8_t busy;   /* in a slow path: a handler that comes in between must leave the block alone */
    uint8_t births;
    uint8_t direct_frees; /* before its first life */
};

extern slm_hidden __thread struct slm_tls slm_tls;

slm_inline struct slm_loaded *slm_loaded_at(struct slm_thread *thread, size_t place)
{
    return (struct slm_loaded *)((char *)thread + place * 8);
}

/* Every magazine both empty and full: for threads that have no block, or are working on it. */
extern slm_hidden const struct slm_loaded slm_nothing[SLM_CLASSES + 1];

/* Send the calling thread's hot paths into their slow halves. */
slm_inline void slm_thread_unload(struct slm_tls *tls)
{
    tls->hot = (struct slm_thread *)(uintptr_t)slm_nothing;
}

/* A cleared block with no magazines; NULL if there is no memory. */
struct slm_thread *slm_thread_block_make(void);
void slm_thread_block_free(struct slm_thread *thread);

/* An object of the class whose magazine is empty; NULL and ENOMEM. */
void *slm_thread_refill(struct slm_thread *thread, unsigned class);

/* Make room in the class's full magazine and push an object. */
void slm_thread_drain(struct slm_thread *thread, unsigned class, void *object);

/* Put the class's whole stock back: to the depot, or (`home`) into the slabs. */
void slm_thread_empty_class(struct slm_thread *thread, unsigned class, bool home);

/* The same for all classes, and forget how large their magazines had grown. */
void slm_thread_empty(struct slm_thread *thread, bool home);

/* Halve the magazines of classes that have not been missed since the last look. */
void slm_thread_adapt(struct slm_thread *thread);

/* Rounds in a class's magazines; from other threads, a figure that may lag. */
uint64_t slm_thread_rounds(const struct slm_thread *thread, unsigned class);

/* Stop the process when a pair is not as it should be. */
void slm_thread_check(const struct slm_thread *thread);
