/* src/page/bins.h: free spans by length. The spans here are descriptors without memory. */
#include "unit.h"

#include "page/bins.h"

static struct slm_bins bins;
static struct slm_span spans[256];

static int empty(void **state)
{
    (void)state;
    bins.occupied = 0;
    return 0;
}

static struct slm_span *add(size_t i, uint32_t granules)
{
    spans[i].granules = granules;
    slm_bins_add(&bins, &spans[i]);
    return &spans[i];
}

struct sums {
    unsigned count;
    uint64_t granules;
};

static bool sum_up(struct slm_span *span, void *context)
{
    struct sums *sums = context;
    sums->count++;
    sums->granules += span->granules;
    return false;
}

static struct sums look(void)
{
    struct sums sums = {0, 0};
    assert_null(slm_bins_foreach(&bins, sum_up, &sums));
    return sums;
}

static void empty_bins_have_nothing(void **state)
{
    (void)state;
    assert_null(slm_bins_find(&bins, 1));
    assert_null(slm_bins_find(&bins, SLM_GRANULES_MAX));
    assert_int_equal(look().count, 0);
}

static void every_length_is_found(void **state)
{
    (void)state;
    for (uint32_t granules = 1; granules < SLM_GRANULES_MAX; granules += granules < 300 ? 1 : granules / 5) {
        struct slm_span *span = add(0, granules);
        assert_ptr_equal(slm_bins_find(&bins, granules), span);
        assert_ptr_equal(slm_bins_find(&bins, 1), span);
        assert_null(slm_bins_find(&bins, granules + 1));
        slm_bins_remove(&bins, span);
        assert_null(slm_bins_find(&bins, 1));
    }
}

static void the_shortest_that_suffices_is_found(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {40, 3, 500, 41, 7, 33, 5, 36, 10000, 34};
    static const uint32_t wanted[][2] = {{1, 3},   {4, 5},   {6, 7},   {8, 33},   {34, 34},
                                         {35, 36}, {37, 40}, {41, 41}, {42, 500}, {501, 10000}};
    for (size_t i = 0; i < COUNT(lengths); i++)
        add(i, lengths[i]);
    for (size_t i = 0; i < COUNT(wanted); i++)
        assert_int_equal(slm_bins_find(&bins, wanted[i][0])->granules, wanted[i][1]);
    assert_null(slm_bins_find(&bins, 10001));
}

static void of_equal_ones_the_lowest_is_found(void **state)
{
    (void)state;
    static const size_t order[] = {5, 2, 9, 7, 3};
    for (size_t i = 0; i < COUNT(order); i++)
        add(order[i], 12);
    static const size_t found[] = {2, 3, 5, 7, 9};
    for (size_t i = 0; i < COUNT(found); i++) {
        assert_ptr_equal(slm_bins_find(&bins, 12), &spans[found[i]]);
        slm_bins_remove(&bins, &spans[found[i]]);
    }
}

static void clearing_forgets_all(void **state)
{
    (void)state;
    for (size_t i = 0; i < 100; i++)
        add(i, (uint32_t)i * 3 + 1);
    assert_int_equal(look().count, 100);
    bins.occupied = 0;
    assert_int_equal(look().count, 0);
    assert_null(slm_bins_find(&bins, 1));
    add(3, 4);
    assert_int_equal(look().count, 1);
}

static void random_work_loses_nothing(void **state)
{
    (void)state;
    uint64_t seed = 3;
    bool there[COUNT(spans)] = {false};
    struct sums sums = {0, 0};
    for (unsigned turn = 0; turn < 20000; turn++) {
        const size_t i = random_below(&seed, COUNT(spans));
        if (there[i])
            slm_bins_remove(&bins, &spans[i]);
        else
            add(i, 1 + (uint32_t)random_below(&seed, (size_t)1 << random_below(&seed, 27)));
        there[i] = !there[i];
        sums.count += there[i] ? 1 : -1u;
        sums.granules += there[i] ? spans[i].granules : -(uint64_t)spans[i].granules;
        assert_int_equal(look().count, sums.count);
        assert_int_equal(look().granules, sums.granules);
        const size_t wanted = 1 + random_below(&seed, 2000);
        const struct slm_span *found = slm_bins_find(&bins, wanted);
        for (size_t k = 0; !found && k < COUNT(spans); k++)
            assert_false(there[k] && spans[k].granules >= wanted);
        assert_true(!found || found->granules >= wanted);
    }
}

static void put_into_wrong_bin(void)
{
    add(0, 5)->granules = 6;
    look();
}

static void the_walk_sees_a_wrong_bin(void **state)
{
    (void)state;
    const void *start = slm_span_start(&spans[0]);
    assert_child_aborts(put_into_wrong_bin,
                        text("slabmalloc: check(" POINTER "): a free span in the wrong bin", pointer_of(start)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(empty_bins_have_nothing, empty),
        cmocka_unit_test_setup(every_length_is_found, empty),
        cmocka_unit_test_setup(the_shortest_that_suffices_is_found, empty),
        cmocka_unit_test_setup(of_equal_ones_the_lowest_is_found, empty),
        cmocka_unit_test_setup(clearing_forgets_all, empty),
        cmocka_unit_test_setup(random_work_loses_nothing, empty),
        cmocka_unit_test_setup(the_walk_sees_a_wrong_bin, empty),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
