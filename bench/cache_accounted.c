/* What accounting costs: the CPU time of accounted and limited caches in times a plain one's.
 *
 * Each round runs the same loop on the three of them, one right after the other, so that a machine that drifts hurts
 * all alike. `pair` makes an object of 64 bytes and frees it, `batch` makes 100 and then frees them. Printed are the
 * medians over the rounds, of nanoseconds an object and of the ratios. */
#include "bench.h"

#include <slabmalloc.h>

enum { PLAIN, ACCOUNTED, LIMITED, KINDS, ROUNDS = 101, TURNS = 500, BATCH = 100, OBJECT_BYTES = 64 };

static const char *const names[KINDS] = {"plain", "accounted", "limited"};
static const slab_cache_attr attributes[KINDS] = {
    [PLAIN] = {.flags = SLAB_NO_MERGE},
    [ACCOUNTED] = {.flags = SLAB_ACCOUNT},
    [LIMITED] = {.limit_bytes = 1 << 30},
};
static slab_cache *caches[KINDS];

static void run_pairs(slab_cache *cache)
{
    for (unsigned i = 0; i < TURNS * BATCH; i++)
        slab_cache_free(cache, slab_cache_alloc(cache));
}

static void run_batches(slab_cache *cache)
{
    void *objects[BATCH];
    for (unsigned turn = 0; turn < TURNS; turn++) {
        for (unsigned i = 0; i < BATCH; i++)
            objects[i] = slab_cache_alloc(cache);
        for (unsigned i = 0; i < BATCH; i++)
            slab_cache_free(cache, objects[i]);
    }
}

static int compare(const void *first, const void *second)
{
    const double left = *(const double *)first, right = *(const double *)second;
    return (left > right) - (left < right);
}

static double median(double values[ROUNDS])
{
    qsort(values, ROUNDS, sizeof values[0], compare);
    return values[ROUNDS / 2];
}

static void measure(const char *loop, void (*run)(slab_cache *cache))
{
    static double times[KINDS][ROUNDS], ratios[KINDS][ROUNDS];
    char figure[64];
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned kind = 0; kind < KINDS; kind++) {
            const double begin = bench_seconds(CLOCK_THREAD_CPUTIME_ID);
            run(caches[kind]);
            times[kind][round] = (bench_seconds(CLOCK_THREAD_CPUTIME_ID) - begin) / (TURNS * BATCH) * 1e9;
            ratios[kind][round] = times[kind][round] / times[PLAIN][round];
        }
    }
    for (unsigned kind = 0; kind < KINDS; kind++) {
        snprintf(figure, sizeof figure, "%s_%s", loop, names[kind]);
        bench_figure(figure, median(times[kind]), "ns");
    }
    for (unsigned kind = ACCOUNTED; kind < KINDS; kind++) {
        snprintf(figure, sizeof figure, "%s_%s_over_plain", loop, names[kind]);
        bench_figure(figure, median(ratios[kind]), "x");
    }
}

int main(void)
{
    for (unsigned kind = 0; kind < KINDS; kind++)
        caches[kind] = bench_check(slab_cache_create(names[kind], OBJECT_BYTES, &attributes[kind]));
    measure("pair", run_pairs);
    measure("batch", run_batches);
    return 0;
}
