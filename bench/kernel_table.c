/* The kernel's slab table in user space: kernel_table [ROUNDS [OBJECTS [BYTES|born]]].
 *
 * A thread on every CPU, all at once: each allocates OBJECTS (10,000) objects of one size, waits for the others,
 * frees them in the order of allocation, for sizes 32, 64 ... 4096 (or the one given). The first word of each object
 * is written within the time that is taken: the kernel's test need not, its slabs are mapped memory, but here an
 * allocator that keeps its records elsewhere would only put off the page faults that it causes. A round's figure is
 * the time-stamp cycles a call, averaged over the CPUs; what is printed is the median round, since one preempted
 * thread spoils a whole round's average.
 *
 * `born`: a round goes through all sizes, with threads that are born for each size and end with it. So what one size
 * has freed is what the next ones need, and what the largest has freed is wanted again a round later. Printed are the
 * sizes from 1 KiB on, and the page faults an object that they took, of all rounds but the first. */
#include "bench.h"

#include <pthread.h>
#include <stdbool.h>

enum { MAX_CPUS = 1024, MAX_ROUNDS = 1000, SMALLEST = 32, LARGEST = 4096, SIZES = 8 };

static unsigned cpus, rounds = 21, object_count = 10000;
static size_t smallest = SMALLEST, largest = LARGEST;
static pthread_barrier_t together;
static pthread_t threads[MAX_CPUS];
static void **tables[MAX_CPUS]; /* of objects */
static _Atomic uint64_t made;   /* objects */

/* Of each size the cycles that the CPUs have spent in a round. */
static struct spent {
    _Atomic uint64_t alloc[MAX_ROUNDS], free[MAX_ROUNDS];
    long faults;
} spent[SIZES];

static void allocate_and_free(void **objects, size_t bytes, struct spent *of_size, unsigned round)
{
    pthread_barrier_wait(&together);
    uint64_t begin = bench_cycles();
    for (unsigned i = 0; i < object_count; i++) {
        objects[i] = bench_check(malloc(bytes));
        *(void *volatile *)objects[i] = NULL;
    }
    of_size->alloc[round] += bench_cycles() - begin;

    pthread_barrier_wait(&together);
    begin = bench_cycles();
    for (unsigned i = 0; i < object_count; i++)
        free(objects[i]);
    of_size->free[round] += bench_cycles() - begin;
    made += object_count;
}

/* The cycles a call in the median round. */
static double median_of(const _Atomic uint64_t *cycles)
{
    double a_call[MAX_ROUNDS];
    for (unsigned round = 0; round < rounds; round++)
        a_call[round] = (double)cycles[round] / cpus / object_count;
    return bench_median(a_call, rounds);
}

static void print_row(size_t bytes, const struct spent *of_size)
{
    char name[32];
    double alloc = median_of(of_size->alloc), released = median_of(of_size->free);
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
    struct spent *of_size = spent;
    bench_pin((unsigned)(uintptr_t)ordinal);
    for (size_t bytes = smallest; bytes <= largest; bytes *= 2, of_size++) {
        for (unsigned round = 0; round < rounds; round++)
            allocate_and_free(tables[(uintptr_t)ordinal], bytes, of_size, round);
        if (pthread_barrier_wait(&together) == PTHREAD_BARRIER_SERIAL_THREAD)
            print_row(bytes, of_size);
        pthread_barrier_wait(&together);
    }
    return NULL;
}

/* What the threads do that are born now. */
static struct {
    size_t bytes;
    struct spent *of_size;
    unsigned round;
} born;

static void *run_born(void *ordinal)
{
    bench_pin((unsigned)(uintptr_t)ordinal);
    allocate_and_free(tables[(uintptr_t)ordinal], born.bytes, born.of_size, born.round);
    return NULL;
}

static void run_threads(void *(*run)(void *))
{
    for (uintptr_t i = 0; i < cpus; i++) {
        if (pthread_create(&threads[i], NULL, run, (void *)i) != 0)
            bench_die("cannot start thread %u", (unsigned)i);
    }
    for (unsigned i = 0; i < cpus; i++)
        pthread_join(threads[i], NULL);
}

static void bear_threads(void)
{
    for (born.round = 0; born.round < rounds; born.round++) {
        born.of_size = spent;
        for (born.bytes = smallest; born.bytes <= largest; born.bytes *= 2, born.of_size++) {
            const long before = bench_faults();
            run_threads(run_born);
            born.of_size->faults += born.round > 0 ? bench_faults() - before : 0;
        }
    }
    born.of_size = spent;
    for (size_t bytes = smallest; bytes <= largest; bytes *= 2, born.of_size++) {
        const double of_object = (double)born.of_size->faults / (rounds - 1) / object_count / cpus;
        char name[32];
        if (bytes < 1024)
            continue;
        print_row(bytes, born.of_size);
        snprintf(name, sizeof name, "faults_%zu", bytes);
        bench_figure(name, (double)(long)(of_object * 100 + 0.5) / 100, "faults/object");
    }
}

int main(int count, char **words)
{
    cpu_set_t allowed;
    const bool is_born = count > 3 && strcmp(words[3], "born") == 0;
    const unsigned least = is_born ? 2 : 1;
    rounds = count > 1 ? (unsigned)bench_number(words[1]) : rounds;
    object_count = count > 2 ? (unsigned)bench_number(words[2]) : object_count;
    if (count > 3 && !is_born)
        smallest = largest = bench_number(words[3]);
    if (rounds < least || rounds > MAX_ROUNDS || sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        bench_die("%u to %d rounds", least, MAX_ROUNDS);
    cpus = (unsigned)CPU_COUNT(&allowed);
    pthread_barrier_init(&together, NULL, cpus);
    for (unsigned i = 0; i < cpus; i++)
        tables[i] = bench_pages(object_count * sizeof(void *));
    if (is_born)
        bear_threads();
    else
        run_threads(run_cpu);
    bench_objects((double)made);
    return 0;
}
