/* What small objects cost beside themselves: small_objects [MIB].
 *
 * Four threads make MIB (256) mebibytes of objects of 64 bytes, write them, and replace each of them once, in random
 * order, so that magazines, caches and free lists are in use. Then all wait. Told is by how many percent the resident
 * set has grown beyond the objects: headers, tables, bits, threads' caches and pages that are partly free. */
#include "bench.h"

#include <pthread.h>

enum { THREADS = 4, OBJECT_BYTES = 64 };

static size_t count; /* of a thread's objects */
static char **objects[THREADS];
static pthread_barrier_t full, told;

static void *fill(void *number)
{
    char **mine = objects[(uintptr_t)number];
    uint64_t random = (uintptr_t)number;
    for (size_t i = 0; i < count; i++)
        mine[i] = memset(bench_check(malloc(OBJECT_BYTES)), 1, OBJECT_BYTES);
    for (size_t i = 0; i < count; i++) {
        const size_t victim = bench_random(&random) % count;
        free(mine[victim]);
        mine[victim] = memset(bench_check(malloc(OBJECT_BYTES)), 1, OBJECT_BYTES);
    }
    pthread_barrier_wait(&full);
    pthread_barrier_wait(&told);
    return NULL;
}

int main(int words_count, char **words)
{
    pthread_t threads[THREADS];
    count = (words_count > 1 ? bench_number(words[1]) : 256) * ((1 << 20) / OBJECT_BYTES) / THREADS;
    for (unsigned i = 0; i < THREADS; i++)
        objects[i] = bench_pages(count * sizeof *objects[i]);
    pthread_barrier_init(&full, NULL, THREADS + 1);
    pthread_barrier_init(&told, NULL, THREADS + 1);
    const long before = bench_rss_kib();
    for (uintptr_t i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, fill, (void *)i) != 0)
            bench_die("cannot start thread %zu", (size_t)i);
    }
    pthread_barrier_wait(&full);
    const double live = (double)THREADS * (double)count * OBJECT_BYTES;
    bench_figure("beyond_objects", 100 * ((double)(bench_rss_kib() - before) * 1024 - live) / live, "%");
    pthread_barrier_wait(&told);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
