/* The command lines of the stress programs. Each names the modes and the options that it knows; `--help` lists them
 * with ranges, and with what holds unless they are given. What is wrong is one line on standard error, which names
 * the option and its range, and the end with FOUND_USAGE.
 *
 * SLABMALLOC_TEST_SCALE in the environment, a factor, multiplies how much is done: a run is as short or as long as
 * whoever starts it wants, with the same words. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "random.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What a program knows; all know seconds, threads and the seed. */
enum {
    KNOWS_ADDS = 1u << 0,
    KNOWS_CHILDREN = 1u << 1,
    KNOWS_RETIRES = 1u << 2,
    KNOWS_FORKS = 1u << 3,
    KNOWS_ONLY = 1u << 4,
    KNOWS_MEMBARRIER = 1u << 5,
    KNOWS_ATOMICS = 1u << 6,
    KNOWS_SIZES = 1u << 7,
    KNOWS_UNTIL_FOUND = 1u << 8,
};

struct mode {
    const char *name; /* NULL: behind the last one */
    const char *help;
    void (*run)(void);
};

struct program {
    const char *name, *about;
    const struct mode *modes; /* NULL: it has but one */
    unsigned knows;
    unsigned least_threads;
};

/* What is asked for. A program sets before parsing what holds unless it is given. */
extern struct options {
    double seconds; /* that are worked at least; INFINITY: until something wrong is found */
    uint64_t threads, seed;
    uint64_t adds, children, retires;
    uint64_t largest, align;
    const char *only;       /* the one variant that is wanted, NULL for all */
    const char *membarrier; /* NULL: as the kernel has it */
    bool forks, atomics, until_found;
    char **words; /* all of them, to start the program anew */
} options;

/* The mode that is wanted, NULL where the program has but one. What is scaled has been scaled. */
const struct mode *parse_options(const struct program *program, int count, char **words);

/* The first random state of the thread, or whatever else has a number. */
static inline uint64_t random_of(uint64_t ordinal)
{
    return mix(options.seed * 1000003 + ordinal);
}
