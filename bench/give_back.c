/* What stays resident after a peak: give_back [MIB [THREADS]].
 *
 * THREADS (4) threads make objects until MIB (256) mebibytes are alive, all bytes written: seven of eight objects
 * have 16 bytes to 1 KiB, the eighth 1 to 64 KiB. Then each frees all but a random 4 % of its own, in random order,
 * and parks on a futex. From there on the process is idle: for eight seconds nobody calls malloc or free, so that
 * what still goes back goes back by the allocator's own doing; the main thread only wakes up to look at /proc.
 *
 * Figures: the process's resident set in MiB as the kernel counts it, with libraries and the bench's tables (2 MiB at
 * the defaults): rss_peak when all is alive, rss_0s when the last thread has freed its objects, rss_1s, rss_2s,
 * rss_4s and rss_8s; `live_after`, the bytes of the 4 %, in MiB. The series @rss has a point every quarter of
 * a second. */
#include "bench.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

enum { MAX_THREADS = 256, MEAN_BYTES = 1024, KEPT_PERCENT = 4, SAMPLES_A_SECOND = 4, SECONDS = 8 };
enum { SAMPLES = SECONDS * SAMPLES_A_SECOND + 1 };

struct worker {
    pthread_t thread;
    uint64_t random;
    void **objects;
    size_t count, kept_bytes;
};

static size_t bytes_each, most_objects;
static pthread_barrier_t barrier;
static atomic_uint finished;

/* An object says in its first bytes how long it is. */
static size_t *make_object(uint64_t *random)
{
    size_t bytes = bench_random(random) % 8 != 0 ? bench_size(random, 16, 6) : bench_size(random, 1024, 6);
    size_t *object = memset(bench_check(malloc(bytes)), 1, bytes);
    *object = bytes;
    return object;
}

static void make_objects(struct worker *worker)
{
    for (size_t made = 0; made < bytes_each;) {
        if (worker->count == most_objects)
            bench_die("more than %zu objects a thread", most_objects);
        size_t *object = make_object(&worker->random);
        worker->objects[worker->count++] = object;
        made += *object;
    }
}

static void free_most(struct worker *worker)
{
    size_t kept = worker->count * KEPT_PERCENT / 100;
    while (worker->count > kept) {
        void **chosen = &worker->objects[bench_random(&worker->random) % worker->count];
        free(*chosen);
        *chosen = worker->objects[--worker->count];
    }
    for (size_t i = 0; i < kept; i++)
        worker->kept_bytes += *(size_t *)worker->objects[i];
}

static void *work_and_park(void *argument)
{
    struct worker *worker = argument;
    make_objects(worker);
    pthread_barrier_wait(&barrier); /* the peak; the main thread looks at it */
    pthread_barrier_wait(&barrier);
    free_most(worker);
    pthread_barrier_wait(&barrier); /* all is freed */
    while (!finished)
        syscall(SYS_futex, &finished, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return NULL;
}

static double rss_mib(void)
{
    return (double)bench_rss_kib() / 1024;
}

static void start_workers(struct worker *workers, unsigned count)
{
    pthread_barrier_init(&barrier, NULL, count + 1);
    for (unsigned i = 0; i < count; i++) {
        workers[i].random = i;
        workers[i].objects = bench_pages(most_objects * sizeof(void *));
        if (pthread_create(&workers[i].thread, NULL, work_and_park, &workers[i]) != 0)
            bench_die("cannot start thread %u", i);
    }
}

static void print_samples(double peak, const double *rss, size_t kept_bytes)
{
    static const unsigned moments[] = {0, 1, 2, 4, 8};
    bench_figure("rss_peak", peak, "MiB");
    for (size_t i = 0; i < sizeof moments / sizeof moments[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "rss_%us", moments[i]);
        bench_figure(name, rss[moments[i] * SAMPLES_A_SECOND], "MiB");
    }
    bench_figure("live_after", (double)kept_bytes / 0x1p20, "MiB");
    for (unsigned i = 0; i < SAMPLES; i++)
        bench_point("rss", (double)i / SAMPLES_A_SECOND, "s", rss[i], "MiB");
}

int main(int count, char **words)
{
    static struct worker workers[MAX_THREADS];
    double rss[SAMPLES];
    uint64_t mib = count > 1 ? bench_number(words[1]) : 256, threads = count > 2 ? bench_number(words[2]) : 4;
    size_t kept_bytes = 0;
    if (count > 3 || mib == 0 || threads == 0 || threads > MAX_THREADS)
        bench_die("usage: give_back [MIB [THREADS]], with 1 to %d threads", MAX_THREADS);
    bytes_each = (mib << 20) / threads;
    most_objects = bytes_each / MEAN_BYTES + 1;
    start_workers(workers, (unsigned)threads);

    pthread_barrier_wait(&barrier);
    double peak = rss_mib();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    double begin = bench_seconds(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < SAMPLES; i++) {
        bench_sleep_until(begin + (double)i / SAMPLES_A_SECOND);
        rss[i] = rss_mib();
    }
    finished = 1;
    syscall(SYS_futex, &finished, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        kept_bytes += workers[i].kept_bytes;
    }
    print_samples(peak, rss, kept_bytes);
    return 0;
}
