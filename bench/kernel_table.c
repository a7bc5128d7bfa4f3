/* The kernel's slab table in user space: kernel_table [ROUNDS [OBJECTS [BYTES]]].
 *
 * A thread on every CPU, all at once: each allocates OBJECTS (10,000) objects of one size, waits for the others,
 * frees them in the order of allocation, for sizes 32, 64 ... 4096 (or the one given). The first word of each object
 * is written within the time that is taken: the kernel's test need not, its slabs are mapped memory, but here an
 * allocator that keeps its records elsewhere would only put off the page faults that it causes. A round's figure is
 * the time-stamp cycles a call, averaged over the CPUs; what is printed is the median round, since one preempted
 * thread spoils a whole round's average. */
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MAX_CPUS = 1024, MAX_ROUNDS = 1000, SMALLEST = 32, LARGEST = 4096 };

static unsigned cpus, rounds = 21, object_count = 10000;
static size_t smallest = SMALLEST, largest = LARGEST;
static pthread_barrier_t together;
static _Atomic uint64_t made; /* objects */

/* Cycles that the CPUs have spent in a round, over all sizes one after the other. */
static _Atomic uint64_t alloc_cycles[MAX_ROUNDS], free_cycles[MAX_ROUNDS];

static void allocate_and_free(void **objects, size_t bytes, unsigned round)
{
    pthread_barrier_wait(&together);
    uint64_t begin = bench_cycles();
    for (unsigned i = 0; i < object_count; i++) {
        objects[i] = bench_check(malloc(bytes));
        *(void *volatile *)objects[i] = NULL;
    }
    alloc_cycles[round] += bench_cycles() - begin;

    pthread_barrier_wait(&together);
    begin = bench_cycles();
    for (unsigned i = 0; i < object_count; i++)
        free(objects[i]);
    free_cycles[round] += bench_cycles() - begin;
}

static int compare(const void *left, const void *right)
{
    double difference = *(const double *)left - *(const double *)right;
    return difference < 0 ? -1 : difference > 0;
}

/* The cycles a call in the median round, and the sums back at zero for the next size. */
static double take_median(_Atomic uint64_t *cycles)
{
    double a_call[MAX_ROUNDS];
    for (unsigned round = 0; round < rounds; round++)
        a_call[round] = (double)atomic_exchange(&cycles[round], 0) / cpus / object_count;
    qsort(a_call, rounds, sizeof a_call[0], compare);
    return a_call[rounds / 2];
}

static void print_row(size_t bytes)
{
    char name[32];
    double alloc = take_median(alloc_cycles), released = take_median(free_cycles);
    printf("%u*alloc %u*free(%zu): Average=%.0f/%.0f\n", object_count, object_count, bytes, alloc, released);
    snprintf(name, sizeof name, "alloc_%zu", bytes);
    bench_figure(name, alloc, "cycles");
    snprintf(name, sizeof name, "free_%zu", bytes);
    bench_figure(name, released, "cycles");
    snprintf(name, sizeof name, "both_%zu", bytes);
    bench_figure(name, alloc + released, "cycles");
}

static void *run_cpu(void *ordinal)
{
    void **objects = bench_pages(object_count * sizeof *objects);
    bench_pin((unsigned)(uintptr_t)ordinal);
    for (size_t bytes = smallest; bytes <= largest; bytes *= 2) {
        for (unsigned round = 0; round < rounds; round++)
            allocate_and_free(objects, bytes, round);
        made += (uint64_t)rounds * object_count;
        if (pthread_barrier_wait(&together) == PTHREAD_BARRIER_SERIAL_THREAD)
            print_row(bytes);
        pthread_barrier_wait(&together);
    }
    return NULL;
}

int main(int count, char **words)
{
    cpu_set_t allowed;
    pthread_t threads[MAX_CPUS];
    rounds = count > 1 ? (unsigned)bench_number(words[1]) : rounds;
    object_count = count > 2 ? (unsigned)bench_number(words[2]) : object_count;
    if (count > 3)
        smallest = largest = bench_number(words[3]);
    if (rounds == 0 || rounds > MAX_ROUNDS || sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        bench_die("1 to %d rounds", MAX_ROUNDS);
    cpus = (unsigned)CPU_COUNT(&allowed);
    pthread_barrier_init(&together, NULL, cpus);
    for (uintptr_t i = 0; i < cpus; i++) {
        if (pthread_create(&threads[i], NULL, run_cpu, (void *)i) != 0)
            bench_die("cannot start thread %u", (unsigned)i);
    }
    for (unsigned i = 0; i < cpus; i++)
        pthread_join(threads[i], NULL);
    bench_objects((double)made);
    return 0;
}
