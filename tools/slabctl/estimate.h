/* What samples say of all objects, and how sure that is.
 *
 * An object of w bytes is sampled with the probability p = 1 - exp(-w / mean), so each sample stands for 1 / p objects
 * of its size. That sum is right on average, whatever the sizes are (Horvitz and Thompson). Its variance is estimated
 * by the sum of bytes * bytes * (1 - p) / (p * p): of objects that are long beside the mean there is none.
 *
 * The interval is that of Fay and Feuer (1997) for weighted sums of few events. Small objects come as a Poisson
 * process, in which each sample stands for `mean` bytes; there it is the exact one. Its upper end allows for what was
 * never sampled. Its lower end is that of a process of which at least one event was seen, as a call stack without
 * samples is not shown: after one sample it is no more than what that object itself has. */
#pragma once

#include <stdint.h>

struct estimate {
    uint64_t samples;
    double objects, bytes;
    double variance; /* of the bytes */
    double seen;     /* bytes of the sampled objects themselves */
    double mean;     /* the longest mean interval among the samples */
};

/* One sample. False, and nothing is added, if its numbers make no sense. */
_Bool estimate_add(struct estimate *estimate, uint64_t asked, uint64_t mean);
/* The same of one that had asked for `weighed` bytes when it was sampled, and has grown or shrunk since. */
_Bool estimate_add_weighed(struct estimate *estimate, uint64_t asked, uint64_t weighed, uint64_t mean);
/* What was summed up elsewhere: `samples` samples stand for that many objects and bytes. The variance is bounded from
 * above: no sample's standard deviation is more than the mean, nor its variance more than the mean times its bytes. */
void estimate_add_sums(struct estimate *estimate, uint64_t samples, double objects, double bytes, double mean);
void estimate_add_all(struct estimate *estimate, const struct estimate *other);

/* Where the true number of bytes lies, 95 times in 100. `mean` is that of sampling now, for what has no samples. */
struct interval {
    double low, high;
};
struct interval estimate_interval(const struct estimate *estimate, double mean);
