/* A load that rises and falls: rise_fall SECONDS [PERIOD], again and again every PERIOD (1) seconds.
 *
 * Four threads hold a tenth of their top load all the time. Within each period the rest is made, as requests come in,
 * and freed again, as they are answered: the eldest first. A fifth of the load is also answered and replaced in each
 * second. A request is one buffer of 16 to 256 KiB and its own size in small objects of 32 bytes to 2 KiB; all are
 * written. On top 64 MiB are alive. Most requests are freed by another thread than the one that made them.
 *
 * Time goes in ticks of 10 ms. A tick's work depends on its number alone, as in day.c; between ticks all sleep. Where
 * the machine is too busy, the clock of the load stands still, so that no allocator misses a pause: `late_max` says
 * for how many seconds. Samples are taken every 100 ms.
 *
 * Figures: the mean, the largest and the least resident set in MiB, with libraries and the bench's tables, from the
 * second period on; `mean_rss_over_live` (x); `faults`, page faults a period. The series @rss and @live are the
 * samples of the last ten periods, @rss_of_rounds the mean of each. */
#include "bench.h"

#include <pthread.h>

enum { THREADS = 4, TICKS_A_SECOND = 100, SAMPLES_A_SECOND = 10, MOST_SECONDS = 3600 };
enum { MOST_BYTES = (64 << 20) / THREADS, REQUESTS = 1024 };

/* What a request holds, in a list through its small objects; each object begins with the next. */
struct request {
    void **first;
    size_t bytes;
};

/* The requests that are alive, eldest first, round and round. */
struct queue {
    _Alignas(128) struct request requests[REQUESTS];
    unsigned eldest, next;
    size_t bytes;
    uint64_t random, made; /* objects */
};

static struct queue queues[THREADS];
static unsigned ticks, ticks_a_round = TICKS_A_SECOND;
static pthread_barrier_t barrier;

/* From a tenth to 1 and back within a period. */
static double load_at(unsigned tick)
{
    const unsigned half = ticks_a_round / 2, phase = tick % ticks_a_round;
    return 0.1 + 0.9 * (phase < half ? phase : ticks_a_round - phase) / half;
}

static void add_object(struct request *request, size_t bytes)
{
    void **object = memset(bench_check(malloc(bytes)), 1, bytes);
    *object = request->first;
    request->first = object;
    request->bytes += bytes;
}

static void begin_request(struct queue *queue)
{
    struct request *request = &queue->requests[queue->next++ % REQUESTS];
    if (queue->next - queue->eldest > REQUESTS)
        bench_die("more than %d requests at a time", REQUESTS);
    *request = (struct request){NULL, 0};
    const size_t buffer = bench_size(&queue->random, 16 << 10, 4);
    add_object(request, buffer);
    for (queue->made++; request->bytes < 2 * buffer; queue->made++)
        add_object(request, bench_size(&queue->random, 32, 6));
    queue->bytes += request->bytes;
}

static void end_request(struct queue *queue)
{
    struct request *request = &queue->requests[queue->eldest++ % REQUESTS];
    queue->bytes -= request->bytes;
    while (request->first != NULL) {
        void **object = request->first;
        request->first = *object;
        free(object);
    }
}

static void *serve(void *ordinal)
{
    for (unsigned tick = 0; tick < ticks; tick++) {
        /* A thread takes another queue at every tick, so that it frees what others have made. */
        struct queue *queue = &queues[((unsigned)(uintptr_t)ordinal ^ tick) % THREADS];
        const size_t goal = (size_t)(load_at(tick) * MOST_BYTES),
                     kept = queue->bytes - queue->bytes / (5 * TICKS_A_SECOND);
        pthread_barrier_wait(&barrier);
        while (queue->bytes > goal || queue->bytes > kept)
            end_request(queue);
        while (queue->bytes < goal)
            begin_request(queue);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

struct sample {
    double seconds, rss_mib, live_mib;
};

/* Nobody works while a sample is taken. */
static struct sample take_sample(unsigned tick)
{
    size_t live = 0;
    for (unsigned i = 0; i < THREADS; i++)
        live += queues[i].bytes;
    return (struct sample){(double)tick / TICKS_A_SECOND, (double)bench_rss_kib() / 1024, (double)live / 0x1p20};
}

static unsigned pass_time(struct sample *samples, long *first_faults)
{
    const double excused = 0.02;
    double begin = bench_seconds(CLOCK_MONOTONIC), late = 0;
    unsigned taken = 0;
    for (unsigned tick = 1; tick <= ticks; tick++) {
        const double due = begin + (double)tick / TICKS_A_SECOND;
        bench_sleep_until(due);
        const double behind = bench_seconds(CLOCK_MONOTONIC) - due;
        begin += behind > excused ? behind : 0;
        late += behind > excused ? behind : 0;
        pthread_barrier_wait(&barrier); /* they begin */
        pthread_barrier_wait(&barrier); /* they are done */
        if (tick == ticks_a_round)
            *first_faults = bench_faults();
        if (tick % (TICKS_A_SECOND / SAMPLES_A_SECOND) == 0)
            samples[taken++] = take_sample(tick);
    }
    bench_figure("late_max", late, "s");
    return taken;
}

/* Of the last ten rounds only: more are no plot that one can read. */
static void print_points(const struct sample *samples, unsigned count, unsigned a_round)
{
    for (unsigned i = count > 10 * a_round ? count - 10 * a_round : 0; i < count; i++) {
        bench_point("rss", samples[i].seconds, "s", samples[i].rss_mib, "MiB");
        bench_point("live", samples[i].seconds, "s", samples[i].live_mib, "MiB");
    }
}

static void print_samples(const struct sample *samples, unsigned count, unsigned a_round)
{
    double most = 0, least = 1e9, rss = 0, live = 0, round = 0;
    for (unsigned i = 0; i < count; i++) {
        round += samples[i].rss_mib / a_round;
        if (i % a_round == a_round - 1) {
            bench_point("rss_of_rounds", samples[i].seconds, "s", round, "MiB");
            round = 0;
        }
        if (i < a_round)
            continue;
        most = samples[i].rss_mib > most ? samples[i].rss_mib : most;
        least = samples[i].rss_mib < least ? samples[i].rss_mib : least;
        rss += samples[i].rss_mib;
        live += samples[i].live_mib;
    }
    bench_figure("mean_rss", rss / (count - a_round), "MiB");
    bench_figure("most_rss", most, "MiB");
    bench_figure("least_rss", least, "MiB");
    bench_figure("mean_rss_over_live", rss / live, "x");
}

int main(int count, char **words)
{
    pthread_t threads[THREADS];
    const uint64_t seconds = count > 1 ? bench_number(words[1]) : 0, period = count > 2 ? bench_number(words[2]) : 1;
    uint64_t made = 0;
    long first_faults = 0;
    if (count > 3 || period == 0 || seconds < 2 * period || seconds > MOST_SECONDS)
        bench_die("usage: rise_fall SECONDS [PERIOD], two periods to %d s", MOST_SECONDS);
    struct sample *samples = bench_pages(seconds * SAMPLES_A_SECOND * sizeof *samples);
    ticks = (unsigned)seconds * TICKS_A_SECOND;
    ticks_a_round = (unsigned)period * TICKS_A_SECOND;
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (uintptr_t i = 0; i < THREADS; i++) {
        queues[i].random = i;
        if (pthread_create(&threads[i], NULL, serve, (void *)i) != 0)
            bench_die("cannot start thread %u", (unsigned)i);
    }
    const unsigned taken = pass_time(samples, &first_faults);
    const long faults = bench_faults() - first_faults;
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        made += queues[i].made;
    }
    print_points(samples, taken, (unsigned)period * SAMPLES_A_SECOND);
    print_samples(samples, taken, (unsigned)period * SAMPLES_A_SECOND);
    bench_figure("faults", (double)faults * (double)period / (double)(seconds - period), "faults/round");
    bench_objects((double)made);
    return 0;
}
