/* Sums, and quantiles of gamma distributions for the intervals. */
#include "estimate.h"

#include <math.h>
#include <stdbool.h>

static const double TAIL = 0.025;           /* of the distribution, at either end */
static const double TAIL_NORMAL = 1.959964; /* where a normal distribution has that */

/* More than a process can ask for: such a number was not written by the library. */
static const uint64_t BYTES_MOST = (uint64_t)1 << 57;

bool estimate_add_weighed(struct estimate *estimate, uint64_t asked, uint64_t weighed, uint64_t mean)
{
    if (asked > BYTES_MOST || weighed > BYTES_MOST || !mean || mean > BYTES_MOST)
        return false;
    double bytes = (double)asked, intervals = (weighed ? (double)weighed : 1) / (double)mean;
    double chance = -expm1(-intervals);
    estimate->samples++;
    estimate->objects += 1 / chance;
    estimate->bytes += bytes / chance;
    estimate->variance += bytes * bytes * exp(-intervals) / (chance * chance);
    estimate->seen += bytes;
    estimate->mean = fmax(estimate->mean, (double)mean);
    return true;
}

bool estimate_add(struct estimate *estimate, uint64_t asked, uint64_t mean)
{
    return estimate_add_weighed(estimate, asked, asked, mean);
}

void estimate_add_sums(struct estimate *estimate, uint64_t samples, double objects, double bytes, double mean)
{
    estimate->samples += samples;
    estimate->objects += objects;
    estimate->bytes += bytes;
    estimate->variance += mean * fmin(bytes, (double)samples * mean);
    estimate->mean = fmax(estimate->mean, mean);
}

void estimate_add_all(struct estimate *estimate, const struct estimate *other)
{
    estimate->samples += other->samples;
    estimate->objects += other->objects;
    estimate->bytes += other->bytes;
    estimate->variance += other->variance;
    estimate->seen += other->seen;
    estimate->mean = fmax(estimate->mean, other->mean);
}

enum { STEPS_MOST = 1000 };

/* The share of a gamma distribution of this shape, with scale 1, that lies below x: a series for small x, and the
 * continued fraction of the other share for larger ones, by Lentz's method. */
static double gamma_below(double shape, double x)
{
    if (x <= 0)
        return 0;
    double front = exp(shape * log(x) - x - lgamma(shape));
    if (x < shape + 1) {
        double term = 1 / shape, sum = term;
        for (int i = 1; i < STEPS_MOST && term > sum * 1e-15; i++)
            sum += term *= x / (shape + i);
        return front * sum;
    }
    double b = x + 1 - shape, c = 1e300, d = 1 / b, h = d;
    for (int i = 1; i < STEPS_MOST; i++) {
        double a = i * (shape - i);
        b += 2;
        d = 1 / (a * d + b);
        c = b + a / c;
        h *= c * d;
        if (fabs(c * d - 1) < 1e-15)
            break;
    }
    return 1 - front * h;
}

/* Above this shape the cube root of a gamma variable is as good as normal (Wilson and Hilferty). */
static const double SHAPE_NORMAL = 64;

static double gamma_normal(double shape, double deviations)
{
    double root = 1 - 1 / (9 * shape) + deviations / (3 * sqrt(shape));
    return shape * root * root * root;
}

/* Where the share of the distribution below it is `share`; among those of which something was seen if `seen`. */
static double gamma_quantile(double shape, double share, bool seen)
{
    double low = 0, high = 4 * shape + 16;
    for (int i = 0; i < 80; i++) {
        double middle = (low + high) / 2;
        double below = gamma_below(shape, middle);
        if (seen)
            below /= -expm1(-middle);
        if (below < share)
            low = middle;
        else
            high = middle;
    }
    return low;
}

struct interval estimate_interval(const struct estimate *estimate, double mean)
{
    struct interval interval = {.low = estimate->bytes};
    mean = fmax(mean, estimate->mean);
    if (estimate->variance > 0) {
        double scale = estimate->variance / estimate->bytes;
        double shape = fmax(estimate->bytes / scale, 1);
        interval.low =
            scale * (shape > SHAPE_NORMAL ? gamma_normal(shape, -TAIL_NORMAL) : gamma_quantile(shape, TAIL, true));
    }
    interval.low = fmin(fmax(interval.low, estimate->seen), estimate->bytes);
    double bytes = estimate->bytes + mean, variance = estimate->variance + mean * mean;
    interval.high = bytes;
    if (variance > 0) {
        double scale = variance / bytes, shape = bytes / scale;
        interval.high = scale * (shape > SHAPE_NORMAL ? gamma_normal(shape, TAIL_NORMAL)
                                                      : gamma_quantile(shape, 1 - TAIL, false));
    }
    return interval;
}
