/* The map of one block of per-CPU memory: which parts of each CPU's 64 KiB are allocated. All CPUs' pieces are laid
 * out alike, so one map serves them all. It has two bits for each unit of four bytes:
 *
 *     used     110 1111 1 000000 11 ...       the unit belongs to an object
 *     first    100 1000 1 000000 10 ...       the object begins here
 *
 * Clearing its bits frees an object and joins it with its free neighbours; freeing never needs memory. `used` is set
 * before `first`, and `first` is cleared before `used`. So a fork in between leaves the child a correct map, except
 * that some units may stay used until the object before them is freed.
 *
 * Free runs have 128 classes by length: one for each below 64 units, then eight for each power of two. */
#pragma once

#include "base/compiler.h"

enum { SLM_PERCPU_UNIT = 4, SLM_PERCPU_PIECE_SHIFT = 16, SLM_PERCPU_PIECE = 1 << SLM_PERCPU_PIECE_SHIFT };
enum { SLM_PERCPU_UNITS = SLM_PERCPU_PIECE / SLM_PERCPU_UNIT, SLM_PERCPU_WORDS = SLM_PERCPU_UNITS / 64 };
enum { SLM_PERCPU_CLASSES = 128 };

struct slm_percpu_map {
    uint64_t used[SLM_PERCPU_WORDS];
    uint64_t first[SLM_PERCPU_WORDS];
};

/* A bit for each class of lengths. */
struct slm_percpu_lengths {
    uint64_t bits[SLM_PERCPU_CLASSES / 64];
};

struct slm_percpu_run {
    unsigned at, units;
};

/* The class of a length, 1 to SLM_PERCPU_UNITS; and set its bit. */
unsigned slm_percpu_class(unsigned units);
void slm_percpu_lengths_add(struct slm_percpu_lengths *lengths, unsigned units);

/* The lowest class from `from` on whose bit is set; SLM_PERCPU_CLASSES: none. */
unsigned slm_percpu_lengths_lowest(const struct slm_percpu_lengths *lengths, unsigned from);

/* The shortest free run, and the lowest of those, with room for `units` units at a multiple of `align` units; false:
 * none. `lengths` becomes those of all free runs. No unit below `from` is free, and all are from `to` on. */
bool slm_percpu_map_find(const struct slm_percpu_map *map, unsigned from, unsigned to, unsigned units, unsigned align,
                         struct slm_percpu_run *best, struct slm_percpu_lengths *lengths);

/* Make the free units from `at` on an object. */
void slm_percpu_map_take(struct slm_percpu_map *map, unsigned at, unsigned units);

/* A unit's bit, of `used` or `first`. */
slm_inline bool slm_percpu_map_bit(const uint64_t *bits, unsigned at)
{
    return bits[at / 64] >> at % 64 & 1;
}

/* The units of the object that begins at `at`. */
unsigned slm_percpu_map_object(const struct slm_percpu_map *map, unsigned at);

/* Free it; returns the length of the free run that it is then part of. All units are free from `to` on. */
unsigned slm_percpu_map_put(struct slm_percpu_map *map, unsigned at, unsigned units, unsigned to);

/* How many bits of `used` are set (the rest are free units), or of `first` (objects). */
unsigned slm_percpu_map_count(const uint64_t *bits);
