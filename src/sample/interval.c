/* Exponential intervals and weights in integers; see interval.h. */
#include "sample/interval.h"

#include "base/bits.h"
#include "os/sys.h"

__extension__ typedef unsigned __int128 wide;

enum { fraction_bits = 32, log_steps = 32 };
static const uint64_t ln2 = 2977044472u; /* in 1/2^32 */

/* A Weyl sequence, whose terms are mixed: all threads share it, and a term costs one addition. A child of fork goes
 * on where its parent is. */
_Atomic uint64_t slm_interval_sequence = 1; /* so it lies with what every process writes */

slm_cold void slm_interval_start(void)
{
    store_relaxed(&slm_interval_sequence, slm_sys_entropy(0));
}

static slm_cold uint64_t random_bits(void)
{
    return slm_mix(add_relaxed(&slm_interval_sequence, 0x9e3779b97f4a7c15u));
}

/* A number's base-two logarithm has one bit after the other: is the square at least two? */
slm_cold uint64_t slm_interval_minus_log(uint64_t r)
{
    const unsigned whole = slm_log2(r);
    uint64_t y = r << (63 - whole), log = whole; /* y: from 1 to 2, in 1/2^63 */
    for (unsigned step = 0; step < log_steps; step++) {
        const wide square = (wide)y * y;
        const bool bit = square >> 127;
        y = (uint64_t)(square >> (bit ? 64 : 63));
        log = log << 1 | bit;
    }
    const uint64_t minus_log2 = ((uint64_t)64 << fraction_bits) - log;
    return (uint64_t)((wide)minus_log2 * ln2 >> fraction_bits);
}

slm_cold uint64_t slm_interval_draw(uint64_t mean)
{
    return (uint64_t)((wide)mean * slm_interval_minus_log(random_bits() | 1) >> fraction_bits);
}

enum { code_bits = 11 };

slm_cold uint16_t slm_interval_code(uint64_t mean)
{
    const unsigned bits = mean == 0 ? 0 : slm_log2(mean) + 1, shift = bits > code_bits ? bits - code_bits : 0;
    return (uint16_t)(mean >> shift | shift << code_bits);
}

slm_cold uint64_t slm_interval_mean(uint16_t code)
{
    return (uint64_t)(code & ((1u << code_bits) - 1)) << (code >> code_bits);
}

/* n / mean in 1/2^60, by two divisions of 64 bits; n below 2^34, mean below 2^34. */
static slm_sampling wide divide(uint64_t n, uint64_t mean)
{
    const uint64_t high = (n << 30) / mean, rest = (n << 30) % mean;
    return ((wide)high << 30) + (rest << 30) / mean;
}

/* 1 - exp(-x) in 1/2^60; x in 1/2^60, at most 1/8: the terms of the series that are left out come to 2^-57. */
static slm_sampling uint64_t one_minus_exp(uint64_t x)
{
    enum { terms = 12 };
    uint64_t term = x, sum = x;
    for (unsigned i = 2; i <= terms; i++) {
        term = (uint64_t)((wide)term * x >> 60) / i;
        sum = i % 2 == 0 ? sum - term : sum + term;
    }
    return sum;
}

slm_sampling struct slm_weight slm_interval_weigh(uint64_t n, uint64_t asked, uint64_t mean)
{
    static const uint64_t one = (uint64_t)1 << 60;
    enum { never_left_out = 44, inverse_bits = 31 }; /* exp(-44) < 2^-60 */
    unsigned doublings = 0;
    if (n == 0)
        return (struct slm_weight){0, 0};
    if (n / mean >= never_left_out)
        return (struct slm_weight){1024, asked};
    wide x = divide(n, mean);
    for (; x > one / 8; x /= 2)
        doublings++;
    wide sampled = slm_max(one_minus_exp((uint64_t)x), 1); /* the probability, in 1/2^60 */
    for (; doublings > 0; doublings--)
        sampled = sampled * (2 * one - sampled) >> 60;
    const unsigned shift = 60 - slm_log2((uint64_t)sampled);                           /* p << shift: from 1 to 2 */
    const uint64_t inverse = ((uint64_t)1 << 63) / ((uint64_t)sampled << shift >> 28); /* 2^31 / (p << shift) */
    const wide half = (wide)1 << (inverse_bits - 1);
    return (struct slm_weight){(uint64_t)((((wide)1024 * inverse << shift) + half) >> inverse_bits),
                               (uint64_t)((((wide)asked * inverse << shift) + half) >> inverse_bits)};
}
