/* src/percpu/blocks.h: what a fork in the middle of a change leaves to the child, put there by hand in every state
 * that there is between, and what recovering makes of it: nothing live is handed out again, and no more is lost than
 * one object's units, until the object before them is freed. And the check of rows, which must see what is wrong. */
#include "percpu_blocks.h"
#include "percpu_model.h"

/* Four neighbours; the third is the one that is being taken, or freed. */
enum { FIRST, BEFORE, TORN, BEHIND, NEIGHBOURS };
static const unsigned lengths[NEIGHBOURS] = {1000, 37, 300, 50};
enum { TORN_AT = 1037, TORN_END = 1337 };

static struct slm_percpu_place places[NEIGHBOURS];
static struct model model;

static void take_neighbours(void)
{
    unsigned at = 0;
    memset(&model, 0, sizeof model);
    for (uint16_t i = 0; i < NEIGHBOURS; at += lengths[i++]) {
        places[i] = take(lengths[i]);
        require(number_of(&places[i]) == 0 && places[i].at == at);
        model_set(&model, at, lengths[i], i + 1);
    }
}

/* Units are taken, or free, whose object is none. */
static void write_used(unsigned at, unsigned end, bool used)
{
    struct slm_percpu_map *map = places[TORN].block->map;
    for (; at < end; at++) {
        map->first[at / 64] &= ~((uint64_t)1 << at % 64);
        map->used[at / 64] &= ~((uint64_t)1 << at % 64);
        map->used[at / 64] |= (uint64_t)used << at % 64;
    }
}

/* The torn object's units from `at` to `end` are taken; the row is not what it was before, nor what it should be. */
static void tear(unsigned at, unsigned end)
{
    struct slm_percpu_block *block = places[TORN].block;
    write_used(TORN_AT, TORN_END, false);
    write_used(at, end, true);
    model_set(&model, TORN_AT, lengths[TORN], 0);
    model_set(&model, at, end - at, UINT16_MAX);
    block->free_units = 12345;
    block->lowest = SLM_PERCPU_UNITS;
    block->lengths = (struct slm_percpu_lengths){{0}};
    slm_percpu_blocks_recover();
    slm_percpu_blocks_check(block);
    const struct slm_percpu_figures figures = count();
    require(figures.objects == NEIGHBOURS - 1 && figures.units == SLM_PERCPU_UNITS - model_count_free(&model));
    require(figures.mapped_bytes == cpus * (uint64_t)SLM_PERCPU_PIECE && figures.metadata_bytes == 2 * 4096);
}

/* What is handed out now is nobody's. */
static void take_at_random(unsigned turn)
{
    enum { OBJECTS = 25 };
    struct slm_percpu_place taken[OBJECTS];
    unsigned units[OBJECTS], touched;
    uint64_t seed = turn;
    for (uint16_t i = 0; i < OBJECTS; i++) {
        const unsigned align = random_align(&seed);
        units[i] = 1 + (unsigned)random_below(&seed, 300);
        require(slm_percpu_blocks_take(units[i], align, &taken[i], &touched));
        require(number_of(&taken[i]) == 0);
        for (unsigned at = taken[i].at; at < taken[i].at + units[i]; at++)
            require(model.object[at] == 0);
        model_set(&model, taken[i].at, units[i], NEIGHBOURS + 1 + i);
    }
    slm_percpu_blocks_check(taken[0].block);
    for (size_t i = 0; i < OBJECTS; i++) {
        put(taken[i], units[i]);
        model_set(&model, taken[i].at, units[i], 0);
    }
}

/* The neighbours go, and one that comes to lie before what was lost: then all is free. */
static void free_everything(unsigned lost_at, unsigned lost)
{
    static const unsigned order[] = {BEHIND, FIRST, BEFORE};
    struct slm_percpu_block *block = places[TORN].block;
    for (size_t i = 0; i < COUNT(order); i++) {
        const struct slm_percpu_place *place = &places[order[i]];
        put(*place, slm_percpu_map_object(block->map, place->at));
    }
    const bool joined = lost_at == TORN_AT; /* it was part of the object before it */
    require(block->free_units == SLM_PERCPU_UNITS - (joined ? 0 : lost));
    if (!joined && lost > 0) {
        const struct slm_percpu_place place = take(lost_at);
        require(place.at == 0 && slm_percpu_map_object(block->map, 0) == lost_at + lost);
        put(place, lost_at + lost);
    }
    struct slm_percpu_place vacant;
    require(slm_percpu_blocks_vacant(&vacant) && vacant.block == block && count().objects == 0);
    require(slm_percpu_blocks_drop(&vacant));
}

/* Bits of words, or of any part of them, in rising order: as taking sets them, and as freeing clears them. */
static void tear_everywhere(void)
{
    for (unsigned units = 0; units <= lengths[TORN]; units += units < 200 ? 7 : 1) {
        take_neighbours();
        tear(TORN_AT, TORN_AT + units); /* taken so far */
        take_at_random(units);
        free_everything(TORN_AT, units);
        take_neighbours();
        tear(TORN_AT + units, TORN_END); /* not freed yet */
        take_at_random(units);
        free_everything(TORN_AT + units, lengths[TORN] - units);
    }
}

static void a_torn_change_loses_one_object_at_most(void **state)
{
    (void)state;
    in_child_with(2, tear_everywhere);
}

/* The bits are right and the row is not: before, and behind, the bits' change. */
static void tear_rows(void)
{
    take_neighbours();
    struct slm_percpu_block *block = places[TORN].block;
    block->free_units = 17;
    slm_percpu_blocks_recover();
    slm_percpu_blocks_check(block);
    require(count().objects == NEIGHBOURS);
    require(block->free_units == model_count_free(&model));
    put(places[TORN], lengths[TORN]);
    block->lengths = (struct slm_percpu_lengths){{0}};
    block->lowest = SLM_PERCPU_UNITS;
    block->touched = SLM_PERCPU_UNITS; /* noted first, and then it was not taken */
    slm_percpu_blocks_recover();
    slm_percpu_blocks_check(block);
    struct slm_percpu_place place;
    unsigned touched;
    require(slm_percpu_blocks_take(lengths[TORN], 1, &place, &touched));
    require(place.at == TORN_AT && touched == lengths[TORN]);
    require(slm_percpu_blocks_take(500, 1, &place, &touched) && touched == 500);
}

static void torn_rows_become_what_the_maps_say(void **state)
{
    (void)state;
    in_child_with(2, tear_rows);
}

/* Mapped, and nobody knows of it: dropped but not unmapped yet, or mapped but not noted. */
static void forget_a_block(void)
{
    struct slm_percpu_place lost = take(100), kept = take(SLM_PERCPU_UNITS);
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        memset(copy(&lost, cpu), 1, 400);
    memset(copy(&kept, 0), 2, SLM_PERCPU_PIECE);
    lost.block->map = NULL;
    slm_percpu_blocks_recover();
    const struct slm_percpu_figures figures = count();
    require(figures.objects == 1 && figures.units == SLM_PERCPU_UNITS);
    require(figures.mapped_bytes == cpus * (uint64_t)SLM_PERCPU_PIECE);
    struct slm_percpu_place place;
    unsigned touched;
    require(slm_percpu_blocks_take(200, 1, &place, &touched) && place.block != kept.block && touched == 0);
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        require(all_zero(copy(&place, cpu), 800));
    require(*copy(&kept, 0) == 2);
}

static void a_block_that_nobody_knows_of_is_in_nobody_s_way(void **state)
{
    (void)state;
    in_child_with(1, forget_a_block);
    in_child_with(64, forget_a_block);
}

static void recover_nothing(void)
{
    slm_percpu_blocks_recover();
    const struct slm_percpu_figures figures = count();
    require(figures.mapped_bytes == 0 && figures.metadata_bytes == 0 && figures.objects == 0);
    take(1);
}

static void nothing_is_recovered_too(void **state)
{
    (void)state;
    in_child_with(2, recover_nothing);
}

/* -- the check --------------------------------------------------------------------------------------------------- */

static void miscount(struct slm_percpu_block *block)
{
    block->free_units++;
}

static void forget_a_length(struct slm_percpu_block *block)
{
    put(places[TORN], lengths[TORN]);
    const unsigned class = slm_percpu_class(lengths[TORN]);
    block->lengths.bits[class / 64] &= ~((uint64_t)1 << class % 64);
}

static void miss_a_free_unit(struct slm_percpu_block *block)
{
    block->lowest = SLM_PERCPU_UNITS;
}

static void begin_in_a_free_unit(struct slm_percpu_block *block)
{
    block->map->first[SLM_PERCPU_WORDS - 1] = 1;
}

static void forget_what_was_touched(struct slm_percpu_block *block)
{
    block->touched = TORN_END;
}

static void (*breaking)(struct slm_percpu_block *block);

static void break_and_check(void)
{
    take_neighbours();
    slm_percpu_blocks_check(places[TORN].block);
    breaking(places[TORN].block);
    slm_percpu_blocks_check(places[TORN].block);
}

static void the_check_sees_what_is_wrong(void **state)
{
    (void)state;
    static void (*const ways[])(struct slm_percpu_block *) = {miscount, forget_a_length, miss_a_free_unit,
                                                              begin_in_a_free_unit, forget_what_was_touched};
    cpus = 2;
    running = break_and_check;
    for (size_t i = 0; i < COUNT(ways); i++) {
        breaking = ways[i];
        const struct outcome outcome = in_child(start_and_run);
        assert_int_equal(outcome.signal, SIGABRT);
        assert_non_null(strstr(outcome.said, "slm_percpu_blocks_check"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_torn_change_loses_one_object_at_most),
        cmocka_unit_test(torn_rows_become_what_the_maps_say),
        cmocka_unit_test(a_block_that_nobody_knows_of_is_in_nobody_s_way),
        cmocka_unit_test(nothing_is_recovered_too),
        cmocka_unit_test(the_check_sees_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
