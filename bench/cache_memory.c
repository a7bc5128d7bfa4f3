/* What object caches cost: cache_memory create|create_own|use|churn|tune, each in a process of its own.
 *
 *     create       10,000 caches of one size are created, which merge
 *     create_own   the same with slabs of their own (SLAB_NO_MERGE)
 *     use          a thread uses each of 1,000 caches, then seven more threads do, one after the other
 *     churn        a thread makes and frees 500 objects of each of 1,000 caches, again and again: magazines grow
 *     tune         1,000 caches are given magazines of another size
 *
 * Resident sets are differences of /proc/self/smaps_rollup, divided by the caches (statm is some pages off: the
 * kernel adds its CPUs' counts up now and then). To use a cache is to make one object and free it. The first thread's
 * figure has the page of the slab in it on which the object lies; a further thread adds its magazines, of their first
 * and small size. What grown magazines take, a depot's stock of them included, is told by the library's own count of
 * metadata, which has no objects in it.
 *
 * Counted beside that are the library's own calls of membarrier(2), and function-call interrupts as /proc/interrupts
 * shows them on some machines: those are the whole machine's. While caches are created and tuned a second thread
 * spins on another CPU, for one that does not run is not interrupted. */
#include "bench.h"

#include <pthread.h>
#include <semaphore.h>
#include <slabmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { CREATED = 10000, TUNED = 1000, USED = 1000, THREADS = 8, OBJECT_BYTES = 64, TUNED_ROUNDS = 20 };
enum { CHURNED_OBJECTS = 500, CHURNED_TURNS = 50 };

static slab_cache *caches[CREATED];

static slab_stats stats_now(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    return stats;
}

/* Function-call interrupts of all CPUs since the machine started; -1 where it does not tell. */
static long interrupts(void)
{
    char line[8192];
    long sum = -1;
    FILE *file = fopen("/proc/interrupts", "re");
    while (file != NULL && sum < 0 && fgets(line, sizeof line, file) != NULL) {
        char *at = strstr(line, "CAL:"), *end;
        if (at == NULL)
            continue;
        sum = 0;
        for (at += strlen("CAL:"); sum += strtol(at, &end, 10), end != at; at = end)
            continue;
    }
    if (file != NULL)
        fclose(file);
    return sum;
}

static atomic_bool spins, stop;

static void *spin(void *unused)
{
    bench_pin(1);
    atomic_store(&spins, true);
    while (!atomic_load_explicit(&stop, memory_order_relaxed))
        continue;
    return unused;
}

/* Does the work beside a thread that runs all the time, and prints what it cost. */
static void watch(unsigned count, void (*work)(unsigned count))
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, spin, NULL) != 0)
        bench_die("cannot start a thread");
    while (!atomic_load(&spins))
        sched_yield();
    bench_pin(0); /* not earlier: the other one would inherit it */

    const long resident_before = bench_rss_kib(), interrupts_before = interrupts();
    const uint64_t membarriers_before = stats_now().membarriers;
    double seconds = bench_seconds(CLOCK_MONOTONIC);
    work(count);
    seconds = bench_seconds(CLOCK_MONOTONIC) - seconds;
    const uint64_t membarriers_after = stats_now().membarriers;
    const long interrupts_after = interrupts(), resident_after = bench_rss_kib();
    atomic_store(&stop, true);
    pthread_join(thread, NULL);

    bench_figure("caches", count, "caches");
    bench_figure("time", seconds * 1e3, "ms");
    bench_figure("rss_a_cache", (double)(resident_after - resident_before) * 1024 / count, "B");
    bench_figure("membarriers", (double)(membarriers_after - membarriers_before), "calls");
    if (interrupts_before < 0)
        puts("this machine does not show function-call interrupts");
    else
        bench_figure("interrupts_max", (double)(interrupts_after - interrupts_before), "interrupts");
}

static void create_with(unsigned count, unsigned flags)
{
    const slab_cache_attr attributes = {.flags = flags};
    for (unsigned i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "tenant-%u", i);
        caches[i] = bench_check(slab_cache_create(name, OBJECT_BYTES, &attributes));
    }
}

static void create(unsigned count)
{
    create_with(count, 0);
}

static void create_own(unsigned count)
{
    create_with(count, SLAB_NO_MERGE);
}

static void tune(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (slab_cache_tune(caches[i], TUNED_ROUNDS, 0) != 0)
            bench_die("cache %u is not tuned", i);
    }
}

static void use(slab_cache *cache)
{
    slab_cache_free(cache, memset(bench_check(slab_cache_alloc(cache)), 1, OBJECT_BYTES));
}

static sem_t used;
static pthread_barrier_t leave;

/* A thread's first cache brings what all its caches have in common, and is not counted. */
static void *use_all(void *of_growth)
{
    long *growth = of_growth;
    use(caches[USED]);
    *growth = -bench_rss_kib();
    for (unsigned i = 0; i < USED; i++)
        use(caches[i]);
    *growth += bench_rss_kib();
    sem_post(&used);
    pthread_barrier_wait(&leave); /* its magazines stay as long as it does */
    return NULL;
}

static void churn(slab_cache *cache)
{
    void *objects[CHURNED_OBJECTS];
    for (unsigned turn = 0; turn < CHURNED_TURNS; turn++) {
        for (unsigned i = 0; i < CHURNED_OBJECTS; i++)
            objects[i] = bench_check(slab_cache_alloc(cache));
        for (unsigned i = 0; i < CHURNED_OBJECTS; i++)
            slab_cache_free(cache, objects[i]);
    }
}

static void run_churn(void)
{
    create_own(USED + 1);
    churn(caches[USED]);
    const uint64_t before = stats_now().metadata_bytes;
    for (unsigned i = 0; i < USED; i++)
        churn(caches[i]);
    bench_figure("metadata_a_cache", (double)(stats_now().metadata_bytes - before) / USED, "B");
}

static void run_use(void)
{
    pthread_t threads[THREADS];
    static long growth[THREADS];
    long further = 0;
    create_own(USED + 1);
    sem_init(&used, 0, 0);
    pthread_barrier_init(&leave, NULL, THREADS + 1);
    for (unsigned i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, use_all, &growth[i]) != 0)
            bench_die("cannot start thread %u", i);
        sem_wait(&used);
        further += i == 0 ? 0 : growth[i];
    }
    pthread_barrier_wait(&leave);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    bench_figure("first_thread_rss_a_cache", (double)growth[0] * 1024 / USED, "B");
    bench_figure("further_thread_rss_a_cache", (double)further * 1024 / (THREADS - 1) / USED, "B");
}

/* What the first cache of a process starts, all have in common; it is not counted. The table of handles is the
 * program's own, and resident before. */
int main(int count, char **words)
{
    const char *what = count == 2 ? words[1] : "";
    memset(caches, 1, sizeof caches);
    create(1);
    if (strcmp(what, "create") == 0) {
        watch(CREATED, create);
    } else if (strcmp(what, "create_own") == 0) {
        watch(CREATED, create_own);
    } else if (strcmp(what, "tune") == 0) {
        create_own(TUNED);
        watch(TUNED, tune);
    } else if (strcmp(what, "use") == 0) {
        run_use();
    } else if (strcmp(what, "churn") == 0) {
        run_churn();
    } else {
        bench_die("usage: cache_memory create|create_own|use|churn|tune");
    }
    return 0;
}
