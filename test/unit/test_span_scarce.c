/* src/page/span.h where address space is scarce: what is free goes back to the kernel with its addresses. That lasts
 * for the life of a process, so each test has a child. */
#include "spans.h"
#include "unit.h"

#include "os/topology.h"
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

static struct slm_span *take(size_t granules)
{
    struct slm_span *span = slm_span_alloc(node, granules, 1);
    require(span && span->granules == granules);
    require(span->state == SLM_SPAN_DIRTY || all_zero(slm_span_start(span), slm_span_bytes(span)));
    memset(slm_span_start(span), MARK, slm_span_bytes(span));
    return span;
}

static bool all_marked(const struct slm_span *span)
{
    const char *start = slm_span_start(span);
    return *start == MARK && memcmp(start, start + 1, slm_span_bytes(span) - 1) == 0;
}

/* Three spans side by side, of which the middle one is free and unmapped. */
static void make_hole(struct slm_span **before, struct slm_span **hole, struct slm_span **behind)
{
    slm_span_unmap_free(SLM_PURGE_TRIM);
    require(slm_span_scarce() && slm_span_dirty_bytes() == 0);
    const size_t granules = slm_reservation_heap_bytes() / SLM_GRANULE + 64; /* longer than any hole */
    *before = take(granules);
    slm_span_trim(*before, 4, SLM_SPAN_DIRTY);
    *hole = take(16);
    *behind = take(4);
    require(slm_span_granule(*hole) == slm_span_granule(*before) + 4);
    require(slm_span_granule(*behind) == slm_span_granule(*hole) + 16);
    slm_span_unmap_free(SLM_PURGE_TRIM);
    slm_span_free(*hole);
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_span_check(node);
}

static bool is_mapped(const struct slm_span *span)
{
    return msync(slm_span_start(span), SLM_GRANULE, MS_ASYNC) == 0;
}

static void purge_where_scarce(void)
{
    struct slm_span *span = take(64);
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_span_set_scarce(true);
    require(slm_span_scarce());
    const uint64_t heap = slm_reservation_heap_bytes();
    slm_span_free(span);
    require(slm_span_purge(0, SLM_PURGE_TRIM) == 64 * SLM_GRANULE);
    require(slm_reservation_heap_bytes() == heap - 64 * SLM_GRANULE);
    require(slm_span_dirty_bytes() == 0 && !is_mapped(span));
    slm_span_check(node);
}

static void purging_unmaps(void **state)
{
    (void)state;
    assert_child_silent(purge_where_scarce);
}

static void use_a_hole_again(void)
{
    struct slm_span *before, *hole, *behind;
    make_hole(&before, &hole, &behind);
    require(!is_mapped(hole));
    for (unsigned i = 0; i < 16; i++)
        take(1); /* which checks that they read as zero */
    slm_span_check(node);
    require(slm_span_start(before)[0] == MARK && slm_span_start(behind)[0] == MARK);
}

static void holes_are_used_again(void **state)
{
    (void)state;
    assert_child_silent(use_a_hole_again);
}

static void extend_into_a_hole(void)
{
    struct slm_span *before, *hole, *behind;
    bool clean = false;
    make_hole(&before, &hole, &behind);
    require(slm_span_extend(before, 6, 6, &clean) && clean && before->granules == 6);
    require(all_zero(slm_span_start(before) + 4 * SLM_GRANULE, 2 * SLM_GRANULE));
    slm_span_check(node);
    require(slm_span_extend(before, 20, 20, &clean));
    require(!slm_span_extend(before, 21, 21, &clean));
    slm_span_check(node);
    require(slm_span_start(before)[4 * SLM_GRANULE - 1] == MARK && slm_span_start(behind)[0] == MARK);
}

static void spans_grow_into_holes(void **state)
{
    (void)state;
    assert_child_silent(extend_into_a_hole);
}

static void put_a_stranger_into_a_hole(void)
{
    struct slm_span *before, *hole, *behind;
    bool clean;
    make_hole(&before, &hole, &behind);
    char *where = slm_span_start(hole) + 2 * SLM_GRANULE;
    char *stranger =
        mmap(where, SLM_GRANULE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    require(stranger == where);
    memset(stranger, 1, SLM_GRANULE);
    require(!slm_span_extend(before, 20, 20, &clean) && before->granules == 4);
    for (unsigned i = 0; i < 40; i++)
        take(3);
    slm_span_check(node);
    for (size_t at = 0; at < SLM_GRANULE; at++)
        require(stranger[at] == 1);
    slm_span_unmap_free(SLM_PURGE_TRIM);
    slm_span_check(node);
    require(stranger[0] == 1);
}

static void strangers_in_holes_are_left_alone(void **state)
{
    (void)state;
    assert_child_silent(put_a_stranger_into_a_hole);
}

/* The next spans that are taken lie side by side, as long as there are no more than `granules` in them. */
static void make_room(size_t granules)
{
    slm_span_unmap_free(SLM_PURGE_TRIM);
    struct slm_span *span =
        take(slm_reservation_heap_bytes() / SLM_GRANULE + granules + 4); /* longer than any hole */
    slm_span_trim(span, 4, SLM_SPAN_DIRTY);
}

/* A granule at a time: too short for a hole of their own until they have joined. */
static void purge_piece_by_piece(void)
{
    struct slm_span *pieces[200];
    make_room(COUNT(pieces) + 1);
    for (size_t i = 0; i < COUNT(pieces); i++)
        pieces[i] = take(1);
    take(1);
    const uint64_t heap = slm_reservation_heap_bytes();
    for (size_t odd = 0; odd < 2; odd++)
        for (size_t i = odd; i < COUNT(pieces); i += 2) {
            slm_span_free(pieces[i]);
            slm_span_purge(0, SLM_PURGE_TRIM);
            slm_span_check(node);
        }
    require(slm_reservation_heap_bytes() <= heap - COUNT(pieces) * SLM_GRANULE);
    for (size_t i = 0; i < COUNT(pieces); i++)
        require(!is_mapped(pieces[i]));
}

static void pieces_are_unmapped_once_they_are_long(void **state)
{
    (void)state;
    assert_child_silent(purge_piece_by_piece);
}

/* Short clean spans on both sides of a span that becomes a hole. */
static void make_a_hole_between_clean_spans(void)
{
    struct slm_span *spans[3];
    make_room(27);
    for (size_t i = 0; i < COUNT(spans); i++)
        spans[i] = take(i == 1 ? 20 : 3);
    take(1);
    for (size_t i = 0; i < COUNT(spans); i += 2) {
        slm_span_free(spans[i]);
        slm_span_purge(0, SLM_PURGE_TRIM);
        require(is_mapped(spans[i]));
    }
    slm_span_free(spans[1]);
    slm_span_purge(0, SLM_PURGE_TRIM);
    for (size_t i = 0; i < COUNT(spans); i++)
        require(!is_mapped(spans[i]));
    slm_span_check(node);
}

static void clean_spans_beside_a_new_hole_go_too(void **state)
{
    (void)state;
    assert_child_silent(make_a_hole_between_clean_spans);
}

static void fill_and_free_in_turns(void)
{
    struct slm_span *spans[60];
    uint64_t seed = 1;
    slm_span_set_scarce(true);
    for (unsigned turn = 0; turn < scaled(12); turn++) {
        for (size_t i = 0; i < COUNT(spans); i++)
            spans[i] = take(1 + random_below(&seed, 20));
        for (size_t i = 0; i < COUNT(spans); i++)
            slm_span_free(spans[(i * 7 + turn) % COUNT(spans)]);
        if (turn % 3 == 0)
            slm_span_unmap_free(SLM_PURGE_TRIM);
        else
            slm_span_purge(turn % 2 * 40 * SLM_GRANULE, SLM_PURGE_TRIM);
        slm_span_check(node);
    }
    slm_span_unmap_free(SLM_PURGE_TRIM);
    require(slm_reservation_heap_bytes() < 4 * MIB); /* what the process itself uses */
}

static void everything_goes_in_the_end(void **state)
{
    (void)state;
    assert_child_silent(fill_and_free_in_turns);
}

/* Spans go to the kernel and come back, each on several threads at once. */
static void *fill_and_free(void *number)
{
    struct slm_span *spans[20];
    uint64_t seed = 10 + (uintptr_t)number;
    for (unsigned turn = 0; turn < scaled(20); turn++) {
        for (size_t i = 0; i < COUNT(spans); i++)
            spans[i] = take(1 + random_below(&seed, 40));
        for (size_t i = 0; i < COUNT(spans); i++) {
            require(all_marked(spans[i]));
            slm_span_free(spans[i]);
        }
        if ((turn + (uintptr_t)number) % 2)
            slm_span_unmap_free(SLM_PURGE_IDLE);
        slm_span_check(node);
    }
    return NULL;
}

static void fill_and_free_on_threads(void)
{
    slm_span_set_scarce(true);
    on_threads(4, fill_and_free);
    slm_span_unmap_free(SLM_PURGE_IDLE);
    require(slm_reservation_heap_bytes() < 4 * MIB && sum_figures().lost_bytes == 0);
}

static void threads_unmap_and_map_at_once(void **state)
{
    (void)state;
    assert_child_silent(fill_and_free_on_threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(purging_unmaps),
        cmocka_unit_test(holes_are_used_again),
        cmocka_unit_test(spans_grow_into_holes),
        cmocka_unit_test(strangers_in_holes_are_left_alone),
        cmocka_unit_test(pieces_are_unmapped_once_they_are_long),
        cmocka_unit_test(clean_spans_beside_a_new_hole_go_too),
        cmocka_unit_test(everything_goes_in_the_end),
        cmocka_unit_test(threads_unmap_and_map_at_once),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
