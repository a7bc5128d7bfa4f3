/* src/page/charge.h: what is charged as spans are taken, freed and given back; the limit under several threads. */
#include "heap_check.h"
#include "unit.h"

#include "page/charge.h"
#include "page/metadata.h"
#include "page/purge.h"
#include "page/span_alloc.h"
#include "slab/large.h"
#include "slab/slab.h"

static uint64_t charged(void)
{
    return load_relaxed(&slm_charge.bytes);
}

/* From here on nothing is dirty, and there is metadata for what tests make. */
static uint64_t begin(void)
{
    char *object = malloc(64 * MIB);
    require(object != NULL);
    free(object);
    slm_span_purge(0, SLM_PURGE_TRIM);
    return charged();
}

static void *make(size_t bytes)
{
    bool clean;
    return slm_large_alloc(bytes, 1, slm_area_for_large(0), &clean);
}

static void spans_in_use_and_dirty_ones_are_charged(void **state)
{
    (void)state;
    const uint64_t before = begin();
    void *object = make(5 * MIB + 1);
    assert_int_equal(charged() - before, 5 * MIB + SLM_GRANULE);
    slm_large_free(slm_large_of(object));
    assert_int_equal(charged() - before, 5 * MIB + SLM_GRANULE);
    object = make(2 * MIB); /* out of what is dirty */
    assert_int_equal(charged() - before, 5 * MIB + SLM_GRANULE);
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_int_equal(charged() - before, 2 * MIB);
    slm_large_free(slm_large_of(object));
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_int_equal(charged(), before);
}

static void resized_objects_are_charged_once(void **state)
{
    (void)state;
    const uint64_t before = begin();
    void *object = make(2 * MIB), *behind = NULL;
    assert_true(object == slm_large_resize(slm_large_of(object), 3 * MIB));
    assert_int_equal(charged() - before, 3 * MIB);
    assert_true(object == slm_large_resize(slm_large_of(object), MIB));
    assert_int_equal(charged() - before, 3 * MIB); /* the rest is dirty */
    behind = make(2 * MIB);
    object = slm_large_resize(slm_large_of(object), 20 * MIB);
    assert_non_null(object);
    assert_int_equal(charged() - before, 22 * MIB); /* where it was nothing is mapped */
    slm_large_free(slm_large_of(object));
    slm_large_free(slm_large_of(behind));
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_int_equal(charged(), before);
}

/* What grows again and again has addresses in advance, which are no memory yet. */
static void headroom_is_charged_as_it_is_used(void **state)
{
    (void)state;
    const uint64_t before = begin();
    for (unsigned round = 0; round < 2; round++) {
        void *object = make(2 * MIB);
        for (size_t bytes = 3 * MIB; bytes < 40 * MIB; bytes += bytes / 4) {
            void *behind = round == 0 ? make(1) : NULL; /* it has to move */
            object = slm_large_resize(slm_large_of(object), bytes);
            assert_non_null(object);
            if (behind)
                slm_large_free(slm_large_of(behind));
            slm_span_purge(0, SLM_PURGE_TRIM);
            assert_int_equal(charged() - before, slm_align_up(bytes, SLM_GRANULE));
        }
        assert_true(slm_large_resize(slm_large_of(object), MIB) == object);
        slm_span_purge(0, SLM_PURGE_TRIM);
        assert_int_equal(charged() - before, MIB);
        slm_large_free(slm_large_of(object));
        slm_span_purge(0, SLM_PURGE_TRIM);
        assert_int_equal(charged(), before);
    }
    check_heap();
}

/* Nor is it in the way of other objects. */
static void headroom_leaves_room_below_the_limit(void **state)
{
    (void)state;
    const uint64_t before = begin();
    void *object = make(6 * MIB);
    object = slm_large_resize(slm_large_of(object), 8 * MIB);
    object = slm_large_resize(slm_large_of(object), 10 * MIB);
    assert_true(slm_large_of(object)->span.granules * SLM_GRANULE > 10 * MIB);
    slm_charge_limit(before + 20 * MIB, UINT64_MAX, UINT64_MAX);
    void *other = make(9 * MIB);
    assert_non_null(other);
    assert_non_null(object = slm_large_resize(slm_large_of(object), 11 * MIB));
    assert_null(slm_large_resize(slm_large_of(object), 12 * MIB));
    slm_charge_limit(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    slm_large_free(slm_large_of(object));
    slm_large_free(slm_large_of(other));
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_int_equal(charged(), before);
    check_heap();
}

static void slabs_are_charged(void **state)
{
    (void)state;
    const uint64_t before = begin();
    struct slm_slab_shape shape = {.object_size = 1024, .slot_offset = 0};
    slm_slab_shape_fill(&shape);
    struct slm_slab *slab = slm_slab_make(&shape, 0, false);
    assert_non_null(slab);
    assert_int_equal(charged() - before, SLM_GRANULE);
    slm_slab_release(slab);
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_int_equal(charged(), before);
}

static void a_metadata_piece_is_charged_and_stays(void **state)
{
    (void)state;
    const uint64_t before = charged();
    void *piece = slm_metadata_alloc(20 * KIB);
    const uint64_t after = charged();
    assert_true(after == before || after == before + 20 * KIB);
    slm_metadata_free(piece, 20 * KIB);
    assert_int_equal(charged(), after);
}

/* -- at the limit ------------------------------------------------------------------------------------------------ */

static void the_limit_refuses_and_nothing_is_lost(void **state)
{
    (void)state;
    const uint64_t before = begin();
    void *object = make(4 * MIB);
    slm_charge_limit(before + 8 * MIB, UINT64_MAX, UINT64_MAX);
    errno = 0;
    assert_null(make(4 * MIB + 1));
    assert_int_equal(errno, ENOMEM);
    assert_null(slm_large_resize(slm_large_of(object), 9 * MIB));
    assert_int_equal(charged() - before, 4 * MIB);
    assert_true(slm_charge_exceeds(&slm_charge.limit, 4 * MIB + 1) &&
                !slm_charge_exceeds(&slm_charge.limit, 4 * MIB));
    check_heap();
    object = slm_large_resize(slm_large_of(object), 8 * MIB); /* in place or not */
    assert_non_null(object);
    assert_int_equal(charged() - before, 8 * MIB);
    assert_null(make(1));
    slm_large_free(slm_large_of(object));
    assert_non_null(object = make(8 * MIB));          /* what is dirty has been charged */
    slm_charge_limit(before, UINT64_MAX, UINT64_MAX); /* below what is in use */
    assert_true(slm_charge_exceeds(&slm_charge.limit, 0) && slm_charge_is_near());
    slm_large_free(slm_large_of(object));
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_charge_limit(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    assert_false(slm_charge_exceeds(&slm_charge.limit, UINT64_MAX / 2));
    assert_int_equal(charged(), before);
    check_heap();
}

enum { THREADS = 8, TURNS = 20000 };

static _Atomic uint64_t taken;

static void *take_and_look(void *nothing)
{
    for (unsigned turn = 0; turn < TURNS; turn++)
        if (slm_charge_take(SLM_GRANULE))
            require(add_relaxed(&taken, 1) < 100);
    return nothing;
}

static void run_together(void)
{
    slm_charge_limit(charged() + 100 * SLM_GRANULE + SLM_GRANULE / 2, UINT64_MAX, UINT64_MAX);
    const uint64_t before = charged();
    on_threads(THREADS, take_and_look);
    require(load_relaxed(&taken) <= 100 && charged() >= before + load_relaxed(&taken) * SLM_GRANULE);
}

static void threads_do_not_pass_it_together(void **state)
{
    (void)state;
    assert_child_silent(run_together);
}

static void what_may_stay_dirty(void **state)
{
    (void)state;
    const uint64_t before = begin();
    slm_charge_limit(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    assert_true(slm_charge_dirty_most((1024 * MIB)) > UINT64_MAX / 2);
    slm_charge_limit(UINT64_MAX, before + 80 * MIB, UINT64_MAX); /* near from seven eighths on */
    const uint64_t near = (before + 80 * MIB) / 8 * 7;
    assert_int_equal(slm_charge_dirty_most(0) / MIB, (near - before) / MIB);
    slm_charge_add(60 * MIB);
    assert_int_equal(slm_charge_dirty_most(0) / MIB, (near - before - 60 * MIB) / MIB);
    assert_int_equal(slm_charge_dirty_most(20 * MIB) / MIB, (near - before - 40 * MIB) / MIB);
    slm_charge_add((1024 * MIB));
    assert_true(slm_charge_is_near() && slm_charge_dirty_most(0) <= MIB);
    slm_charge_sub((1024 * MIB) + 60 * MIB);
    slm_charge_limit(UINT64_MAX, UINT64_MAX, UINT64_MAX);
}

static void refusals_are_counted(void **state)
{
    (void)state;
    const uint64_t before = load_relaxed(&slm_charge.refusals);
    assert_int_equal(slm_charge_refused(), ENOMEM); /* there is no limit */
    assert_int_equal(load_relaxed(&slm_charge.refusals), before);
    slm_charge_limit(charged() + MIB, UINT64_MAX, UINT64_MAX);
    assert_int_equal(slm_charge_refused(), ENOMEM);
    assert_int_equal(load_relaxed(&slm_charge.refusals), before + 1);
    slm_charge_limit(UINT64_MAX, UINT64_MAX, UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_in_use_and_dirty_ones_are_charged),
        cmocka_unit_test(resized_objects_are_charged_once),
        cmocka_unit_test(headroom_is_charged_as_it_is_used),
        cmocka_unit_test(headroom_leaves_room_below_the_limit),
        cmocka_unit_test(slabs_are_charged),
        cmocka_unit_test(a_metadata_piece_is_charged_and_stays),
        cmocka_unit_test(the_limit_refuses_and_nothing_is_lost),
        cmocka_unit_test(threads_do_not_pass_it_together),
        cmocka_unit_test(what_may_stay_dirty),
        cmocka_unit_test(refusals_are_counted),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
