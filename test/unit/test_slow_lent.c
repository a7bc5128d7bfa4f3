/* src/heap/slow.h: a class's first objects, which the class of the next power of two lends. */
#include "unit.h"

#include <malloc.h>

#include "base/size_class.h"
#include "heap/sized.h"
#include "heap/slow.h"

enum { MOST = 8, WASTE = 1024 };

static size_t usable_of(size_t size)
{
    return malloc_usable_size(malloc(size));
}

/* Sizes that neither cmocka nor another test asks for. */
static void the_first_are_lent(void **state)
{
    (void)state;
    static const size_t sizes[] = {208, 288, 352, 448, 576, 704, 896, 1152, 1408, 1920};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const size_t larger = slm_class_larger((uint32_t)sizes[i]);
        const size_t lent = slm_min(WASTE / (larger - sizes[i]), MOST);
        assert_in_range(lent, 1, MOST);
        for (size_t n = 0; n < lent + 3; n++)
            assert_int_equal(usable_of(sizes[i]), n < lent ? larger : sizes[i]);
    }
}

static void no_other_is(void **state)
{
    (void)state;
    static const size_t sizes[] = {16, 32, 64, 128, 256, 512, 1024, 2048, 2304, 3072, 30720};
    for (size_t i = 0; i < COUNT(sizes); i++)
        assert_int_equal(usable_of(sizes[i]), sizes[i]);
}

static void calloc_s_are_zero_to_the_end(void **state)
{
    (void)state;
    static char *used[64];
    for (size_t i = 0; i < COUNT(used); i++)
        memset(used[i] = malloc(1024), 1, 1024);
    for (size_t i = 0; i < COUNT(used); i++)
        free(used[i]);
    const char *object = calloc(1, 960);
    assert_int_equal(malloc_usable_size((void *)(uintptr_t)object), 1024);
    for (size_t i = 0; i < 1024; i++)
        assert_int_equal(object[i], 0);
}

static void aligned_ones_are_aligned(void **state)
{
    (void)state;
    for (size_t alignment = 16; alignment <= 512; alignment *= 2)
        for (unsigned n = 0; n < MOST; n++)
            assert_int_equal((uintptr_t)aligned_alloc(alignment, 3 * alignment) % alignment, 0);
}

/* A free that tells the size is right once for what was lent, and never for another object. */
static void they_are_known_by_their_size(void **state)
{
    (void)state;
    void *lent = malloc(160), *other = malloc(256);
    assert_int_equal(malloc_usable_size(lent), 256);
    assert_false(slm_sized_exactly(other, 160, 1, "test"));
    assert_false(slm_sized_exactly(lent, 176, 1, "test"));
    assert_true(slm_sized_exactly(lent, 160, 1, "test"));
    assert_false(slm_sized_exactly(lent, 160, 1, "test"));
    assert_true(slm_sized_exactly(lent, 256, 1, "test"));
    free(lent);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_are_lent),           cmocka_unit_test(no_other_is),
        cmocka_unit_test(calloc_s_are_zero_to_the_end), cmocka_unit_test(aligned_ones_are_aligned),
        cmocka_unit_test(they_are_known_by_their_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
