/* src/os/vm.h: pages from the kernel. */
#include "unit.h"

#include "os/vm.h"

enum { PAGES = 16 };

static const size_t window_bytes = (size_t)1 << 30;

static size_t bytes_of(unsigned pages)
{
    return pages * slm_page_size;
}

/* Fresh pages in a window of their own. */
static char *some_pages(void)
{
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        char *window = slm_vm_pick_window(window_bytes, attempt);
        if (window && slm_vm_map(window, bytes_of(PAGES), false))
            return window;
    }
    fail_msg("no window");
    return NULL;
}

static void the_page_size_is_the_kernel_s(void **state)
{
    (void)state;
    slm_vm_start();
    assert_int_equal(slm_page_size, sysconf(_SC_PAGESIZE));
}

static void a_picked_window_is_aligned_and_not_mapped(void **state)
{
    (void)state;
    errno = EDOM;
    char *window = slm_vm_pick_window(window_bytes, 0);
    assert_int_equal(errno, EDOM);
    assert_non_null(window);
    assert_int_equal((uintptr_t)window % (2 * MIB), 0);
    assert_int_equal(msync(window, slm_page_size, MS_ASYNC), -1);
    assert_int_equal(errno, ENOMEM);
    assert_null(slm_vm_pick_window((size_t)1 << 62, 0));
}

static void pages_are_mapped_where_asked(void **state)
{
    (void)state;
    char *pages = some_pages();
    assert_true(all_zero(pages, bytes_of(PAGES)));
    memset(pages, 0x5a, bytes_of(PAGES));
    munmap(pages, bytes_of(PAGES));
}

static void other_mappings_are_never_overwritten(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = 0;
    assert_false(slm_vm_map(pages + bytes_of(PAGES - 1), bytes_of(2), false));
    assert_int_equal(errno, EEXIST);
    assert_int_equal(pages[bytes_of(PAGES) - 1], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

static void a_held_window_is_filled(void **state)
{
    (void)state;
    errno = EDOM;
    char *window = slm_vm_hold_window(64 * MIB);
    assert_int_equal(errno, EDOM);
    assert_non_null(window);
    assert_int_equal((uintptr_t)window % (2 * MIB), 0);
    assert_true(slm_vm_map(window, bytes_of(PAGES), true));
    assert_true(slm_vm_map(window + 64 * MIB - bytes_of(PAGES), bytes_of(PAGES), true));
    assert_true(all_zero(window, bytes_of(PAGES)));
    memset(window, 1, bytes_of(PAGES));
    munmap(window, 64 * MIB);
    assert_null(slm_vm_hold_window((size_t)1 << 62));
    assert_int_equal(errno, EDOM);
}

static void purged_pages_read_as_zero(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = EDOM;
    assert_true(slm_vm_purge(pages + bytes_of(1), bytes_of(PAGES - 2)));
    assert_int_equal(errno, EDOM);
    assert_true(all_zero(pages + bytes_of(1), bytes_of(PAGES - 2)));
    assert_int_equal(pages[bytes_of(1) - 1], 0x5a);
    assert_int_equal(pages[bytes_of(PAGES - 1)], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

static void locked_pages_stay_as_they_are(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    if (mlock(pages, bytes_of(1)) != 0) {
        munmap(pages, bytes_of(PAGES));
        print_message("no page may be locked\n");
        skip();
    }
    errno = EDOM;
    assert_false(slm_vm_purge(pages, bytes_of(1)));
    assert_int_equal(errno, EDOM);
    assert_int_equal(pages[0], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

static void pages_move_without_a_copy(void **state)
{
    (void)state;
    const size_t half = bytes_of(PAGES / 2);
    char *pages = some_pages(), *to = pages + half;
    memset(pages, 0x5a, half);
    memset(to, 0x33, half);
    errno = EDOM;
    assert_true(slm_vm_move(pages, to, half));
    assert_int_equal(errno, EDOM);
    for (size_t i = 0; i < half; i++)
        assert_int_equal(to[i], 0x5a);
    assert_true(slm_vm_map(pages, half, false)); /* nothing is there any more */
    assert_true(all_zero(pages, half));
    munmap(pages, bytes_of(PAGES));
}

static void unmapped_pages_can_be_mapped_again(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = EDOM;
    assert_true(slm_vm_unmap(pages + bytes_of(1), bytes_of(2), false));
    assert_int_equal(errno, EDOM);
    assert_true(slm_vm_map(pages + bytes_of(1), bytes_of(2), false));
    assert_true(all_zero(pages + bytes_of(1), bytes_of(2)));
    assert_int_equal(pages[0], 0x5a);
    assert_int_equal(pages[bytes_of(3)], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

static void a_held_window_stays_held(void **state)
{
    (void)state;
    char *window = slm_vm_hold_window(64 * MIB);
    assert_true(slm_vm_map(window, bytes_of(PAGES), true));
    memset(window, 0x5a, bytes_of(PAGES));
    assert_true(slm_vm_unmap(window, bytes_of(PAGES), true));
    assert_false(slm_vm_map(window, bytes_of(PAGES), false)); /* nobody else gets it */
    assert_true(slm_vm_map(window, bytes_of(PAGES), true));
    assert_true(all_zero(window, bytes_of(PAGES)));
    munmap(window, 64 * MIB);
}

static char *wiped;

static void look_at_wiped_page(void)
{
    require(*wiped == 0);
}

static void a_page_is_wiped_in_children(void **state)
{
    (void)state;
    errno = EDOM;
    wiped = slm_vm_page_wiped_on_fork();
    assert_int_equal(errno, EDOM);
    if (!wiped) {
        print_message("this kernel has no MADV_WIPEONFORK\n");
        skip();
    }
    assert_int_equal(*wiped, 0);
    *wiped = 1;
    assert_child_silent(look_at_wiped_page);
    assert_int_equal(*wiped, 1);
    munmap(wiped, slm_page_size);
}

static void limit_addresses(void)
{
    const struct rlimit limit = {(rlim_t)1 << 40, RLIM_INFINITY};
    require(!slm_vm_addresses_limited());
    setrlimit(RLIMIT_AS, &limit);
    errno = EDOM;
    require(slm_vm_addresses_limited() && errno == EDOM);
}

static void limits_are_seen(void **state)
{
    (void)state;
    if (slm_vm_addresses_limited()) {
        print_message("this shell has a limit already\n");
        skip();
    }
    assert_child_silent(limit_addresses);
}

static void advice_is_harmless(void **state)
{
    (void)state;
    char *pages = some_pages();
    memset(pages, 0x5a, bytes_of(PAGES));
    errno = EDOM;
    slm_vm_small_pages(pages, bytes_of(PAGES));
    for (unsigned node = 0; node < 2048; node += node < 2 ? 1 : 511)
        slm_vm_bind(pages, bytes_of(PAGES), node);
    assert_int_equal(errno, EDOM);
    assert_int_equal(pages[0], 0x5a);
    munmap(pages, bytes_of(PAGES));
}

static void ask_for_too_much(void)
{
    char *window = slm_vm_pick_window(window_bytes, 0);
    forbid_memory();
    errno = 0;
    require(!slm_vm_map(window, bytes_of(PAGES), false) && errno == ENOMEM);
    errno = EDOM;
    require(!slm_vm_hold_window(window_bytes) && errno == EDOM);
}

static void the_kernel_may_refuse(void **state)
{
    (void)state;
    assert_child_silent(ask_for_too_much);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_size_is_the_kernel_s),
        cmocka_unit_test(a_picked_window_is_aligned_and_not_mapped),
        cmocka_unit_test(pages_are_mapped_where_asked),
        cmocka_unit_test(other_mappings_are_never_overwritten),
        cmocka_unit_test(a_held_window_is_filled),
        cmocka_unit_test(purged_pages_read_as_zero),
        cmocka_unit_test(locked_pages_stay_as_they_are),
        cmocka_unit_test(pages_move_without_a_copy),
        cmocka_unit_test(unmapped_pages_can_be_mapped_again),
        cmocka_unit_test(a_held_window_stays_held),
        cmocka_unit_test(a_page_is_wiped_in_children),
        cmocka_unit_test(limits_are_seen),
        cmocka_unit_test(advice_is_harmless),
        cmocka_unit_test(the_kernel_may_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
