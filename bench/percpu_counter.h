/* What the two files of percpu_counter share: how its loops are compiled, and the one that is compiled apart. */
#ifndef BENCH_PERCPU_COUNTER_H
#define BENCH_PERCPU_COUNTER_H

#include <slabmalloc.h>

/* Where a short loop begins can make half its cost: all begin at a cache line. */
#define COUNTER_LOOP __attribute__((noinline, aligned(64)))

void counter_loop_call(slab_percpu counter, unsigned turns);

#endif
