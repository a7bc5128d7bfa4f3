/* src/slab/kept.h: the large objects that a thread keeps. */
#include "unit.h"

#include <malloc.h>

#include "figures/figures.h"
#include "os/topology.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "process/give_back.h"
#include "slab/kept.h"
#include "thread/slots.h"

enum { BACKGROUND = 64 };

static size_t kept(void)
{
    return slm_kept_bytes(&slm_tls.self->kept, 0, slm_nodes);
}

/* So much is in use that a MiB is a small share. */
static int begin(void **state)
{
    (void)state;
    free(malloc(16));
    for (unsigned i = 0; i < BACKGROUND; i++)
        assert_non_null(malloc(MIB));
    return 0;
}

static int nothing_is_kept(void **state)
{
    (void)state;
    slm_kept_release(&slm_tls.self->kept);
    slm_tls.self->kept.puts = 0;
    return kept() != 0;
}

static uint64_t locks(void)
{
    uint64_t acquired = 0;
    for (unsigned area = 0; area < slm_area_count(); area++)
        acquired += load_relaxed(&slm_free_spans_in(area)->lock.acquired);
    return acquired;
}

static void the_last_one_comes_back_without_a_lock(void **state)
{
    (void)state;
    for (size_t n = SLM_SMALL_MAX + 1; n <= MIB; n = n * 5 / 4) {
        char *object = malloc(n);
        assert_non_null(object);
        free(object);
        const uint64_t before = locks();
        for (unsigned turn = 0; turn < 10; turn++) {
            assert_int_equal(kept(), slm_large_usable_for(n));
            char *again = malloc(n);
            assert_ptr_equal(again, object);
            assert_int_equal(kept(), 0);
            memset(again, 1, n);
            free(again);
        }
        assert_int_equal(locks(), before);
        nothing_is_kept(NULL);
    }
}

static void lengths_are_told_apart(void **state)
{
    (void)state;
    char *of_two = malloc(2 * SLM_GRANULE), *of_six = malloc(6 * SLM_GRANULE);
    free(of_two);
    free(of_six);
    char *one = malloc(SLM_GRANULE), *eight = malloc(8 * SLM_GRANULE);
    assert_ptr_not_equal(one, of_two);
    assert_int_equal(slm_large_of(eight)->span.granules, 8);
    assert_int_equal(kept(), 2 * SLM_GRANULE); /* six have the place of eight, and made room */
    assert_ptr_equal(malloc(2 * SLM_GRANULE - 5000), of_two);
    assert_int_equal(malloc_usable_size(of_two), 2 * SLM_GRANULE - 4096);
    free(one);
    free(eight);
    free(of_two);
}

static void calloc_clears_it(void **state)
{
    (void)state;
    char *object = malloc(100000);
    memset(object, 1, 100000);
    free(object);
    assert_int_not_equal(kept(), 0);
    char *zeroed = calloc(1, 100000);
    assert_ptr_equal(zeroed, object);
    for (size_t i = 0; i < 100000; i++)
        assert_int_equal(zeroed[i], 0);
    free(zeroed);
}

static void aligned_objects_are_aligned(void **state)
{
    (void)state;
    free(malloc(SLM_GRANULE));
    void *object = aligned_alloc(SLM_GRANULE, SLM_GRANULE);
    assert_int_equal((uintptr_t)object % SLM_GRANULE, 0);
    free(object);
    void *wider = aligned_alloc(16 * SLM_GRANULE, SLM_GRANULE);
    assert_int_equal((uintptr_t)wider % (16 * SLM_GRANULE), 0);
    free(wider);
}

static void what_has_grown_is_not_kept(void **state)
{
    (void)state;
    char *object = malloc(SLM_GRANULE);
    for (size_t n = SLM_GRANULE; n < MIB; n += SLM_GRANULE)
        assert_non_null(object = realloc(object, n));
    const bool has_headroom = slm_span_bytes(&slm_large_of(object)->span) > MIB;
    free(object);
    assert_true(!has_headroom || kept() == 0);
}

static void a_large_share_is_not_kept(void **state)
{
    (void)state;
    char *object = malloc(17 * SLM_GRANULE);
    free(object);
    assert_int_equal(kept(), 0);
}

static struct slab_stats figures(void)
{
    struct slab_stats stats;
    slm_figures_gather(&stats);
    return stats;
}

static void a_kept_one_is_not_live(void **state)
{
    (void)state;
    void *object = malloc(SLM_GRANULE);
    const struct slab_stats before = figures();
    free(object);
    const struct slab_stats after = figures();
    assert_int_equal(before.live_bytes - after.live_bytes, SLM_GRANULE);
    assert_int_equal(after.cached_bytes - before.cached_bytes, SLM_GRANULE);
    assert_null(slm_large_of(object));
}

static void it_goes_when_memory_is_given_back(void **state)
{
    (void)state;
    void *object = malloc(SLM_GRANULE);
    free(object);
    assert_int_not_equal(kept(), 0);
    slm_give_back_all();
    assert_int_equal(kept(), 0);
    assert_int_equal(slm_span_dirty_bytes(), 0);
}

static void *make_and_free(void *object)
{
    free(malloc(16));
    free(object);
    return kept() != 0 ? object : NULL;
}

static void it_goes_at_the_threads_end(void **state)
{
    (void)state;
    void *object = malloc(SLM_GRANULE), *was_kept = NULL;
    const uint64_t used = slm_demand_used();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, make_and_free, object), 0);
    assert_int_equal(pthread_join(thread, &was_kept), 0);
    assert_ptr_equal(was_kept, object);
    assert_true(slm_demand_used() <= used);
    assert_int_equal(
        load_relaxed(&((struct slm_large *)slm_descriptor(slm_granule_of(object)))->span.kind) == SLM_SPAN_KEPT, 0);
}

static void *object_of_parent;

static void free_in_a_child(void)
{
    require(kept() == SLM_GRANULE);
    require(malloc(SLM_GRANULE) == object_of_parent);
    memset(object_of_parent, 1, SLM_GRANULE);
    free(object_of_parent);
}

static void a_child_of_fork_has_it(void **state)
{
    (void)state;
    free(object_of_parent = malloc(SLM_GRANULE));
    assert_child_silent(free_in_a_child);
    assert_int_equal(kept(), SLM_GRANULE);
}

static char *freed_twice;

/* As if two threads had freed it at the same moment. */
static void take_what_another_has_taken(void)
{
    struct slm_kept other = slm_tls.self->kept;
    require(malloc(SLM_GRANULE) == freed_twice);
    slm_kept_take(&other, SLM_GRANULE, slm_area_of_granule(slm_granule_of(freed_twice)));
}

static void what_two_threads_have_freed_is_seen_late(void **state)
{
    (void)state;
    free(freed_twice = malloc(SLM_GRANULE));
    const struct outcome outcome = in_child(take_what_another_has_taken);
    assert_int_equal(outcome.signal, SIGABRT);
    assert_non_null(strstr(outcome.said, "double free of an object of 65536 bytes"));
}

#define TEST(function) cmocka_unit_test_setup(function, nothing_is_kept)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_last_one_comes_back_without_a_lock),
        TEST(lengths_are_told_apart),
        TEST(calloc_clears_it),
        TEST(aligned_objects_are_aligned),
        TEST(what_has_grown_is_not_kept),
        TEST(a_large_share_is_not_kept),
        TEST(a_kept_one_is_not_live),
        TEST(it_goes_when_memory_is_given_back),
        TEST(it_goes_at_the_threads_end),
        TEST(a_child_of_fork_has_it),
        TEST(what_two_threads_have_freed_is_seen_late),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
