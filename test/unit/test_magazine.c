/* src/base/magazine.h: the ladder of capacities. */
#include "unit.h"

#include "base/magazine.h"

static const uint32_t ladder[] = {6, 14, 30, 62, 126, 254};

static void every_step_is_a_power_of_two_in_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(ladder); i++) {
        assert_int_equal(slm_magazine_capacity(ladder[i]), ladder[i]);
        assert_int_equal(slm_magazine_bytes(ladder[i]), (size_t)64 << i);
    }
    assert_int_equal(ladder[COUNT(ladder) - 1], SLM_MAGAZINE_ROUNDS_MAX);
}

static void a_capacity_is_the_least_that_suffices(void **state)
{
    (void)state;
    size_t step = 0;
    for (uint32_t rounds = 0; rounds <= SLM_MAGAZINE_ROUNDS_MAX; rounds++) {
        if (rounds > ladder[step])
            step++;
        assert_int_equal(slm_magazine_capacity(rounds), ladder[step]);
    }
}

static void wishes_beyond_the_ladder_get_its_top(void **state)
{
    (void)state;
    assert_int_equal(slm_magazine_capacity(SLM_MAGAZINE_ROUNDS_MAX + 1), SLM_MAGAZINE_ROUNDS_MAX);
    assert_int_equal(slm_magazine_capacity(UINT32_MAX), SLM_MAGAZINE_ROUNDS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_is_a_power_of_two_in_bytes),
        cmocka_unit_test(a_capacity_is_the_least_that_suffices),
        cmocka_unit_test(wishes_beyond_the_ladder_get_its_top),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
