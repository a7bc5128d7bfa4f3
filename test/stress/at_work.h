/* What the stress tests of epochs and of per-CPU memory share: what each thread is doing, for the line that says what
 * is wrong, and the end of the process. */
#pragma once

#include <inttypes.h>
#include <stdatomic.h>

#include "clock.h"

enum { MAX_THREADS = 64, MOST_AT_WORK = MAX_THREADS + 16 };

/* The exit status of the program. */
enum found {
    FOUND_NOTHING,
    FOUND_WRONG,   /* what the other words do not say */
    FOUND_USAGE,   /* the command line is none */
    FOUND_BROKEN,  /* something was reused, overwritten or gone while somebody could hold it */
    FOUND_MISSING, /* objects, calls or changes were lost */
    FOUND_HANG,    /* a call did not return */
};

/* Before anything may fail: the program's name and seed for all lines, and what allow_seconds leads to. */
void begin_work(const char *program, uint64_t seed);

/* One line on standard error, and the end of the process. Signal handlers may call it. */
__attribute__((noreturn, format(printf, 2, 3))) void fail(enum found found, const char *format, ...);

struct at_work {
    uint64_t ordinal;
    const char *_Atomic doing; /* read by whoever finds that the time is up */
};

extern __thread struct at_work *at_work;

/* The calling thread is the `ordinal`-th and has this place among those that live, 1 to MOST_AT_WORK - 1. */
void start_work(unsigned place, uint64_t ordinal);

static inline void doing(const char *what)
{
    atomic_store_explicit(&at_work->doing, what, memory_order_relaxed);
}

/* What it does just now, NULL if nobody has said. */
static inline const char *is_doing(void)
{
    return atomic_load_explicit(&at_work->doing, memory_order_relaxed);
}

/* From now on the process has so many seconds to end, or to ask for more; then it ends with FOUND_HANG. */
void allow_seconds(double seconds);
