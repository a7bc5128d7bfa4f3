/* src/page/page_map.h: from a pointer to the place of its magazine, and from a place to a size, and to the factor
 * that tells starts of objects. */
#include "unit.h"

#include "depot/cache.h"
#include "page/page_map.h"
#include "page/span.h"
#include "page/span_alloc.h"

static void every_place_has_its_size(void **state)
{
    (void)state;
    assert_int_equal(slm_page_map_size(0), 0);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        assert_int_equal(slm_page_map_size(slm_slot_offset_of(class)), slm_class_size[class]);
}

static bool is_start(size_t offset, uint64_t factor)
{
    return factor * (uint16_t)offset < factor;
}

static void every_place_has_its_factor(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        assert_int_equal(slm_page_map_start_factor(slm_slot_offset_of(class)),
                         slm_start_factor(slm_class_size[class]));
    assert_int_equal(slm_page_map_start_factor(0), 0);
}

/* All sizes and all offsets. The products of starts are below all addresses, the others above. */
static void the_factor_tells_starts_exactly(void **state)
{
    (void)state;
    for (uint32_t size = 8; size <= SLM_SMALL_MAX; size += size < 1024 ? 8 : 1000) {
        const uint64_t factor = slm_start_factor(size);
        for (size_t offset = 0; offset < SLM_GRANULE; offset++)
            require(is_start(offset, factor) == (offset % size == 0));
    }
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const uint32_t size = slm_class_size[class];
        const uint64_t factor = slm_start_factor(size);
        for (size_t offset = 0; offset < SLM_GRANULE; offset++) {
            const uint64_t product = factor * (uint16_t)offset;
            require(is_start(offset, factor) == (offset % size == 0));
            require(offset % size == 0 ? product <= SLM_GRANULE : product >= (uint64_t)1 << 49);
        }
    }
}

/* Where there is no cache nothing is a start, not even the first byte. */
static void nothing_starts_at_slot_offset_0(void **state)
{
    (void)state;
    for (size_t offset = 0; offset < SLM_GRANULE; offset++)
        require(!is_start(offset, slm_page_map_start_factor(0)));
}

static void set_malloc_size(void)
{
    slm_page_map_set_size(slm_slot_offset_of(3), 8);
}

static void set_named_size(void)
{
    slm_page_map_set_size(slm_slot_offset_of(SLM_NAMED_FIRST), 8);
}

static void sizes_of_malloc_are_sealed(void **state)
{
    (void)state;
    assert_child_silent(set_named_size);
    if (sysconf(_SC_PAGESIZE) == (long)(4 * KIB))
        assert_int_equal(in_child(set_malloc_size).signal, SIGSEGV);
    else
        assert_child_silent(set_malloc_size);
}

static void granules_are_given_and_taken(void **state)
{
    (void)state;
    struct slm_span *span = slm_span_alloc(0, 5, 1);
    assert_non_null(span);
    const size_t first = slm_span_granule(span);
    char *start = slm_span_start(span);
    slm_page_map_set(first + 1, 3, 42);
    assert_int_equal(slm_page_map_slot_offset(start + SLM_GRANULE - 1), 0);
    for (size_t at = SLM_GRANULE; at < 4 * SLM_GRANULE; at += 4093)
        assert_int_equal(slm_page_map_slot_offset(start + at), 42);
    assert_int_equal(slm_page_map_slot_offset(start + 4 * SLM_GRANULE - 1), 42);
    assert_int_equal(slm_page_map_slot_offset(start + 4 * SLM_GRANULE), 0);
    assert_int_equal(slm_page_map_offset(slm_range.heap, first + 2), 42);
    slm_page_map_set(first + 1, 3, 0);
    assert_int_equal(slm_page_map_slot_offset(start + SLM_GRANULE), 0);
    slm_span_free(span);
}

static void objects_are_found(void **state)
{
    (void)state;
    for (size_t n = 0; n <= SLM_SMALL_MAX; n += 57) {
        char *object = malloc(n);
        const size_t slot_offset = slm_page_map_slot_offset(object);
        assert_int_equal(slot_offset, slm_slab_map_offset(&slm_class_cache(slm_class_of_size(n))->shape));
        free(object);
    }
    char *large = malloc(SLM_SMALL_MAX + 1);
    assert_int_equal(slm_page_map_slot_offset(large), 0);
    free(large);
}

static void foreign_pointers_have_no_place(void **state)
{
    (void)state;
    char stack;
    const uintptr_t heap = (uintptr_t)slm_range.heap;
    const uintptr_t elsewhere[] = {0,
                                   1,
                                   15,
                                   UINTPTR_MAX,
                                   (uintptr_t)&stack,
                                   (uintptr_t)&objects_are_found,
                                   heap - 1,
                                   heap | 1ul << 57,
                                   heap | 1ul << 63,
                                   (uintptr_t)slm_granule_address(slm_heap_limit)};
    for (size_t i = 0; i < COUNT(elsewhere); i++)
        assert_int_equal(slm_page_map_slot_offset((void *)elsewhere[i]), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_place_has_its_size),
        cmocka_unit_test(every_place_has_its_factor),
        cmocka_unit_test(the_factor_tells_starts_exactly),
        cmocka_unit_test(nothing_starts_at_slot_offset_0),
        cmocka_unit_test(sizes_of_malloc_are_sealed),
        cmocka_unit_test(granules_are_given_and_taken),
        cmocka_unit_test(objects_are_found),
        cmocka_unit_test(foreign_pointers_have_no_place),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
