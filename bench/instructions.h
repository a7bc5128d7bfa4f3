/* How instructions are counted: what instructions.c, instructions_caches.c and instructions_epochs.c have in common.
 *
 * A round is a loop of many operations, between what makes ready for it and what clears away after it. Rounds that
 * warm up come first, for what counts is the steady state; then rounds whose loop is called by counted(), the one
 * function inside which callgrind collects. Callgrind tells what each function takes by itself, so the loops' own
 * instructions (those of counted and of all loop_ functions) come off, whatever the compiler made of them. What
 * remains is the callee and the jump through the PLT to it. For that, a loop calls the allocator and nothing else.
 *
 * Printed is how many operations were counted. */
#ifndef BENCH_INSTRUCTIONS_H
#define BENCH_INSTRUCTIONS_H

#include "bench.h"

enum { WARM_ROUNDS = 100, COUNTED_ROUNDS = 200 };

struct workload {
    const char *name;
    void (*before)(void), (*loop)(void), (*after)(void);
    unsigned operations; /* a round */
};

static void nothing(void) {}

/* No tail call: what comes after the loop is that this function returns. */
__attribute__((noinline)) static void counted(void (*loop)(void))
{
    loop();
    __asm__ volatile("");
}

static void run_workload(const struct workload *workload)
{
    for (unsigned round = 0; round < WARM_ROUNDS + COUNTED_ROUNDS; round++) {
        workload->before();
        if (round < WARM_ROUNDS)
            workload->loop();
        else
            counted(workload->loop);
        workload->after();
    }
    bench_figure("operations", (double)workload->operations * COUNTED_ROUNDS, "operations");
}

static void run_named(const char *name, const struct workload *workloads, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, workloads[i].name) == 0) {
            run_workload(&workloads[i]);
            return;
        }
    }
    bench_die("no workload %s", name);
}

#endif
