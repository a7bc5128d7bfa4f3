/* Memory that is free for a moment only: demand LOAD [REPLACEMENTS].
 *
 *     large    20 objects of 5 to 25 MiB; a random one is replaced again and again, 500 times
 *     churn    2,000 objects of the sizes that MariaDB was recorded to ask for, one of 24 over 64 KiB; 500,000 times
 *
 * What a busy process frees here it takes again at once, in another size. An allocator that has given it back to the
 * kernel meanwhile pays with system calls and page faults; one that gives nothing back pays with memory. A word of
 * every page of a new object is written. Figures: `faults`, the page faults of all replacements, and what one
 * replacement took of the CPU's time, the kernel's included. */
#include "bench.h"
#include "sizes.h"

enum { PAGE = 4096, LARGE = 20, RECORDED = 2000 };

static void *objects[RECORDED];
static struct sizes recorded;

static size_t large_size(uint64_t *random)
{
    enum { LEAST = 5 << 20, SPAN = 20 << 20 };
    return LEAST + bench_random(random) % SPAN;
}

/* sizes.h leaves out what is larger than 64 KiB; those are nearly all of these sizes, in such shares. */
static size_t recorded_size(uint64_t *random)
{
    static const uint32_t larger[] = {65565, 65565, 262136, 1048559, 2097144};
    enum { ONE_IN = 24, LARGER = sizeof larger / sizeof larger[0] };
    const uint64_t draw = bench_random(random);
    return draw % ONE_IN == 0 ? larger[draw / ONE_IN % LARGER] : sizes_draw(&recorded, draw / ONE_IN);
}

static void *make(size_t bytes)
{
    char *object = bench_check(malloc(bytes));
    for (size_t at = 0; at < bytes; at += PAGE)
        object[at] = 1;
    return object;
}

static void run(unsigned count, uint64_t replacements, size_t (*draw)(uint64_t *))
{
    uint64_t random = 1;
    for (unsigned i = 0; i < count; i++)
        objects[i] = make(draw(&random));
    const long faults = bench_faults();
    const double begin = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (uint64_t i = 0; i < replacements; i++) {
        void **victim = &objects[bench_random(&random) % count];
        free(*victim);
        *victim = make(draw(&random));
    }
    const double spent = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - begin;
    bench_figure("replacement", spent / (double)replacements * 1e6, "us");
    bench_figure("faults", (double)(bench_faults() - faults), "faults");
    bench_objects((double)(count + replacements));
}

int main(int count, char **words)
{
    static char output[1 << 12];
    const uint64_t replacements = count == 3 ? bench_number(words[2]) : 0;
    setvbuf(stdout, output, _IOFBF, sizeof output); /* else stdio takes a buffer from malloc */
    if (count < 2 || count > 3 || (count == 3 && replacements == 0))
        bench_die("usage: demand large|churn [REPLACEMENTS]");
    if (strcmp(words[1], "large") == 0) {
        run(LARGE, count == 3 ? replacements : 500, large_size);
    } else if (strcmp(words[1], "churn") == 0) {
        sizes_load("mariadb", &recorded);
        run(RECORDED, count == 3 ? replacements : 500000, recorded_size);
    } else {
        bench_die("no load %s", words[1]);
    }
    return 0;
}
