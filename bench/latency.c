/* How long single calls take: latency THREADS SECONDS [SIZES].
 *
 * A churn whose every malloc and every free is timed: in a population of 20,000 live objects, a random one is
 * freed and another one is made and its first bytes are written (untimed, so that what a first touch of a page
 * costs is left out). Sizes are drawn from the histogram SIZES of bench/data/sizes ("redis"). Every fourth object
 * is not freed by the thread itself: it is exchanged for one in a table that all threads share, and that one is
 * freed. With THREADS 2 a second thread does the same churn untimed, so that every eighth timed free is of an
 * object that the other thread made, and the other frees as many of the first one's. The population is filled
 * before the clock starts.
 *
 * The clock is the CPU's time-stamp counter, read between fences, so that the call and nothing else lies between two
 * readings; a tick is made into nanoseconds by what CLOCK_MONOTONIC says of the whole churn. What two readings cost
 * with nothing between them, the median of 10,001 tries, is taken off every figure; a call that would come out below
 * 0 counts as 0. Calls are counted in buckets of a relative width of less than 1 % in static memory, the longest is
 * exact. Many counters advance in steps (10 ns on AMD's Zen, up to 40 ns on arm64); a percentile is interpolated
 * between a step and the next by the number of calls below it, and so finer than a step, but no finer than a few ns.
 *
 * Figures: malloc_p50 to malloc_p99.99, malloc_max, and as many for free, in ns; the series @malloc and @free have
 * more percentiles, for a plot.
 *
 * The kernel's share: a timer interrupt takes microseconds, and a kernel that lets another process have the CPU takes
 * milliseconds; either lands in whatever runs just then, often between calls, at times inside one. A second of this
 * machine's time has hundreds of interrupts and millions of calls: the percentiles up to 99.9 are the allocator's,
 * those above are shared with the kernel (page faults of memory that an allocator touches itself among them), and the
 * maximum says more of the machine than of the allocator unless a run on a quiet machine shows it again and again. */
#include "bench.h"
#include "sizes.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { POPULATION = 20000, SHARED = 1024, EXCHANGED_ONE_IN = 4, MAX_THREADS = 256, WRITTEN_BYTES = 64 };
enum { STEP_BITS = 7, STEPS = 1 << STEP_BITS, DOUBLINGS = 40, CLOCK_EVERY = 1024 };

/* Calls by their duration in ticks: each doubling of the duration has 128 buckets; below 128 ticks, a bucket each. */
struct histogram {
    uint64_t calls, longest;
    uint64_t buckets[(DOUBLINGS - STEP_BITS + 1) * STEPS];
};

static struct histogram malloc_calls, free_calls;
static struct sizes sizes;
static double clock_cost, clock_step = 1; /* in ticks */
static void *_Atomic shared[SHARED];
static pthread_barrier_t barrier;
static atomic_bool stopped;

/* One thread's objects and where it is in the tables of sizes and of random numbers. */
struct churn {
    void **objects;
    uint64_t random, draws;
};

static inline uint64_t timestamp(void)
{
#if defined(__x86_64__)
    _mm_lfence();
    uint64_t ticks = __rdtsc();
    _mm_lfence();
    return ticks;
#else
    __asm__ volatile("dsb ish" : : : "memory");
    uint64_t ticks = bench_cycles();
    __asm__ volatile("isb" : : : "memory");
    return ticks;
#endif
}

static unsigned bucket_of(uint64_t ticks)
{
    if (ticks < STEPS)
        return (unsigned)ticks;
    unsigned shift = 63 - STEP_BITS - (unsigned)__builtin_clzll(ticks);
    return (shift << STEP_BITS) + (unsigned)(ticks >> shift);
}

/* The middle of a bucket, and how far the durations in it lie apart, which is a step of the clock at the least. */
static double ticks_of(unsigned bucket, double *width)
{
    unsigned shift = bucket < STEPS ? 0 : (bucket >> STEP_BITS) - 1;
    uint64_t first = bucket < STEPS ? bucket : (uint64_t)(STEPS + bucket % STEPS) << shift;
    double ticks = (double)(1ull << shift);
    *width = ticks > clock_step ? ticks : clock_step;
    return (double)first + (ticks - 1) / 2;
}

static void count_call(struct histogram *histogram, uint64_t begin, uint64_t end)
{
    uint64_t ticks = end - begin;
    if (ticks >> DOUBLINGS != 0)
        bench_die("a call of %.3g ticks: the counters of the CPUs are not synchronous", (double)ticks);
    histogram->calls++;
    histogram->buckets[bucket_of(ticks)]++;
    if (ticks > histogram->longest)
        histogram->longest = ticks;
}

/* In ticks, with the cost of the clock. */
static double percentile(const struct histogram *histogram, double percent)
{
    if (percent >= 100)
        return (double)histogram->longest;
    double width, rank = percent / 100 * (double)histogram->calls, below = 0;
    unsigned bucket = 0;
    while (below + (double)histogram->buckets[bucket] <= rank)
        below += (double)histogram->buckets[bucket++];
    double middle = ticks_of(bucket, &width);
    return middle + ((rank - below) / (double)histogram->buckets[bucket] - 0.5) * width;
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    return b == 0 ? a : greatest_common_divisor(b, a % b);
}

static void measure_clock(void)
{
    static struct histogram empty;
    uint64_t step = 0;
    for (unsigned i = 0; i < 10001; i++) {
        uint64_t begin = timestamp(), end = timestamp();
        count_call(&empty, begin, end);
        step = greatest_common_divisor(step, end - begin);
    }
    clock_step = step > 0 ? (double)step : 1;
    clock_cost = percentile(&empty, 50);
}

static void *make_object(struct churn *churn)
{
    size_t bytes = sizes_draw(&sizes, churn->draws++);
    return memset(bench_check(malloc(bytes)), 1, bytes < WRITTEN_BYTES ? bytes : WRITTEN_BYTES);
}

static struct churn make_population(unsigned thread)
{
    struct churn churn = {bench_pages(POPULATION * sizeof(void *)), thread, (uint64_t)thread * 1000};
    for (unsigned i = 0; i < POPULATION; i++)
        churn.objects[i] = make_object(&churn);
    return churn;
}

/* Which object is to be freed: takes it out of the population, and at times exchanges it. */
static void *choose_victim(struct churn *churn, void ***place)
{
    uint64_t random = bench_random(&churn->random);
    *place = &churn->objects[(random & UINT32_MAX) % POPULATION];
    random >>= 32;
    void *victim = **place;
    return random % EXCHANGED_ONE_IN == 0 ? atomic_exchange(&shared[random / EXCHANGED_ONE_IN % SHARED], victim)
                                          : victim;
}

static void replace_timed(struct churn *churn)
{
    void **place, *victim = choose_victim(churn, &place);
    uint64_t begin = timestamp();
    free(victim);
    uint64_t end = timestamp();
    count_call(&free_calls, begin, end);

    size_t bytes = sizes_draw(&sizes, churn->draws++);
    begin = timestamp();
    void *object = malloc(bytes);
    end = timestamp();
    count_call(&malloc_calls, begin, end);
    *place = memset(bench_check(object), 1, bytes < WRITTEN_BYTES ? bytes : WRITTEN_BYTES);
}

static void *churn_untimed(void *thread)
{
    struct churn churn = make_population((unsigned)(uintptr_t)thread);
    pthread_barrier_wait(&barrier);
    while (!atomic_load_explicit(&stopped, memory_order_relaxed)) {
        void **place, *victim = choose_victim(&churn, &place);
        free(victim);
        *place = make_object(&churn);
    }
    return NULL;
}

/* Returns how many nanoseconds a tick has. */
static double churn_timed(double seconds)
{
    struct churn churn = make_population(0);
    for (unsigned i = 0; i < SHARED; i++)
        shared[i] = make_object(&churn);
    pthread_barrier_wait(&barrier);
    double begin = bench_seconds(CLOCK_MONOTONIC), now = begin;
    uint64_t begin_ticks = timestamp();
    while (now < begin + seconds) {
        for (unsigned i = 0; i < CLOCK_EVERY; i++)
            replace_timed(&churn);
        now = bench_seconds(CLOCK_MONOTONIC);
    }
    uint64_t ticks = timestamp() - begin_ticks;
    return (now - begin) * 1e9 / (double)ticks;
}

static void print_calls(const char *call, const struct histogram *histogram, double tick_ns)
{
    static const struct {
        double percent;
        const char *figure; /* NULL: for the plot alone */
    } points[] = {{50, "p50"},     {75, NULL},    {90, "p90"},       {95, NULL},     {99, "p99"}, {99.5, NULL},
                  {99.9, "p99.9"}, {99.95, NULL}, {99.99, "p99.99"}, {99.999, NULL}, {100, "max"}};
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        double ticks = percentile(histogram, points[i].percent) - clock_cost, ns = ticks > 0 ? ticks * tick_ns : 0;
        bench_point(call, points[i].percent, "%", ns, "ns");
        if (points[i].figure != NULL) {
            char name[32];
            snprintf(name, sizeof name, "%s_%s", call, points[i].figure);
            bench_figure(name, ns, "ns");
        }
    }
}

int main(int count, char **words)
{
    pthread_t others[MAX_THREADS];
    if (count < 3 || count > 4)
        bench_die("usage: latency THREADS SECONDS [SIZES]");
    uint64_t threads = bench_number(words[1]);
    double seconds = bench_decimal(words[2]);
    if (threads == 0 || threads > MAX_THREADS)
        bench_die("1 to %d threads", MAX_THREADS);
    sizes_load(count > 3 ? words[3] : "redis", &sizes);
    measure_clock();
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (uintptr_t i = 1; i < threads; i++) {
        if (pthread_create(&others[i], NULL, churn_untimed, (void *)i) != 0)
            bench_die("cannot start thread %u", (unsigned)i);
    }
    double tick_ns = churn_timed(seconds);
    atomic_store(&stopped, true);
    for (uint64_t i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
    print_calls("malloc", &malloc_calls, tick_ns);
    print_calls("free", &free_calls, tick_ns);
    return 0;
}
