/* src/slab/key.h: the key of free objects, and pointers counted from it. */
#include "unit.h"

#include "slab/key.h"
#include "base/size_class.h"
#include "os/topology.h"

enum { MOST = 40 };

static uintptr_t key_of_area(unsigned area)
{
    return slm_key_of_area(slm_area_start(area));
}

static void each_area_has_a_key_of_its_own(void **state)
{
    (void)state;
    for (unsigned area = 0; area < slm_area_count(); area++) {
        const char *start = slm_area_start(area);
        assert_ptr_equal(slm_key_area(key_of_area(area)), start);
        assert_int_equal(slm_key_of(start), key_of_area(area));
        assert_int_equal(slm_key_of(start + SLM_GRANULE - 1), key_of_area(area));
        for (unsigned other = 0; other < area; other++)
            assert_int_not_equal(key_of_area(area), key_of_area(other));
    }
}

/* Whatever a program keeps in its objects' second words: if it is an object's address, it is no key. */
static void no_key_is_an_object_s_address(void **state)
{
    (void)state;
    for (unsigned area = 0; area < slm_area_count(); area++)
        assert_int_not_equal(key_of_area(area) % 8, 0);
}

static void live_objects_have_no_key(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        for (unsigned turn = 0; turn < MOST; turn++) {
            char *object = malloc(slm_class_size[class]);
            require(object != NULL);
            require(slm_class_size[class] < 16 || !slm_key_is_set(object, slm_key_of(object)));
            free(object);
        }
}

static void a_key_is_set_and_cleared_in_the_second_word(void **state)
{
    (void)state;
    unsigned char bytes[64], expected[64];
    const uintptr_t key = key_of_area(0);
    memset(bytes, 0x5a, sizeof bytes);
    memset(expected, 0x5a, sizeof expected);
    assert_false(slm_key_is_set(bytes + 16, key));
    slm_key_set(bytes + 16, key);
    memcpy(expected + 24, &key, sizeof key);
    assert_memory_equal(bytes, expected, sizeof bytes);
    assert_true(slm_key_is_set(bytes + 16, key));
    assert_false(slm_key_is_set(bytes + 16, key + SLM_GRANULE));
    slm_key_clear(bytes + 16);
    memset(expected + 24, 0, sizeof key);
    assert_memory_equal(bytes, expected, sizeof bytes);
    assert_false(slm_key_is_set(bytes + 16, key));
}

/* As many as are asked for, and no more. */
static void objects_are_taken_without_their_keys(void **state)
{
    (void)state;
    uint64_t words[MOST][3];
    void *from[MOST], *to[MOST + 1];
    for (size_t n = 0; n < MOST; n++) {
        memset(words, 0x5a, sizeof words);
        memset(to, 0, sizeof to);
        for (size_t i = 0; i < MOST; i++)
            from[i] = words[(i * 7) % MOST]; /* in no order */
        slm_key_take(to, from, n);
        assert_memory_equal(to, from, n * sizeof *to);
        for (size_t i = n; i < COUNT(to); i++)
            assert_null(to[i]);
        for (size_t i = 0; i < MOST; i++) {
            const uint64_t *object = from[i];
            assert_true(object[0] == 0x5a5a5a5a5a5a5a5a && object[2] == object[0]);
            assert_true(object[1] == (i < n ? 0 : object[0]));
        }
    }
}

/* But for the last byte of each, in which no object starts. */
static void granules_are_counted_from_the_area_s_start(void **state)
{
    (void)state;
    for (unsigned area = 0; area < slm_area_count(); area++) {
        const char *start = slm_area_start(area);
        const uintptr_t key = key_of_area(area);
        for (size_t granule = 0; granule < 10; granule++) {
            const char *at = start + granule * SLM_GRANULE;
            assert_int_equal(slm_key_granule(key, at), slm_area_granule(start, at));
            assert_int_equal(slm_key_granule(key, at), granule);
            assert_int_equal(slm_key_granule(key, at + SLM_GRANULE - 2), granule);
            assert_int_equal(slm_key_granule(key, at + SLM_GRANULE - 1), granule + 1);
        }
    }
}

static void what_lies_outside_has_no_granule(void **state)
{
    (void)state;
    static char data;
    char stack;
    for (unsigned area = 0; area < slm_area_count(); area++) {
        const uintptr_t key = key_of_area(area);
        assert_false(slm_area_granule_valid(slm_key_granule(key, NULL)));
        assert_false(slm_area_granule_valid(slm_key_granule(key, (void *)UINTPTR_MAX)));
        assert_false(slm_area_granule_valid(slm_key_granule(key, &data)));
        assert_false(slm_area_granule_valid(slm_key_granule(key, &stack)));
        assert_false(slm_area_granule_valid(slm_key_granule(key, slm_area_start(area) - 2)));
        for (unsigned other = 0; other < slm_area_count(); other++)
            assert_int_equal(slm_area_granule_valid(slm_key_granule(key, slm_area_start(other))), other == area);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_area_has_a_key_of_its_own),
        cmocka_unit_test(no_key_is_an_object_s_address),
        cmocka_unit_test(live_objects_have_no_key),
        cmocka_unit_test(a_key_is_set_and_cleared_in_the_second_word),
        cmocka_unit_test(objects_are_taken_without_their_keys),
        cmocka_unit_test(granules_are_counted_from_the_area_s_start),
        cmocka_unit_test(what_lies_outside_has_no_granule),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
