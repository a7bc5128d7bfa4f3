/* Recorded histograms, read and made into tables of draws; see sizes.h. */
#include "sizes.h"
#include "bench.h"

#include <limits.h>

enum { MAX_TEXT = 1 << 18, MAX_ROWS = 1 << 14 };

struct row {
    uint32_t bytes;
    uint64_t count;
};

/* The rows that are drawn from, and the sum of their counts. */
static unsigned read_rows(const char *path, struct row *rows, uint64_t *sum)
{
    static char text[MAX_TEXT];
    unsigned count = 0;
    *sum = 0;
    bench_read(path, text, sizeof text);
    for (const char *line = text; *line != '\0'; line += strcspn(line, "\n"), line += *line == '\n') {
        char *comma, *end;
        if (*line == '#')
            continue;
        const uint64_t bytes = strtoull(line, &comma, 10);
        const uint64_t times = *comma == ',' ? strtoull(comma + 1, &end, 10) : 0;
        if (comma == line || times == 0 || *end != ',' || count == MAX_ROWS)
            bench_die("%s: not \"bytes,calls,live\": %.*s", path, (int)strcspn(line, "\n"), line);
        if (bytes > SIZES_LARGEST)
            continue;
        rows[count++] = (struct row){bytes > 0 ? (uint32_t)bytes : 1, times};
        *sum += times;
    }
    if (count == 0)
        bench_die("%s: no row", path);
    return count;
}

static void shuffle(uint32_t *draws)
{
    uint64_t random = 1;
    for (unsigned i = SIZES_DRAWS; i > 1; i--) {
        const unsigned other = (unsigned)(bench_random(&random) % i);
        const uint32_t kept = draws[i - 1];
        draws[i - 1] = draws[other];
        draws[other] = kept;
    }
}

void sizes_load(const char *name, struct sizes *sizes)
{
    static struct row rows[MAX_ROWS];
    char path[PATH_MAX];
    uint64_t sum, before = 0, total = 0;
    snprintf(path, sizeof path, "%s/sizes/%s.csv", BENCH_DATA, name);
    const unsigned count = read_rows(path, rows, &sum);

    /* A row gets the draws whose middle lies in its stretch of the sum, so shares are met to one draw. */
    sizes->draws = bench_pages(SIZES_DRAWS * sizeof *sizes->draws);
    sizes->largest = 0;
    for (unsigned i = 0, draw = 0; i < count; i++) {
        before += rows[i].count;
        for (; draw < SIZES_DRAWS && (draw + 0.5) / SIZES_DRAWS * (double)sum < (double)before; draw++) {
            sizes->draws[draw] = rows[i].bytes;
            sizes->largest = rows[i].bytes > sizes->largest ? rows[i].bytes : sizes->largest;
            total += rows[i].bytes;
        }
    }
    sizes->mean = (double)total / SIZES_DRAWS;
    shuffle(sizes->draws);
}
