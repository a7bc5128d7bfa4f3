/* src/process/reclaim.h: while one class takes new memory, others' free pages go. Each test has a process of its
 * own, in which nothing becomes due. */
#include "unit.h"
#include "worker.h"

#include "base/options.h"
#include "depot/cache.h"
#include "os/vm.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/purge.h"

enum { SMALL = 1000, OTHER = 900, A_SLAB = SLM_GRANULE / 1024, MANY = 32 * MIB / 1024 };

static unsigned char *objects[MANY];

static int begin(void **state)
{
    const int started = start_library(state);
    slm_settings.purge_delay_ms = FAR_OFF_MS;
    slm_settings.dirty_bytes = UINT64_MAX / 2;
    return started;
}

static uint64_t purged(void)
{
    return load_relaxed(&slm_purged_bytes[SLM_PURGE_GROWTH]);
}

static void make_each(unsigned n, size_t size)
{
    for (unsigned i = 0; i < n; i++) {
        require((objects[i] = malloc(size)) != NULL);
        memset(objects[i], (int)(i % 251), size);
    }
}

/* All but each nth, which is then checked to be as it was. */
static void free_but_each(unsigned nth)
{
    for (unsigned i = 0; i < MANY; i++)
        if (i % nth != 0)
            free(objects[i]);
}

static void require_each(unsigned nth)
{
    for (unsigned i = 0; i < MANY; i += nth)
        for (unsigned at = 0; at < SMALL; at++)
            require(objects[i][at] == i % 251);
}

static void grow(size_t bytes)
{
    for (size_t made = 0; made < bytes; made += OTHER) {
        void *object = malloc(OTHER);
        require(object != NULL);
        memset(object, 1, OTHER);
    }
}

static void grow_past_sparse_slabs(void)
{
    make_each(MANY, SMALL);
    free_but_each(A_SLAB);
    require(purged() == 0);
    grow(8 * MIB);
    require(purged() >= 4 * MIB && purged() <= 20 * MIB);
    require_each(A_SLAB);
    const uint64_t before = purged();
    grow(64 * MIB);
    require(purged() - before >= 8 * MIB && purged() <= 32 * MIB);
    require_each(A_SLAB);
}

static void grow_large(unsigned mib)
{
    for (unsigned i = 0; i < mib; i++)
        require(malloc(MIB) != NULL);
}

static void grow_by_large_objects(void)
{
    make_each(MANY, SMALL);
    free_but_each(A_SLAB);
    grow_large(8);
    require(purged() >= 4 * MIB);
    require_each(A_SLAB);
}

/* A string that grows by copies, as std::string does: what it leaves is not there while the next one is written. */
static void grow_by_copies(void)
{
    char *string = malloc(MIB);
    require(string != NULL);
    memset(string, 1, MIB);
    for (size_t size = MIB; size < 64 * MIB; size *= 2) {
        char *longer = malloc(2 * size);
        require(longer != NULL);
        memcpy(longer, string, size);
        free(string);
        require(slm_span_dirty_bytes() < 2 * MIB);
        memset(longer + size, 1, size);
        string = longer;
    }
    require(purged() >= 60 * MIB);
    const uint64_t before = purged();
    for (unsigned turn = 0; turn < 8; turn++) { /* work that comes again keeps its memory */
        free(string);
        require((string = malloc(64 * MIB)) != NULL);
    }
    require(purged() == before);
}

/* A thousand strings, each made anew with five bytes more: all pass through all sizes. What the smaller ones had is
 * there for the larger. */
static void grow_in_lockstep(void)
{
    enum { STRINGS = 1000, STEPS = 300, STEP = 5 };
    const uint64_t before = slm_demand_used();
    for (size_t size = STEP; size <= STEPS * STEP; size += STEP)
        for (unsigned i = 0; i < STRINGS; i++) {
            unsigned char *longer = malloc(size);
            require(longer != NULL);
            if (size > STEP)
                memcpy(longer, objects[i], size - STEP);
            memset(longer + size - STEP, (int)(i % 251), STEP);
            free(objects[i]);
            objects[i] = longer;
        }
    for (unsigned i = 0; i < STRINGS; i++)
        for (unsigned at = 0; at < STEPS * STEP; at++)
            require(objects[i][at] == i % 251);
    require(slm_demand_used() + slm_span_dirty_bytes() - before <= 4 * (uint64_t)STRINGS * STEPS * STEP);
}

static uint64_t locks(size_t size)
{
    return slm_depot_locks(&slm_class_cache(slm_class_of_size(size))->first);
}

/* Of each page a piece is alive: one look finds that out. */
static void grow_past_dense_slabs(void)
{
    make_each(MANY, SMALL);
    free_but_each(2);
    grow_large(8);
    const uint64_t before = locks(SMALL);
    grow_large(64);
    require(locks(SMALL) - before < 20); /* of ticks; 16 looks or more would take five each */
    require_each(2);
}

static void replace_at_random(void)
{
    static const uint16_t sizes[] = {64, 600, 1000, 1500, 2000, 4000};
    unsigned random = 1;
    make_each(MANY / 4, SMALL);
    for (unsigned i = 0; i < 400000; i++) {
        if (i == 200000)
            store_relaxed(&slm_purged_bytes[SLM_PURGE_GROWTH], 0);
        random = random * 1103515245 + 12345;
        const unsigned which = random / 65536 % (MANY / 4);
        free(objects[which]);
        require((objects[which] = malloc(sizes[which % 6])) != NULL);
    }
    require(purged() == 0);
}

/* Every second of 64 is free, and too short for what is wanted. */
static void grow_past_short_spans(void)
{
    enum { NUMBER = 64 };
    make_each(NUMBER, MIB);
    for (unsigned i = 0; i < NUMBER; i += 2)
        free(objects[i]);
    const uint64_t dirty = slm_span_dirty_bytes();
    require(purged() == 0 && dirty >= 30 * MIB);
    for (unsigned mib = 0; mib < 30; mib += 2)
        require(malloc(2 * MIB) != NULL);
    require(purged() >= 16 * MIB && slm_span_dirty_bytes() <= dirty + MIB - purged()); /* one was kept: slab/kept.h */
    require(slm_span_dirty_bytes() >= 4 * MIB); /* a share is left for what fits */
}

static void replace_large(void)
{
    enum { NUMBER = 64 };
    make_each(NUMBER, MIB);
    unsigned random = 1;
    for (unsigned i = 0; i < 10000; i++) {
        random = random * 1103515245 + 12345;
        const unsigned which = random / 65536 % NUMBER;
        free(objects[which]);
        require((objects[which] = malloc(MIB)) != NULL);
    }
    require(purged() == 0);
}

#define IN_A_CHILD(name, body)                                                                                       \
    static void name(void **state)                                                                                   \
    {                                                                                                                \
        (void)state;                                                                                                 \
        if (slm_page_size != 4096)                                                                                   \
            skip();                                                                                                  \
        assert_child_silent(body);                                                                                   \
    }

IN_A_CHILD(sparse_slabs_make_up_for_new_ones, grow_past_sparse_slabs)
IN_A_CHILD(and_for_large_objects, grow_by_large_objects)
IN_A_CHILD(what_a_larger_block_replaces_goes, grow_by_copies)
IN_A_CHILD(strings_that_grow_in_lockstep_use_what_they_left, grow_in_lockstep)
IN_A_CHILD(what_a_look_has_left_is_not_looked_at_again, grow_past_dense_slabs)
IN_A_CHILD(objects_that_replace_each_other_purge_nothing, replace_at_random)
IN_A_CHILD(spans_that_are_too_short_make_up_for_longer_ones, grow_past_short_spans)
IN_A_CHILD(and_large_ones_that_replace_each_other, replace_large)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sparse_slabs_make_up_for_new_ones),
        cmocka_unit_test(and_for_large_objects),
        cmocka_unit_test(what_a_larger_block_replaces_goes),
        cmocka_unit_test(strings_that_grow_in_lockstep_use_what_they_left),
        cmocka_unit_test(what_a_look_has_left_is_not_looked_at_again),
        cmocka_unit_test(objects_that_replace_each_other_purge_nothing),
        cmocka_unit_test(spans_that_are_too_short_make_up_for_longer_ones),
        cmocka_unit_test(and_large_ones_that_replace_each_other),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
