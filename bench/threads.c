/* Allocators under threads: threads WORKLOAD THREADS SECONDS.
 *
 * WORKLOAD is one of the table below; the files threads_*.c say what each does and what counts as an operation of it.
 * THREADS of them are alive at once, 2 to 256, on however many CPUs there are: all start together at a barrier, work
 * for SECONDS of wall time and are then told to stop. Nobody waits for anybody while there is work to do, or only
 * after thousands of operations, so that with more threads than CPUs it is still the allocator that is measured.
 *
 * Figures: `throughput`, operations in a second of wall time, of all threads together; `cpu`, the CPU time of the
 * whole process, user and system, divided by the operations. Both are taken from the barrier until the last thread
 * has ended, and both include what the workload itself costs, which is the same for every allocator. */
#include "threads.h"

#include <semaphore.h>

static const struct workload *const workloads[] = {
    &larson, &larson_small, &handoff, &ring, &exchange, &births, &false_sharing_active, &false_sharing_passive};

unsigned lane_count;
_Alignas(CACHE_LINES) atomic_bool stop_flag; /* alone on its lines: all threads read it all the time */
_Alignas(CACHE_LINES) static const struct workload *workload;
static pthread_attr_t attributes;
static pthread_barrier_t barrier;
static sem_t lanes_ended;

static void start_thread(void *(*entry)(void *), struct lane *lane)
{
    pthread_t thread;
    int error = pthread_create(&thread, &attributes, entry, lane);
    if (error != 0)
        bench_die("cannot start a thread of lane %u: %s", lane->index, strerror(error));
}

static void *succeed(void *argument);

static void end_or_be_succeeded(struct lane *lane)
{
    if (stopped())
        sem_post(&lanes_ended);
    else
        start_thread(succeed, lane);
}

/* The first thread of a lane. */
static void *begin(void *argument)
{
    struct lane *lane = argument;
    lane->thread = pthread_self();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    workload->run(lane);
    end_or_be_succeeded(lane);
    return NULL;
}

/* A later one. Its predecessor, which started it as its last act, has long ended when it is joined. */
static void *succeed(void *argument)
{
    struct lane *lane = argument;
    pthread_t predecessor = lane->thread;
    lane->thread = pthread_self();
    workload->run(lane);
    pthread_join(predecessor, NULL);
    end_or_be_succeeded(lane);
    return NULL;
}

/* Stack size: glibc keeps 40 MiB of stacks of ended threads, which is five of the default size. With more threads
 * being born and dying, its mmap and munmap would be what is measured. */
static struct lane *make_lanes(void)
{
    struct lane *lanes = bench_pages(lane_count * sizeof *lanes);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_barrier_init(&barrier, NULL, lane_count + 1);
    sem_init(&lanes_ended, 0, 0);
    for (unsigned i = 0; i < lane_count; i++) {
        lanes[i].index = i;
        lanes[i].random = i;
        if (workload->prepare != NULL)
            workload->prepare(&lanes[i]);
    }
    return lanes;
}

static void measure(struct lane *lanes, double seconds)
{
    uint64_t operations = 0;
    for (unsigned i = 0; i < lane_count; i++)
        start_thread(begin, &lanes[i]);

    /* All are there after the first wait, and none is gone before the second: the time is taken between the two. */
    pthread_barrier_wait(&barrier);
    double wall = bench_seconds(CLOCK_MONOTONIC), cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    pthread_barrier_wait(&barrier);
    bench_sleep_until(wall + seconds);
    atomic_store(&stop_flag, true);
    for (unsigned i = 0; i < lane_count; i++)
        sem_wait(&lanes_ended);
    for (unsigned i = 0; i < lane_count; i++) {
        pthread_join(lanes[i].thread, NULL);
        operations += lanes[i].operations;
    }
    wall = bench_seconds(CLOCK_MONOTONIC) - wall;
    cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;

    if (operations == 0)
        bench_die("%.3g s are too short for an operation of %s", seconds, workload->name);
    bench_figure("throughput", (double)operations / wall / 1e6, "Mops/s");
    bench_figure("cpu", cpu / (double)operations * 1e9, "ns/op");
    bench_objects((double)operations * workload->objects);
}

int main(int count, char **words)
{
    if (count != 4)
        bench_die("usage: threads WORKLOAD THREADS SECONDS");
    for (size_t i = 0; i < sizeof workloads / sizeof workloads[0]; i++) {
        if (strcmp(workloads[i]->name, words[1]) == 0)
            workload = workloads[i];
    }
    uint64_t threads = bench_number(words[2]);
    if (workload == NULL)
        bench_die("no workload %s", words[1]);
    if (threads < 2 || threads > MAX_THREADS || threads % 2 != 0)
        bench_die("an even number of 2 to %d threads", MAX_THREADS);
    lane_count = (unsigned)threads;
    measure(make_lanes(), bench_decimal(words[3]));
    return 0;
}
