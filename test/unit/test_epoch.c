/* src/sync/epoch.h: sections hold grace periods up, from entry to leave and no longer, whatever thread they are in;
 * with membarrier, without it, and when it is taken away. Each test is a process of its own, in which nobody has
 * entered a section yet. */
#include "readers.h"

#include <sched.h>

/* -- one thread ------------------------------------------------------------------------------------------------ */

static void nobody(void)
{
    require(slm_epoch_nobody_reads() && !slm_epoch_known() && !slm_epoch_inside());
    for (unsigned i = 0; i < 3; i++)
        require(slm_epoch_passed(slm_epoch_stamp()) && !slm_epoch_poll());
    slm_epoch_synchronize("test");
    slm_epoch_thread_exit();
    require(slm_epoch_grace_periods() == 0 && barriers() == 0);
}

static void one_thread(void)
{
    errno = EDOM;
    const uint64_t before = slm_epoch_grace_periods();
    enter();
    require(!slm_epoch_nobody_reads() && slm_epoch_known() && slm_epoch_inside());
    leave();
    require(slm_epoch_known() && !slm_epoch_inside());
    require(slm_epoch_nobody_reads() && slm_epoch_passed(slm_epoch_stamp())); /* but itself, and that is outside */
    require(!slm_epoch_poll());                                               /* nobody asks for any */
    enter();
    const uint64_t stamp = slm_epoch_stamp();
    require(is_held_up(stamp));
    leave();
    poll_until_passed(stamp);
    slm_epoch_synchronize("test");
    require(slm_epoch_grace_periods() == before + 1 && barriers() == 0 && errno == EDOM);
}

static void nested(void)
{
    for (unsigned depth = 0; depth < 16383; depth++)
        enter();
    const uint64_t stamp = slm_epoch_stamp();
    for (unsigned depth = 16383; depth > 1; depth--)
        leave();
    require(slm_epoch_inside() && is_held_up(stamp));
    leave();
    require(!slm_epoch_inside());
    poll_until_passed(stamp);
}

static void nested_too_deep(void)
{
    for (unsigned depth = 0; depth <= 16383; depth++)
        enter();
}

static void left_too_often(void)
{
    enter();
    leave();
    leave();
    enter();
}

static void synchronized_inside(void)
{
    enter();
    slm_epoch_synchronize("test");
}

static void one_thread_alone(void **state)
{
    (void)state;
    assert_child_silent(nobody);
    assert_child_silent(one_thread);
    assert_child_silent(nested);
}

static void misuse_ends_the_process(void **state)
{
    (void)state;
    const char *unbalanced = "slabmalloc: slab_epoch_enter(0x0): sections nest too deep, or one was left more often "
                             "than entered";
    assert_child_aborts(nested_too_deep, unbalanced);
    assert_child_aborts(left_too_often, unbalanced);
    assert_child_aborts(synchronized_inside, "slabmalloc: test(0x0): inside a section of the caller's own");
}

/* -- several --------------------------------------------------------------------------------------------------- */

static void another_holds_it_up(void)
{
    struct reader other;
    const uint64_t before = slm_epoch_grace_periods();
    start(&other);
    tell(&other, 'e');
    const uint64_t stamp = slm_epoch_stamp();
    require(is_held_up(stamp));
    tell(&other, 'l');
    poll_until_passed(stamp);
    require(barriers() == 1 && slm_epoch_grace_periods() == before + 1);
    end(&other);
    slm_epoch_synchronize("test");
    require(barriers() == 1); /* nobody else is left */
}

static void later_sections_do_not(void)
{
    struct reader early, late;
    start(&early);
    start(&late);
    tell(&early, 'e');
    const uint64_t first = slm_epoch_stamp();
    while (slm_epoch_stamp() == first) /* it has not started: not every poll looks */
        require(!slm_epoch_poll());
    const uint64_t second = slm_epoch_stamp();
    require(second == first + 1);
    tell(&late, 'e');
    tell(&early, 'l');
    tell(&early, 'e');
    poll_until_passed(first);
    require(is_held_up(second));
    tell(&late, 'l');
    require(is_held_up(second));
    tell(&early, 'l');
    poll_until_passed(second);
    end(&early);
    end(&late);
}

static void stamps_are_0_where_nobody_else_reads(void)
{
    struct reader other;
    require(slm_epoch_nobody_reads() && slm_epoch_stamp() == 0);
    enter();
    require(!slm_epoch_nobody_reads() && slm_epoch_stamp() > 0);
    leave();
    require(slm_epoch_nobody_reads() && slm_epoch_stamp() == 0);
    start(&other);
    require(slm_epoch_nobody_reads()); /* it has not entered anything yet */
    tell(&other, 'e');
    require(!slm_epoch_nobody_reads() && slm_epoch_stamp() > 0);
    tell(&other, 'l'); /* it may enter again, unseen */
    require(!slm_epoch_nobody_reads() && slm_epoch_stamp() > 0);
    end(&other);
    require(slm_epoch_nobody_reads() && slm_epoch_stamp() == 0);
    start(&other);
    tell(&other, 'v');
    require(!slm_epoch_nobody_reads() && slm_epoch_stamp() > 0);
    tell(&other, 'l'); /* a visitor that has left is not known any more */
    require(slm_epoch_nobody_reads() && slm_epoch_stamp() == 0);
    end(&other);
}

static _Atomic bool has_entered, has_left;

static void *stay_for_a_while(void *nothing)
{
    enter();
    store_release(&has_entered, true);
    sleep_ms(20);
    store_relaxed(&has_left, true);
    leave();
    slm_epoch_thread_exit();
    return nothing;
}

static void synchronizing_waits(void)
{
    pthread_t reader;
    require(pthread_create(&reader, NULL, stay_for_a_while, NULL) == 0);
    while (!load_acquire(&has_entered))
        sched_yield();
    slm_epoch_synchronize("test");
    require(load_relaxed(&has_left));
    require(pthread_join(reader, NULL) == 0);
}

static void *end_inside(void *nothing)
{
    enter();
    enter();
    slm_epoch_thread_exit();
    require(!slm_epoch_known() && !slm_epoch_inside());
    slm_epoch_thread_exit(); /* nothing more to do */
    return nothing;
}

static void the_end_of_a_thread_ends_its_section(void)
{
    on_threads(8, end_inside);
    poll_until_passed(slm_epoch_stamp());
    require(barriers() == 0);
}

static void visitors_hold_it_up(void)
{
    struct reader visitor;
    start(&visitor);
    tell(&visitor, 'v');
    tell(&visitor, 'v');
    const uint64_t stamp = slm_epoch_stamp();
    tell(&visitor, 'l');
    require(is_held_up(stamp));
    tell(&visitor, 'l');
    poll_until_passed(stamp);
    tell(&visitor, 'v');
    require(is_held_up(slm_epoch_stamp()));
    end(&visitor); /* inside */
    slm_epoch_synchronize("test");
    require(barriers() == 0); /* visitors have fences of their own */
}

static void sections_hold_grace_periods_up(void **state)
{
    (void)state;
    assert_child_silent(stamps_are_0_where_nobody_else_reads);
    assert_child_silent(another_holds_it_up);
    assert_child_silent(later_sections_do_not);
    assert_child_silent(synchronizing_waits);
    assert_child_silent(the_end_of_a_thread_ends_its_section);
    assert_child_silent(visitors_hold_it_up);
}

static _Atomic bool enough;

static void *press(void *number)
{
    while (!load_relaxed(&enough)) {
        slm_epoch_stamp();
        slm_epoch_poll();
    }
    return number;
}

static void *press_until_barriers(void *number)
{
    if (number)
        return press(number);
    while (barriers() < scaled(30))
        slm_epoch_synchronize("test");
    store_relaxed(&enough, true);
    return NULL;
}

/* However long it takes: the clock says how many there may have been. */
static void everybody_presses(void)
{
    struct reader other;
    start(&other);
    tell(&other, 'e');
    tell(&other, 'l');
    const uint64_t begin = slm_sys_now_us();
    on_threads(3, press_until_barriers);
    const uint64_t most = (slm_sys_now_us() - begin) / 1000 + 1;
    require(barriers() <= most);
    require(slm_epoch_grace_periods() >= barriers() - 1);
    end(&other);
}

static void barriers_are_few_under_any_load(void **state)
{
    (void)state;
    assert_child_silent(everybody_presses);
}

/* -- signal handlers ------------------------------------------------------------------------------------------- */

static _Atomic unsigned handled;

static void enter_and_leave(int signal)
{
    (void)signal;
    const bool was_inside = slm_epoch_inside();
    enter();
    require(slm_epoch_inside());
    enter();
    leave();
    require(slm_epoch_inside());
    leave();
    require(slm_epoch_inside() == was_inside);
    slm_epoch_poll();
    add_relaxed(&handled, 1);
}

/* Within 70 us, once the last one has come: so the interrupted thread gets on, however slow the machine is. */
static void have_a_signal(timer_t timer, uint64_t *seed)
{
    static unsigned wanted;
    const struct itimerspec soon = {.it_value = {0, 1 + (long)random_below(seed, 70000)}};
    if (load_relaxed(&handled) < wanted)
        return;
    wanted++;
    require(timer_settime(timer, 0, &soon, NULL) == 0);
}

/* Registers, reads, polls and takes itself off the list again, and is interrupted all over the place. */
static void interrupted(void)
{
    struct reader other;
    timer_t timer;
    uint64_t seed = 1;
    start(&other);
    tell(&other, 'e');
    tell(&other, 'l');
    struct sigaction action = {.sa_handler = enter_and_leave};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    require(sigaction(SIGUSR1, &action, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    while (load_relaxed(&handled) < scaled(1000) || slm_epoch_grace_periods() == 0) {
        have_a_signal(timer, &seed);
        for (unsigned i = 0; i < 10; i++) {
            enter();
            require(slm_epoch_inside());
            leave();
            require(!slm_epoch_inside());
        }
        slm_epoch_enter_slow(false); /* a visitor's, half of the time */
        leave();
        slm_epoch_stamp();
        slm_epoch_poll();
        slm_epoch_thread_exit();
    }
    require(timer_delete(timer) == 0);
    slm_epoch_synchronize("test"); /* nobody is left inside */
    end(&other);
}

static void handlers_may_come_at_any_moment(void **state)
{
    (void)state;
    assert_child_silent(interrupted);
}

/* -- fork ------------------------------------------------------------------------------------------------------ */

static void be_alone_after_fork(void)
{
    require(slm_epoch_inside());
    uint64_t stamp = slm_epoch_stamp();
    require(is_held_up(stamp)); /* our own section goes on */
    leave();
    poll_until_passed(stamp); /* and the others' do not */
    require(barriers() == 0);
    another_holds_it_up(); /* by a barrier, for which the child is registered anew */
}

static void fork_inside(void)
{
    struct reader other, visitor;
    start(&other);
    start(&visitor);
    tell(&other, 'e');
    tell(&visitor, 'v');
    enter();
    const struct outcome outcome = in_child(be_alone_after_fork);
    dprintf(STDERR_FILENO, "%s", outcome.said);
    require(outcome.status == 0);
    leave();
    tell(&other, 'l');
    tell(&visitor, 'l');
    slm_epoch_synchronize("test");
    end(&other);
    end(&visitor);
}

static void poll_once(void)
{
    enter();
    leave();
    slm_epoch_stamp();
    slm_epoch_poll();
}

/* Somebody may be at the list when another thread forks. */
static void fork_under_load(void)
{
    pthread_t thread;
    require(pthread_create(&thread, NULL, press, NULL) == 0);
    enter();
    leave();
    for (unsigned long i = 0; i < scaled(100); i++)
        require(in_child(poll_once).status == 0);
    store_relaxed(&enough, true);
    require(pthread_join(thread, NULL) == 0);
}

static void a_child_starts_with_its_one_thread(void **state)
{
    (void)state;
    assert_child_silent(fork_inside);
    assert_child_silent(fork_under_load);
}

/* -- without membarrier ---------------------------------------------------------------------------------------- */

static void never_had(void)
{
    refuse_call(SYS_membarrier, ENOSYS, 0);
    enter();
    leave();
    require(readers_fence());
    one_thread();
    nested();
    later_sections_do_not();
    visitors_hold_it_up();
}

static void taken_away(void)
{
    struct reader idle;
    start(&idle);
    tell(&idle, 'e');
    tell(&idle, 'l');
    slm_epoch_synchronize("test");
    require(barriers() == 1);
    take_membarrier_away();
    uint64_t stamp = slm_epoch_stamp();
    require(is_held_up(stamp)); /* nobody knows if the idle one is just entering */
    require(readers_fence());
    tell(&idle, 'e');
    poll_until_passed(stamp); /* entered after it had started */
    stamp = slm_epoch_stamp();
    require(is_held_up(stamp));
    tell(&idle, 'l');
    poll_until_passed(stamp);
    slm_epoch_synchronize("test");
    end(&idle);
    require(barriers() == 1);
}

static void membarrier_may_be_missing(void **state)
{
    (void)state;
    assert_child_silent(never_had);
    const struct outcome outcome = in_child(taken_away);
    assert_string_equal(outcome.said, NO_MORE_BARRIERS);
    assert_int_equal(outcome.status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread_alone),
        cmocka_unit_test(misuse_ends_the_process),
        cmocka_unit_test(sections_hold_grace_periods_up),
        cmocka_unit_test(barriers_are_few_under_any_load),
        cmocka_unit_test(handlers_may_come_at_any_moment),
        cmocka_unit_test(a_child_starts_with_its_one_thread),
        cmocka_unit_test(membarrier_may_be_missing),
    };
    return cmocka_run_group_tests(tests, start_unnamed, NULL);
}
