/* src/page/purge.h: slm_span_purge_descriptors gives back the bookkeeping of what is free, and nothing else. */
#include "resident.h"
#include "spans.h"
#include "unit.h"

#include "page/free_spans.h"
#include "page/page_map.h"
#include "page/purge.h"
#include "page/span_alloc.h"

enum { SPANS = 4096 };

static unsigned node;
static struct slm_span *spans[SPANS];

/* Each has used its granule's descriptor; side by side, as a rule. */
static void take_all(void)
{
    for (unsigned i = 0; i < SPANS; i++) {
        require((spans[i] = slm_span_alloc(node, 1, 1)));
        slm_page_map_set(slm_span_granule(spans[i]), 1, slm_slot_offset_of(0));
    }
}

static void give(unsigned i)
{
    slm_page_map_set(slm_span_granule(spans[i]), 1, 0);
    slm_span_free(spans[i]);
}

static void give_all(void)
{
    for (unsigned i = 0; i < SPANS; i++)
        give(i);
    slm_span_purge(0, SLM_PURGE_TRIM);
}

static unsigned count_resident(void)
{
    unsigned resident = 0;
    for (unsigned i = 0; i < SPANS; i++)
        resident += is_resident(spans[i]);
    return resident;
}

static void descriptors_of_free_spans_go(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        take_all();
        assert_int_equal(count_resident(), SPANS);
        give_all();
        slm_span_purge_descriptors();
        assert_true(count_resident() < SPANS / 10);
        slm_span_check(node);
    }
}

/* Those of spans in use are as they were. */
static void others_stay(void **state)
{
    (void)state;
    take_all();
    for (unsigned i = 0; i < SPANS; i++)
        if (i % 1024 != 0)
            give(i);
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_span_purge_descriptors();
    for (unsigned i = 0; i < SPANS; i += 1024) {
        assert_true(is_resident(spans[i]));
        assert_int_equal(spans[i]->granules, 1);
        assert_int_equal(slm_page_map_slot_offset(slm_span_start(spans[i])), slm_slot_offset_of(0));
        give(i);
    }
    slm_span_check(node);
}

static _Atomic bool stop;

static void *work(void *nothing)
{
    struct slm_span *own[200];
    for (unsigned turn = 0; !atomic_load(&stop); turn++) {
        for (unsigned i = 0; i < COUNT(own); i++)
            require((own[i] = slm_span_alloc(node, 1 + (i + turn) % 50, 1)));
        for (unsigned i = 0; i < COUNT(own); i++) {
            require(own[i]->granules == 1 + (i + turn) % 50);
            slm_span_free(own[i]);
        }
    }
    return nothing;
}

static void while_others_work(void **state)
{
    (void)state;
    pthread_t workers[3];
    atomic_store(&stop, false);
    for (unsigned i = 0; i < COUNT(workers); i++)
        assert_int_equal(pthread_create(&workers[i], NULL, work, NULL), 0);
    for (unsigned i = 0; i < 200; i++) {
        slm_span_purge(0, SLM_PURGE_TRIM);
        slm_span_purge_descriptors();
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < COUNT(workers); i++)
        pthread_join(workers[i], NULL);
    slm_span_check(node);
}

static void keep_them(void)
{
    slm_span_keep_descriptors();
    take_all();
    give_all();
    slm_span_purge_descriptors();
    require(count_resident() == SPANS);
}

static void some_processes_keep_them(void **state)
{
    (void)state;
    assert_child_silent(keep_them);
}

static int begin(void **state)
{
    node = slm_nodes - 1;
    return start_library(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_of_free_spans_go),
        cmocka_unit_test(others_stay),
        cmocka_unit_test(while_others_work),
        cmocka_unit_test(some_processes_keep_them),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
