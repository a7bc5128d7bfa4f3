/* Threads that are born, allocate once, and end: births_once [ROUNDS].
 *
 * Ten threads are made, and joined when all have been made; each allocates an object, writes it, frees it and
 * ends. That is a round, and there are ROUNDS (2,000) of them. Between two rounds the process has one thread,
 * as it had before the first: what an allocator sets up for a process with several threads, or a thread, it
 * sets up each time.
 *
 * Figures are of a thread, from its birth to its end: `cpu`, user and system time of the process, `system`, the
 * latter alone, `switches`, from one thread of the machine to another. */
#include "bench.h"

#include <pthread.h>

enum { THREADS = 10, OBJECT_BYTES = 64 };

static void *allocate_once(void *unused)
{
    free(memset(bench_check(malloc(OBJECT_BYTES)), 1, OBJECT_BYTES));
    return unused;
}

static void run_round(void)
{
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, allocate_once, NULL) != 0)
            bench_die("cannot start thread %u", i);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

int main(int count, char **words)
{
    struct rusage before, after;
    const uint64_t rounds = count > 1 ? bench_number(words[1]) : 2000;
    if (rounds == 0)
        bench_die("1 round and more");
    getrusage(RUSAGE_SELF, &before);
    const double begin = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (uint64_t i = 0; i < rounds; i++)
        run_round();
    const double cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - begin, threads = (double)rounds * THREADS;
    getrusage(RUSAGE_SELF, &after);
    bench_figure("cpu", cpu / threads * 1e6, "us/thread");
    bench_figure("system", (seconds_of(after.ru_stime) - seconds_of(before.ru_stime)) / threads * 1e6, "us/thread");
    bench_figure("switches",
                 (double)(after.ru_nvcsw - before.ru_nvcsw + after.ru_nivcsw - before.ru_nivcsw) / threads,
                 "switches/thread");
    bench_objects(threads);
    return 0;
}
