/* src/page/span_alloc.h once more: a dirty span that is too short, and the clean memory beside it. */
#include "spans.h"
#include "unit.h"

#include "os/topology.h"
#include "page/charge.h"
#include "page/purge.h"
#include "page/span_alloc.h"

enum { MARK = 0x5a, GUARD = 1, BEFORE = 4, DIRTY = 6, BEHIND = 5 };

static unsigned node;

/* Side by side: one in use, clean memory, a dirty span, clean memory, one in use. */
static struct slm_span *guards[2], *before, *dirty, *behind;
static size_t first; /* granule of the dirty one */
static uint64_t charged;

static struct slm_span *cut(struct slm_span **rest, size_t granules)
{
    struct slm_span *span = *rest;
    slm_span_trim(span, granules, SLM_SPAN_DIRTY);
    *rest = slm_span_alloc(node,
                           GUARD + BEFORE + DIRTY + BEHIND + GUARD -
                               (slm_span_granule(span) + granules - slm_span_granule(guards[0])),
                           1);
    require(slm_span_granule(*rest) == slm_span_granule(span) + granules);
    return span;
}

static int lay_out(void **state)
{
    (void)state;
    node = slm_nodes - 1;
    slm_span_purge(0, SLM_PURGE_TRIM);
    struct slm_span *rest = guards[0] = slm_span_alloc(node, GUARD + BEFORE + DIRTY + BEHIND + GUARD, 1);
    require(rest != NULL);
    memset(slm_span_start(rest), MARK, slm_span_bytes(rest));
    cut(&rest, GUARD);
    before = cut(&rest, BEFORE);
    dirty = cut(&rest, DIRTY);
    behind = cut(&rest, BEHIND);
    guards[1] = rest;
    slm_span_free(before);
    slm_span_free(behind);
    slm_span_purge(0, SLM_PURGE_TRIM);
    require(slm_span_dirty_bytes() == 0);
    charged = load_relaxed(&slm_charge.bytes);
    slm_span_free(dirty);
    first = slm_span_granule(dirty);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    slm_span_check(node);
    slm_span_free(guards[0]);
    slm_span_free(guards[1]);
    slm_span_purge(0, SLM_PURGE_TRIM);
    slm_span_check(node);
    return 0;
}

/* It begins there, and all but the dirty granules are charged now. */
static void require_at(struct slm_span *span, size_t start, size_t granules)
{
    require(span && span->granules == granules && span->state == SLM_SPAN_DIRTY);
    require(slm_span_granule(span) == start && load_relaxed(&span->kind) == SLM_SPAN_NONE);
    require(slm_span_dirty_bytes() == 0);
    require(load_relaxed(&slm_charge.bytes) == charged + (granules - DIRTY) * SLM_GRANULE);
    const size_t lead = (first - start) * SLM_GRANULE;
    require(all_zero(slm_span_start(span), lead));
    require(all_zero(slm_span_start(span) + lead + DIRTY * SLM_GRANULE, (granules - DIRTY) * SLM_GRANULE - lead));
    slm_span_check(node);
    slm_span_free(span);
    require(slm_span_dirty_bytes() == granules * SLM_GRANULE);
    slm_span_purge(0, SLM_PURGE_TRIM);
    require(load_relaxed(&slm_charge.bytes) == charged - DIRTY * SLM_GRANULE);
}

static void what_lies_behind_comes_first(void **state)
{
    (void)state;
    require_at(slm_span_alloc(node, DIRTY + 2, 1), first, DIRTY + 2);
}

static void all_that_lies_behind(void **state)
{
    (void)state;
    require_at(slm_span_alloc(node, DIRTY + BEHIND, 1), first, DIRTY + BEHIND);
}

static void then_what_lies_before(void **state)
{
    (void)state;
    struct slm_span *span = slm_span_alloc(node, 2 * DIRTY, 1);
    require_at(span, first - (DIRTY - BEHIND), 2 * DIRTY);
}

static void others_are_taken_as_before(struct slm_span *span)
{
    require(span && span->state == SLM_SPAN_CLEAN);
    require(slm_span_dirty_bytes() == DIRTY * SLM_GRANULE);
    slm_span_free(span);
}

static void one_shorter_than_half_is_left(void **state)
{
    (void)state;
    others_are_taken_as_before(slm_span_alloc(node, 2 * DIRTY + 1, 1));
}

static void so_is_one_too_short_with_all_that_is_clean(void **state)
{
    (void)state;
    struct slm_span *taken =
        slm_span_extend(guards[0], GUARD + BEFORE, GUARD + BEFORE, &(bool){false}) ? guards[0] : NULL;
    require(taken && taken->granules == GUARD + BEFORE);
    others_are_taken_as_before(slm_span_alloc(node, DIRTY + BEHIND + 1, 1));
}

static void aligned_ones_are_of_one_state(void **state)
{
    (void)state;
    struct slm_span *span = slm_span_alloc(node, 8, 8);
    require(span && (span->state == SLM_SPAN_CLEAN));
    slm_span_free(span);
}

/* What is clean has no room below the limit. */
static void a_limit_refuses_the_clean_part(void **state)
{
    (void)state;
    store_relaxed(&slm_charge.stop, charged + SLM_GRANULE);
    errno = 0;
    struct slm_span *span = slm_span_alloc(node, DIRTY + 2, 1);
    store_relaxed(&slm_charge.stop, UINT64_MAX);
    require(!span && errno == ENOMEM);
    slm_span_check(node);
    slm_span_purge(0, SLM_PURGE_TRIM);
    require(load_relaxed(&slm_charge.bytes) == charged - DIRTY * SLM_GRANULE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_lies_behind_comes_first, lay_out, clear),
        cmocka_unit_test_setup_teardown(all_that_lies_behind, lay_out, clear),
        cmocka_unit_test_setup_teardown(then_what_lies_before, lay_out, clear),
        cmocka_unit_test_setup_teardown(one_shorter_than_half_is_left, lay_out, clear),
        cmocka_unit_test_setup_teardown(so_is_one_too_short_with_all_that_is_clean, lay_out, clear),
        cmocka_unit_test_setup_teardown(aligned_ones_are_of_one_state, lay_out, clear),
        cmocka_unit_test_setup_teardown(a_limit_refuses_the_clean_part, lay_out, clear),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
