/* src/os/sys.h: waiting, waking, barriers, the clocks, entropy, place, small files; all of them keep errno. */
#include "unit.h"

#include "os/sys.h"

static _Atomic uint32_t word;

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void waiting_for_another_value_returns_at_once(void **state)
{
    (void)state;
    store_relaxed(&word, 2);
    errno = EDOM;
    slm_sys_wait(&word, 1, 0); /* hangs if not */
    assert_int_equal(errno, EDOM);
}

static void waiting_ends_with_its_time(void **state)
{
    (void)state;
    store_relaxed(&word, 1);
    const uint64_t before = clock_ms();
    errno = EDOM;
    slm_sys_wait(&word, 1, 30);
    assert_int_equal(errno, EDOM);
    assert_true(clock_ms() - before >= 25);
}

static void a_sleep_ends_with_its_time(void **state)
{
    (void)state;
    const uint64_t before = clock_ms();
    errno = EDOM;
    slm_sys_sleep_ms(30);
    assert_int_equal(errno, EDOM);
    assert_true(clock_ms() - before >= 25);
}

static void *wait_for_change(void *nothing)
{
    while (load_acquire(&word) == 1)
        slm_sys_wait(&word, 1, 0);
    return nothing;
}

static void a_sleeper_is_woken(void **state)
{
    (void)state;
    pthread_t sleeper;
    store_relaxed(&word, 1);
    assert_int_equal(pthread_create(&sleeper, NULL, wait_for_change, NULL), 0);
    sleep_ms(20);
    store_release(&word, 0);
    errno = EDOM;
    slm_sys_wake(&word);
    assert_int_equal(errno, EDOM);
    assert_int_equal(pthread_join(sleeper, NULL), 0); /* hangs if not */
}

/* -- one of several ---------------------------------------------------------------------------------------------- */

static const uint32_t in_file; /* in the test's own */

static bool wait_for_either(const volatile void *shared)
{
    const struct slm_sys_word words[] = {{1, &word, SLM_SYS_PRIVATE}, {0, shared, SLM_SYS_SHARED}};
    errno = EDOM;
    const bool done = slm_sys_wait_any(words, COUNT(words));
    require(errno == EDOM);
    return done;
}

static void *wait_for_change_of_either(void *nothing)
{
    while (load_acquire(&word) == 1)
        require(wait_for_either(&in_file));
    return nothing;
}

/* There is such a call, and no filter takes it away. */
static bool can_wait_for_either(void)
{
    store_relaxed(&word, 2);
    return wait_for_either(&in_file);
}

static void a_sleeper_on_several_words_is_woken(void **state)
{
    (void)state;
    if (!can_wait_for_either())
        skip();
    for (unsigned turn = 0; turn < 20; turn++) {
        pthread_t sleeper;
        store_relaxed(&word, 1);
        assert_int_equal(pthread_create(&sleeper, NULL, wait_for_change_of_either, NULL), 0);
        if (turn % 2 == 1) {
            while (syscall(SYS_futex, &in_file, 1 /* FUTEX_WAKE */, 1, NULL, NULL, 0) != 1)
                sleep_ms(1);
        }
        store_release(&word, 0);
        slm_sys_wake(&word);
        assert_int_equal(pthread_join(sleeper, NULL), 0);
    }
}

/* Nobody else has the page: it is no file's, and may not be written to. */
static void a_shared_word_lies_in_a_file(void **state)
{
    (void)state;
    if (!can_wait_for_either())
        skip();
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *own = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(own, MAP_FAILED);
    *(volatile char *)own = 0;
    assert_int_equal(mprotect(own, page, PROT_READ), 0);
    store_relaxed(&word, 1);
    assert_false(wait_for_either(own));
    assert_int_equal(munmap(own, page), 0);
    assert_false(wait_for_either(own));
}

static void the_clock_goes_on(void **state)
{
    (void)state;
    errno = EDOM;
    const uint64_t before = slm_sys_now_ms(), real = clock_ms();
    assert_int_equal(errno, EDOM);
    const uint64_t before_us = slm_sys_now_us();
    assert_true(real >= before && before_us / 1000 >= real);
    sleep_ms(40);
    const uint64_t after_us = slm_sys_now_us(), after = slm_sys_now_ms(), real_after = clock_ms();
    assert_true(after_us >= before_us + 40000 && after_us / 1000 <= real_after && after <= real_after);
    while (slm_sys_now_ms() < before + 20) /* a coarse clock may stand still for a while */
        sleep_ms(1);
    assert_int_equal(errno, EDOM);
}

static void issue_barriers(void)
{
    errno = EDOM;
    const uint64_t before = load_relaxed(&slm_sys_membarriers);
    require(slm_sys_membarrier() && slm_sys_membarrier_register() && slm_sys_membarrier());
    require(load_relaxed(&slm_sys_membarriers) == before + 2 && errno == EDOM);
}

static void be_refused(unsigned error)
{
    const uint64_t before = load_relaxed(&slm_sys_membarriers);
    refuse_call(SYS_membarrier, error, 0);
    errno = EDOM;
    require(!slm_sys_membarrier() && !slm_sys_membarrier_register());
    require(load_relaxed(&slm_sys_membarriers) == before && errno == EDOM);
}

static void be_forbidden(void)
{
    be_refused(EPERM);
}

static void be_unknown(void)
{
    issue_barriers();
    be_refused(ENOSYS);
}

static void barriers_are_counted(void **state)
{
    (void)state;
    assert_child_silent(issue_barriers); /* of its own and, then, of a process that is registered */
    issue_barriers();
    assert_child_silent(issue_barriers);
    assert_child_silent(be_forbidden);
    assert_child_silent(be_unknown);
}

static void entropy_differs_by_number(void **state)
{
    (void)state;
    errno = EDOM;
    uint64_t bits[16];
    for (size_t i = 0; i < COUNT(bits); i++) {
        bits[i] = slm_sys_entropy(i);
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(bits[i], bits[k]);
    }
    assert_int_equal(errno, EDOM);
}

static void a_thread_is_somewhere(void **state)
{
    (void)state;
    unsigned cpu = 1 << 30, node = 1 << 30;
    errno = EDOM;
    slm_sys_where(&cpu, &node);
    assert_int_equal(errno, EDOM);
    assert_true((long)cpu < sysconf(_SC_NPROCESSORS_CONF));
    assert_true(node < 1024);
}

static void small_files_are_read(void **state)
{
    (void)state;
    char read[64], cut[4];
    errno = EDOM;
    assert_true(slm_sys_read_file("/proc/self/comm", read, sizeof read));
    assert_string_equal(read, "test_sys\n");
    assert_true(slm_sys_read_file("/proc/self/comm", cut, sizeof cut));
    assert_string_equal(cut, "tes");
    assert_false(slm_sys_read_file("/nowhere", read, sizeof read));
    assert_false(slm_sys_read_file("/", read, sizeof read));
    assert_int_equal(errno, EDOM);
}

static void the_kernel_tells_what_can_be_read(void **state)
{
    (void)state;
    enum { PAGE = 4096 };
    char copy[2 * PAGE], *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigset_t before = {{0}}, after = {{0}};
    assert_true(page != MAP_FAILED);
    assert_int_equal(mprotect(page + PAGE, PAGE, PROT_NONE), 0);
    memset(page, 7, PAGE);
    errno = EDOM;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_true(slm_sys_readable(page) && slm_sys_readable(page + PAGE - 8));
    assert_false(slm_sys_readable(page + PAGE) || slm_sys_readable((void *)8) || slm_sys_readable(page + PAGE - 4));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(slm_sys_copy(copy, page, 100), 100);
    assert_true(copy[0] == 7 && copy[99] == 7);
    assert_int_equal(slm_sys_copy(copy, page + PAGE - 50, 100), 50);
    assert_int_equal(slm_sys_copy(copy, page + PAGE, 100), 0);
    assert_int_equal(munmap(page + PAGE, PAGE), 0);
    assert_int_equal(slm_sys_copy(copy, page, 2 * PAGE), PAGE);
    assert_false(slm_sys_readable(page + PAGE));
    assert_int_equal(errno, EDOM);
    munmap(page, PAGE);
}

static void see_filter(void)
{
    require(!slm_sys_is_filtered());
    refuse_call(SYS_acct, EPERM, 0);
    require(slm_sys_is_filtered());
}

static void a_filter_is_seen(void **state)
{
    (void)state;
    assert_child_silent(see_filter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waiting_for_another_value_returns_at_once),
        cmocka_unit_test(waiting_ends_with_its_time),
        cmocka_unit_test(a_sleep_ends_with_its_time),
        cmocka_unit_test(a_sleeper_is_woken),
        cmocka_unit_test(a_sleeper_on_several_words_is_woken),
        cmocka_unit_test(a_shared_word_lies_in_a_file),
        cmocka_unit_test(the_clock_goes_on),
        cmocka_unit_test(barriers_are_counted),
        cmocka_unit_test(entropy_differs_by_number),
        cmocka_unit_test(a_thread_is_somewhere),
        cmocka_unit_test(small_files_are_read),
        cmocka_unit_test(the_kernel_tells_what_can_be_read),
        cmocka_unit_test(a_filter_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
