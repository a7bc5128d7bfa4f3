/* The table of rows that are made in loops; see rows.h. */
#include <stdarg.h>

#include "rows.h"

enum { ROWS_MOST = 16384, NAME_BYTES = 80 };

const size_t size_classes[SIZE_CLASSES] = {
    16,    32,    48,    64,    80,    96,    112,   128,   144,   160,   176,   192,   208,   224,   240,
    256,   288,   320,   352,   384,   416,   448,   480,   512,   576,   640,   704,   768,   832,   896,
    960,   1024,  1152,  1280,  1408,  1536,  1664,  1792,  1920,  2048,  2304,  2560,  2816,  3072,  3328,
    3584,  3840,  4096,  4608,  5120,  5632,  6144,  6656,  7168,  7680,  8192,  9216,  10240, 11264, 12288,
    13312, 14336, 15360, 16384, 18432, 20480, 22528, 24576, 26624, 28672, 30720, 32768,
};

static struct misuse_case rows[ROWS_MOST + 1];
static char names[ROWS_MOST][NAME_BYTES];
static unsigned count;

void add_row(struct misuse_case row, const char *format, ...)
{
    va_list values;
    if (count == ROWS_MOST) {
        fputs("too many rows\n", stderr);
        exit(EXIT_FAILURE);
    }
    va_start(values, format);
    vsnprintf(names[count], NAME_BYTES, format, values);
    va_end(values);
    row.name = names[count];
    rows[count++] = row;
}

const struct misuse_case *misuse_of_loops(void)
{
    add_rows_of_twice();
    add_rows_of_askew();
    add_rows_of_ahead();
    add_rows_of_freed();
    add_rows_of_guarded();
    add_rows_of_joined();
    add_rows_of_unkeyed();
    add_rows_of_sampled();
    add_rows_of_sized();
    return rows;
}
