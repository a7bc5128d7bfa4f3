/* src/depot/sweep.h: free pages inside sparse slabs go back, and nothing else. Each test has a depot
 * of its own, of objects of 1024 bytes, 64 to a slab. */
#include "checks.h"
#include "depot/sweep.h"
#include "one_depot.h"

#include <sys/mman.h>

#include "os/vm.h"
#include "page/purge.h"
#include "slab/key.h"

enum { SLABS = 40, PAGES = SLM_GRANULE / 4096 };

static void *rounds[SLABS * A_SLAB];

static unsigned count_resident(const void *slab)
{
    unsigned char resident[PAGES] = {0};
    unsigned count = 0;
    require(mincore((void *)(uintptr_t)slab, SLM_GRANULE, resident) == 0);
    for (unsigned i = 0; i < PAGES; i++)
        count += resident[i] & 1;
    return count;
}

/* Fill slabs, and give back all but each nth object. Those that stay come first in `rounds`; returns how many. */
static unsigned thin_out(unsigned nth)
{
    unsigned kept = 0;
    fill(rounds, COUNT(rounds));
    for (size_t i = 0; i < COUNT(rounds); i++)
        memset(rounds[i], 0x5a, SIZE);
    for (size_t i = 0; i < COUNT(rounds); i++) {
        void *round = rounds[i];
        if (slm_slab_index(slm_slab_of(round), round) % nth == 0)
            rounds[kept++] = round;
        else
            slm_depot_give(&round, 1, "free");
    }
    return kept;
}

static void require_contents(unsigned kept)
{
    for (unsigned i = 0; i < kept; i++)
        for (unsigned at = 0; at < SIZE; at++)
            require(((const char *)rounds[i])[at] == 0x5a);
}

static void sparse_slabs_lose_free_pages(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    const unsigned kept = thin_out(32); /* two objects to a slab, each on a page of its own */
    assert_int_equal(kept, 2 * SLABS);
    assert_int_equal(slm_depot_sweep(&depot, false), 0); /* it sees the count for the first time */
    assert_int_equal(slm_depot_sweep(&depot, false), SLABS * (PAGES - 2) * 4096);
    assert_int_equal(slm_depot_sweep(&depot, false), 0);
    assert_int_equal(slm_depot_sweep(&depot, true), 0);
    require_contents(kept);
    for (unsigned i = 0; i < kept; i += 2)
        assert_int_equal(count_resident(slm_slab_start(slm_slab_of(rounds[i]))), 2);
    check_depot(&depot);
    fill(rounds + kept, COUNT(rounds) - kept); /* what was purged is handed out again */
    assert_int_equal(slabs(), SLABS);
    for (size_t i = kept; i < COUNT(rounds); i++)
        memset(rounds[i], 0xa5, SIZE);
    require_contents(kept);
    slm_depot_give(rounds, COUNT(rounds), "free");
    check_depot(&depot);
}

/* Frees that hot paths leave alone are noted; a slab that has many of them is shown to hot paths again. */
static void a_slab_in_use_has_its_pages_again(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    const unsigned kept = thin_out(32);
    slm_depot_sweep(&depot, true);
    struct slm_slab *slab = slm_slab_of(rounds[0]);
    slm_partial_note_worked(slab, 32);
    assert_true(slab->span.some_purged);
    slm_partial_note_worked(slab, 1 << 16);
    assert_false(slab->span.some_purged);
    assert_int_equal(count_resident(slm_slab_start(slab)), PAGES);
    assert_int_equal(slm_depot_sweep(&depot, false), 0);
    require_contents(kept);
    check_depot(&depot);
    slm_depot_give(rounds, kept, "free");
    check_depot(&depot);
}

/* For others' growth only such classes pay as have objects back. */
static void a_bucket_is_swept_only_where_use_has_fallen(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    const unsigned kept = thin_out(16), more = COUNT(rounds) / 4;
    assert_true(slm_depot_falls(&depot));
    fill(rounds + kept, more);
    assert_false(slm_depot_falls(&depot));
    for (unsigned bucket = 0; bucket < SLM_DEPOT_BUCKETS; bucket++)
        assert_int_equal(slm_depot_sweep_bucket(&depot, bucket, SIZE_MAX), 0);
    slm_depot_give(rounds + kept, more, "free");
    assert_true(slm_depot_falls(&depot));
    size_t purged = 0;
    for (unsigned bucket = 0; bucket < SLM_DEPOT_BUCKETS; bucket++)
        purged += slm_depot_sweep_bucket(&depot, bucket, SIZE_MAX);
    assert_true(purged > 0);
    slm_depot_give(rounds, kept, "free");
    check_depot(&depot);
}

static void all_go_at_once_when_asked(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    const unsigned kept = thin_out(32);
    assert_int_equal(slm_depot_sweep(&depot, true), SLABS * (PAGES - 2) * 4096);
    require_contents(kept);
    slm_depot_give(rounds, kept, "free");
}

/* Too small for an object. */
static void the_rest_goes_with_the_last_object(void **state)
{
    (void)state;
    enum { ODD = 48, MANY = SLM_GRANULE / ODD };
    static struct slm_slab_shape odd = {.object_size = ODD};
    static struct slm_depot other;
    if (slm_page_size != 4096)
        skip();
    slm_slab_shape_fill(&odd);
    slm_depot_init(&other, &odd, "odd", 0);
    for (unsigned got = 0; got < MANY;)
        got += slm_depot_fill(&other, rounds + got, MANY - got);
    char *const slab = slm_slab_start(slm_slab_of(rounds[0])), *const rest = slab + MANY * ODD;
    const uintptr_t key = slm_key_of(slab);
    assert_true(slm_key_is_set(rest, key));
    for (size_t i = 0; i < MANY; i++) {
        memset(rounds[i], 0x5a, ODD);
        if (rounds[i] != slab)
            slm_depot_give(&rounds[i], 1, "free");
    }
    assert_int_equal(slm_depot_sweep(&other, true), (PAGES - 1) * 4096);
    assert_int_equal(count_resident(slab), 1);
    for (unsigned got = 0; got < MANY - 1;)
        got += slm_depot_fill(&other, rounds + got, MANY - 1 - got);
    assert_true(slm_key_is_set(rest, key));
    slm_depot_give(rounds, MANY - 1, "free");
    slm_depot_give((void *[]){slab}, 1, "free");
    slm_depot_trim(&other, true);
}

/* On memory that others have left, too. */
static void the_first_slab_has_only_pages_in_use(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    slm_depot_give(rounds, thin_out(32), "free");
    slm_depot_trim(&depot, true);
    const uint64_t dirty_bytes = slm_span_dirty_bytes();
    assert_true(dirty_bytes >= SLABS * SLM_GRANULE);
    static struct slm_depot first;
    slm_depot_init(&first, &shape, "first", slm_nodes - 1);
    assert_int_equal(slm_depot_fill(&first, rounds, 1), 1);
    struct slm_slab *slab = slm_slab_of(rounds[0]);
    memset(rounds[0], 1, SIZE);
    assert_int_equal(slm_span_dirty_bytes(), dirty_bytes - SLM_GRANULE); /* it was when it was taken */
    assert_int_equal(count_resident(slm_slab_start(slab)), 1);
    for (unsigned got = 1; got < A_SLAB + 1;)
        got += slm_depot_fill(&first, rounds + got, A_SLAB + 1 - got);
    const struct slm_slab *second = NULL;
    for (unsigned i = 0; i <= A_SLAB && !second; i++)
        second = slm_slab_of(rounds[i]) != slab ? slm_slab_of(rounds[i]) : NULL;
    assert_int_equal(count_resident(slm_slab_start(second)), PAGES); /* more of it will be used */
    slm_depot_give(rounds, A_SLAB + 1, "free");
    slm_depot_trim(&first, true);
}

static void a_count_that_changes_puts_it_off(void **state)
{
    (void)state;
    const unsigned kept = thin_out(32);
    unsigned left = kept;
    for (; left > 0; left--) {
        slm_depot_sweep(&depot, false);
        if (left <= SLABS)
            break;
        slm_depot_give(&rounds[left - 1], 1, "free");
    }
    require_contents(left);
    slm_depot_give(rounds, left, "free");
    check_depot(&depot);
}

static void dense_and_fresh_slabs_stay(void **state)
{
    (void)state;
    const unsigned kept = thin_out(2); /* a live object on each page */
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(slm_depot_sweep(&depot, false), 0);
    require_contents(kept);
    slm_depot_give(rounds, kept, "free");
    slm_depot_trim(&depot, true);
    slm_span_purge(0, SLM_PURGE_TRIM);
    fill(rounds, 3); /* of a slab that has never had more */
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(slm_depot_sweep(&depot, i == 2), 0);
    slm_depot_give(rounds, 3, "free");
}

/* Of a slab that has never had more either, but all of whose pages others have left resident. */
static void fresh_slabs_of_dirty_memory_are_swept(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    for (unsigned i = 0; i < 2; i++) {
        slm_depot_give(rounds, thin_out(32), "free");
        slm_depot_trim(&depot, true);
        fill(rounds, 3);
        memset(rounds[0], 0x5a, SIZE);
        const char *slab = slm_slab_start(slm_slab_of(rounds[0]));
        assert_int_equal(count_resident(slab), PAGES);
        assert_int_equal(slm_depot_sweep(&depot, i == 1), i == 1 ? (PAGES - 1) * 4096 : 0);
        assert_int_equal(slm_depot_sweep(&depot, false), i == 1 ? 0 : (PAGES - 1) * 4096);
        assert_int_equal(count_resident(slab), 1);
        assert_int_equal(*(const unsigned char *)rounds[0], 0x5a);
        slm_depot_give(rounds, 3, "free");
        slm_depot_trim(&depot, true);
    }
}

static void a_bucket_is_swept_as_far_as_asked(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    const unsigned kept = thin_out(32);
    const size_t all = SLABS * (PAGES - 2) * 4096,
                 first = slm_depot_sweep_bucket(&depot, SLM_DEPOT_BUCKETS - 1, 100000);
    assert_in_range(first, 100000, 100000 + SLM_GRANULE);
    assert_int_equal(slm_depot_sweep_bucket(&depot, SLM_DEPOT_SPARSE, SIZE_MAX), 0);
    assert_int_equal(slm_depot_sweep_bucket(&depot, SLM_DEPOT_BUCKETS - 1, SIZE_MAX), all - first);
    assert_int_equal(slm_depot_sweep_bucket(&depot, SLM_DEPOT_BUCKETS - 1, SIZE_MAX), 0);
    require_contents(kept);
    slm_depot_give(rounds, kept, "free");
}

/* A quarter of a slab is free. */
static size_t sweep_dense(struct slm_depot *of, unsigned objects)
{
    for (unsigned got = 0; got < objects;)
        got += slm_depot_fill(of, rounds + got, objects - got);
    slm_depot_give(rounds + objects / 2, objects / 4, "free");
    size_t purged = 0;
    for (unsigned bucket = 0; bucket < SLM_DEPOT_BUCKETS; bucket++)
        purged += slm_depot_sweep_bucket(of, bucket, SIZE_MAX);
    slm_depot_give(rounds, objects / 2, "free");
    slm_depot_give(rounds + objects / 2 + objects / 4, objects / 4, "free");
    return purged;
}

static void dense_slabs_are_swept_if_their_objects_have_pages(void **state)
{
    (void)state;
    if (slm_page_size != 4096)
        skip();
    static struct slm_slab_shape pages = {.object_size = 4096};
    static struct slm_depot other;
    slm_slab_shape_fill(&pages);
    slm_depot_init(&other, &pages, "pages", 0);
    assert_int_equal(sweep_dense(&other, PAGES), PAGES / 4 * 4096);
    slm_depot_trim(&other, true);
    assert_int_equal(sweep_dense(&depot, A_SLAB), 0);
}

static void nothing(void *object, void *context)
{
    (void)object, (void)context;
}

static void constructed_objects_stay(void **state)
{
    (void)state;
    static struct slm_object_hooks hooks = {.constructor = nothing, .cache_name = "made"};
    static struct slm_slab_shape made = {.object_size = SIZE, .hooks = &hooks};
    static struct slm_depot other;
    slm_slab_shape_fill(&made);
    slm_depot_init(&other, &made, "made", 0);
    assert_true(slm_depot_grow(&other));
    assert_int_equal(slm_depot_fill(&other, rounds, A_SLAB), A_SLAB);
    slm_depot_give(rounds + 1, A_SLAB - 1, "free");
    assert_int_equal(slm_depot_sweep(&other, true), 0);
    slm_depot_give(rounds, 1, "free");
    slm_depot_trim(&other, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        depot_test(the_first_slab_has_only_pages_in_use),
        depot_test(sparse_slabs_lose_free_pages),
        depot_test(a_slab_in_use_has_its_pages_again),
        depot_test(a_bucket_is_swept_only_where_use_has_fallen),
        depot_test(all_go_at_once_when_asked),
        depot_test(a_count_that_changes_puts_it_off),
        depot_test(dense_and_fresh_slabs_stay),
        depot_test(fresh_slabs_of_dirty_memory_are_swept),
        depot_test(constructed_objects_stay),
        depot_test(the_rest_goes_with_the_last_object),
        depot_test(a_bucket_is_swept_as_far_as_asked),
        depot_test(dense_slabs_are_swept_if_their_objects_have_pages),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
