/* src/percpu/map.h: classes of lengths, the best free run, taking, freeing and counting, beside a naive model; and
 * what a fork finds that interrupts a change of the map. */
#include "percpu_model.h"
#include "trap.h"

enum { OBJECTS_MOST = 4000 };

static struct slm_percpu_map map;
static struct model model;

static int empty(void **state)
{
    (void)state;
    memset(&map, 0, sizeof map);
    memset(&model, 0, sizeof model);
    return 0;
}

/* -- classes ----------------------------------------------------------------------------------------------------- */

/* A longer run is never in a lower class: from the class of a length on, all runs that are long enough are found. */
static void classes_rise_with_the_length(void **state)
{
    (void)state;
    unsigned before = slm_percpu_class(1);
    assert_int_equal(before, 0);
    for (unsigned units = 2; units <= SLM_PERCPU_UNITS; units++) {
        const unsigned class = slm_percpu_class(units);
        assert_true(class == before || class == before + 1); /* and none is without lengths */
        before = class;
    }
    assert_int_equal(before, SLM_PERCPU_CLASSES - 1);
}

static void short_lengths_have_classes_of_their_own(void **state)
{
    (void)state;
    for (unsigned units = 2; units <= 64; units++)
        assert_int_equal(slm_percpu_class(units), slm_percpu_class(units - 1) + 1);
}

static void there_are_eight_classes_to_a_power_of_two(void **state)
{
    (void)state;
    for (unsigned power = 64; power < SLM_PERCPU_UNITS; power *= 2)
        for (unsigned eighth = 8; eighth < 16; eighth++) {
            const unsigned first = power / 8 * eighth, last = power / 8 * (eighth + 1) - 1;
            assert_int_equal(slm_percpu_class(last), slm_percpu_class(first));
            assert_int_equal(slm_percpu_class(last + 1), slm_percpu_class(first) + 1);
        }
}

static void the_lowest_class_is_found(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (unsigned turn = 0; turn < 500; turn++) {
        struct slm_percpu_lengths lengths = {{0}};
        bool there[SLM_PERCPU_CLASSES] = {false};
        for (size_t count = random_below(&seed, 12); count > 0; count--) {
            const unsigned units = 1 + (unsigned)random_below(&seed, (size_t)1 << random_below(&seed, 15));
            slm_percpu_lengths_add(&lengths, units);
            there[slm_percpu_class(units)] = true;
        }
        for (unsigned from = 0; from <= SLM_PERCPU_CLASSES; from++) {
            unsigned lowest = from;
            while (lowest < SLM_PERCPU_CLASSES && !there[lowest])
                lowest++;
            assert_int_equal(slm_percpu_lengths_lowest(&lengths, from), lowest);
        }
    }
}

/* -- finding, taking, freeing ------------------------------------------------------------------------------------ */

/* Behind the last unit that is taken. */
static unsigned end_of_used(void)
{
    unsigned end = SLM_PERCPU_UNITS;
    while (end > 0 && model.object[end - 1] == 0)
        end--;
    return end;
}

/* Any unit from which on all are free: what is said of them may be late. */
static unsigned any_end(void)
{
    static uint64_t seed = 3;
    const unsigned end = end_of_used();
    return end + (unsigned)random_below(&seed, random_below(&seed, 2) ? SLM_PERCPU_UNITS - end + 1 : 1);
}

/* Any unit below which none is free. */
static unsigned any_beginning(void)
{
    static uint64_t seed = 4;
    unsigned lowest = 0;
    while (lowest < SLM_PERCPU_UNITS && model.object[lowest] != 0)
        lowest++;
    return random_below(&seed, 2) ? lowest : (unsigned)random_below(&seed, lowest + 1);
}

/* The map and the model find the same run, and the map tells all lengths. */
static bool find(unsigned units, unsigned align, struct slm_percpu_run *run)
{
    struct slm_percpu_lengths lengths = {{~(uint64_t)0, ~(uint64_t)0}}; /* whatever it was before */
    struct slm_percpu_run expected = {0, 0};
    const bool found = slm_percpu_map_find(&map, any_beginning(), any_end(), units, align, run, &lengths);
    assert_int_equal(found, model_find(&model, units, align, &expected));
    if (found) {
        assert_int_equal(run->at, expected.at);
        assert_int_equal(run->units, expected.units);
    }
    const struct slm_percpu_lengths all = model_lengths(&model);
    assert_memory_equal(&lengths, &all, sizeof all);
    return found;
}

static void take(unsigned at, unsigned units, uint16_t number)
{
    slm_percpu_map_take(&map, at, units);
    model_set(&model, at, units, number);
}

static void put(unsigned at, unsigned units)
{
    assert_int_equal(slm_percpu_map_object(&map, at), units);
    const unsigned end = any_end(); /* before it is free: nobody knows more then */
    const unsigned joined = slm_percpu_map_put(&map, at, units, end);
    model_set(&model, at, units, 0);
    assert_int_equal(joined, model_run(&model, at).units);
}

static void an_empty_map_is_one_run(void **state)
{
    (void)state;
    struct slm_percpu_run run;
    for (unsigned align = 1; align <= SLM_PERCPU_UNITS; align *= 2) {
        assert_true(find(1, align, &run));
        assert_int_equal(run.at, 0);
        assert_int_equal(run.units, SLM_PERCPU_UNITS);
        assert_true(find(SLM_PERCPU_UNITS, align, &run));
    }
    assert_int_equal(SLM_PERCPU_UNITS - slm_percpu_map_count(map.used), SLM_PERCPU_UNITS);
    assert_int_equal(slm_percpu_map_count(map.first), 0);
}

static void a_full_map_has_nothing(void **state)
{
    (void)state;
    struct slm_percpu_run run;
    take(0, SLM_PERCPU_UNITS, 1);
    assert_false(find(1, 1, &run));
    assert_int_equal(slm_percpu_map_object(&map, 0), SLM_PERCPU_UNITS);
    assert_int_equal(SLM_PERCPU_UNITS - slm_percpu_map_count(map.used), 0);
    assert_int_equal(slm_percpu_map_count(map.first), 1);
    put(0, SLM_PERCPU_UNITS);
    assert_int_equal(model_differences(&model, &map), 0);
    for (unsigned at = 0; at < SLM_PERCPU_UNITS; at++)
        take(at, 1, (uint16_t)(at % 2 + 1));
    assert_false(find(1, 1, &run));
    assert_int_equal(slm_percpu_map_count(map.first), SLM_PERCPU_UNITS);
}

static const unsigned edges[] = {1, 2, 63, 64, 65, 127, 128, 129, 4096, SLM_PERCPU_UNITS - 64, SLM_PERCPU_UNITS - 1};

/* Around the edges of words, and the map's own: with everything else free, and with everything else taken. */
static void a_change_is_of_its_own_units(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(edges); i++)
        for (size_t k = 0; k < COUNT(edges); k++) {
            const unsigned at = edges[i] - 1, units = edges[k], end = at + units;
            if (end >= SLM_PERCPU_UNITS)
                continue;
            take(at, units, 2);
            assert_int_equal(model_differences(&model, &map), 0);
            if (at > 0)
                take(0, at, 1);
            take(end, SLM_PERCPU_UNITS - end, 3);
            assert_int_equal(model_differences(&model, &map), 0);
            put(at, units);
            assert_int_equal(model_differences(&model, &map), 0);
            if (at > 0)
                put(0, at);
            put(end, SLM_PERCPU_UNITS - end);
            assert_int_equal(model_differences(&model, &map), 0);
        }
}

/* Aligned room may begin behind the run's first unit, and a long run may have none. */
static void alignment_is_the_object_s_not_the_run_s(void **state)
{
    (void)state;
    struct slm_percpu_run run;
    take(0, 100, 1);
    take(130, 70, 2); /* 30 units free from 100 on */
    take(215, 41, 3); /* 15 units from 200 on */
    take(256, SLM_PERCPU_UNITS - 256, 4);
    assert_true(find(15, 8, &run) && run.at == 200);
    assert_true(find(8, 8, &run) && run.at == 200);
    assert_false(find(19, 16, &run)); /* from 112 on there are 18 */
    put(256, SLM_PERCPU_UNITS - 256);
    assert_true(find(8, 64, &run) && run.at == 256);
    assert_true(find(3, 128, &run) && run.at == 256);
}

static void random_work_is_as_in_a_naive_model(void **state)
{
    (void)state;
    static struct slm_percpu_run objects[OBJECTS_MOST];
    uint64_t seed = 2;
    size_t count = 0;
    for (unsigned turn = 0; turn < 8000; turn++) {
        const unsigned units = random_units(&seed), align = random_align(&seed);
        const size_t takes = turn / 1000 % 2 ? 35 : 65; /* of 100: it fills, and empties again */
        struct slm_percpu_run run;
        if (random_below(&seed, 100) < takes && count < OBJECTS_MOST && find(units, align, &run)) {
            const unsigned at = (run.at + align - 1) / align * align;
            take(at, units, (uint16_t)(turn + 1));
            objects[count++] = (struct slm_percpu_run){at, units};
        } else if (count > 0) {
            const size_t i = random_below(&seed, count);
            put(objects[i].at, objects[i].units);
            objects[i] = objects[--count];
        }
        if (turn % 100 == 0)
            assert_int_equal(model_differences(&model, &map), 0);
        assert_int_equal(SLM_PERCPU_UNITS - slm_percpu_map_count(map.used), model_count_free(&model));
        assert_int_equal(slm_percpu_map_count(map.first), count);
    }
    while (count-- > 0)
        put(objects[count].at, objects[count].units);
    assert_int_equal(model_differences(&model, &map), 0);
}

/* -- what a fork finds ------------------------------------------------------------------------------------------- */

enum { AT = 1000, UNITS = 300, BEFORE = 37, BEHIND = 50 }; /* it lies in six words */

static unsigned snapshots;

/* At every instruction of a change: the neighbours are whole, and so is the object, or it is none. What it leaves is
 * the neighbour's before it, if it touches it, and nobody's as long as that lives. */
static void look_at_torn_map(void)
{
    snapshots++;
    require(slm_percpu_map_bit(map.first, AT - BEFORE) && slm_percpu_map_bit(map.first, AT + UNITS));
    for (unsigned at = AT - BEFORE; at < AT + UNITS + BEHIND; at++)
        if (at < AT || at >= AT + UNITS)
            require(slm_percpu_map_bit(map.used, at) &&
                    slm_percpu_map_bit(map.first, at) == (at == AT - BEFORE || at == AT + UNITS));
    unsigned used = 0, leading = 0;
    for (unsigned at = AT; at < AT + UNITS; at++) {
        require(at == AT || !slm_percpu_map_bit(map.first, at));
        used += slm_percpu_map_bit(map.used, at);
        leading += used == at + 1 - AT;
    }
    const bool is_object = slm_percpu_map_bit(map.first, AT);
    require(!is_object || used == UNITS);
    require(slm_percpu_map_object(&map, AT - BEFORE) == BEFORE + (is_object ? 0 : leading));
    require(slm_percpu_map_object(&map, AT + UNITS) == BEHIND);
}

static void take_between(void)
{
    slm_percpu_map_take(&map, AT, UNITS);
}

static void put_between(void)
{
    slm_percpu_map_put(&map, AT, UNITS, SLM_PERCPU_UNITS);
}

static void at_any_instruction_the_map_is_right_but_for_one_object(void **state)
{
    (void)state;
    begin_tracing();
    take(AT - BEFORE, BEFORE, 1);
    take(AT + UNITS, BEHIND, 2);
    interrupt_each(take_between, look_at_torn_map);
    model_set(&model, AT, UNITS, 3);
    assert_int_equal(model_differences(&model, &map), 0);
    interrupt_each(put_between, look_at_torn_map);
    model_set(&model, AT, UNITS, 0);
    assert_int_equal(model_differences(&model, &map), 0);
    end_tracing(snapshots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_rise_with_the_length),
        cmocka_unit_test(short_lengths_have_classes_of_their_own),
        cmocka_unit_test(there_are_eight_classes_to_a_power_of_two),
        cmocka_unit_test(the_lowest_class_is_found),
        cmocka_unit_test_setup(an_empty_map_is_one_run, empty),
        cmocka_unit_test_setup(a_full_map_has_nothing, empty),
        cmocka_unit_test_setup(a_change_is_of_its_own_units, empty),
        cmocka_unit_test_setup(alignment_is_the_object_s_not_the_run_s, empty),
        cmocka_unit_test_setup(random_work_is_as_in_a_naive_model, empty),
        cmocka_unit_test_setup(at_any_instruction_the_map_is_right_but_for_one_object, empty),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
