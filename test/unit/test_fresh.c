/* src/slab/fresh.h: the pages of a slab are populated as its objects are taken. Each test has a slab of its own, on
 * clean memory, in a heap that is said to be large. */
#include "unit.h"

#include "os/topology.h"
#include "page/demand.h"
#include "page/span_alloc.h"
#include "resident.h"
#include "slab/fresh.h"
#include "slab/pages.h"

enum {
    SIZE = 1024,
    STEP = 4,
    MOST_OBJECTS = 65536 / 16,
    MOST_PAGES = 16,
    STEPS = 400,
    BEFORE = SLM_FRESH_SLABS_BEFORE
};

static struct slm_slab_shape shape;
static struct slm_slab *slab;
static void *out[MOST_OBJECTS];
static unsigned out_count;

static unsigned pages(void)
{
    return (unsigned)(((size_t)slab->objects * slab->object_size + slm_page_size - 1) / slm_page_size);
}

/* The one that a span of clean memory has become; dirty ones wait till the end of the test. */
static void make(uint32_t size, uint64_t slabs_before)
{
    struct slm_slab *dirty[256];
    unsigned count = 0;
    shape = (struct slm_slab_shape){.object_size = size, .slot_offset = slm_slot_offset_of(3)};
    slm_slab_shape_fill(&shape);
    while ((slab = slm_slab_make(&shape, slm_nodes - 1, false)) && slab->span.state != SLM_SPAN_CLEAN) {
        require(count < COUNT(dirty));
        dirty[count++] = slab;
    }
    require(slab != NULL);
    while (count > 0)
        slm_slab_release(dirty[--count]);
    out_count = 0;
    slm_fresh_start(slab, slabs_before);
}

static unsigned take(unsigned n)
{
    const unsigned taken =
        slm_pages_differ(slab) ? slm_pages_take(slab, n, out + out_count) : slm_slab_take(slab, n, out + out_count);
    out_count += taken;
    return taken;
}

static void give(unsigned which)
{
    void *object = out[which];
    out[which] = out[--out_count];
    require(slm_slab_give(slab, &object, 1, "free", "test") == 1);
    slm_slab_count(slab, 1);
}

static unsigned resident(void)
{
    unsigned count = 0;
    for (unsigned page = 0; page < slm_span_bytes(&slab->span) / slm_page_size; page++)
        count += is_resident(slm_slab_start(slab) + page * slm_page_size);
    return count;
}

static void release(void)
{
    while (out_count > 0)
        give(0);
    slm_slab_release(slab);
    require(load_relaxed(&slm_populate_ahead_bytes) == 0);
}

static int begin(void **state)
{
    const int started = start_library(state);
    slm_demand_rise(GIB);
    store_relaxed(&slm_populate_ahead_bytes, 0);
    return started;
}

static void pages_are_populated_in_steps(void **state)
{
    (void)state;
    skip_without_populating();
    make(SIZE, BEFORE);
    require(resident() == 0);
    for (unsigned i = 0; i < slab->objects; i += 8) {
        take(8);
        require(resident() == (i / (STEP * 4) + 1) * STEP);
        require(load_relaxed(&slm_populate_ahead_bytes) == slab->span.ahead * slm_page_size &&
                slab->span.ahead <= STEP);
    }
    require(slab->span.ahead == 0);
    release();
}

static void so_are_all_that_rounds_lie_on(void **state)
{
    (void)state;
    skip_without_populating();
    make(SIZE, BEFORE);
    take(6 * 4 + 1);
    require(resident() == 8 && slab->span.ahead == 8);
    take(1);
    require(resident() == 8 && slab->span.ahead == 2);
    take(100);
    require(resident() == 16 && slab->span.ahead == 0);
    release();
}

static void not_those_of_a_cache_s_first_slabs(void **state)
{
    (void)state;
    skip_without_populating();
    make(SIZE, BEFORE - 1);
    require(!slm_pages_differ(slab));
    take(STEP * 4);
    require(resident() == 0);
    release();
}

static void nor_for_a_thread_that_wants_few(void **state)
{
    (void)state;
    make(SIZE, BEFORE);
    take(5);
    require(resident() == 0 && slab->span.ahead == 0);
    release();
}

/* A program may write a part of it only: its first words, as bench/latency.c does. */
static void nor_those_of_objects_longer_than_a_page(void **state)
{
    (void)state;
    make(4096, BEFORE);
    require(slm_page_size > 4096 || slm_pages_differ(slab));
    release();
    make((uint32_t)slm_page_size + 1024, BEFORE);
    require(!slm_pages_differ(slab));
    take(8);
    require(resident() == 0);
    release();
}

static void but_those_of_objects_that_are_written_to_their_end(void **state)
{
    (void)state;
    skip_without_populating();
    make((uint32_t)slm_page_size + 2048, BEFORE);
    require(!slm_pages_differ(slab));
    memset(slm_slab_start(slab), 1, SLM_GRANULE);
    slm_fresh_start(slab, BEFORE);
    require(slm_pages_differ(slab));
    slm_fresh_end(slab);
    release();
    make((uint32_t)slm_page_size + 2048, BEFORE);
    require(slm_pages_differ(slab));
    take(8);
    require(resident() == 12 && slab->span.ahead == 12);
    release();
}

static void nor_those_of_long_slabs_and_of_dirty_memory(void **state)
{
    (void)state;
    make(100000, BEFORE);
    require(!slm_pages_differ(slab));
    release();
    make(SIZE, BEFORE);
    memset(slm_slab_start(slab), 1, SLM_GRANULE);
    slm_slab_release(slab);
    require((slab = slm_slab_make(&shape, slm_nodes - 1, false)) && slab->span.state == SLM_SPAN_DIRTY);
    slm_fresh_start(slab, BEFORE);
    require(!slm_pages_differ(slab));
    slm_slab_release(slab);
}

static void what_is_ahead_is_bounded(void **state)
{
    (void)state;
    skip_without_populating();
    const uint64_t most = slm_populate_room();
    make(SIZE, BEFORE);
    store_relaxed(&slm_populate_ahead_bytes, most - 3 * slm_page_size);
    take(7 * 4);
    require(resident() == 3 && slm_populate_room() < slm_page_size);
    take(1);
    require(resident() == 3 && slab->span.ahead == 0 && slm_populate_room() / slm_page_size == 3);
    store_relaxed(&slm_populate_ahead_bytes, 0);
    release();
}

static void what_is_purged_is_ahead_no_more(void **state)
{
    (void)state;
    skip_without_populating();
    make(SIZE, BEFORE);
    take(6);
    require(resident() == STEP && slab->span.ahead == STEP);
    slm_pages_purge(slab);
    require(resident() == 2 && slab->span.ahead == 0 && load_relaxed(&slm_populate_ahead_bytes) == 0);
    release();
}

/* Objects come and go. All that were ever out lie on pages that are resident or have been written by nobody. */
static void the_sum_is_that_of_the_slab(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {16, 24, 48, 112, 640, 1032, 3072, 4096, 6144, 20480, 32768};
    uint64_t random = 1;
    for (unsigned i = 0; i < COUNT(sizes) * 2; i++) {
        make(sizes[i / 2], i % 2 * BEFORE);
        for (unsigned step = 0; step < STEPS; step++) {
            if (random_below(&random, 2) == 0)
                take(1 + (unsigned)random_below(&random, slab->objects / 8 + 1u));
            for (size_t n = random_below(&random, 4) == 0 ? random_below(&random, out_count + 1) : 0; n > 0; n--)
                give((unsigned)random_below(&random, out_count));
            if (random_below(&random, 50) == 0)
                slm_pages_purge(slab);
            if (slab->span.some_purged && slab->span.fresh == 0)
                slm_pages_touch(slab, &shape);
            require(load_relaxed(&slm_populate_ahead_bytes) == slab->span.ahead * slm_page_size);
            require(slab->span.ahead <= pages() && (slab->span.fresh == 0 || slab->span.ahead < slab->span.fresh));
            slm_pages_check(slab);
        }
        release();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_populated_in_steps),
        cmocka_unit_test(so_are_all_that_rounds_lie_on),
        cmocka_unit_test(not_those_of_a_cache_s_first_slabs),
        cmocka_unit_test(nor_for_a_thread_that_wants_few),
        cmocka_unit_test(nor_those_of_objects_longer_than_a_page),
        cmocka_unit_test(but_those_of_objects_that_are_written_to_their_end),
        cmocka_unit_test(nor_those_of_long_slabs_and_of_dirty_memory),
        cmocka_unit_test(what_is_ahead_is_bounded),
        cmocka_unit_test(what_is_purged_is_ahead_no_more),
        cmocka_unit_test(the_sum_is_that_of_the_slab),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
