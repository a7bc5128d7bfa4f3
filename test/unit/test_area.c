/* src/page/area.h: the range, its granules and its areas. */
#include "unit.h"

#include "page/area.h"

static void granules_and_addresses_turn_into_each_other(void **state)
{
    (void)state;
    static const size_t granules[] = {0, 1, 2, 4095, 1ul << 15, SLM_GRANULES_MAX - 1};
    for (size_t i = 0; i < COUNT(granules); i++) {
        char *address = slm_granule_address(granules[i]);
        assert_int_equal((uintptr_t)address % SLM_GRANULE, 0);
        assert_int_equal(slm_granule_of(address), granules[i]);
        assert_int_equal(slm_granule_of(address + SLM_GRANULE - 1), granules[i]);
        assert_int_equal((char *)slm_descriptor(granules[i]) - slm_range.descriptors,
                         granules[i] * SLM_DESCRIPTOR_BYTES);
    }
}

static void only_what_was_mapped_is_valid(void **state)
{
    (void)state;
    const size_t limit = slm_heap_limit;
    assert_true(limit > 0);
    assert_true(slm_granule_valid(0));
    assert_true(slm_granule_valid(limit - 1));
    assert_false(slm_granule_valid(limit));
    assert_false(slm_granule_valid(SLM_GRANULES_MAX));
}

static void pointers_from_elsewhere_are_not_valid(void **state)
{
    (void)state;
    static char data;
    char stack;
    const uintptr_t heap = (uintptr_t)slm_range.heap;
    const uintptr_t elsewhere[] = {
        0,
        1,
        UINTPTR_MAX,
        UINTPTR_MAX - 65535,
        (uintptr_t)&data,
        heap - 1,
        heap >> 1,
        heap | 1ul << 63,
        heap | 0xabul << 56,
        heap | 1ul << 52,
        heap ^ 1ul << 46,
        (uintptr_t)&stack,
        (uintptr_t)slm_range.descriptors,
        (uintptr_t)&strlen,
    };
    for (size_t i = 0; i < COUNT(elsewhere); i++)
        assert_false(slm_granule_valid(slm_granule_of((void *)elsewhere[i])));
}

static void the_areas_lie_in_the_range(void **state)
{
    (void)state;
    assert_true(slm_area_granules() > 0);
    assert_true(slm_area_granules() <= SLM_GRANULES_MAX);
}

static void an_address_tells_its_area(void **state)
{
    (void)state;
    const size_t last = ((size_t)1 << slm_range.area_shift) - 1;
    for (unsigned area = 0; area < slm_area_count(); area++) {
        char *start = slm_area_start(area);
        const size_t granule = slm_granule_of(start);
        assert_int_equal(slm_granule_in_area(granule), 0);
        assert_int_equal(slm_granule_in_area(granule + last), last);
        assert_int_equal(slm_area_of_granule(granule), area);
        assert_int_equal(slm_area_of_granule(granule + last), area);
        assert_int_equal(slm_node_of(start), slm_node_of_area(area));
        assert_int_equal(slm_node_of(slm_granule_address(granule + last) + SLM_GRANULE - 1), slm_node_of_area(area));
        assert_int_equal(slm_area_granule(start, start + 5 * SLM_GRANULE + 7), 5);
        assert_false(slm_area_granule_valid(slm_area_granule(start, start - 1)));
    }
    assert_false(slm_granule_valid((size_t)slm_area_count() << slm_range.area_shift));
}

static void a_node_has_its_areas(void **state)
{
    (void)state;
    bool used[SLM_AREAS_MAX] = {false};
    assert_true(slm_range.node_mask + 1 >= slm_nodes && (slm_range.node_mask & (slm_range.node_mask + 1)) == 0);
    for (unsigned node = 0; node <= slm_range.node_mask; node++) {
        const unsigned slabs = slm_area_for_slabs(node), large = slm_area_for_large(node);
        assert_true(slabs < slm_area_count() && large < slm_area_count());
        assert_true(slm_node_of_area(slabs) == node && slm_node_of_area(large) == node);
        assert_true(slm_nodes == 1 || slabs != large);
        assert_false(used[slabs] || used[large]);
        used[slabs] = used[large] = true;
    }
}

static void per_cpu_memory_lies_behind_the_heap(void **state)
{
    (void)state;
    const char *start = slm_range.percpu;
    const size_t granules = slm_granule_of(start), bytes = slm_range.percpu_bytes;
    assert_int_equal((uintptr_t)start % SLM_GRANULE, 0);
    assert_true(granules <= SLM_GRANULES_MAX && granules >= slm_area_granules() * slm_nodes);
    assert_int_equal(bytes, (granules << SLM_GRANULE_SHIFT) / 8);
    assert_false(slm_granule_valid(granules) || slm_granule_valid(granules + bytes / SLM_GRANULE - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(granules_and_addresses_turn_into_each_other),
        cmocka_unit_test(only_what_was_mapped_is_valid),
        cmocka_unit_test(pointers_from_elsewhere_are_not_valid),
        cmocka_unit_test(the_areas_lie_in_the_range),
        cmocka_unit_test(an_address_tells_its_area),
        cmocka_unit_test(a_node_has_its_areas),
        cmocka_unit_test(per_cpu_memory_lies_behind_the_heap),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
