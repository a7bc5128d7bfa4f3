/* Statistics of a server that all its threads keep together, in four ways.
 *
 *     counters [--seconds N] [--threads N]
 *
 * Each thread serves requests as fast as it can. Here a request is no more than three changes of the statistics: one
 * more request, its bytes, and sometimes an error. A reporter adds the statistics up ten times a second while they
 * change. The program tries the ways one after the other:
 *
 *     one        One structure for all, with atomic fields. Its cache line travels from CPU to CPU.
 *
 *     padded     An array of structures, one per CPU, each on cache lines of its own. The fields are still atomic: a
 *                thread may be moved to another CPU between finding its entry and changing it.
 *
 *     per CPU    slab_percpu: a structure per CPU, neither atomic nor padded.
 *
 *     a thread   A thread-local structure. It is the fastest, but nobody can add up while the threads run, so the
 *                reporter has nothing to say.
 *
 * With per-CPU memory the three counters are one object. Additions go to a field by a handle of its own, which is the
 * object's plus the field's offset. slab_percpu_for_each visits all copies. At the end the sums must be what the
 * threads have counted themselves: no change may be lost. */
#define _GNU_SOURCE 1

#include <pthread.h>
#include <sched.h>
#include <slabmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CPUS_MOST = 8192, THREADS_MOST = 256, REPORT_MS = 100, BATCH = 1024 };

struct statistics {
    long requests, bytes, errors;
};

/* A way to keep them: `serve` notes one request, `sum` adds them up (NULL: that is not possible). */
struct way {
    const char *name;
    void (*serve)(long bytes, bool error);
    struct statistics (*sum)(void);
};

static atomic_bool stop;

static void fail(const char *what)
{
    fprintf(stderr, "counters: %s\n", what);
    exit(1);
}

/* -- one structure ---------------------------------------------------------------------------------------------- */

static struct {
    atomic_long requests, bytes, errors;
} one;

static void serve_one(long bytes, bool error)
{
    atomic_fetch_add_explicit(&one.requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&one.bytes, bytes, memory_order_relaxed);
    if (error)
        atomic_fetch_add_explicit(&one.errors, 1, memory_order_relaxed);
}

static struct statistics sum_one(void)
{
    return (struct statistics){one.requests, one.bytes, one.errors};
}

/* -- an array, padded ------------------------------------------------------------------------------------------- */

static struct {
    _Alignas(128) atomic_long requests; /* two lines: processors fetch the neighbour too */
    atomic_long bytes, errors;
} padded[CPUS_MOST];

static void serve_padded(long bytes, bool error)
{
    const int cpu = sched_getcpu();
    atomic_fetch_add_explicit(&padded[cpu].requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&padded[cpu].bytes, bytes, memory_order_relaxed);
    if (error)
        atomic_fetch_add_explicit(&padded[cpu].errors, 1, memory_order_relaxed);
}

static struct statistics sum_padded(void)
{
    struct statistics sum = {0, 0, 0};
    for (int cpu = 0; cpu < slab_percpu_cpus(); cpu++) {
        sum.requests += padded[cpu].requests;
        sum.bytes += padded[cpu].bytes;
        sum.errors += padded[cpu].errors;
    }
    return sum;
}

/* -- per-CPU memory --------------------------------------------------------------------------------------------- */

static slab_percpu percpu;

static void serve_percpu(long bytes, bool error)
{
    slab_percpu_add_long(slab_percpu_field(percpu, struct statistics, requests), 1);
    slab_percpu_add_long(slab_percpu_field(percpu, struct statistics, bytes), bytes);
    if (error)
        slab_percpu_add_long(slab_percpu_field(percpu, struct statistics, errors), 1);
}

static struct statistics sum_percpu(void)
{
    struct statistics sum = {0, 0, 0}, *copy;
    slab_percpu_for_each (cpu, copy, percpu) {
        sum.requests += __atomic_load_n(&copy->requests, __ATOMIC_RELAXED);
        sum.bytes += __atomic_load_n(&copy->bytes, __ATOMIC_RELAXED);
        sum.errors += __atomic_load_n(&copy->errors, __ATOMIC_RELAXED);
    }
    return sum;
}

/* -- a thread's own --------------------------------------------------------------------------------------------- */

static __thread volatile struct statistics own; /* volatile: in memory, request by request, as in a real server */

static void serve_own(long bytes, bool error)
{
    own.requests++;
    own.bytes += bytes;
    if (error)
        own.errors++;
}

/* -- the server ------------------------------------------------------------------------------------------------- */

static const struct way ways[] = {
    {"one", serve_one, sum_one},
    {"padded", serve_padded, sum_padded},
    {"per CPU", serve_percpu, sum_percpu},
    {"a thread", serve_own, NULL},
};

struct worker {
    pthread_t thread;
    void (*serve)(long bytes, bool error);
    struct statistics done; /* what the thread has counted itself */
    double cpu_seconds;
};

static double seconds_of(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void *work(void *context)
{
    struct worker *worker = context;
    void (*const serve)(long, bool) = worker->serve;
    struct statistics done = {0, 0, 0};
    while (!atomic_load_explicit(&stop, memory_order_relaxed))
        for (long i = 0; i < BATCH; i++) {
            const bool error = i == 0;
            serve(i, error);
            done.requests++;
            done.bytes += i;
            done.errors += error;
        }
    worker->done = done;
    worker->cpu_seconds = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    return NULL;
}

/* Adds up while the statistics change: no sum may be less than an earlier one. */
static long report(const struct way *way, double until)
{
    long reports = 0, before = 0;
    for (; seconds_of(CLOCK_MONOTONIC) < until; usleep(REPORT_MS * 1000), reports++) {
        if (!way->sum)
            continue;
        const struct statistics sum = way->sum();
        if (sum.requests < before)
            fail("a sum has gone back");
        before = sum.requests;
    }
    return reports;
}

static void run(const struct way *way, int threads, double seconds)
{
    static struct worker workers[THREADS_MOST];
    struct statistics done = {0, 0, 0};
    double cpu_seconds = 0;
    stop = false;
    for (int i = 0; i < threads; i++) {
        workers[i].serve = way->serve;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            fail("no thread");
    }
    const long reports = report(way, seconds_of(CLOCK_MONOTONIC) + seconds);
    stop = true;
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        done.requests += workers[i].done.requests;
        done.bytes += workers[i].done.bytes;
        done.errors += workers[i].done.errors;
        cpu_seconds += workers[i].cpu_seconds;
    }
    printf("%-9s %6.2f ns of CPU time a request, %5.1f M a second, ", way->name,
           cpu_seconds * 1e9 / (double)done.requests, (double)done.requests / 1e6 / seconds);
    if (!way->sum) {
        printf("no sums\n");
        return;
    }
    const struct statistics sum = way->sum();
    if (sum.requests != done.requests || sum.bytes != done.bytes || sum.errors != done.errors)
        fail("changes were lost");
    printf("%ld sums while it ran, none lost\n", reports);
}

static double number(const char *text, double least, double most)
{
    char *end;
    const double value = strtod(text, &end);
    if (*end || !(value >= least && value <= most))
        fail("usage: counters [--seconds N] [--threads N]");
    return value;
}

int main(int argc, char **argv)
{
    double seconds = 4;
    int threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0)
            seconds = number(argv[i + 1], 0.1, 86400);
        else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0)
            threads = (int)number(argv[i + 1], 1, THREADS_MOST);
        else
            fail("usage: counters [--seconds N] [--threads N]");
    }
    threads = threads < THREADS_MOST ? threads : THREADS_MOST;
    percpu = slab_percpu_alloc(sizeof(struct statistics), _Alignof(struct statistics));
    if (!percpu || slab_percpu_cpus() > CPUS_MOST)
        fail("no per-CPU memory");
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        run(&ways[i], threads, seconds / (double)(sizeof ways / sizeof ways[0]));
    slab_percpu_free(percpu);
    return 0;
}
