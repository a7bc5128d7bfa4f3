/* What the first objects of a process cost: fixed_cost [even|server].
 *
 * A program makes 1,000 objects of 30 sizes, writes all their bytes, and then frees them in the order of allocation.
 * Sizes rise by about a fifth from 16 bytes to 4 KiB. `even` (the default) makes as many of each size; `server` makes
 * many small and few large ones as servers do, and its sizes go to 32 KiB. Printed are the resident set while all are
 * alive and when all are free, the bytes asked for, and the peak.
 *
 * slabmalloc samples one allocation in 2 MiB, by chance: in four of ten processes one of these. What a sample costs
 * is another figure, and mostly pages of the library's file; so a process in which one was taken begins again. */
#include "bench.h"

#include "base/inspect.h"

/* Of slabmalloc; other allocators have none. */
extern const struct slm_inspect slab_inspect __attribute__((weak));

enum { SIZES = 30, OBJECTS = 1000 };

static const struct mix {
    const char *name;
    struct {
        unsigned bytes, count;
    } sizes[SIZES];
} mixes[] = {
    {"even", {{16, 34},   {20, 34},   {24, 34},   {29, 34},   {35, 34},   {42, 34},  {51, 34},   {62, 34},
              {75, 34},   {91, 34},   {110, 33},  {133, 33},  {161, 33},  {195, 33}, {236, 33},  {286, 33},
              {346, 33},  {419, 33},  {507, 33},  {614, 33},  {743, 33},  {900, 33}, {1089, 33}, {1318, 33},
              {1596, 33}, {1932, 33}, {2339, 33}, {2831, 33}, {3427, 33}, {4096, 33}}},
    {"server", {{16, 150}, {20, 90},  {24, 130}, {29, 40},  {35, 90},   {42, 60},  {51, 60},  {62, 60},
                {75, 50},  {91, 40},  {110, 40}, {133, 30}, {161, 25},  {195, 20}, {236, 20}, {286, 15},
                {346, 12}, {419, 10}, {507, 10}, {614, 8},  {743, 6},   {900, 6},  {1089, 6}, {1596, 5},
                {2339, 4}, {4096, 4}, {6144, 3}, {8192, 3}, {16384, 2}, {32768, 1}}},
};

static const struct mix *find_mix(const char *name)
{
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++) {
        if (strcmp(mixes[i].name, name) == 0)
            return &mixes[i];
    }
    bench_die("no mix %s", name);
}

/* One object of every size in turn, as long as there are some to be made. */
static size_t make_objects(const struct mix *mix, void **objects)
{
    size_t asked = 0;
    unsigned made = 0, before;
    unsigned round = 0;
    do {
        before = made;
        for (unsigned i = 0; i < SIZES; i++) {
            if (round >= mix->sizes[i].count)
                continue;
            size_t bytes = mix->sizes[i].bytes;
            objects[made++] = memset(bench_check(malloc(bytes)), 1, bytes);
            asked += bytes;
        }
        round++;
    } while (made > before);
    if (made != OBJECTS)
        bench_die("%s makes %u objects", mix->name, made);
    return asked;
}

static bool has_sampled(void)
{
    const struct slm_inspect *volatile inspect = &slab_inspect;
    return inspect && inspect->sample_counts->top > 0;
}

int main(int count, char **words)
{
    const struct mix *mix = find_mix(count > 1 ? words[1] : "even");
    void **objects = bench_pages(OBJECTS * sizeof *objects);
    size_t asked = make_objects(mix, objects);
    long live = bench_rss_kib(), live_anonymous = bench_anonymous_kib();
    for (unsigned i = 0; i < OBJECTS; i++)
        free(objects[i]);
    long freed = bench_rss_kib(), freed_anonymous = bench_anonymous_kib();

    if (has_sampled())
        execv("/proc/self/exe", words);
    bench_figure("asked", (double)asked / 1024, "KiB");
    bench_figure("live_rss", (double)live, "KiB");
    bench_figure("live_anonymous", (double)live_anonymous, "KiB");
    bench_figure("freed_rss", (double)freed, "KiB");
    bench_figure("freed_anonymous", (double)freed_anonymous, "KiB");
    bench_figure("peak_rss", (double)bench_peak_rss_kib(), "KiB");
    return 0;
}
