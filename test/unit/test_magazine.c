/* src/base/magazine.h: the ladder of capacities, and the word that says that a slot of a magazine is free. */
#include "unit.h"

#include "base/magazine.h"
#include "page/page_map.h"

static const uint32_t ladder[] = {5, 13, 29, 61, 125, 253};

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

/* A word more than it may have rounds: there stands the 0 when it is loaded with all its room. */
static void a_magazine_has_a_word_above_its_capacity(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(ladder); i++)
        assert_int_equal(offsetof(struct slm_magazine, rounds) + (ladder[i] + 1) * sizeof(void *),
                         slm_magazine_bytes(ladder[i]));
}

/* A push is refused where the product of page/page_map.h is not below the word: for a start it is at most 2^16, for
 * other pointers it is at least the factor of the largest class. */
static void no_round_is_told_from_0_and_lets_starts_alone_pass(void **state)
{
    (void)state;
    const uintptr_t word = (uintptr_t)SLM_NO_ROUND;
    assert_true(word > SLM_GRANULE);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        assert_true(slm_start_factor(slm_class_size[class]) >= word);
    assert_true(word > (uintptr_t)slm_range.heap && word > (uintptr_t)&word); /* no address */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_is_a_power_of_two_in_bytes),
        cmocka_unit_test(a_capacity_is_the_least_that_suffices),
        cmocka_unit_test(wishes_beyond_the_ladder_get_its_top),
        cmocka_unit_test(a_magazine_has_a_word_above_its_capacity),
        cmocka_unit_test(no_round_is_told_from_0_and_lets_starts_alone_pass),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
