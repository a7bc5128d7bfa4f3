/* A day of a server in SECONDS: day SECONDS (60 is a good day, 10 a quick one).
 *
 * Four threads keep a cache and serve requests. The load follows the clock: a night with hardly any, a morning and an
 * afternoon that rise and fall, and the next night, the last fifth of the day. The cache holds as many bytes as the
 * load says, 64 MiB at most; random objects leave it when it has to shrink, and over and above that a third of it is
 * replaced in a virtual hour. The sizes of new objects change five times a day. A request makes 24 small objects and
 * a buffer of 1 to 16 KiB, writes and frees them. The cache is in four parts that the threads take in turn, so that
 * most cached objects are freed by another thread than the one that made them.
 *
 * Time goes in ticks of 10 ms. A tick's work depends on nothing but its number, so it is the same for every
 * allocator, and is done also if the process is late, by a second at most; between ticks all sleep, and an
 * allocator's own threads and timers have their chance. It takes about a tenth of one CPU, a quarter when the load is
 * highest, so that several days can go on side by side.
 *
 * Figures: the process's resident set as the kernel counts it, with libraries and the bench's tables (3 MiB), at a
 * hundred points of the day: `peak_rss`, `mean_rss`, `night_rss` (at the end of the day) in MiB, and
 * `mean_rss_over_live`, the mean resident set over the mean of the bytes alive (x). The series @rss and @live have
 * the points. */
#include "bench.h"

#include <pthread.h>

enum {
    THREADS = 4,
    TICKS_A_SECOND = 100,
    SAMPLES = 100,
    TURNOVERS_A_DAY = 8,
    REQUESTS_A_TICK = 200,
    MOST_LATE_SECONDS = 1
};
enum { MOST_BYTES = (64 << 20) / THREADS, LEAST_MEAN = 200, MOST_OBJECTS = MOST_BYTES / LEAST_MEAN };

/* From when on new objects of the cache have which sizes: from `smallest` through so many doublings. */
static const struct shift {
    double from; /* as a part of the day */
    unsigned smallest, doublings;
} shifts[] = {{0, 64, 4}, {0.25, 128, 5}, {0.4, 48, 4}, {0.55, 512, 4}, {0.7, 64, 4}};

struct part {
    _Alignas(128) size_t **objects; /* each says in its first bytes how long it is */
    size_t count, bytes;
    uint64_t random, made; /* objects, those of requests too */
};

static struct part parts[THREADS];
static unsigned ticks;
static pthread_barrier_t barrier;

/* 1 on top, 0 from `width` away, smooth. */
static double hill(double time, double top, double width)
{
    double x = (time - top) / width, inside = 1 - x * x;
    return inside > 0 ? inside * inside : 0;
}

static double load_at(double time)
{
    return 0.03 + 0.97 * hill(time, 0.3, 0.2) + 0.75 * hill(time, 0.6, 0.2);
}

static const struct shift *shift_at(double time)
{
    unsigned i = sizeof shifts / sizeof shifts[0] - 1;
    while (shifts[i].from > time)
        i--;
    return &shifts[i];
}

static void add_object(struct part *part, const struct shift *shift)
{
    size_t bytes = bench_size(&part->random, shift->smallest, shift->doublings);
    if (part->count == MOST_OBJECTS)
        bench_die("more than %d objects in a part of the cache", MOST_OBJECTS);
    size_t *object = memset(bench_check(malloc(bytes)), 1, bytes);
    *object = bytes;
    part->objects[part->count++] = object;
    part->bytes += bytes;
    part->made++;
}

static void remove_object(struct part *part)
{
    size_t **chosen = &part->objects[bench_random(&part->random) % part->count];
    part->bytes -= **chosen;
    free(*chosen);
    *chosen = part->objects[--part->count];
}

static void keep_cache(struct part *part, double load, const struct shift *shift)
{
    size_t goal = (size_t)(load * MOST_BYTES), replaced = part->bytes * TURNOVERS_A_DAY / ticks;
    size_t shrunk = part->bytes < replaced ? 0 : part->bytes - replaced;
    while (part->count > 0 && (part->bytes > shrunk || part->bytes > goal))
        remove_object(part);
    while (part->bytes < goal)
        add_object(part, shift);
}

static void serve_request(struct part *part)
{
    enum { OBJECTS = 25, WRITTEN_BYTES = 64 };
    void *objects[OBJECTS];
    for (unsigned i = 0; i < OBJECTS; i++) {
        size_t bytes = i == 0 ? bench_size(&part->random, 1024, 4) : bench_size(&part->random, 16, 6);
        objects[i] = memset(bench_check(malloc(bytes)), 1, bytes < WRITTEN_BYTES ? bytes : WRITTEN_BYTES);
    }
    for (unsigned i = 0; i < OBJECTS; i++)
        free(objects[i]);
    part->made += OBJECTS;
}

static void *serve(void *ordinal)
{
    for (unsigned tick = 0; tick < ticks; tick++) {
        struct part *part = &parts[((unsigned)(uintptr_t)ordinal + tick) % THREADS];
        double time = (double)tick / ticks, load = load_at(time);
        pthread_barrier_wait(&barrier);
        keep_cache(part, load, shift_at(time));
        for (unsigned i = 0; i < load * REQUESTS_A_TICK; i++)
            serve_request(part);
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
        live += parts[i].bytes;
    return (struct sample){(double)tick / TICKS_A_SECOND, (double)bench_rss_kib() / 1024, (double)live / 0x1p20};
}

/* A day that runs late leaves an allocator less idle time than the others had. */
static void pass_day(struct sample *samples)
{
    unsigned taken = 0;
    double begin = bench_seconds(CLOCK_MONOTONIC);
    for (unsigned tick = 1; tick <= ticks; tick++) {
        double due = begin + (double)tick / TICKS_A_SECOND;
        bench_sleep_until(due);
        if (bench_seconds(CLOCK_MONOTONIC) - due > MOST_LATE_SECONDS)
            bench_die("the machine is too busy: the day is over %d s late", MOST_LATE_SECONDS);
        pthread_barrier_wait(&barrier); /* they begin */
        pthread_barrier_wait(&barrier); /* they are done */
        if ((uint64_t)tick * SAMPLES / ticks > taken)
            samples[taken++] = take_sample(tick);
    }
}

static void print_samples(const struct sample *samples)
{
    double peak = 0, rss = 0, live = 0;
    for (unsigned i = 0; i < SAMPLES; i++) {
        bench_point("rss", samples[i].seconds, "s", samples[i].rss_mib, "MiB");
        bench_point("live", samples[i].seconds, "s", samples[i].live_mib, "MiB");
        peak = samples[i].rss_mib > peak ? samples[i].rss_mib : peak;
        rss += samples[i].rss_mib;
        live += samples[i].live_mib;
    }
    bench_figure("peak_rss", peak, "MiB");
    bench_figure("mean_rss", rss / SAMPLES, "MiB");
    bench_figure("night_rss", samples[SAMPLES - 1].rss_mib, "MiB");
    bench_figure("mean_rss_over_live", rss / live, "x");
}

int main(int count, char **words)
{
    enum { MOST_SECONDS = 86400 };
    pthread_t threads[THREADS];
    struct sample samples[SAMPLES];
    uint64_t seconds = count == 2 ? bench_number(words[1]) : 0;
    if (seconds == 0 || seconds > MOST_SECONDS)
        bench_die("usage: day SECONDS, 1 to %d", MOST_SECONDS);
    ticks = (unsigned)seconds * TICKS_A_SECOND;
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (uintptr_t i = 0; i < THREADS; i++) {
        parts[i] = (struct part){.objects = bench_pages(MOST_OBJECTS * sizeof(size_t *)), .random = i};
        if (pthread_create(&threads[i], NULL, serve, (void *)i) != 0)
            bench_die("cannot start thread %u", (unsigned)i);
    }
    pass_day(samples);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    print_samples(samples);
    bench_objects((double)(parts[0].made + parts[1].made + parts[2].made + parts[3].made));
    return 0;
}
