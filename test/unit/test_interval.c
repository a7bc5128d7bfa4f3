/* src/sample/interval.h: intervals are exponential and one does not tell the next; weights are what libm says they
 * are; an object is sampled as often as its weight says.
 *
 * The draws of a test repeat: they come from one sequence, which the test sets. So a bound holds always or never. */
#include "unit.h"

#include <math.h>

#include "base/bits.h"
#include "heap/sampled.h"
#include "sample/interval.h"

enum { DRAWS = 200000 };
static const double two_32 = 4294967296.0;

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* -- logarithms ------------------------------------------------------------------------------------------------ */

static void check_log(uint64_t r)
{
    const long double wanted = 64 * logl(2) - logl((long double)r);
    const long double got = (long double)slm_interval_minus_log(r) / (long double)two_32;
    if (fabsl(got - wanted) > 16 / (long double)two_32)
        fail_msg("-ln(%#lx / 2^64) is %.12Lf, not %.12Lf", (unsigned long)r, wanted, got);
}

static void logarithms(void **state)
{
    (void)state;
    uint64_t random = 1;
    check_log(1);
    check_log(UINT64_MAX);
    for (unsigned bit = 0; bit < 64; bit++) {
        check_log((uint64_t)1 << bit);
        check_log(((uint64_t)1 << bit) | 1);
        check_log(UINT64_MAX >> bit);
        for (unsigned i = 0; i < 100; i++)
            check_log(random_next(&random) >> bit | 1);
    }
}

/* -- draws ----------------------------------------------------------------------------------------------------- */

static uint64_t draws[DRAWS];

static void draw_all(uint64_t seed, uint64_t mean)
{
    store_relaxed(&slm_interval_sequence, seed);
    for (unsigned i = 0; i < DRAWS; i++)
        draws[i] = slm_interval_draw(mean);
}

/* Mean and variance within five standard errors; a distribution function that is nowhere farther from the exponential
 * one than chance takes it once in 10^9 (Kolmogorov); a draw is not correlated with those shortly after it. */
static void check_draws(uint64_t seed, uint64_t mean)
{
    double sum = 0, squares = 0, farthest = 0;
    draw_all(seed, mean);
    for (unsigned i = 0; i < DRAWS; i++) {
        const double x = (double)draws[i] / (double)mean;
        sum += x;
        squares += (x - 1) * (x - 1);
    }
    assert_true(fabs(sum / DRAWS - 1) < 5 / sqrt(DRAWS));
    assert_true(fabs(squares / DRAWS - 1) <
                5 * sqrt(8.0 / DRAWS)); /* the fourth moment is nine times the variance's square */
    for (unsigned lag = 1; lag <= 8; lag++) {
        double products = 0;
        for (unsigned i = lag; i < DRAWS; i++)
            products += ((double)draws[i] / (double)mean - 1) * ((double)draws[i - lag] / (double)mean - 1);
        assert_true(fabs(products / DRAWS) < 5 / sqrt(DRAWS));
    }
    qsort(draws, DRAWS, sizeof draws[0], compare);
    for (unsigned i = 0; i < DRAWS; i++) {
        const double wanted = 1 - exp(-(double)draws[i] / (double)mean), below = (double)i / DRAWS;
        farthest = fmax(farthest, fmax(fabs(wanted - below), fabs(wanted - below - 1.0 / DRAWS)));
    }
    assert_true(farthest < 3.28 / sqrt(DRAWS));
}

static void draws_are_exponential(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++)
        check_draws(seed * 0x123456789abcdefu, 2 << 20);
    check_draws(1, 512 << 10);
    check_draws(2, 64 << 20);
}

/* A mean of a byte: whole numbers, and those are geometric. */
static void the_shortest_mean(void **state)
{
    (void)state;
    unsigned zeros = 0;
    draw_all(3, 1);
    for (unsigned i = 0; i < DRAWS; i++)
        zeros += draws[i] == 0;
    const double wanted = 1 - exp(-1);
    assert_true(fabs((double)zeros / DRAWS - wanted) < 5 * sqrt(wanted * (1 - wanted) / DRAWS));
}

/* Not where others begin: the library's start has seen to that. */
static void a_process_begins_elsewhere(void **state)
{
    (void)state;
    const uint64_t here = load_relaxed(&slm_interval_sequence);
    store_relaxed(&slm_interval_sequence, 1);
    for (unsigned i = 0; i < 1000; i++) {
        assert_true(load_relaxed(&slm_interval_sequence) != here);
        (void)slm_interval_draw(1);
    }
}

static void no_draw_comes_twice(void **state)
{
    (void)state;
    store_relaxed(&slm_interval_sequence, 1);
    for (unsigned i = 0; i < DRAWS; i++)
        draws[i] = slm_interval_draw((uint64_t)1 << 40);
    qsort(draws, DRAWS, sizeof draws[0], compare);
    unsigned twice = 0;
    for (unsigned i = 1; i < DRAWS; i++)
        twice += draws[i] == draws[i - 1];
    assert_in_range(twice, 0, 30); /* by chance two or three: there are 2^32 steps in a mean */
}

/* -- weights --------------------------------------------------------------------------------------------------- */

static void check_weight(uint64_t n, uint64_t asked, uint64_t mean)
{
    const struct slm_weight got = slm_interval_weigh(n, asked, mean);
    const long double stands_for = 1 / -expm1l(-(long double)n / (long double)mean);
    const long double objects = 1024 * stands_for, bytes = (long double)asked * stands_for;
    if (fabsl((long double)got.objects_1024 - objects) > 0.51L + objects * 2e-9L ||
        fabsl((long double)got.bytes - bytes) > 0.51L + bytes * 2e-9L)
        fail_msg("n %lu, asked %lu, mean %lu: %lu/1024 objects of %lu bytes, not %.2Lf of %.2Lf", (unsigned long)n,
                 (unsigned long)asked, (unsigned long)mean, (unsigned long)got.objects_1024, (unsigned long)got.bytes,
                 objects, bytes);
}

static void weights(void **state)
{
    (void)state;
    static const uint64_t means[] = {1, 2, 3, 7, 100, 4096, 512 << 10, 2 << 20, (2 << 20) + 1, 64 << 20};
    uint64_t random = 4;
    for (unsigned i = 0; i < COUNT(means); i++) {
        for (unsigned bit = 0; bit < 32; bit++) {
            const uint64_t n = (uint64_t)1 << bit;
            check_weight(n, n, means[i]);
            check_weight(n + n / 3, n, means[i]);
            check_weight(n, n * 2, means[i]);
            const uint64_t any = random_next(&random) % n + 1;
            check_weight(any, any, means[i]);
        }
        check_weight(UINT32_MAX, (uint64_t)1 << 46, means[i]); /* longer than what is kept of its length */
        check_weight(means[i], means[i], means[i]);
        check_weight(means[i] * 44 - 1, means[i], means[i]);
        check_weight(means[i] * 44, means[i], means[i]);
    }
    assert_int_equal(slm_interval_weigh(0, 0, 1).objects_1024, 0);
    assert_int_equal(slm_interval_weigh(0, 100, 2 << 20).bytes, 0);
}

/* -- how often an object is sampled ---------------------------------------------------------------------------- */

/* As hot paths and their slow halves decide it, for objects of n bytes in a row. */
static unsigned sampled_of(unsigned count, size_t n)
{
    unsigned sampled = 0;
    const uint64_t before = load_relaxed(&slm_sample_counts.losses);
    for (unsigned i = 0; i < count; i++) {
        void *object = malloc(n);
        require(object != NULL);
        struct slm_slab *slab = slm_slab_of(object);
        sampled += slab ? slm_slab_is_sampled(slab) : load_relaxed(&slm_large_of(object)->sample) != 0;
        free(object);
    }
    require(load_relaxed(&slm_sample_counts.losses) == before);
    return sampled;
}

static void check_probability(size_t n, uint64_t mean, unsigned count)
{
    store_relaxed(&slm_interval_sequence, n + mean);
    store_relaxed(&slm_settings.sample_bytes, mean);
    slm_tls.sample_left = 0;
    slm_tls.sample_mean = 0;
    const double p = -expm1(-(double)n / (double)mean);
    const double off = (double)sampled_of(count, n) - p * count;
    store_relaxed(&slm_settings.sample_bytes, 0);
    slm_tls.sample_left = 0;
    if (fabs(off) > 4.5 * sqrt(p * (1 - p) * count) + 1e-9)
        fail_msg("of %u objects of %zu bytes %.1f more than %.1f were sampled, with a mean of %lu", count, n, off,
                 p * count, (unsigned long)mean);
}

static void as_often_as_their_weights_say(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 32 << 10; n *= 8) {
        check_probability(n, 1, 20000);
        check_probability(n, 300, 50000);
        check_probability(n, 5000, 50000);
        check_probability(n, 100000, 200000);
    }
    check_probability(100 << 10, (2 << 20) - 1024, 50000);
    check_probability(3 << 20, (2 << 20) - 1024, 20000);
    check_probability(40 << 20, 64 << 20, 10000); /* a thread looks at the mean in the middle of an interval */
    check_probability(20000, 64 << 20, 1000000);
}

/* A mean that changes holds from the next look on; 0 ends it, and a thread that has none begins. */
static void the_mean_changes(void **state)
{
    (void)state;
    store_relaxed(&slm_settings.sample_bytes, 1);
    slm_tls.sample_left = 0;
    assert_int_equal(sampled_of(100, 1000), 100);
    store_relaxed(&slm_settings.sample_bytes, 0);
    assert_int_equal(sampled_of(100, 1000), 0);
    assert_in_range(slm_tls.sample_left, 1, 64 << 20); /* it looks again */
    store_relaxed(&slm_settings.sample_bytes, 1);
    unsigned since = 0;
    while (sampled_of(1, 1 << 20) == 0)
        since++;
    assert_in_range(since, 1, 65);
    store_relaxed(&slm_settings.sample_bytes, 0);
    slm_tls.sample_left = 0;
}

/* What a call asked for that failed is no bytes allocated. */
static void failed_calls_do_not_count(void **state)
{
    (void)state;
    store_relaxed(&slm_settings.sample_bytes, 64 << 20);
    slm_tls.sample_left = 0;
    free(malloc(1));
    const int64_t left = slm_tls.sample_left;
    for (unsigned i = 0; i < 3; i++) {
        char *volatile none = malloc(PTRDIFF_MAX - 4096 * i);
        assert_null(none);
        none = realloc(NULL, PTRDIFF_MAX / 2);
        assert_null(none);
        none = calloc(PTRDIFF_MAX / 4, 2);
        assert_null(none);
    }
    assert_int_equal(slm_tls.sample_left, left);
    store_relaxed(&slm_settings.sample_bytes, 0);
    slm_tls.sample_left = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_begins_elsewhere),    cmocka_unit_test(logarithms),
        cmocka_unit_test(draws_are_exponential),         cmocka_unit_test(the_shortest_mean),
        cmocka_unit_test(no_draw_comes_twice),           cmocka_unit_test(weights),
        cmocka_unit_test(as_often_as_their_weights_say), cmocka_unit_test(the_mean_changes),
        cmocka_unit_test(failed_calls_do_not_count),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
