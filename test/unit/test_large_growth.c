/* src/slab/large.h: objects that grow, and their headroom; clearing. */
#include "large.h"

#include <sys/mman.h>

#include "base/bits.h"
#include "os/vm.h"
#include "page/free_spans.h"
#include "page/purge.h"

/* The next one lives directly behind it: what is cut off is the only dirty memory, and that is used first. */
static char *take_with_neighbour(size_t n, char **neighbour)
{
    char *object = take(n + 64 * KIB, SLM_GRANULE);
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_ptr_equal(slm_large_resize(slm_large_of(object), n), object);
    *neighbour = take(64 * KIB, 1);
    assert_ptr_equal(*neighbour, object + n);
    fill(*neighbour, 0, 64 * KIB);
    return object;
}

static char *grow(char *object, size_t n)
{
    const size_t old = slm_large_of(object)->usable;
    char *grown = slm_large_resize(slm_large_of(object), n);
    require(grown != NULL && slm_large_of(grown)->usable == slm_align_up(n, slm_page_size));
    check(grown, 0, 5000);
    check(grown, old - 5000, old);
    fill(grown, old, slm_large_of(grown)->usable);
    return grown;
}

static size_t granules_of(const char *object)
{
    return slm_large_of(object)->span.granules;
}

/* Whether it is copied, or its pages are moved. */
static void what_grows_twice_gets_headroom(void **state)
{
    (void)state;
    for (size_t n = 128 * KIB; n <= 2 * MIB; n *= 4) {
        char *neighbours[3], *object = take_with_neighbour(n, &neighbours[0]);
        fill(object, 0, n);
        object = grow(object, n + 64 * KIB);
        assert_int_equal(granules_of(object), (n + 64 * KIB) / SLM_GRANULE);
        neighbours[1] = take(64 * KIB, 1);
        object = grow(object, 2 * n);
        const size_t all = granules_of(object) * SLM_GRANULE;
        assert_in_range(all, 2 * n + n / 4, 4 * n);
        neighbours[2] = take(64 * KIB, 1);
        char *const stays = object;
        for (size_t more = 2 * n; more <= all; more += SLM_GRANULE / 2)
            assert_ptr_equal(object = grow(object, more), stays);
        slm_span_check(node);
        give(object);
        for (size_t i = 0; i < COUNT(neighbours); i++)
            give(neighbours[i]);
        slm_span_check(node);
    }
}

/* At the frontier, where there is room. */
static char *take_with_headroom(void)
{
    char *object = take(more_than_free(), 1);
    const size_t n = slm_large_of(object)->usable;
    require(slm_large_resize(slm_large_of(object), n + MIB) == object);
    require(slm_large_resize(slm_large_of(object), n + 2 * MIB) == object);
    require(granules_of(object) > (n + 3 * MIB) / SLM_GRANULE);
    return object;
}

static void what_shrinks_loses_its_headroom(void **state)
{
    (void)state;
    char *object = take_with_headroom();
    const size_t n = slm_large_of(object)->usable, granules = granules_of(object), needed = n / SLM_GRANULE;
    fill(object, n - MIB, n);
    assert_ptr_equal(slm_large_resize(slm_large_of(object), n - 1), object); /* the same pages */
    assert_int_equal(granules_of(object), granules);
    assert_ptr_equal(slm_large_resize(slm_large_of(object), n - slm_page_size), object);
    assert_int_equal(granules_of(object), needed);
    check(object, n - MIB, n - slm_page_size);
    slm_span_check(node);
    assert_ptr_equal(slm_large_resize(slm_large_of(object), n + MIB), object); /* once */
    assert_int_equal(granules_of(object), needed + MIB / SLM_GRANULE);
    give(object);
    slm_span_check(node);
}

/* Nobody has touched it: it is neither dirty when the object is freed, nor cleared for the next one. */
static void headroom_stays_clean(void **state)
{
    (void)state;
    slm_span_purge(0, SLM_PURGE_TRIM);
    char *object = take_with_headroom();
    const size_t n = slm_large_of(object)->usable;
    give(object);
    assert_int_equal(slm_span_dirty_bytes(), n);
    slm_span_check(node);
}

static void without_addresses_there_is_no_headroom(void **state)
{
    (void)state;
    const bool scarce = slm_span_scarce();
    slm_span_set_scarce(true);
    char *object = take(MIB, 1);
    fill(object, 0, MIB);
    for (size_t n = 2 * MIB; n < 9 * MIB; n += MIB) {
        object = grow(object, n);
        assert_int_equal(granules_of(object), n / SLM_GRANULE);
    }
    give(object);
    slm_span_set_scarce(scarce);
    slm_span_check(node);
}

/* Objects that are freed soon after they have grown leave memory to the next ones: the kernel is not asked again. */
static void what_grows_and_is_freed_is_copied(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        char *objects[4];
        for (size_t i = 0; i < COUNT(objects); i++)
            fill(objects[i] = take(64 * KIB, 1), 0, 64 * KIB);
        for (size_t n = 128 * KIB; n <= 640 * KIB; n += 64 * KIB)
            for (size_t i = 0; i < COUNT(objects); i++) {
                objects[i] = grow(objects[i], n);
                assert_false(round >= 10 && slm_large_of(objects[i])->span.moved);
            }
        for (size_t i = 0; i < COUNT(objects); i++)
            give(objects[i]);
        slm_span_check(node);
    }
}

static size_t resident_pages(char *object, size_t n)
{
    static unsigned char pages[4096];
    size_t count = 0;
    require(n / slm_page_size <= sizeof pages && mincore(object, n, pages) == 0);
    for (size_t i = 0; i < n / slm_page_size; i++)
        count += pages[i] & 1;
    return count;
}

static char *take_dirty(size_t n)
{
    char *object = take(n, 1);
    memset(object, 0x5a, n);
    give(object);
    bool clean;
    char *again = slm_large_alloc(n, 1, node, &clean);
    require(again == object && !clean);
    return again;
}

/* Where the last ones of the size were written, they are cleared; else they go back. */
static void large_ones_are_cleared_by_a_purge(void **state)
{
    (void)state;
    enum { ROUNDS = 100 };
    for (size_t n = 128 * KIB; n <= 2 * MIB; n *= 2) {
        unsigned purged = 0;
        for (unsigned i = 0; i < ROUNDS; i++) {
            char *object = take_dirty(n);
            assert_ptr_equal(slm_large_clear(object), object);
            purged += resident_pages(object, n) == 0;
            assert_true(all_zero(object, n));
            object[n / 2] = 1;
            give(object);
        }
        assert_int_equal(purged, n < 256 * KIB ? 0 : ROUNDS);
        for (unsigned i = purged = 0; i < ROUNDS; i++) {
            char *object = take_dirty(n);
            slm_large_clear(object);
            purged += resident_pages(object, n) == 0;
            assert_true(all_zero(object, n));
            memset(object, 1, n);
            give(object);
        }
        assert_in_range(purged, 0, ROUNDS / 20);
    }
}

/* Of a population that is written one is purged now and then, to see, not all that come before it is freed. */
static void a_written_population_is_cleared(void **state)
{
    (void)state;
    enum { NUMBER = 16, ROUNDS = 300 };
    const size_t n = 4 * MIB; /* no other test's */
    char *objects[NUMBER] = {NULL};
    unsigned purged = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        char **object = &objects[i % NUMBER];
        if (*object)
            give(*object);
        bool clean;
        assert_non_null(*object = slm_large_alloc(n, 1, node, &clean));
        if (clean)
            memset(*object, 1, n);
        slm_large_clear(*object);
        purged += resident_pages(*object, n) == 0;
        for (size_t at = 0; at < n; at += slm_page_size)
            (*object)[at] = 1;
    }
    assert_in_range(purged, 1, NUMBER + 2);
    for (unsigned i = 0; i < NUMBER; i++)
        give(objects[i]);
}

/* -- where addresses are scarce, pages that an object does not use are unmapped ---------------------------------- */

enum { TAILED = 100000 };

static bool is_mapped(const char *page)
{
    return msync((void *)(uintptr_t)page, slm_page_size, MS_ASYNC) == 0;
}

static char *tail_of(char *object)
{
    return object + slm_large_of(object)->usable;
}

static char *take_tailed(void)
{
    char *object = take(TAILED, 1);
    require(!is_mapped(tail_of(object)) && is_mapped(tail_of(object) - slm_page_size));
    fill(object, 0, slm_large_of(object)->usable);
    return object;
}

static void become_scarce(void)
{
    char *much = take(300 * MIB, 1), *whole = take(TAILED, 1);
    require(is_mapped(tail_of(whole)));
    slm_span_set_scarce(true);
    require(is_mapped(tail_of(take(SLM_GRANULE, 1)) - slm_page_size)); /* it has none */
    require(much != NULL);
    give(whole);
}

static void live_without_tails(void)
{
    become_scarce();
    const uint64_t heap = slm_reservation_heap_bytes();
    char *objects[6], *tails[COUNT(objects)];
    for (size_t i = 0; i < COUNT(objects); i++)
        tails[i] = tail_of(objects[i] = take_tailed());
    require(slm_reservation_heap_bytes() < heap + COUNT(objects) * 2 * SLM_GRANULE);
    give(objects[0]);
    require(slm_large_free_nolock(slm_large_of(objects[1])));
    slm_large_free_pending();
    require(slm_large_retire(slm_large_of(objects[2])));
    slm_large_release(slm_large_of(objects[2]));
    for (size_t n = TAILED; n > 40000; n -= 10000) { /* into the first granule */
        require(slm_large_resize(slm_large_of(objects[3]), n) == objects[3]);
        check(objects[3], 0, n);
    }
    require(slm_large_resize(slm_large_of(objects[4]), 2 * SLM_GRANULE) == objects[4]);
    check(objects[4], 0, TAILED);
    memset(objects[4], 1, 2 * SLM_GRANULE);
    require(slm_large_resize(slm_large_of(objects[5]), TAILED + 1) == objects[5]); /* the same pages */
    require(!is_mapped(tails[5]));
    for (size_t i = 3; i < COUNT(objects); i++)
        give(objects[i]);
    for (size_t i = 0; i < COUNT(objects); i++)
        require(is_mapped(tails[i]));
    slm_span_check(node);
    char *again = take(2 * SLM_GRANULE, 1);
    memset(again, 1, 2 * SLM_GRANULE);
    give(again);
}

static void give_tails_without_memory(void)
{
    become_scarce();
    char *object = take_tailed(), *other = take_tailed(), *tail = tail_of(object);
    forbid_memory();
    require(!slm_large_resize(slm_large_of(other), 2 * SLM_GRANULE)); /* it stays as it was */
    check(other, 0, TAILED);
    give(object);
    require(!is_mapped(object) && !is_mapped(tail));
    slm_span_check(node);
}

static void give_a_tail_that_is_foreign(void)
{
    become_scarce();
    char *object = take_tailed(), *tail = tail_of(object);
    require(mmap(tail, slm_page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            tail);
    *tail = 42;
    give(object);
    require(*tail == 42);
    slm_span_check(node);
    for (unsigned i = 0; i < 100; i++)
        memset(take(TAILED, 1), 1, TAILED);
    require(*tail == 42);
    slm_span_check(node);
}

static void tails_are_unmapped_where_addresses_are_scarce(void **state)
{
    (void)state;
    if (slm_range.reserved) {
        print_message("the range is reserved: nothing is unmapped\n");
        skip();
    }
    assert_child_silent(live_without_tails);
    assert_child_silent(give_tails_without_memory);
    assert_child_silent(give_a_tail_that_is_foreign);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_grows_twice_gets_headroom),
        cmocka_unit_test(what_shrinks_loses_its_headroom),
        cmocka_unit_test(headroom_stays_clean),
        cmocka_unit_test(without_addresses_there_is_no_headroom),
        cmocka_unit_test(what_grows_and_is_freed_is_copied),
        cmocka_unit_test(large_ones_are_cleared_by_a_purge),
        cmocka_unit_test(a_written_population_is_cleared),
        cmocka_unit_test(tails_are_unmapped_where_addresses_are_scarce),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
