/* Random numbers of the stress tests: splitmix64 (Steele, Lea, Flood 2014), whose states may be any numbers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t draw(uint64_t *random)
{
    return mix(*random += 0x9e3779b97f4a7c15u);
}

static inline bool once_in(uint64_t *random, unsigned times)
{
    return draw(random) % times == 0;
}

static inline size_t draw_between(uint64_t *random, size_t low, size_t high)
{
    return low + draw(random) % (high - low + 1);
}
