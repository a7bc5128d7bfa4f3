/* src/page/span.h, span_alloc.h, free_spans.h and purge.h: splitting, joining, aligning, extending, purging, and the
 * life after a fork. All of it happens on the machine's last node, which on a simulated machine nobody else uses. */
#include "spans.h"
#include "unit.h"

#include "base/bits.h"
#include "os/topology.h"
#include "os/vm.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "page/span.h"
#include "page/span_alloc.h"

enum { MARK = 0x5a };

static unsigned node;

static int begin(void **state)
{
    node = slm_nodes - 1;
    return start_library(state);
}

static void check_all(void)
{
    for (unsigned each = 0; each < slm_nodes; each++)
        slm_span_check(each);
}

static int end(void **state)
{
    (void)state;
    check_all();
    return 0;
}

static struct slm_span *take(size_t granules)
{
    struct slm_span *span = slm_span_alloc(node, granules, 1);
    require(span && span->granules == granules && load_relaxed(&span->kind) == SLM_SPAN_NONE);
    require(slm_area_of_granule(slm_span_granule(span)) == node);
    require(span->state == SLM_SPAN_DIRTY || all_zero(slm_span_start(span), slm_span_bytes(span)));
    return span;
}

static void fill(struct slm_span *span)
{
    memset(slm_span_start(span), MARK, slm_span_bytes(span));
}

/* Spans side by side, of as many granules as `granules` says, ended by 0. Nothing but what is cut off is dirty, and
 * dirty memory is used first. */
static void take_row(const size_t *granules, struct slm_span **row)
{
    size_t all = 0;
    for (size_t i = 0; granules[i]; i++)
        all += granules[i];
    slm_span_purge(0, SLM_PURGE_TRIM);
    row[0] = take(all);
    for (size_t i = 0; granules[i + 1]; i++) {
        slm_span_trim(row[i], granules[i], SLM_SPAN_DIRTY);
        row[i + 1] = take(all -= granules[i]);
        require(slm_span_granule(row[i + 1]) == slm_span_granule(row[i]) + granules[i]);
    }
}

static void spans_are_apart(void **state)
{
    (void)state;
    struct slm_span *spans[64];
    for (size_t i = 0; i < COUNT(spans); i++) {
        spans[i] = take(1 + i % 7);
        memset(slm_span_start(spans[i]), (int)i + 1, slm_span_bytes(spans[i]));
    }
    for (size_t i = 0; i < COUNT(spans); i++) {
        for (size_t at = 0; at < slm_span_bytes(spans[i]); at += 997)
            assert_int_equal(slm_span_start(spans[i])[at], i + 1);
        slm_span_free(spans[i]);
    }
}

static void start_and_length_are_arithmetic(void **state)
{
    (void)state;
    struct slm_span *span = take(3);
    assert_int_equal(slm_span_bytes(span), 3 * SLM_GRANULE);
    assert_ptr_equal(slm_descriptor(slm_span_granule(span)), span);
    assert_ptr_equal(slm_span_start(span), slm_granule_address(slm_span_granule(span)));
    slm_span_free(span);
}

static void neighbours_join(void **state)
{
    (void)state;
    static const size_t sizes[] = {5, 7, 9, 1, 0},
                        orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (size_t i = 0; i < COUNT(orders); i++) {
        struct slm_span *row[4];
        take_row(sizes, row);
        const size_t first = slm_span_granule(row[0]);
        for (size_t k = 0; k < 3; k++) {
            slm_span_free(row[orders[i][k]]);
            slm_span_check(node);
        }
        struct slm_span *joined = take(21); /* dirty ones are the best fit; there is but this one */
        assert_int_equal(slm_span_granule(joined), first);
        slm_span_free(joined);
        slm_span_free(row[3]);
    }
}

static void a_free_span_is_cut_to_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {16, 1, 0};
    struct slm_span *row[2], *parts[16];
    take_row(sizes, row);
    const size_t first = slm_span_granule(row[0]);
    slm_span_free(row[0]);
    for (size_t i = 0; i < 16; i++) {
        parts[i] = take(1);
        assert_in_range(slm_span_granule(parts[i]), first, first + 15);
        slm_span_check(node);
    }
    for (size_t i = 0; i < 16; i++)
        slm_span_free(parts[i]);
    slm_span_free(row[1]);
}

static void trimmed_granules_are_free_again(void **state)
{
    (void)state;
    static const size_t sizes[] = {40, 1, 0};
    struct slm_span *row[2];
    take_row(sizes, row);
    fill(row[0]);
    slm_span_trim(row[0], 3, SLM_SPAN_DIRTY);
    assert_int_equal(row[0]->granules, 3);
    assert_int_equal(slm_span_dirty_bytes(), 37 * SLM_GRANULE);
    slm_span_check(node);
    struct slm_span *rest = take(37);
    assert_int_equal(slm_span_granule(rest), slm_span_granule(row[0]) + 3);
    assert_int_equal(rest->state, SLM_SPAN_DIRTY);
    for (size_t at = 0; at < slm_span_bytes(row[0]); at += 997)
        assert_int_equal(slm_span_start(row[0])[at], MARK);
    slm_span_free(rest);
    slm_span_free(row[0]);
    slm_span_free(row[1]);
}

static void starts_are_aligned(void **state)
{
    (void)state;
    struct slm_span *spans[64];
    unsigned count = 0;
    for (size_t alignment = 1; alignment <= 1024; alignment *= 2)
        for (size_t granules = 1; granules < 40; granules += 13) {
            struct slm_span *span = slm_span_alloc(node, granules, alignment);
            assert_non_null(span);
            assert_int_equal(span->granules, granules);
            assert_int_equal((uintptr_t)slm_span_start(span) % (alignment * SLM_GRANULE), 0);
            slm_span_check(node);
            if (granules % 2)
                slm_span_free(span);
            else
                spans[count++] = span;
        }
    while (count > 0)
        slm_span_free(spans[--count]);
    check_all();
}

static void a_span_grows_into_the_free_one_behind(void **state)
{
    (void)state;
    static const size_t sizes[] = {4, 8, 1, 0};
    struct slm_span *row[3];
    bool clean = true;
    take_row(sizes, row);
    slm_span_free(row[1]);
    assert_true(slm_span_extend(row[0], 7, 7, &clean));
    assert_int_equal(row[0]->granules, 7);
    assert_false(clean);
    slm_span_check(node);
    assert_true(slm_span_extend(row[0], 12, 12, &clean)); /* all of it */
    assert_int_equal(row[0]->granules, 12);
    slm_span_check(node);
    errno = EDOM;
    assert_false(slm_span_extend(row[0], 13, 13, &clean)); /* somebody lives there */
    assert_int_equal(errno, EDOM);
    assert_int_equal(row[0]->granules, 12);
    slm_span_free(row[0]);
    slm_span_free(row[2]);
}

static void what_is_clean_when_extended_reads_as_zero(void **state)
{
    (void)state;
    static const size_t sizes[] = {4, 8, 1, 0};
    struct slm_span *row[3];
    bool clean = false;
    take_row(sizes, row);
    fill(row[1]);
    slm_span_free(row[1]);
    slm_span_purge(0, SLM_PURGE_TRIM);
    assert_true(slm_span_extend(row[0], 9, 9, &clean));
    assert_true(clean);
    assert_true(all_zero(slm_span_start(row[0]) + 4 * SLM_GRANULE, 5 * SLM_GRANULE));
    slm_span_free(row[0]);
    slm_span_free(row[2]);
}

/* Up to what it may take, if that is clean; of dirty memory only what it needs. */
static void a_span_takes_more_of_clean_memory(void **state)
{
    (void)state;
    static const size_t sizes[] = {4, 8, 1, 0};
    for (unsigned dirty = 0; dirty < 2; dirty++) {
        struct slm_span *row[3];
        bool clean = dirty;
        take_row(sizes, row);
        slm_span_free(row[1]);
        if (!dirty)
            slm_span_purge(0, SLM_PURGE_TRIM);
        assert_true(slm_span_extend(row[0], 6, 10, &clean));
        assert_int_equal(row[0]->granules, dirty ? 6 : 10);
        assert_int_equal(clean, !dirty);
        slm_span_check(node);
        assert_true(slm_span_extend(row[0], 11, 20, &clean)); /* as much as there is */
        assert_int_equal(row[0]->granules, dirty ? 11 : 12);
        slm_span_check(node);
        slm_span_free(row[0]);
        slm_span_free(row[2]);
    }
}

static void what_was_never_touched_is_trimmed_clean(void **state)
{
    (void)state;
    static const size_t sizes[] = {8, 1, 0};
    struct slm_span *row[2];
    take_row(sizes, row);
    slm_span_trim(row[0], 3, SLM_SPAN_CLEAN);
    assert_int_equal(slm_span_dirty_bytes(), 0);
    slm_span_check(node);
    bool clean = false;
    assert_true(slm_span_extend(row[0], 8, 8, &clean));
    assert_true(clean);
    slm_span_free(row[0]);
    slm_span_free(row[1]);
}

/* More granules than can be free anywhere. */
static size_t more_than_free(void)
{
    return slm_reservation_heap_bytes() / SLM_GRANULE + 1;
}

static void a_span_grows_into_untouched_memory(void **state)
{
    (void)state;
    bool clean = false;
    const size_t n = more_than_free();
    struct slm_span *last = take(n);
    assert_true(slm_span_extend(last, n + 1, n + 1, &clean));
    assert_true(clean);
    clean = false;
    assert_true(slm_span_extend(last, n + 1500, n + 1500, &clean));
    assert_true(clean);
    assert_true(all_zero(slm_span_start(last) + n * SLM_GRANULE, 64 * SLM_GRANULE));
    assert_true(all_zero(slm_span_start(last) + (n + 1490) * SLM_GRANULE, 10 * SLM_GRANULE));
    assert_false(slm_span_extend(last, SLM_GRANULES_MAX, SLM_GRANULES_MAX, &clean));
    assert_int_equal(last->granules, n + 1500);
    slm_span_check(node);
    slm_span_free(last);
    slm_span_check(node);
}

static void only_purged_memory_is_clean(void **state)
{
    (void)state;
    static const size_t sizes[] = {16, 1, 0};
    struct slm_span *row[2];
    take_row(sizes, row);
    fill(row[0]);
    slm_span_free(row[0]);
    assert_int_equal(slm_span_dirty_bytes(), 16 * SLM_GRANULE);
    struct slm_span *again = take(16);
    assert_ptr_equal(again, row[0]);
    assert_int_equal(again->state, SLM_SPAN_DIRTY);
    slm_span_free(again);
    assert_int_equal(slm_span_purge(0, SLM_PURGE_TRIM), 16 * SLM_GRANULE);
    assert_int_equal(slm_span_dirty_bytes(), 0);
    assert_true(all_zero(slm_span_start(row[0]), 16 * SLM_GRANULE));
    slm_span_check(node);
    slm_span_free(row[1]);
}

static void locked_memory_goes_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 1, 0};
    struct slm_span *row[2];
    take_row(sizes, row);
    fill(row[0]);
    char *start = slm_span_start(row[0]);
    if (mlock(start, slm_page_size) != 0) {
        slm_span_free(row[0]);
        slm_span_free(row[1]);
        print_message("no page may be locked\n");
        skip();
    }
    slm_span_free(row[0]);
    assert_int_equal(slm_span_purge(0, SLM_PURGE_TRIM), SLM_GRANULE);
    assert_int_equal(slm_span_dirty_bytes(), 0);
    assert_true(all_zero(start, SLM_GRANULE));
    munlock(start, slm_page_size);
    slm_span_free(row[1]);
}

/* As with locked memory before Linux 5.18: a long span is unmapped, a short one stays, and keeps no other. */
static void purge_without_madvise(void)
{
    static const size_t sizes[] = {1, 1, 20, 1, 0};
    struct slm_span *row[4];
    take_row(sizes, row);
    fill(row[0]);
    fill(row[2]);
    char *shorter = slm_span_start(row[0]), *longer = slm_span_start(row[2]);
    slm_span_free(row[0]); /* the oldest */
    slm_span_free(row[2]);
    refuse_call(SYS_madvise, EINVAL, 0);
    require(slm_span_purge(0, SLM_PURGE_TRIM) >= 20 * SLM_GRANULE); /* hangs if it insists */
    require(slm_span_dirty_bytes() >= SLM_GRANULE && *shorter == MARK && !slm_vm_is_mapped(longer));
    slm_span_check(node);
    bool clean = false;
    require(slm_span_extend(row[1], 3, 3, &clean) && clean && all_zero(longer, 2 * SLM_GRANULE));
    slm_span_check(node);
}

static void what_cannot_be_purged_is_unmapped(void **state)
{
    (void)state;
    assert_child_silent(purge_without_madvise);
}

/* What mremap has put there, or has left as a hole, is replaced by fresh memory. */
static void moved_spans_are_made_new(void **state)
{
    (void)state;
    static const size_t sizes[] = {4, 1, 4, 1, 0};
    struct slm_span *row[4];
    take_row(sizes, row);
    fill(row[0]);
    assert_true(slm_vm_move(slm_span_start(row[0]), slm_span_start(row[2]), 4 * SLM_GRANULE, 4 * SLM_GRANULE));
    assert_int_equal(slm_span_start(row[2])[0], MARK);
    const uint64_t heap = slm_reservation_heap_bytes();
    for (size_t i = 0; i < 4; i += 2) {
        row[i]->moved = true;
        slm_span_free(row[i]);
        slm_span_check(node);
        assert_true(all_zero(slm_span_start(row[i]), 4 * SLM_GRANULE));
    }
    assert_int_equal(slm_reservation_heap_bytes(), heap);
    assert_int_equal(slm_span_dirty_bytes(), 0);
    slm_span_free(row[1]);
    slm_span_free(row[3]);
    slm_span_free(take(10));
}

static void purging_keeps_what_it_may(void **state)
{
    (void)state;
    static const size_t sizes[] = {64, 1, 0};
    struct slm_span *row[2];
    take_row(sizes, row);
    fill(row[0]);
    slm_span_free(row[0]);
    const size_t given = slm_span_purge(24 * SLM_GRANULE, SLM_PURGE_TRIM);
    assert_int_equal(slm_span_dirty_bytes(), 64 * SLM_GRANULE - given);
    assert_true(slm_span_dirty_bytes() <= 24 * SLM_GRANULE);
    assert_int_equal(given, 40 * SLM_GRANULE);
    assert_int_equal(slm_span_purge(24 * SLM_GRANULE, SLM_PURGE_TRIM), 0);
    slm_span_check(node);
    slm_span_free(row[1]);
}

/* Two free spans, the older one first; purging leaves `keep` granules in them. */
static void purge_and_look(struct slm_span **row, size_t keep)
{
    slm_span_purge(keep * SLM_GRANULE, SLM_PURGE_TRIM);
    size_t older = 0, younger = 0;
    for (size_t granule = 0; granule < 8; granule++) {
        older += slm_span_start(row[0])[granule * SLM_GRANULE] == MARK;
        younger += slm_span_start(row[2])[granule * SLM_GRANULE] == MARK;
    }
    assert_int_equal(older + younger, keep);
    assert_int_equal(younger, slm_min(keep, 8));
}

static void the_oldest_goes_first(void **state)
{
    (void)state;
    static const size_t sizes[] = {8, 1, 8, 1, 0};
    struct slm_span *row[4];
    take_row(sizes, row);
    fill(row[0]);
    fill(row[2]);
    slm_span_free(row[0]);
    slm_span_free(row[2]);
    purge_and_look(row, 12);
    purge_and_look(row, 8); /* the rest of the older one is still older */
    purge_and_look(row, 3);
    slm_span_free(row[1]);
    slm_span_free(row[3]);
}

static void surplus_is_what_nobody_needed(void **state)
{
    (void)state;
    static const size_t sizes[] = {16, 1, 8, 1, 0};
    struct slm_span *row[4];
    take_row(sizes, row);
    slm_span_purge_surplus(false);
    slm_span_free(row[0]);
    assert_int_equal(slm_span_purge_surplus(false), 0); /* it has just come */
    slm_span_free(row[2]);
    assert_int_equal(slm_span_purge_surplus(false), 16 * SLM_GRANULE); /* and was there all the time */
    struct slm_span *used = take(8);
    slm_span_free(used);
    assert_int_equal(slm_span_purge_surplus(false), 0); /* somebody needed it */
    assert_int_equal(slm_span_purge_surplus(false), 8 * SLM_GRANULE);
    assert_int_equal(slm_span_dirty_bytes(), 0);
    slm_span_free(row[1]);
    slm_span_free(row[3]);
}

static void a_purge_in_between_makes_no_surplus(void **state)
{
    (void)state;
    static const size_t sizes[] = {16, 1, 8, 1, 0};
    struct slm_span *row[4];
    take_row(sizes, row);
    slm_span_purge_surplus(false);
    slm_span_free(row[0]);
    assert_int_equal(slm_span_purge_surplus(false), 0);
    assert_int_equal(slm_span_purge(0, SLM_PURGE_TRIM), 16 * SLM_GRANULE);
    slm_span_free(row[2]);
    assert_int_equal(slm_span_purge_surplus(false), 0); /* it was not there at the last call */
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_span_free(row[1]);
    slm_span_free(row[3]);
}

static void figures_follow(void **state)
{
    (void)state;
    struct slm_span_figures before, after;
    static const size_t sizes[] = {16, 1, 0};
    struct slm_span *row[2];
    take_row(sizes, row);
    before = sum_figures();
    assert_int_equal(before.dirty_bytes, 0);
    slm_span_free(row[0]);
    after = sum_figures();
    assert_int_equal(after.dirty_bytes, 16 * SLM_GRANULE);
    assert_int_equal(after.purged_bytes, before.purged_bytes);
    slm_span_purge(0, SLM_PURGE_TRIM);
    after = sum_figures();
    assert_int_equal(after.dirty_bytes, 0);
    assert_int_equal(after.purged_bytes, before.purged_bytes + 16 * SLM_GRANULE);
    assert_true(after.purges > before.purges);
    assert_int_equal(after.lost_bytes, 0);
    slm_span_free(row[1]);
}

static void only_slabs_and_large_objects_are_found(void **state)
{
    (void)state;
    char stack, *start;
    struct slm_span *span = take(2);
    start = slm_span_start(span);
    assert_null(slm_span_of(start));
    store_relaxed(&span->kind, SLM_SPAN_LARGE);
    assert_ptr_equal(slm_span_of(start), span);
    assert_ptr_equal(slm_span_of(start + SLM_GRANULE - 1), span);
    store_relaxed(&span->kind, SLM_SPAN_NONE);
    slm_span_free(span);
    assert_null(slm_span_of(start));
    assert_null(slm_span_of(NULL));
    assert_null(slm_span_of(&stack));
    assert_null(slm_span_of((void *)UINTPTR_MAX));
    char *small = malloc(24);
    assert_non_null(slm_span_of(small));
    free(small);
}

static void what_cannot_be_is_enomem(void **state)
{
    (void)state;
    static const size_t wishes[][2] = {
        {SLM_GRANULES_MAX + 1, 1},        {SIZE_MAX, 1},        {SIZE_MAX, 2}, {SLM_GRANULES_MAX, 2},
        {SIZE_MAX / 2, SIZE_MAX / 2 + 1}, {1, SIZE_MAX / 2 + 1}};
    for (size_t i = 0; i < COUNT(wishes); i++) {
        errno = 0;
        assert_null(slm_span_alloc(node, wishes[i][0], wishes[i][1]));
        assert_int_equal(errno, ENOMEM);
    }
    check_all();
}

static void ask_without_memory(void)
{
    const size_t n = more_than_free();
    const struct rlimit none = {1, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &none);
    errno = 0;
    require(!slm_span_alloc(node, n, 1) && errno == ENOMEM);
    slm_span_check(node);
    setrlimit(RLIMIT_AS, &all);
    struct slm_span *span = take(n);
    slm_span_start(span)[slm_span_bytes(span) - 1] = 1;
    slm_span_free(span);
    slm_span_check(node);
}

static void memory_may_come_back(void **state)
{
    (void)state;
    assert_child_silent(ask_without_memory);
}

static void step_over_a_stranger(void)
{
    slm_span_free(take(1));
    char *where = slm_granule_address(slm_heap_limit); /* nothing was ever mapped from here on */
    char *stranger = mmap(where + SLM_GRANULE, SLM_GRANULE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    require(stranger == where + SLM_GRANULE);
    memset(stranger, MARK, SLM_GRANULE);
    struct slm_span *spans[40];
    for (size_t i = 0; i < COUNT(spans); i++) {
        spans[i] = take(100);
        memset(slm_span_start(spans[i]), 1, slm_span_bytes(spans[i]));
        slm_span_check(node);
    }
    for (size_t at = 0; at < SLM_GRANULE; at++)
        require(stranger[at] == MARK);
    for (size_t i = 0; i < COUNT(spans); i++)
        slm_span_free(spans[i]);
    slm_span_check(node);
    slm_span_purge(0, SLM_PURGE_TRIM);
    require(stranger[0] == MARK);
}

static void other_mappings_in_the_range_are_stepped_over(void **state)
{
    (void)state;
    assert_child_silent(step_over_a_stranger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_are_apart),
        cmocka_unit_test(start_and_length_are_arithmetic),
        cmocka_unit_test(neighbours_join),
        cmocka_unit_test(a_free_span_is_cut_to_size),
        cmocka_unit_test(trimmed_granules_are_free_again),
        cmocka_unit_test(starts_are_aligned),
        cmocka_unit_test(a_span_grows_into_the_free_one_behind),
        cmocka_unit_test(what_is_clean_when_extended_reads_as_zero),
        cmocka_unit_test(a_span_takes_more_of_clean_memory),
        cmocka_unit_test(what_was_never_touched_is_trimmed_clean),
        cmocka_unit_test(a_span_grows_into_untouched_memory),
        cmocka_unit_test(only_purged_memory_is_clean),
        cmocka_unit_test(locked_memory_goes_back),
        cmocka_unit_test(what_cannot_be_purged_is_unmapped),
        cmocka_unit_test(moved_spans_are_made_new),
        cmocka_unit_test(purging_keeps_what_it_may),
        cmocka_unit_test(the_oldest_goes_first),
        cmocka_unit_test(surplus_is_what_nobody_needed),
        cmocka_unit_test(a_purge_in_between_makes_no_surplus),
        cmocka_unit_test(figures_follow),
        cmocka_unit_test(only_slabs_and_large_objects_are_found),
        cmocka_unit_test(what_cannot_be_is_enomem),
        cmocka_unit_test(memory_may_come_back),
        cmocka_unit_test(other_mappings_in_the_range_are_stepped_over),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
