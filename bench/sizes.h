/* Sizes as real programs ask for them, drawn from a recorded histogram.
 *
 * bench/data/sizes/NAME.csv says how often a program asked for how many bytes, and how many such objects it had when
 * most bytes were alive: "bytes,calls,live" a line, after lines of comment that start with '#'. bench/record.py makes
 * these files. Drawn is by the calls. A histogram knows nothing of their order or of how long an object lives; those
 * a bench adds itself. So sizes above SIZES_LARGEST are left out of the
 * draws: a database's 2 MiB for one sort are free again at once, and with the lives of other objects would be all
 * that counts.
 *
 * Draws are a table, not a computation: SIZES_DRAWS of them are made when the histogram is loaded, from a fixed seed
 * and so that each size comes as often as its share says, to one draw; a bench then walks the table, which costs one
 * load a draw and keeps any random number generator out of what is timed.
 *
 * Files are read with read(2) into static memory and tables come from mmap: nothing here calls malloc. */
#ifndef BENCH_SIZES_H
#define BENCH_SIZES_H

#include <stddef.h>
#include <stdint.h>

enum { SIZES_DRAWS = 1 << 16, SIZES_LARGEST = 64 << 10 };

struct sizes {
    uint32_t *draws; /* SIZES_DRAWS of them, in random order */
    uint32_t largest;
    double mean; /* bytes, over the draws */
};

/* The histogram NAME of bench/data/sizes. Ends the program with a line when there is none or it is malformed. */
void sizes_load(const char *name, struct sizes *sizes);

/* The size of draw number i; the table starts again at its end. Never 0: a malloc(0) is drawn as 1. */
static inline size_t sizes_draw(const struct sizes *sizes, uint64_t i)
{
    return sizes->draws[i % SIZES_DRAWS];
}

#endif
