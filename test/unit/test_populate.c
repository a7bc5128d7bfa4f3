/* src/page/populate.h: pages become resident by one call, a share of what is in use ahead of its use. */
#include "unit.h"

#include "os/background.h"
#include "page/demand.h"
#include "page/populate.h"
#include "page/span_alloc.h"
#include "resident.h"

enum { PAGES = 16 };

static char *some_pages(void)
{
    char *pages = mmap(NULL, PAGES * slm_page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(pages != MAP_FAILED && madvise(pages, PAGES * slm_page_size, MADV_NOHUGEPAGE) == 0);
    return pages;
}

static void pages_become_resident_and_stay_zero(void **state)
{
    (void)state;
    skip_without_populating();
    char *pages = some_pages();
    errno = EDOM;
    slm_populate(pages + slm_page_size, 3 * slm_page_size);
    assert_int_equal(errno, EDOM);
    for (unsigned page = 0; page < PAGES; page++)
        assert_int_equal(is_resident(pages + page * slm_page_size), page >= 1 && page < 4);
    assert_true(all_zero(pages, PAGES * slm_page_size));
    assert_false(slm_background_busy());
}

static void all_that_is_ahead_is_a_share_of_what_is_used(void **state)
{
    (void)state;
    const uint64_t before = load_relaxed(&slm_populate_ahead_bytes);
    slm_demand_rise(GIB);
    const uint64_t room = slm_populate_room();
    assert_in_range(room, 1, slm_demand_used() / 32);
    add_relaxed(&slm_populate_ahead_bytes, room - slm_page_size);
    assert_int_equal(slm_populate_room(), slm_page_size);
    add_relaxed(&slm_populate_ahead_bytes, 2 * slm_page_size);
    assert_int_equal(slm_populate_room(), 0);
    store_relaxed(&slm_populate_ahead_bytes, before);
    slm_demand_drop(GIB);
}

/* Clean memory of the heap. */
static char *new_granule(void)
{
    struct slm_span *span;
    do
        require((span = slm_span_alloc(0, 1, 1)));
    while (span->state != SLM_SPAN_CLEAN);
    return slm_span_start(span);
}

static bool expects(char *start)
{
    errno = EDOM;
    const bool expected = slm_populate_expects_writes(20000, start, SLM_GRANULE);
    assert_int_equal(errno, EDOM);
    return expected;
}

static void what_was_written_to_its_end_is_expected_to_be(void **state)
{
    (void)state;
    assert_false(expects(new_granule()));
    char *half = new_granule();
    assert_false(expects(half));
    memset(half, 1, SLM_GRANULE / 2);
    char *whole = new_granule();
    assert_false(expects(whole));
    memset(whole, 1, SLM_GRANULE);
    for (unsigned i = 0; i < 8; i++)
        assert_true(expects(new_granule()));
    assert_false(expects(new_granule()));
    assert_false(expects(new_granule()));
}

/* Large objects of another length say nothing of this one, though they share its place. */
static void each_length_has_evidence_of_its_own(void **state)
{
    enum { LENGTH = 64 * SLM_GRANULE };
    (void)state;
    for (size_t pages = 1; pages <= 128; pages++) {
        char *written = memset(new_granule(), 1, SLM_GRANULE);
        assert_false(slm_populate_expects_writes(LENGTH, written, pages * slm_page_size));
    }
}

static void require_nothing_is_populated(void)
{
    char *pages = some_pages();
    errno = EDOM;
    slm_populate(pages, PAGES * slm_page_size);
    require(errno == EDOM && !is_resident(pages) && slm_populate_room() == 0 && !slm_background_busy());
}

static void ask_an_old_kernel(void)
{
    slm_demand_rise(GIB);
    require(slm_populate_room() > 0);
    refuse_populating(EINVAL);
    require_nothing_is_populated();
}

static void an_old_kernel_is_asked_once(void **state)
{
    (void)state;
    assert_child_silent(ask_an_old_kernel);
}

static void announce_a_sandbox(void)
{
    slm_demand_rise(GIB);
    char *written = new_granule();
    memset(written, 1, SLM_GRANULE);
    expects(written);
    slm_background_forbid();
    require_nothing_is_populated();
    require(!expects(new_granule()));
}

static void near_a_sandbox_there_is_none(void **state)
{
    (void)state;
    assert_child_silent(announce_a_sandbox);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_become_resident_and_stay_zero),
        cmocka_unit_test(all_that_is_ahead_is_a_share_of_what_is_used),
        cmocka_unit_test(what_was_written_to_its_end_is_expected_to_be),
        cmocka_unit_test(each_length_has_evidence_of_its_own),
        cmocka_unit_test(an_old_kernel_is_asked_once),
        cmocka_unit_test(near_a_sandbox_there_is_none),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
