/* src/base/bits.h: arithmetic on powers of two, at its edges. */
#include "unit.h"

#include "base/bits.h"

static void powers_of_two_are_told(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        const size_t power = (size_t)1 << bit;
        assert_true(slm_is_power_of_two(power));
        assert_int_equal(slm_log2(power), bit);
        if (bit > 1) {
            assert_false(slm_is_power_of_two(power - 1));
            assert_false(slm_is_power_of_two(power + 1));
            assert_int_equal(slm_log2(power - 1), bit - 1);
            assert_int_equal(slm_log2(power + 1), bit);
        }
    }
    assert_false(slm_is_power_of_two(0));
    assert_false(slm_is_power_of_two(SIZE_MAX));
    assert_int_equal(slm_log2(UINT64_MAX), 63);
}

static void sizes_are_rounded_up(void **state)
{
    (void)state;
    for (size_t unit = 1; unit <= 4096; unit *= 2)
        for (size_t n = 0; n <= 3 * unit; n += unit < 64 ? 1 : unit / 64) {
            const size_t up = slm_align_up(n, unit);
            assert_true(up >= n && up - n < unit && up % unit == 0);
        }
    assert_int_equal(slm_align_up(SIZE_MAX - 4095, 4096), SIZE_MAX - 4095);
}

static void least_and_greatest(void **state)
{
    (void)state;
    assert_int_equal(slm_min(1, SIZE_MAX), 1);
    assert_int_equal(slm_min(SIZE_MAX, 1), 1);
    assert_int_equal(slm_max(1, SIZE_MAX), SIZE_MAX);
    assert_int_equal(slm_max(SIZE_MAX, 1), SIZE_MAX);
    assert_int_equal(slm_min(7, 7), 7);
    assert_int_equal(slm_max(7, 7), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(powers_of_two_are_told),
        cmocka_unit_test(sizes_are_rounded_up),
        cmocka_unit_test(least_and_greatest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
