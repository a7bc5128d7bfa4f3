/* One counter that all threads bump: what does an add cost?
 *
 *     percpu_counter [--threads N] [--rounds N] [--adds N]
 *
 *     add            slab_percpu_add_long, compiled into the loop
 *     add_call       the same as a call through the PLT       percpu_counter_call.c
 *     librseq        librseq's add on its own per-CPU memory, where the bench was built with it
 *     atomic         one word, relaxed fetch-and-add
 *     padded         an array with a cache line for each CPU, indexed by sched_getcpu(), relaxed fetch-and-add
 *     padded_plain   the same with a plain add, which loses some: for information
 *     thread         a __thread word, one add to memory a turn; nobody can add these up
 *
 * Every round runs all of them, one right after the other, each on all threads at once between two barriers; so a
 * machine that drifts hurts all alike. A cost is the CPU time of all threads for a loop, divided by their adds: who
 * waits for a CPU does not pay, who waits for a cache line does. Printed are the medians over the rounds, of
 * nanoseconds an add and of the ratios to `thread`, and of `add` to its rivals, each of one round. Processors that
 * forward a store to the next load by its name make `thread` cost one cycle in some rounds and seven in others; so
 * the quickest rounds of the two are set against each other, too.
 *
 * A loop is a function of its own, which begins at a cache line, and does nothing but add and count down. At the end
 * the sum of each contender is what was added, or the run fails; padded_plain prints what it lost. */
#include "bench.h"
#include "percpu_counter.h"

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#ifdef BY_LIBRSEQ
#include <rseq/mempool.h>
#include <rseq/rseq.h>
#endif

enum { MAX_THREADS = 64, MAX_ROUNDS = 1001, LINE_BYTES = 64 };

struct cell {
    _Alignas(LINE_BYTES) atomic_long count; /* relaxed: a number, which publishes nothing */
};

struct plain_cell {
    _Alignas(LINE_BYTES) long count;
};

static slab_percpu inlined, called;
static struct cell one, *padded;
static struct plain_cell *plain;
static __thread long mine;
static atomic_long of_threads; /* what they had in `mine` at their end; relaxed: joining them is the order */
static unsigned adds = 300000;

// -- the loops ------------------------------------------------------------------------------------------------------

static COUNTER_LOOP void loop_add(unsigned turns)
{
    const slab_percpu counter = inlined;
    while (turns-- > 0)
        slab_percpu_add_long(counter, 1);
}

static void loop_add_call(unsigned turns)
{
    counter_loop_call(called, turns);
}

static COUNTER_LOOP void loop_atomic(unsigned turns)
{
    while (turns-- > 0)
        atomic_fetch_add_explicit(&one.count, 1, memory_order_relaxed);
}

static COUNTER_LOOP void loop_padded(unsigned turns)
{
    struct cell *const cells = padded;
    while (turns-- > 0)
        atomic_fetch_add_explicit(&cells[sched_getcpu()].count, 1, memory_order_relaxed);
}

static COUNTER_LOOP void loop_padded_plain(unsigned turns)
{
    struct plain_cell *const cells = plain;
    while (turns-- > 0) {
        long *count = &cells[sched_getcpu()].count;
        *count += 1;
        __asm__ volatile("" : "+m"(*count));
    }
}

/* The statement that names the word keeps it in memory: without it the whole loop would be one addition. */
static COUNTER_LOOP void loop_thread(unsigned turns)
{
    while (turns-- > 0) {
        mine += 1;
        __asm__ volatile("" : "+m"(mine));
    }
}

// -- their sums -----------------------------------------------------------------------------------------------------

static long sum_add(void)
{
    return slab_percpu_sum_long(inlined);
}

static long sum_add_call(void)
{
    return slab_percpu_sum_long(called);
}

static long sum_atomic(void)
{
    return atomic_load_explicit(&one.count, memory_order_relaxed);
}

static long sum_padded(void)
{
    long sum = 0;
    for (int cpu = 0; cpu < slab_percpu_cpus(); cpu++)
        sum += atomic_load_explicit(&padded[cpu].count, memory_order_relaxed);
    return sum;
}

static long sum_padded_plain(void)
{
    long sum = 0;
    for (int cpu = 0; cpu < slab_percpu_cpus(); cpu++)
        sum += plain[cpu].count;
    return sum;
}

static long sum_thread(void)
{
    return atomic_load_explicit(&of_threads, memory_order_relaxed);
}

// -- librseq's ------------------------------------------------------------------------------------------------------

#ifdef BY_LIBRSEQ
static intptr_t __rseq_percpu *theirs;

static COUNTER_LOOP void loop_librseq(unsigned turns)
{
    intptr_t __rseq_percpu *const counter = theirs;
    while (turns-- > 0) {
        int cpu;
        do {
            cpu = (int)rseq_cpu_start();
        } while (
            rseq_load_add_store__ptr(RSEQ_MO_RELAXED, RSEQ_PERCPU_CPU_ID, rseq_percpu_ptr(counter, cpu), 1, cpu));
    }
}

static long sum_librseq(void)
{
    long sum = 0;
    for (int cpu = 0; cpu < rseq_get_max_nr_cpus(); cpu++)
        sum += *rseq_percpu_ptr(theirs, cpu);
    return sum;
}

static bool open_librseq(void)
{
    if (!rseq_available(RSEQ_AVAILABLE_QUERY_LIBC))
        return false;
    struct rseq_mempool_attr *attributes = bench_check(rseq_mempool_attr_create());
    rseq_mempool_attr_set_percpu(attributes, RSEQ_MEMPOOL_STRIDE, 0);
    rseq_mempool_attr_set_populate_policy(attributes, RSEQ_MEMPOOL_POPULATE_COW_ZERO);
    struct rseq_mempool *pool = bench_check(rseq_mempool_create("counter", sizeof *theirs, attributes));
    theirs = bench_check(rseq_mempool_percpu_zmalloc(pool));
    return true;
}
#endif

// -- the run --------------------------------------------------------------------------------------------------------

struct contender {
    const char *name;
    void (*loop)(unsigned turns);
    long (*sum)(void);
    bool loses, is_rival; /* rival: add is to be ahead of it */
};

enum { ADD, THREAD }; /* the first two of the contenders */

static const struct contender contenders[] = {
    [ADD] = {.name = "add", .loop = loop_add, .sum = sum_add},
    [THREAD] = {.name = "thread", .loop = loop_thread, .sum = sum_thread},
    {.name = "add_call", .loop = loop_add_call, .sum = sum_add_call},
    {.name = "atomic", .loop = loop_atomic, .sum = sum_atomic, .is_rival = true},
    {.name = "padded", .loop = loop_padded, .sum = sum_padded, .is_rival = true},
    {.name = "padded_plain", .loop = loop_padded_plain, .sum = sum_padded_plain, .loses = true},
#ifdef BY_LIBRSEQ /* last: left out where the process has no sequences */
    {.name = "librseq", .loop = loop_librseq, .sum = sum_librseq, .is_rival = true},
#endif
};
enum { CONTENDERS = sizeof contenders / sizeof contenders[0] };

static unsigned contender_count = CONTENDERS, thread_count = 2, rounds = 21;
static pthread_barrier_t gate;
static double seconds[MAX_THREADS][CONTENDERS][MAX_ROUNDS]; /* a thread writes its own; read when all have ended */

static void *run_thread(void *row)
{
    double(*own)[MAX_ROUNDS] = row;
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < contender_count; i++) {
            pthread_barrier_wait(&gate);
            const double begin = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
            contenders[i].loop(adds);
            own[i][round] = bench_seconds(CLOCK_THREAD_CPUTIME_ID) - begin;
        }
    }
    atomic_fetch_add_explicit(&of_threads, mine, memory_order_relaxed);
    return NULL;
}

static void run_threads(void)
{
    pthread_t threads[MAX_THREADS];
    pthread_barrier_init(&gate, NULL, thread_count);
    for (unsigned i = 0; i < thread_count; i++) {
        if (pthread_create(&threads[i], NULL, run_thread, seconds[i]) != 0)
            bench_die("cannot start thread %u", i);
    }
    for (unsigned i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
}

static void open_contenders(void)
{
    inlined = (slab_percpu)bench_check((void *)slab_percpu_alloc(sizeof(long), sizeof(long)));
    called = (slab_percpu)bench_check((void *)slab_percpu_alloc(sizeof(long), sizeof(long)));
    padded = bench_pages((size_t)slab_percpu_cpus() * sizeof *padded);
    plain = bench_pages((size_t)slab_percpu_cpus() * sizeof *plain);
#ifdef BY_LIBRSEQ
    contender_count -= !open_librseq();
#endif
}

static void check_sums(void)
{
    const long expected = (long)thread_count * rounds * adds;
    for (unsigned i = 0; i < contender_count; i++) {
        const long sum = contenders[i].sum();
        if (sum > expected || (sum < expected && !contenders[i].loses))
            bench_die("%s: %ld of %ld adds are counted", contenders[i].name, sum, expected);
        if (contenders[i].loses)
            printf("%s lost %ld of %ld adds\n", contenders[i].name, expected - sum, expected);
    }
}

// -- what it prints -------------------------------------------------------------------------------------------------

/* Sorts them; prints the median as a figure, and how the rounds spread for people. */
static void report(const char *name, const char *over, double values[MAX_ROUNDS], const char *unit)
{
    char figure[64];
    snprintf(figure, sizeof figure, "%s%s%s", name, *over ? "_over_" : "", over);
    bench_figure(figure, bench_median(values, rounds), unit);
    printf("    %s: from %.3g, quarters at %.3g and %.3g, to %.3g\n", figure, values[0], values[rounds / 4],
           values[3 * rounds / 4], values[rounds - 1]);
}

static void report_ratio(const double nanoseconds[CONTENDERS][MAX_ROUNDS], unsigned i, unsigned other)
{
    static double ratios[MAX_ROUNDS];
    for (unsigned round = 0; round < rounds; round++)
        ratios[round] = nanoseconds[i][round] / nanoseconds[other][round];
    report(contenders[i].name, contenders[other].name, ratios, "x");
}

static void report_all(void)
{
    static double nanoseconds[CONTENDERS][MAX_ROUNDS];
    for (unsigned i = 0; i < contender_count; i++) {
        for (unsigned round = 0; round < rounds; round++) {
            for (unsigned thread = 0; thread < thread_count; thread++)
                nanoseconds[i][round] += seconds[thread][i][round];
            nanoseconds[i][round] *= 1e9 / ((double)adds * thread_count);
        }
    }
    for (unsigned i = 0; i < contender_count; i++) {
        if (i != THREAD)
            report_ratio(nanoseconds, i, THREAD);
        if (contenders[i].is_rival)
            report_ratio(nanoseconds, ADD, i);
    }
    for (unsigned i = 0; i < contender_count; i++) /* last: it sorts them */
        report(contenders[i].name, "", nanoseconds[i], "ns");
    bench_figure("least_add_over_least_thread", nanoseconds[ADD][0] / nanoseconds[THREAD][0], "x");
}

/* What stands behind an option. */
static unsigned number_up_to(unsigned most)
{
    const uint64_t number = bench_number(optarg);
    if (number == 0 || number > most)
        bench_die("not a number from 1 to %u: %s", most, optarg);
    return (unsigned)number;
}

int main(int count, char **words)
{
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'},
        {"rounds", required_argument, NULL, 'r'},
        {"adds", required_argument, NULL, 'a'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
        if (option == 't')
            thread_count = number_up_to(MAX_THREADS);
        else if (option == 'r')
            rounds = number_up_to(MAX_ROUNDS);
        else if (option == 'a')
            adds = number_up_to(UINT32_MAX);
        else
            exit(2);
    }
    if (optind != count)
        bench_die("usage: %s [--threads N] [--rounds N] [--adds N]", words[0]);
    open_contenders();
    run_threads();
    check_sums();
    report_all();
    return 0;
}
