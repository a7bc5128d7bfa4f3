/* tools/slabctl/estimate.h: sums that are right on average, and intervals that hold the truth as often as
 * they say. */
#include "test.h"

#include <math.h>

#include "estimate.h"

static const double MEAN = 2 << 20;

/* One that is as it was at first. */
static bool sample(struct estimate *estimate, uint64_t bytes, uint64_t mean)
{
    return estimate_add(estimate, bytes, bytes, mean);
}

static void a_sample_stands_for_its_share(void **state)
{
    (void)state;
    struct estimate one = {0};
    assert_true(sample(&one, 1 << 20, 2 << 20));
    double chance = 1 - exp(-0.5);
    assert_near(one.objects, 1 / chance, 1e-9);
    assert_near(one.bytes, (1 << 20) / chance, 1e-3);
    assert_near(one.variance, one.bytes * one.bytes * (1 - chance), 1);
    assert_int_equal(one.samples, 1);
    assert_near(one.seen, 1 << 20, 0);
}

static void small_objects_stand_for_the_mean(void **state)
{
    (void)state;
    struct estimate one = {0};
    assert_true(sample(&one, 16, 2 << 20));
    assert_near(one.bytes, MEAN, 16);
    assert_near(one.objects, MEAN / 16, 1);
}

static void an_object_without_bytes_counts_as_one_byte(void **state)
{
    (void)state;
    struct estimate one = {0};
    assert_true(sample(&one, 0, 1024));
    assert_near(one.objects, 1024.5, 0.01);
    assert_near(one.bytes, 0, 0);
}

/* It was sampled by what it weighed then. */
static void an_object_that_has_grown_counts_as_it_is(void **state)
{
    (void)state;
    struct estimate one = {0};
    assert_true(estimate_add(&one, 3 << 20, 1 << 20, 2 << 20));
    double chance = 1 - exp(-0.5);
    assert_near(one.objects, 1 / chance, 1e-9);
    assert_near(one.bytes, (3 << 20) / chance, 1e-3);
}

static void a_long_object_is_sure(void **state)
{
    (void)state;
    struct estimate one = {0};
    assert_true(sample(&one, (uint64_t)1 << 30, 2 << 20));
    assert_near(one.objects, 1, 1e-9);
    assert_near(one.bytes, 1 << 30, 1e-3);
    struct interval interval = estimate_interval(&one, MEAN);
    assert_true(interval.low >= (1 << 30) - 1 && interval.high < (1 << 30) + 4 * MEAN);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    struct estimate none = {0};
    assert_false(sample(&none, 16, 0));
    assert_false(sample(&none, UINT64_MAX, 2 << 20));
    assert_false(sample(&none, 16, UINT64_MAX));
    assert_int_equal(none.samples, 0);
}

/* The exact 95 % interval of a Poisson distribution's mean is in many tables. */
static void many_small_ones_have_the_interval_of_poisson(void **state)
{
    (void)state;
    static const struct {
        unsigned samples;
        double low, high;
    } rows[] = {{5, 1.6235, 11.6683}, {10, 4.7954, 18.3904}, {50, 37.1110, 65.9183}, {200, 173.2429, 229.7211}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct estimate sum = {0};
        for (unsigned n = 0; n < rows[i].samples; n++)
            sample(&sum, 1, 2 << 20);
        struct interval interval = estimate_interval(&sum, MEAN);
        assert_near(interval.high / MEAN, rows[i].high, rows[i].high / 1000);
        if (rows[i].samples >= 10) /* with fewer, that something was seen says more */
            assert_near(interval.low / MEAN, rows[i].low, rows[i].low / 100);
        else
            assert_true(interval.low / MEAN < rows[i].low && interval.low > 0);
    }
}

static void one_sample_says_that_itself_is_there(void **state)
{
    (void)state;
    struct estimate one = {0};
    sample(&one, 48, 2 << 20);
    struct interval interval = estimate_interval(&one, MEAN);
    assert_near(interval.low, 48, 0.01);
    assert_near(interval.high / MEAN, 5.5716, 0.001);
}

static void without_samples_there_may_be_some_bytes(void **state)
{
    (void)state;
    struct estimate none = {0};
    struct interval interval = estimate_interval(&none, MEAN);
    assert_near(interval.low, 0, 0);
    assert_near(interval.high / MEAN, 3.6889, 0.001);
    interval = estimate_interval(&none, 0);
    assert_near(interval.high, 0, 0);
}

static void sums_have_an_interval_that_is_no_narrower(void **state)
{
    (void)state;
    struct estimate exact = {0}, sums = {0};
    struct chance chance = {7};
    for (unsigned i = 0; i < 60; i++)
        sample(&exact, 1 + chance_next(&chance) % (8 << 20), 2 << 20);
    estimate_add_sums(&sums, exact.samples, exact.objects, exact.bytes, MEAN);
    assert_near(sums.bytes, exact.bytes, 1);
    assert_true(sums.variance >= exact.variance);
    struct estimate both = exact;
    estimate_add_all(&both, &exact);
    assert_near(both.bytes, 2 * exact.bytes, 1);
    assert_int_equal(both.samples, 120);
}

/* -- the truth, many times ------------------------------------------------------------------------------------ */

static double normal(struct chance *chance)
{
    return sqrt(-2 * log(chance_share(chance))) * cos(2 * M_PI * chance_share(chance));
}

static double pareto(struct chance *chance, double least, double shape)
{
    return fmin(least * pow(chance_share(chance), -1 / shape), 1e9);
}

/* Call stacks with very different objects: their sizes by number. */
static double size_of(unsigned site, unsigned i, struct chance *chance)
{
    switch (site) {
    case 0: /* one to three samples mostly */
        return 4096;
    case 1:
        return MEAN / 2;
    case 2:
        return MEAN;
    case 3:
        return 2 * MEAN;
    case 4:
        return pareto(chance, 100, 1.1);
    case 5:
        return pareto(chance, 100, 0.8);
    case 6:
        return exp(8 + 2.5 * normal(chance));
    case 7:
        return exp(10 + 3 * normal(chance));
    case 8: /* one that is long, and many that are short */
        return i ? 4096 : 50 * MEAN;
    default:
        return 65536;
    }
}
static const unsigned counts[] = {1000, 3, 5, 4, 3000, 2000, 3000, 300, 2000, 320};

struct trial {
    unsigned shown, held; /* of those with a sample: the interval holds the truth */
    double error, square; /* of the estimate, relative to the truth */
};

static void trial_run(unsigned site, uint64_t seed, struct trial *trial, struct estimate *total, double *all)
{
    struct chance chance = {seed * 1000 + site};
    struct estimate sum = {0};
    double truth = 0;
    for (unsigned i = 0; i < counts[site]; i++) {
        double size = floor(size_of(site, i, &chance));
        truth += size;
        if (chance_share(&chance) < -expm1(-size / MEAN))
            sample(&sum, (uint64_t)size, 2 << 20);
    }
    struct interval interval = estimate_interval(&sum, MEAN);
    trial->shown += sum.samples > 0;
    trial->held += sum.samples > 0 && interval.low <= truth && truth <= interval.high;
    double error = sum.bytes / truth - 1;
    trial->error += error;
    trial->square += error * error;
    estimate_add_all(total, &sum);
    *all += truth;
}

/* 400 seeds: of an interval that held the truth 95 times in 100, fewer than 92 would come once in 300 such tests; the
 * seeds are fixed. */
static void intervals_hold_the_truth(void **state)
{
    (void)state;
    enum { SEEDS = 400 };
    struct trial trials[COUNT(counts)] = {0};
    unsigned totals = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct estimate total = {0};
        double all = 0;
        for (unsigned site = 0; site < COUNT(counts); site++)
            trial_run(site, seed, &trials[site], &total, &all);
        struct interval interval = estimate_interval(&total, MEAN);
        totals += interval.low <= all && all <= interval.high;
    }
    for (unsigned site = 0; site < COUNT(counts); site++) {
        const struct trial *trial = &trials[site];
        double share = (double)trial->held / trial->shown, error = trial->error / SEEDS;
        print_message("site %u: %u shown, %.3f held, estimate off by %+.3f\n", site, trial->shown, share, error);
        assert_true(share >= 0.92);
        assert_true(fabs(error) <= 3.5 * sqrt(trial->square / SEEDS / SEEDS));
    }
    print_message("totals: %.3f held\n", (double)totals / SEEDS);
    assert_true(totals >= 0.92 * SEEDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sample_stands_for_its_share),
        cmocka_unit_test(small_objects_stand_for_the_mean),
        cmocka_unit_test(an_object_without_bytes_counts_as_one_byte),
        cmocka_unit_test(an_object_that_has_grown_counts_as_it_is),
        cmocka_unit_test(a_long_object_is_sure),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(many_small_ones_have_the_interval_of_poisson),
        cmocka_unit_test(one_sample_says_that_itself_is_there),
        cmocka_unit_test(without_samples_there_may_be_some_bytes),
        cmocka_unit_test(sums_have_an_interval_that_is_no_narrower),
        cmocka_unit_test(intervals_hold_the_truth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
