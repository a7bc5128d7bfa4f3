/* src/base/size_class.h: the classes, their places, and the tables that the hot paths read. */
#include "unit.h"

#include "base/size_class.h"

static void sizes_rise_and_keep_objects_aligned(void **state)
{
    (void)state;
    assert_int_equal(slm_class_size[0], 16);
    assert_int_equal(slm_class_size[SLM_CLASSES - 1], SLM_SMALL_MAX);
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        assert_int_equal(slm_class_size[class] % 16, 0);
        if (class > 0)
            assert_true(slm_class_size[class] > slm_class_size[class - 1]);
    }
}

static bool is_one_more(size_t size)
{
    return size == 272 || size == 400 || size == 608;
}

static void sixteen_by_sixteen_then_eight_to_a_doubling_and_three_more(void **state)
{
    (void)state;
    unsigned regular = 0, more = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const size_t below = (size_t)256 << (regular - 16) / 8;
        if (is_one_more(slm_class_size[class])) {
            more++;
            continue;
        }
        assert_int_equal(slm_class_size[class],
                         regular < 16 ? 16 * (regular + 1) : below + below / 8 * ((regular - 16) % 8 + 1));
        regular++;
    }
    assert_int_equal(more, 3);
    assert_int_equal(slm_class_size[SLM_CLASSES_IN_TABLE - 1], SLM_TABLE_MAX);
}

static void an_eighth_is_lost_at_most(void **state)
{
    (void)state;
    for (size_t n = 128; n <= SLM_SMALL_MAX; n++)
        assert_true(slm_class_size[slm_class_of_size(n)] - n < n / 8 + 1);
}

static void a_class_is_the_least_that_holds_the_request(void **state)
{
    (void)state;
    assert_int_equal(slm_class_of_size(0), 0);
    unsigned class = 0;
    for (size_t n = 1; n <= SLM_SMALL_MAX; n++) {
        if (n > slm_class_size[class])
            class ++;
        assert_int_equal(slm_class_of_size(n), class);
    }
}

static void the_table_agrees_with_the_arithmetic(void **state)
{
    (void)state;
    for (size_t n = 0; n <= SLM_TABLE_MAX; n++)
        assert_int_equal(slm_size_slot_offset[n], slm_slot_offset_of(slm_class_of_size(n)));
}

static void places_and_classes_turn_into_each_other(void **state)
{
    (void)state;
    unsigned before = 0; /* which belongs to no class */
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const unsigned slot_offset = slm_slot_offset_of(class);
        assert_int_equal(slm_cache_id_of(slot_offset), class);
        assert_int_equal(slot_offset, before + SLM_SLOT_SIZE);
        before = slot_offset;
    }
}

/* Looked up without any cleverness. */
static unsigned least_aligned_class(size_t n, size_t align)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        if (slm_class_size[class] >= n && slm_class_size[class] % align == 0)
            return class;
    return SLM_CLASSES;
}

/* The class of an aligned request, SLM_CLASSES if it gets a span of its own. */
static unsigned class_of_aligned(size_t n, size_t align)
{
    const size_t rounded = slm_size_of_aligned(n, align);
    return rounded <= SLM_SMALL_MAX ? slm_class_of_size(rounded) : SLM_CLASSES;
}

static void aligned_requests_get_the_least_class_that_serves(void **state)
{
    (void)state;
    for (size_t align = 1; align <= 2 * SLM_SMALL_MAX; align *= 2)
        for (size_t n = 0; n <= SLM_SMALL_MAX + 1; n += n < 2048 ? 1 : 61)
            assert_int_equal(class_of_aligned(n, align), least_aligned_class(n, align));
}

static void what_is_too_large_for_a_class_has_none(void **state)
{
    (void)state;
    assert_int_equal(class_of_aligned(SLM_SMALL_MAX + 1, 16), SLM_CLASSES);
    assert_int_equal(class_of_aligned(PTRDIFF_MAX, (size_t)1 << 63), SLM_CLASSES);
    assert_int_equal(class_of_aligned(1, (size_t)1 << 63), SLM_CLASSES);
    assert_int_equal(class_of_aligned(SLM_SMALL_MAX, SLM_SMALL_MAX), SLM_CLASSES - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_rise_and_keep_objects_aligned),
        cmocka_unit_test(sixteen_by_sixteen_then_eight_to_a_doubling_and_three_more),
        cmocka_unit_test(an_eighth_is_lost_at_most),
        cmocka_unit_test(a_class_is_the_least_that_holds_the_request),
        cmocka_unit_test(the_table_agrees_with_the_arithmetic),
        cmocka_unit_test(places_and_classes_turn_into_each_other),
        cmocka_unit_test(aligned_requests_get_the_least_class_that_serves),
        cmocka_unit_test(what_is_too_large_for_a_class_has_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
