/* tools/slabctl/intern.h: equal strings have equal numbers, counted from 0. */
#include "test.h"

#include "intern.h"

static void numbers_come_in_order(void **state)
{
    (void)state;
    struct intern set = {0};
    bool is_new;
    assert_int_equal(intern(&set, "ab", 2, &is_new), 0);
    assert_true(is_new);
    assert_int_equal(intern(&set, "a", 1, &is_new), 1);
    assert_true(is_new);
    assert_int_equal(intern(&set, NULL, 0, &is_new), 2);
    assert_true(is_new);
    assert_int_equal(intern(&set, "abc", 2, &is_new), 0);
    assert_false(is_new);
    assert_int_equal(intern(&set, "", 0, NULL), 2);
    size_t number;
    assert_true(intern_find(&set, "a", 1, &number));
    assert_int_equal(number, 1);
    assert_false(intern_find(&set, "b", 1, &number));
    intern_free(&set);
}

static void many_strings_stay_where_they_are(void **state)
{
    (void)state;
    enum { MANY = 20000 };
    struct intern set = {0};
    char text[32];
    assert_int_equal(intern_text(&set, "first"), 0);
    const void *first = set.entries[0]->bytes;
    for (unsigned i = 1; i < MANY; i++) {
        snprintf(text, sizeof text, "number %u", i);
        assert_int_equal(intern_text(&set, text), i);
    }
    for (unsigned i = 1; i < MANY; i++) {
        snprintf(text, sizeof text, "number %u", i);
        assert_int_equal(intern_text(&set, text), i);
        assert_string_equal(set.entries[i]->bytes, text);
    }
    assert_ptr_equal(set.entries[0]->bytes, first);
    intern_free(&set);
    assert_int_equal(set.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_come_in_order),
        cmocka_unit_test(many_strings_stay_where_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
