/* How far apart samples lie, and what one stands for.
 *
 * Between two samples a thread allocates a number of bytes that is exponentially distributed: each byte is as likely
 * as any other to be the next one, whatever came before (as in gperftools and Go). So an object of n bytes is sampled
 * with the probability 1 - exp(-n / mean), and one that is stands for as many as the inverse of that (Horvitz and
 * Thompson 1952): sums over samples, so weighed, are unbiased. Here are no floating-point numbers, as the program may
 * trap their exceptions. Any thread, signal handlers too. */
#pragma once

#include "base/atomic.h"

/* Once, at the process's start: draws begin somewhere. Not at the first draw, as sampling may be switched on when a
 * sandbox is closed, which need not know the call that it takes. */
void slm_interval_start(void);

/* A mean in 16 bits, at most 1/1024 shorter: eleven of its leading bits, and how far they are shifted. 0 for 0. */
uint16_t slm_interval_code(uint64_t mean);
uint64_t slm_interval_mean(uint16_t code);

/* A random interval, in bytes; below 2^32 for means up to 2^26. */
uint64_t slm_interval_draw(uint64_t mean);

/* What a sample stands for: objects, in 1/1024, and bytes, if it had n bytes when it was sampled and has
 * `asked` now. */
struct slm_weight {
    uint64_t objects_1024, bytes;
};
struct slm_weight slm_interval_weigh(uint64_t n, uint64_t asked, uint64_t mean);

/* -ln(r / 2^64) in 1/2^32, for the tests of this; r is not 0. */
uint64_t slm_interval_minus_log(uint64_t r);

/* All draws come from it: where it is set, they repeat. For the tests. */
extern slm_hidden _Atomic uint64_t slm_interval_sequence;
