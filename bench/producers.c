/* Many producers, one thread that only frees: producers [PRODUCERS [OBJECTS [BYTES]]].
 *
 * Objects travel in batches. There is a fixed number of batches, so the queue is bounded; a producer takes an empty
 * one, fills it with objects, and puts it into the queue, the consumer takes the whole queue and frees what it finds.
 * Empty batches come back by the hundred, so that a sleeping producer is woken once for thousands of objects: with
 * more threads than CPUs the wake-ups would otherwise be what is measured.
 *
 * The live set is what the program itself needs at its peak: the largest number of objects that were, at one
 * moment, in filled batches (queued, or taken by the consumer and not yet returned), times the size of one. Objects
 * in batches that are still being filled (under 1 % of the bound) are left out, so the ratio to it is never
 * flattered. Each object's first 64 bytes are written by the producer; objects are smaller than a page, so all
 * pages are touched. */
#include "bench.h"

#include <pthread.h>
#include <stdbool.h>

enum { BATCH_OBJECTS = 64, BATCHES = 2048, RETURN_BATCHES = 512, MAX_PRODUCERS = 256, TOUCHED_BYTES = 64 };

struct batch {
    struct batch *next;
    void *objects[BATCH_OBJECTS];
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t some_empty, some_full;
    struct batch *empty, *full;
    unsigned filled, most_filled; /* batches that are queued or being freed */
    unsigned producing;           /* producers that have not ended */
} queue = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, NULL, 0, 0, 0};

static size_t object_bytes = 592;
static uint64_t batches_each;
static pthread_barrier_t start;

static struct batch *take_empty(void)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.empty == NULL)
        pthread_cond_wait(&queue.some_empty, &queue.lock);
    struct batch *batch = queue.empty;
    queue.empty = batch->next;
    pthread_mutex_unlock(&queue.lock);
    return batch;
}

static void put_full(struct batch *batch)
{
    pthread_mutex_lock(&queue.lock);
    bool was_dry = queue.full == NULL;
    batch->next = queue.full;
    queue.full = batch;
    if (++queue.filled > queue.most_filled)
        queue.most_filled = queue.filled;
    pthread_mutex_unlock(&queue.lock);
    if (was_dry)
        pthread_cond_signal(&queue.some_full);
}

/* The whole queue, or NULL when all producers have ended and nothing is left. */
static struct batch *take_all_full(void)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.full == NULL && queue.producing > 0)
        pthread_cond_wait(&queue.some_full, &queue.lock);
    struct batch *list = queue.full;
    queue.full = NULL;
    pthread_mutex_unlock(&queue.lock);
    return list;
}

static void put_empty(struct batch *first, struct batch *last, unsigned count)
{
    pthread_mutex_lock(&queue.lock);
    last->next = queue.empty;
    queue.empty = first;
    queue.filled -= count;
    pthread_mutex_unlock(&queue.lock);
    pthread_cond_broadcast(&queue.some_empty);
}

static void *produce(void *unused)
{
    pthread_barrier_wait(&start);
    for (uint64_t i = 0; i < batches_each; i++) {
        struct batch *batch = take_empty();
        for (unsigned j = 0; j < BATCH_OBJECTS; j++) {
            batch->objects[j] = bench_check(malloc(object_bytes));
            memset(batch->objects[j], (int)j, object_bytes < TOUCHED_BYTES ? object_bytes : TOUCHED_BYTES);
        }
        put_full(batch);
    }
    pthread_mutex_lock(&queue.lock);
    queue.producing--;
    pthread_mutex_unlock(&queue.lock);
    pthread_cond_signal(&queue.some_full);
    return unused;
}

static void free_objects(struct batch *batch)
{
    for (unsigned j = 0; j < BATCH_OBJECTS; j++)
        free(batch->objects[j]);
}

static void *consume(void *unused)
{
    struct batch *list;
    pthread_barrier_wait(&start);
    while ((list = take_all_full()) != NULL) {
        while (list != NULL) {
            struct batch *first = list, *last = list;
            unsigned count = 1;
            for (free_objects(last); count < RETURN_BATCHES && last->next != NULL; count++) {
                last = last->next;
                free_objects(last);
            }
            list = last->next;
            put_empty(first, last, count);
        }
    }
    return unused;
}

static void make_batches(void)
{
    struct batch *batches = bench_pages(BATCHES * sizeof *batches);
    for (unsigned i = 0; i < BATCHES; i++) {
        batches[i].next = queue.empty;
        queue.empty = &batches[i];
    }
}

int main(int count, char **words)
{
    pthread_t threads[MAX_PRODUCERS + 1];
    unsigned producers = count > 1 ? (unsigned)bench_number(words[1]) : 16;
    uint64_t objects = count > 2 ? bench_number(words[2]) : 8000000;
    object_bytes = count > 3 ? bench_number(words[3]) : object_bytes;
    if (producers == 0 || producers > MAX_PRODUCERS)
        bench_die("1 to %d producers", MAX_PRODUCERS);
    batches_each = objects / BATCH_OBJECTS / producers;
    queue.producing = producers;
    make_batches();
    pthread_barrier_init(&start, NULL, producers + 2);

    for (unsigned i = 0; i <= producers; i++) {
        if (pthread_create(&threads[i], NULL, i < producers ? produce : consume, NULL) != 0)
            bench_die("cannot start thread %u", i);
    }
    pthread_barrier_wait(&start);
    double wall = bench_seconds(CLOCK_MONOTONIC), cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i <= producers; i++)
        pthread_join(threads[i], NULL);
    wall = bench_seconds(CLOCK_MONOTONIC) - wall;
    cpu = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;

    double handed = (double)(batches_each * producers * BATCH_OBJECTS);
    double live_kib = (double)queue.most_filled * BATCH_OBJECTS * (double)object_bytes / 1024;
    double peak_kib = (double)bench_peak_rss_kib();
    bench_figure("throughput", handed / wall / 1e6, "Mobjects/s");
    bench_figure("cpu", cpu / handed * 1e9, "ns/object");
    printf("live set: %.1f MiB\n", live_kib / 1024);
    bench_objects(handed);
    bench_figure("peak_rss", peak_kib / 1024, "MiB");
    bench_figure("peak_rss_over_live_set", peak_kib / live_kib, "x");
    return 0;
}
