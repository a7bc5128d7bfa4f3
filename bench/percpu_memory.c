/* What per-CPU memory costs beside its adds: percpu_memory counters|moved|alloc, each in a process of its own.
 *
 *     counters   100,000 counters of 8 bytes are made; then 4 threads add to all of them; then all copies of all CPUs
 * are written. bench/suite runs it on machines that a checked build of the library simulates moved      a thread adds
 * to 1,000 counters, on each CPU in turn: how many copies has it touched? Few, with the option percpu_cid, whose
 * copies belong to threads that run at the same time alloc      CPU time of making and freeing an object of 8 and of
 * 256 bytes, again and again, and of making the first 100,000, beside calloc of an array that has a place of whole
 * cache lines for each CPU
 *
 * Resident sets and page tables are the kernel's figures of the whole process, less what they were before the first
 * object was made; the rest is the library's own count. The table of handles is resident before. */
#include "bench.h"

#include <pthread.h>
#include <slabmalloc.h>
#include <stdbool.h>

enum { COUNTERS = 100000, THREADS = 4, MOVED_COUNTERS = 1000, LINE_BYTES = 64, PAIRS = 20000, ROUNDS = 21 };

static slab_percpu *counters;
static void **arrays;

static slab_stats stats_now(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    return stats;
}

static slab_percpu make(size_t bytes)
{
    return (slab_percpu)bench_check((void *)slab_percpu_alloc(bytes, sizeof(long)));
}

static void make_counters(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        counters[i] = make(sizeof(long));
}

static void add_to_all(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        slab_percpu_add_long(counters[i], 1);
}

// -- on machines of many CPUs ---------------------------------------------------------------------------------------

static long resident_before, tables_before;

static long page_tables_kib(void)
{
    return bench_proc_kib("/proc/self/status", "VmPTE");
}

static void report_memory(const char *when)
{
    char figure[64];
    snprintf(figure, sizeof figure, "rss_%s", when);
    bench_figure(figure, (double)(bench_rss_kib() - resident_before), "KiB");
    snprintf(figure, sizeof figure, "page_tables_%s", when);
    bench_figure(figure, (double)(page_tables_kib() - tables_before), "KiB");
}

struct adding {
    unsigned count;
    pthread_barrier_t leave;
};

static void *add_as_one_of_many(void *of_all)
{
    struct adding *adding = of_all;
    add_to_all(adding->count);
    pthread_barrier_wait(&adding->leave);
    return NULL;
}

/* All of them live until the last one has added: a number that the library gave to one is no other's. */
static void add_in_threads(unsigned count)
{
    pthread_t threads[THREADS];
    struct adding adding = {.count = count};
    pthread_barrier_init(&adding.leave, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, add_as_one_of_many, &adding) != 0)
            bench_die("cannot start thread %u", i);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void check_sums(unsigned count, long expected)
{
    for (unsigned i = 0; i < count; i++) {
        if (slab_percpu_sum_long(counters[i]) != expected)
            bench_die("counter %u is %ld, not %ld", i, slab_percpu_sum_long(counters[i]), expected);
    }
}

static void run_counters(void)
{
    slab_percpu_free(make(sizeof(long))); /* what the first one starts is in common, and so are threads' stacks */
    add_in_threads(0);
    resident_before = bench_rss_kib();
    tables_before = page_tables_kib();
    make_counters(COUNTERS);
    report_memory("made");
    add_in_threads(COUNTERS);
    report_memory("added");
    check_sums(COUNTERS, THREADS);
    for (unsigned i = 0; i < COUNTERS; i++) {
        long *copy;
        slab_percpu_for_each (cpu, copy, counters[i])
            *copy = cpu;
    }
    report_memory("written");
    const slab_stats stats = stats_now();
    bench_figure("cpus", slab_percpu_cpus(), "CPUs");
    bench_figure("management", (double)stats.percpu_metadata_bytes, "B");
    bench_figure("mapped", (double)stats.percpu_mapped_bytes / 1024, "KiB");
}

// -- a thread that is moved -----------------------------------------------------------------------------------------

static bool is_touched(int cpu)
{
    long sum = 0;
    for (unsigned i = 0; i < MOVED_COUNTERS; i++)
        sum += *(long *)slab_percpu_ptr(counters[i], cpu);
    return sum != 0;
}

static void run_moved(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        bench_die("cannot ask which CPUs there are");
    make_counters(MOVED_COUNTERS);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (!CPU_ISSET(cpu, &allowed))
            continue;
        if (sched_setaffinity(0, sizeof one, &one) != 0)
            bench_die("cannot go to CPU %d", cpu);
        add_to_all(MOVED_COUNTERS);
    }
    int copies = 0;
    for (int cpu = 0; cpu < slab_percpu_cpus(); cpu++)
        copies += is_touched(cpu);
    check_sums(MOVED_COUNTERS, CPU_COUNT(&allowed));
    bench_figure("cpus", CPU_COUNT(&allowed), "CPUs");
    bench_figure("copies", copies, "copies");
}

// -- making and freeing ---------------------------------------------------------------------------------------------

static double now(void)
{
    return bench_seconds(CLOCK_THREAD_CPUTIME_ID);
}

static void pairs_percpu(size_t bytes)
{
    for (unsigned i = 0; i < PAIRS; i++)
        slab_percpu_free(slab_percpu_alloc(bytes, sizeof(long)));
}

static size_t padded_bytes(size_t bytes)
{
    return (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
}

static void pairs_calloc(size_t bytes)
{
    for (unsigned i = 0; i < PAIRS; i++)
        free(calloc((size_t)slab_percpu_cpus(), padded_bytes(bytes)));
}

static void fill_percpu(size_t bytes)
{
    for (unsigned i = 0; i < COUNTERS; i++)
        counters[i] = make(bytes);
}

static void fill_calloc(size_t bytes)
{
    for (unsigned i = 0; i < COUNTERS; i++)
        arrays[i] = bench_check(calloc((size_t)slab_percpu_cpus(), padded_bytes(bytes)));
}

static double nanoseconds(void (*work)(size_t bytes), size_t bytes, unsigned operations)
{
    const double begin = now();
    work(bytes);
    return (now() - begin) / operations * 1e9;
}

static void report_cost(const char *what, size_t bytes, double percpu, double by_calloc)
{
    char figure[64];
    snprintf(figure, sizeof figure, "%s_%zu", what, bytes);
    bench_figure(figure, percpu, "ns");
    snprintf(figure, sizeof figure, "%s_%zu_calloc", what, bytes);
    bench_figure(figure, by_calloc, "ns");
}

/* The middle one of rounds in which they take turns. */
static void measure_pairs(size_t bytes)
{
    double percpu[ROUNDS], by_calloc[ROUNDS];
    for (unsigned round = 0; round < ROUNDS; round++) {
        percpu[round] = nanoseconds(pairs_percpu, bytes, PAIRS);
        by_calloc[round] = nanoseconds(pairs_calloc, bytes, PAIRS);
    }
    report_cost("pair", bytes, bench_median(percpu, ROUNDS), bench_median(by_calloc, ROUNDS));
}

/* The 256 bytes come second, behind the 8 bytes that stay: both are on fresh memory. */
static void run_alloc(void)
{
    static const size_t sizes[] = {sizeof(long), 256};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const double percpu = nanoseconds(fill_percpu, sizes[i], COUNTERS);
        const double by_calloc = nanoseconds(fill_calloc, sizes[i], COUNTERS);
        report_cost("fill", sizes[i], percpu, by_calloc);
        measure_pairs(sizes[i]);
    }
}

int main(int count, char **words)
{
    const char *what = count == 2 ? words[1] : "";
    counters = bench_pages(COUNTERS * sizeof *counters);
    arrays = bench_pages(COUNTERS * sizeof *arrays);
    if (strcmp(what, "counters") == 0) {
        run_counters();
    } else if (strcmp(what, "moved") == 0) {
        run_moved();
    } else if (strcmp(what, "alloc") == 0) {
        run_alloc();
    } else {
        bench_die("usage: %s counters|moved|alloc", words[0]);
    }
    return 0;
}
