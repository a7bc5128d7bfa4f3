/* Arithmetic on powers of two, and on bits. */
#pragma once

#include "base/compiler.h"

slm_inline bool slm_is_power_of_two(size_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* The position of the highest bit; n is not 0. */
slm_inline unsigned slm_log2(uint64_t n)
{
    return 63 - (unsigned)__builtin_clzll(n);
}

/* Rounded up to a multiple of the power of two `unit`; the result must not overflow. */
slm_inline size_t slm_align_up(size_t n, size_t unit)
{
    return (n + unit - 1) & ~(unit - 1);
}

slm_inline size_t slm_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

slm_inline size_t slm_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The finalizer of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). */
slm_inline uint64_t slm_mix(uint64_t bits)
{
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return bits ^ bits >> 31;
}
