/* What the stress tests share: what each thread is doing, for the line that says what is wrong; the end of the
 * process; threads and children; and counting what has happened.
 *
 * No stress test has a limit on time of its own. Each works until its seconds are over and until everything has
 * happened that it is about, however long that takes on a busy machine. What never comes is a hang: whoever runs the
 * test ends it by SIGTERM, and it says what each thread was doing. */
#pragma once

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "clock.h"

enum { MAX_THREADS = 64, MOST_AT_WORK = MAX_THREADS + 16 };

/* The exit status of the program. */
enum found {
    FOUND_NOTHING,
    FOUND_WRONG,   /* what the other words do not say */
    FOUND_USAGE,   /* the command line is none */
    FOUND_BROKEN,  /* something was reused, overwritten or gone while somebody could hold it */
    FOUND_MISSING, /* objects, calls or changes were lost */
    FOUND_HANG,    /* something did not come, until SIGTERM did */
};

/* Before anything may fail: the program's name and seed for all lines, and what SIGTERM leads to. */
void begin_work(const char *program, uint64_t seed);

/* One line on standard error, and the end of the process. Signal handlers may call it. */
__attribute__((noreturn, format(printf, 2, 3))) void fail(enum found found, const char *format, ...);

struct at_work {
    _Atomic uint64_t ordinal;  /* likewise */
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

/* Start a thread; a process that gets none has failed. */
pthread_t start_thread(void *(*run)(void *), void *argument);

/* Wait for a child process, and end as it has ended if it has found anything. */
void await_child(pid_t child);

/* Count what has happened: by one thread, or the handler that interrupts it, alone, for others to look at. Relaxed:
 * it orders nothing. */
static inline void tally(_Atomic uint64_t *count, uint64_t more)
{
    const uint64_t before = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, before + more, memory_order_relaxed);
}

static inline uint64_t tallied(const _Atomic uint64_t *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

/* The time is up, and all has happened that must: `missing` names what has not, NULL: nothing. What the main thread
 * waits for is what it is doing. */
static inline bool is_over(double end, const char *(*missing)(void))
{
    if (now_in_seconds() < end)
        return false;
    const char *what = missing();
    if (what != NULL)
        doing(what);
    return what == NULL;
}
