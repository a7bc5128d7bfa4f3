/* What the workloads of the program `threads` have in common; see threads.c. */
#ifndef BENCH_THREADS_H
#define BENCH_THREADS_H

#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { MAX_THREADS = 256, CACHE_LINES = 128 }; /* two lines: processors fetch neighbours */

/* One of the threads that are alive at once, or rather its place: where a workload's threads die and are born, each
 * thread of a lane is followed by the next. */
struct lane {
    _Alignas(CACHE_LINES) unsigned index;
    uint64_t operations; /* done so far */
    uint64_t random;     /* state of bench_random */
    void *state;         /* the workload's own, made by its prepare() */
    pthread_t thread;    /* the one that runs now, or ran last */
};

struct workload {
    const char *name;
    unsigned objects; /* made and freed in an operation */
    /* Called by the main thread for every lane, before any of the threads starts. NULL where there is nothing
     * to do. */
    void (*prepare)(struct lane *lane);
    /* Works until stopped() and counts its operations in the lane; where it returns before, the thread ends after
     * it has made a successor, which calls it again. */
    void (*run)(struct lane *lane);
};

extern const struct workload larson, larson_small, births;                /* threads_lives.c */
extern const struct workload false_sharing_active, false_sharing_passive; /* threads_lines.c */
extern const struct workload handoff, ring, exchange;                     /* threads_queues.c */

extern unsigned lane_count;
extern atomic_bool stop_flag;

static inline bool stopped(void)
{
    return atomic_load_explicit(&stop_flag, memory_order_relaxed);
}

/* An object whose first bytes are written, as a program would that has a use for it. */
static inline void *make_object(size_t bytes)
{
    enum { WRITTEN_BYTES = 64 };
    return memset(bench_check(malloc(bytes)), 1, bytes < WRITTEN_BYTES ? bytes : WRITTEN_BYTES);
}

#endif
