/* src/sync/epoch.h: what waiting for readers costs, where it ends, and who is named for holding it up too long. Each
 * test is a process of its own, in which nobody has entered a section yet. */
#include "readers.h"

#include "base/options.h"
#include "os/background.h"

/* Whose number is new has been seen to enter: no barrier could tell more. */
static void who_has_entered_since_needs_no_barrier(void)
{
    struct reader first, second;
    start(&first);
    start(&second);
    for (unsigned turn = 0; turn < 5; turn++) {
        tell(&first, 'e');
        tell(&second, 'e');
        const uint64_t stamp = slm_epoch_stamp();
        require(is_held_up(stamp)); /* it has started */
        tell(&first, 'l');
        require(is_held_up(stamp) && barriers() == 0); /* while one is inside, a barrier would end nothing */
        tell(&first, 'e');
        tell(&first, 'l');
        tell(&second, 'l');
        tell(&second, 'e');
        poll_until_passed(stamp);
        require(barriers() == 0);
        tell(&second, 'l');
    }
    poll_until_passed(slm_epoch_stamp());
    require(barriers() == 1); /* here they are outside, with old numbers */
    end(&first);
    end(&second);
}

static void the_first_reader_pays_for_who_retired_before(void)
{
    struct reader other;
    require(!slm_epoch_never_read());
    slm_epoch_begin_quiet();
    require(slm_epoch_never_read() && barriers() == 0);
    start(&other);
    tell(&other, 'e');
    require(!slm_epoch_never_read() && barriers() == 1);
    slm_epoch_begin_quiet();
    require(!slm_epoch_never_read());
    enter();
    leave();
    end(&other);
    require(barriers() == 1);
}

static void awaiting_has_an_end(void)
{
    struct reader other;
    start(&other);
    require(slm_epoch_await(0, 0));
    tell(&other, 'e');
    const uint64_t stamp = slm_epoch_stamp(), start_us = slm_sys_now_us();
    require(!slm_epoch_await(stamp, start_us + 30000));
    require(slm_sys_now_us() >= start_us + 30000);
    require(!slm_epoch_await(stamp, 0)); /* a look */
    tell(&other, 'l');
    require(slm_epoch_await(stamp, UINT64_MAX));
    require(slm_epoch_await(stamp, 0)); /* it has passed: no matter when */
    end(&other);
}

static void barriers_are_made_where_they_tell_something(void **state)
{
    (void)state;
    assert_child_silent(who_has_entered_since_needs_no_barrier);
    assert_child_silent(the_first_reader_pays_for_who_retired_before);
}

static void a_deadline_is_kept(void **state)
{
    (void)state;
    assert_child_silent(awaiting_has_an_end);
}

/* -- stalls ---------------------------------------------------------------------------------------------------- */

/* Two are inside, one outside, and somebody waits until so many have been named, and a little longer. */
static void stall(unsigned named)
{
    struct reader readers[3];
    for (unsigned i = 0; i < COUNT(readers); i++) {
        start(&readers[i]);
        tell(&readers[i], 'e');
    }
    tell(&readers[2], 'l');
    store_relaxed(&slm_epoch_waiting_bytes, 12345);
    const uint64_t stamp = slm_epoch_stamp();
    while (load_relaxed(&slm_epoch_stalls) < named)
        require(!slm_epoch_await(stamp, slm_sys_now_us() + 10000));
    require(!slm_epoch_await(stamp, slm_sys_now_us() + 50000));
    require(load_relaxed(&slm_epoch_stalls) == named);
    for (unsigned i = 0; i < COUNT(readers); i++)
        end(&readers[i]);
    poll_until_passed(load_relaxed(&slm_epoch_wanted));
}

static void stall_for_long(void)
{
    slm_settings.epoch_stall_ms = 30;
    stall(2);
}

/* Counted, but not named: a sandbox need not know the calls for that. */
static void stall_in_sandbox(void)
{
    slm_settings.epoch_stall_ms = 30;
    slm_background_forbid();
    stall(2);
}

static void nobody_is_to_be_named(void)
{
    slm_settings.epoch_stall_ms = 0;
    stall(0);
}

static void inside_for_long_while_nobody_waits(void)
{
    struct reader other;
    slm_settings.epoch_stall_ms = 10;
    start(&other);
    tell(&other, 'e');
    for (unsigned i = 0; i < 50; i++, sleep_ms(1))
        slm_epoch_poll();
    end(&other);
}

static void each_that_stays_too_long_is_named_once(void **state)
{
    (void)state;
    unsigned long threads[2], ms[2];
    int length = -1;
    const char *line =
        "slabmalloc: thread %lu has been inside an epoch section for over %lu ms: 12345 bytes wait for "
        "it to leave\n";
    const struct outcome outcome = in_child(stall_for_long);
    assert_int_equal(outcome.status, 0);
    assert_int_equal(
        sscanf(outcome.said, text("%s%s%%n", line, line), &threads[0], &ms[0], &threads[1], &ms[1], &length), 4);
    assert_int_equal(length, strlen(outcome.said));
    assert_int_not_equal(threads[0], threads[1]);
    assert_true(ms[0] >= 30 && ms[1] >= 30);
    assert_child_silent(stall_in_sandbox);
    assert_child_silent(nobody_is_to_be_named);
    assert_child_silent(inside_for_long_while_nobody_waits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barriers_are_made_where_they_tell_something),
        cmocka_unit_test(a_deadline_is_kept),
        cmocka_unit_test(each_that_stays_too_long_is_named_once),
    };
    return cmocka_run_group_tests(tests, start_unnamed, NULL);
}
