/* src/page/demand.h: what counts as use, what as a fall, and when falls repeat. Each test has a process of its own,
 * as the figures are the process's. */
#include "unit.h"

#include "base/options.h"
#include "page/area.h"
#include "page/demand.h"

enum { DELAY_MS = 500, START_MS = 1000000 };

static bool fell(void)
{
    return slm_demand_fell();
}

/* Use rises and falls again in steps of 1 MiB. True: it was found to fall. */
static bool swing(unsigned mib, uint64_t now_ms)
{
    bool found = false;
    for (unsigned i = 0; i < mib; i++)
        slm_demand_rise(MIB);
    for (unsigned i = 0; i < mib; i++) {
        slm_demand_drop(MIB);
        found |= fell();
        slm_demand_look(now_ms);
    }
    require(!fell());
    return found;
}

static void count_use(void)
{
    const uint64_t before = slm_demand_used();
    char *object = malloc(3 * MIB), *small = malloc(100);
    require(object && small);
    require(slm_demand_used() >= before + 3 * MIB && slm_demand_used() <= before + 3 * MIB + 2 * SLM_GRANULE);
    require((object = realloc(object, 2 * MIB)) != NULL);
    require(slm_demand_used() <= before + 2 * MIB + 2 * SLM_GRANULE);
    require((object = realloc(object, 5 * MIB)) != NULL);
    require(slm_demand_used() >= before + 5 * MIB);
    free(object);
    require(slm_demand_used() <= before + 2 * SLM_GRANULE);
    free(small);
}

static void find_falls(void)
{
    require(!swing(4, START_MS)); /* no more than dirty_bytes */
    require(swing(6, START_MS));
    for (unsigned i = 0; i < 100; i++) /* from here on a hundred stay */
        slm_demand_rise(MIB);
    require(!swing(20, START_MS)); /* less than a share of them */
    require(swing(60, START_MS));
}

static void replace_blocks(void)
{
    unsigned sizes[20], seed = 1;
    for (unsigned i = 0; i < COUNT(sizes); i++)
        slm_demand_rise((size_t)(sizes[i] = 15) * MIB);
    for (unsigned i = 0; i < 100000; i++) {
        seed = seed * 1103515245 + 12345;
        unsigned *size = &sizes[(seed >> 16) % COUNT(sizes)];
        slm_demand_drop(*size * MIB);
        require(!fell());
        slm_demand_rise((size_t)(*size = 5 + (seed >> 24) % 21) * MIB);
    }
}

static void repeat_falls(void)
{
    require(swing(40, START_MS));
    require(!slm_demand_repeats(START_MS, false) && !slm_demand_repeats(START_MS, true));
    require(slm_demand_keep(START_MS) <= 4 * MIB);
    require(swing(40, START_MS + 10));
    require(slm_demand_repeats(START_MS + 10, false) && !slm_demand_repeats(START_MS + 10, true));
    require(swing(40, START_MS + 20));
    require(slm_demand_repeats(START_MS + 20, false) && slm_demand_repeats(START_MS + 20, true));
    require(slm_demand_keep(START_MS + 20) == 40 * MIB);
    require(!slm_demand_repeats(START_MS + 20 + 2 * DELAY_MS, true));
    require(slm_demand_repeats(START_MS + 20 + 2 * DELAY_MS, false));
    require(slm_demand_keep(START_MS + 20 + 2 * DELAY_MS) <= 4 * MIB);
    require(!slm_demand_repeats(START_MS + 20 + 3 * DELAY_MS, false));
}

/* What repeats in the upper part of a heap says nothing of a fall that goes on below it. */
static void fall_lower(void)
{
    for (unsigned i = 0; i < 30; i++)
        slm_demand_rise(MIB);
    for (unsigned i = 0; i < 3; i++)
        require(swing(40, START_MS + i));
    require(slm_demand_repeats(START_MS + 3, true));
    for (unsigned i = 0; i < 30; i++)
        slm_demand_drop(MIB);
    require(fell() && !slm_demand_repeats(START_MS + 3, true) && !slm_demand_repeats(START_MS + 3, false));
}

static void fall_seldom(void)
{
    for (unsigned i = 0; i < 10; i++) {
        require(swing(40, START_MS + i * 3 * DELAY_MS));
        require(!slm_demand_repeats(START_MS + i * 3 * DELAY_MS, false));
    }
}

static void exchange(size_t less, size_t more, size_t expected)
{
    slm_demand_rise(more);
    require(slm_demand_take_replaced() == 0);
    slm_demand_drop(less);
    require(slm_demand_take_replaced() == expected);
}

/* Buffers that double, each freed when the next has been taken. */
static void replace_by_larger(void)
{
    exchange(SLM_GRANULE, MIB, 0); /* too small */
    for (size_t size = MIB; size < 64 * MIB; size *= 2)
        exchange(size, 2 * size, size);
    slm_demand_drop(64 * MIB); /* in exchange for nothing new */
    require(slm_demand_take_replaced() == 0);
    for (size_t size = MIB; size < 64 * MIB; size *= 2) { /* as before: it rises no higher */
        slm_demand_rise(size);
        exchange(size, 2 * size, 0);
        slm_demand_drop(2 * size);
    }
    exchange(2 * MIB, 2 * MIB, 0);     /* no larger */
    for (unsigned i = 0; i < 100; i++) /* small ones */
        slm_demand_rise(SLM_GRANULE);
    slm_demand_drop(MIB);
    require(slm_demand_take_replaced() == 0);
}

static void grow(void)
{
    unsigned steps = 1;
    require(!slm_demand_grow(SLM_GRANULE)); /* in a small process it is not worth a look */
    slm_demand_rise(2 * MIB);
    while (!slm_demand_grow(SLM_GRANULE))
        require(steps++ < 2 * MIB / SLM_GRANULE);
    require(slm_demand_take_growth() >= steps * (uint64_t)SLM_GRANULE); /* or more, by the start */
    require(slm_demand_take_growth() == 0);
    slm_demand_rise(640 * MIB); /* a share of what is in use */
    require(!slm_demand_grow(19 * MIB) && slm_demand_grow(2 * MIB));
}

#define IN_A_CHILD(name, body)                                                                                       \
    static void name(void **state)                                                                                   \
    {                                                                                                                \
        (void)state;                                                                                                 \
        assert_child_silent(body);                                                                                   \
    }

IN_A_CHILD(spans_in_use_are_counted, count_use)
IN_A_CHILD(tear_downs_are_falls, find_falls)
IN_A_CHILD(blocks_that_replace_each_other_are_none, replace_blocks)
IN_A_CHILD(falls_between_which_much_is_taken_repeat, repeat_falls)
IN_A_CHILD(a_lower_fall_is_no_repetition, fall_lower)
IN_A_CHILD(seldom_falls_do_not_repeat, fall_seldom)
IN_A_CHILD(a_block_is_replaced_by_a_larger_one_that_rises_higher, replace_by_larger)
IN_A_CHILD(growth_is_seen_once_it_is_a_share_of_use, grow)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_in_use_are_counted),
        cmocka_unit_test(tear_downs_are_falls),
        cmocka_unit_test(blocks_that_replace_each_other_are_none),
        cmocka_unit_test(falls_between_which_much_is_taken_repeat),
        cmocka_unit_test(a_lower_fall_is_no_repetition),
        cmocka_unit_test(seldom_falls_do_not_repeat),
        cmocka_unit_test(a_block_is_replaced_by_a_larger_one_that_rises_higher),
        cmocka_unit_test(growth_is_seen_once_it_is_a_share_of_use),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
