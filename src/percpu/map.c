/* Bits; see map.h. */
#include "percpu/map.h"

#include "base/atomic.h"
#include "base/bits.h"

enum { EXACT_BELOW = 64, EXACT_SHIFT = 6, STEPS_SHIFT = 3 };

unsigned slm_percpu_class(unsigned units)
{
    if (units < EXACT_BELOW)
        return units - 1;
    const unsigned power = slm_log2(units), step = units >> (power - STEPS_SHIFT) & ((1u << STEPS_SHIFT) - 1);
    return (unsigned)slm_min(EXACT_BELOW - 1 + ((power - EXACT_SHIFT) << STEPS_SHIFT) + step, SLM_PERCPU_CLASSES - 1);
}

void slm_percpu_lengths_add(struct slm_percpu_lengths *lengths, unsigned units)
{
    const unsigned class = slm_percpu_class(units);
    lengths->bits[class / 64] |= (uint64_t)1 << class % 64;
}

unsigned slm_percpu_lengths_lowest(const struct slm_percpu_lengths *lengths, unsigned from)
{
    for (; from < SLM_PERCPU_CLASSES; from = (from | 63) + 1) {
        const uint64_t bits = lengths->bits[from / 64] >> from % 64;
        if (bits != 0)
            return from + (unsigned)__builtin_ctzll(bits);
    }
    return SLM_PERCPU_CLASSES;
}

/* The first unit from `from` on whose bit differs from `flip`, all zeros or all ones; SLM_PERCPU_UNITS: none. */
static unsigned next_bit(const uint64_t *bits, unsigned from, uint64_t flip)
{
    if (from >= SLM_PERCPU_UNITS)
        return SLM_PERCPU_UNITS;
    unsigned word = from / 64;
    uint64_t found = (bits[word] ^ flip) & ~(uint64_t)0 << from % 64;
    while (found == 0) {
        if (++word == SLM_PERCPU_WORDS)
            return SLM_PERCPU_UNITS;
        found = bits[word] ^ flip;
    }
    return word * 64 + (unsigned)__builtin_ctzll(found);
}

/* All units are free from `to` on. */
static unsigned next_used(const struct slm_percpu_map *map, unsigned from, unsigned to)
{
    return from < to ? next_bit(map->used, from, 0) : SLM_PERCPU_UNITS;
}

static unsigned next_free(const struct slm_percpu_map *map, unsigned from)
{
    return next_bit(map->used, from, ~(uint64_t)0);
}

/* The start of the free run that ends at `end`; `end` if there is none. */
static unsigned free_before(const struct slm_percpu_map *map, unsigned end)
{
    while (end > 0) {
        const unsigned word = (end - 1) / 64, above = 63 - (end - 1) % 64;
        const uint64_t used = map->used[word] << above;
        if (used != 0)
            return end - (unsigned)__builtin_clzll(used);
        end = word * 64;
    }
    return 0;
}

bool slm_percpu_map_find(const struct slm_percpu_map *map, unsigned from, unsigned to, unsigned units, unsigned align,
                         struct slm_percpu_run *best, struct slm_percpu_lengths *lengths)
{
    *lengths = (struct slm_percpu_lengths){{0}};
    best->units = SLM_PERCPU_UNITS + 1;
    for (unsigned at = next_free(map, from), end; at < SLM_PERCPU_UNITS; at = next_free(map, end)) {
        end = next_used(map, at, to);
        slm_percpu_lengths_add(lengths, end - at);
        if (end - at < best->units && slm_align_up(at, align) + units <= end)
            *best = (struct slm_percpu_run){at, end - at};
    }
    return best->units <= SLM_PERCPU_UNITS;
}

/* A mask of up to `units` bits from `at` on, in the word of `at`. */
static uint64_t mask_in_word(unsigned at, unsigned units)
{
    const uint64_t ones = units >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << units) - 1;
    return ones << at % 64;
}

/* Free units become used, and used ones free. */
static void flip_used(struct slm_percpu_map *map, unsigned at, unsigned units)
{
    for (unsigned end = at + units; at < end; at = (at | 63) + 1)
        map->used[at / 64] ^= mask_in_word(at, end - at);
}

void slm_percpu_map_take(struct slm_percpu_map *map, unsigned at, unsigned units)
{
    flip_used(map, at, units);
    slm_store_fence(); /* for a child of fork: see map.h */
    map->first[at / 64] |= mask_in_word(at, 1);
}

unsigned slm_percpu_map_object(const struct slm_percpu_map *map, unsigned at)
{
    return (unsigned)slm_min(next_bit(map->first, at + 1, 0), next_free(map, at)) - at;
}

unsigned slm_percpu_map_put(struct slm_percpu_map *map, unsigned at, unsigned units, unsigned to)
{
    map->first[at / 64] &= ~mask_in_word(at, 1);
    slm_store_fence(); /* for a child of fork: see map.h */
    flip_used(map, at, units);
    return next_used(map, at + units, to) - free_before(map, at);
}

unsigned slm_percpu_map_count(const uint64_t *bits)
{
    unsigned ones = 0;
    for (unsigned word = 0; word < SLM_PERCPU_WORDS; word++)
        ones += (unsigned)__builtin_popcountll(bits[word]);
    return ones;
}
