/* What memory costs once sizes have changed: fragmentation [MIB].
 *
 * Objects of one range of sizes are made until MIB (64) mebibytes of them are alive. Then comes round after round: a
 * random half of the objects is freed, and the space is filled up to MIB again with objects of another range. What
 * was freed lies scattered, so that an allocator can use it anew only as far as it serves other sizes from the same
 * pages, or gives whole pages back. All bytes of an object are written. The process makes no pause: what an allocator
 * gives back on a timer counts only as far as its timer has run out meanwhile.
 *
 * Figures: after_fill, then after_half_freed and after_refill of the first round, after_half_freed_2 ... of the
 * others, all as resident set over the bytes alive (x); `worst_refill`, the largest after a refill. The resident set
 * is taken less what the process had just before it made its first object: libraries, and the bench's own table,
 * whose pages are all there from the start. Bytes alive are those asked for. The series @rss and @live have both in
 * MiB, four points to a phase. */
#include "bench.h"

/* What the first fill and each refill are made of: sizes from `smallest` to below smallest << doublings. Small and
 * large ones in turn, so that each refill finds holes of other sizes than it needs. */
static const struct range {
    unsigned smallest, doublings;
} ranges[] = {{16, 4}, {48, 5}, {512, 4}, {100, 1}, {4096, 4}, {16, 6}};

enum { RANGES = sizeof ranges / sizeof ranges[0], QUARTERS = 4, LEAST_MEAN = 64 };

/* An object says in its first bytes how long it is. */
static size_t **objects;
static size_t object_count, most_objects, live_bytes;
static uint64_t seed;
static long first_kib;
static double phases; /* done so far */

/* Returns the resident set over the bytes alive. */
static double end_quarter(void)
{
    phases += 1.0 / QUARTERS;
    double rss = (double)(bench_rss_kib() - first_kib) * 1024;
    bench_point("rss", phases, "phases", rss / 0x1p20, "MiB");
    bench_point("live", phases, "phases", (double)live_bytes / 0x1p20, "MiB");
    return rss / (double)live_bytes;
}

static double fill(const struct range *range, size_t full_bytes)
{
    size_t missing = full_bytes - live_bytes;
    double ratio = 0;
    for (unsigned quarter = 1; quarter <= QUARTERS; quarter++) {
        size_t goal = full_bytes - missing * (QUARTERS - quarter) / QUARTERS;
        while (live_bytes < goal) {
            size_t bytes = bench_size(&seed, range->smallest, range->doublings);
            if (object_count == most_objects)
                bench_die("more than %zu objects", most_objects);
            size_t *object = memset(bench_check(malloc(bytes)), 1, bytes);
            *object = bytes;
            objects[object_count++] = object;
            live_bytes += bytes;
        }
        ratio = end_quarter();
    }
    return ratio;
}

/* Each object goes with a chance of one half; the others move together in the table. */
static double free_half(void)
{
    size_t kept = 0, next = 0;
    double ratio = 0;
    for (unsigned quarter = 1; quarter <= QUARTERS; quarter++) {
        for (size_t end = object_count * quarter / QUARTERS; next < end; next++) {
            if (bench_random(&seed) % 2 == 0) {
                objects[kept++] = objects[next];
            } else {
                live_bytes -= *objects[next];
                free(objects[next]);
            }
        }
        ratio = end_quarter();
    }
    object_count = kept;
    return ratio;
}

static void print_round(unsigned round, const char *phase, double ratio)
{
    char name[64];
    if (round == 1)
        snprintf(name, sizeof name, "%s", phase);
    else
        snprintf(name, sizeof name, "%s_%u", phase, round);
    bench_figure(name, ratio, "x");
}

int main(int count, char **words)
{
    size_t full_bytes = (count > 1 ? bench_number(words[1]) : 64) << 20;
    if (count > 2 || full_bytes == 0)
        bench_die("usage: fragmentation [MIB]");
    double worst = 0;
    static char line[1 << 16];
    setvbuf(stdout, line, _IOFBF, sizeof line); /* else stdio takes a buffer from malloc */
    most_objects = full_bytes / LEAST_MEAN;
    objects = bench_pages(most_objects * sizeof *objects);
    first_kib = bench_rss_kib();

    bench_figure("after_fill", fill(&ranges[0], full_bytes), "x");
    for (unsigned round = 1; round < RANGES; round++) {
        print_round(round, "after_half_freed", free_half());
        double ratio = fill(&ranges[round], full_bytes);
        print_round(round, "after_refill", ratio);
        worst = ratio > worst ? ratio : worst;
    }
    bench_figure("worst_refill", worst, "x");
    return 0;
}
