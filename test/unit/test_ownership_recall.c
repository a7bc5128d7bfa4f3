/* src/thread/ownership.h: recalls, which need no barrier, and the calling thread's own block. */
#include "unit.h"

#include <linux/futex.h>

#include "os/sys.h"
#include "taking.h"

/* -- recalls ----------------------------------------------------------------------------------------------------- */

static void a_recall_is_attended_to_at_the_next_slow_path(void **state)
{
    (void)state;
    struct helper other;
    start_live_helper(&other);
    tell(&helper, ask_reserve, NULL);
    tell(&helper, hoard, NULL);
    const uint32_t first = slm_take_recall(), second = slm_take_recall();
    assert_true(second > first);
    assert_true(slm_take_recalled() < first);
    assert_true(rounds_of(&helper) > 0);
    struct helper born_later;
    start_live_helper(&born_later); /* has nothing from before */
    tell(&helper, enter_slow_path, NULL);
    assert_true(slm_take_recalled() < first);
    tell(&helper, leave_slow_path, NULL);
    assert_int_equal(rounds_of(&helper), 0);
    assert_int_equal(slm_reserve_rounds(helper.tls->self, cache), 0);
    assert_true(slm_take_recalled() < first); /* the other has not passed */
    end_helper(&other);                       /* an end does as well */
    assert_int_equal(slm_take_recalled(), second);
    assert_int_equal(cache_out(cache), cache_stock(cache));
    end_helper(&born_later);
}

/* From here on this thread's sleeps in the library end at once, as they may: a destruction has patience for seconds.
 * Semaphores sleep by another call of futex(2). */
static void refuse_to_sleep(void)
{
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    refuse_argument(SYS_futex, 1, FUTEX_WAIT_PRIVATE, EAGAIN);
}

/* Whom a destruction could not reach: what it gives back late is enough for the cache to go. */
static bool asks;
static void destroy_what_one_cannot_attend_to(void)
{
    start_live_helper(&helper);
    refuse_to_sleep();
    name = named("brief", 128, &twenty);
    cache = cache_of(name);
    tell(&helper, hoard, NULL);
    tell(&helper, enter_slow_path, NULL);
    if (asks)
        tell(&helper, ask_reserve, NULL); /* a handler, in the middle of the slow path */
    require(slab_cache_destroy(name) == 0);
    require(slm_cache_name_some_leave());
    tell(&helper, leave_slow_path, NULL);
    require(slm_reserve_rounds(helper.tls->self, cache) == 0);
    require(cache_out(cache) == 0);
    for (unsigned node = 0; node < slm_nodes; node++)
        slm_depot_trim(slm_cache_depot(cache, node), true); /* as housekeeping does in time */
    slm_cache_lock();
    slm_cache_name_sweep(slm_take_recalled());
    slm_cache_unlock();
    require(!slm_cache_name_some_leave());
    end_helper(&helper);
}

static void a_destroyed_cache_goes_when_the_last_has_attended(void **state)
{
    (void)state;
    assert_child_silent(destroy_what_one_cannot_attend_to);
}

static void a_wish_for_a_destroyed_cache_is_void(void **state)
{
    (void)state;
    asks = true;
    assert_child_silent(destroy_what_one_cannot_attend_to);
}

/* -- the calling thread's own block ------------------------------------------------------------------------------ */

static void a_hidden_block_is_nobody_else_s(void **state)
{
    (void)state;
    struct slm_thread *self = slm_tls.self;
    assert_ptr_equal(slm_thread_hide(), self);
    assert_int_equal(slm_tls.busy, 1);
    assert_ptr_equal(slm_tls.hot, slm_nothing);
    assert_null(slm_thread_enter(true)); /* neither a handler's nor a slow path's of its own */
    void *volatile object = malloc(100);
    assert_non_null(object);
    free(object);
    assert_ptr_equal(slm_tls.hot, slm_nothing);
    slm_thread_unhide(self);
    assert_ptr_equal(slm_tls.hot, self);
    assert_int_equal(slm_tls.busy, 0);
}

static void *hide_unborn(void *nothing)
{
    require(slm_tls.state == SLM_THREAD_NONE);
    require(!slm_thread_hide() && load_relaxed(&slm_tls.busy) == 1 && !slm_tls.self); /* that is no birth */
    slm_thread_unhide(NULL);
    require(load_relaxed(&slm_tls.busy) == 0 && slm_tls.hot == slm_nothing);
    return nothing;
}

static void a_thread_without_a_block_hides_too(void **state)
{
    (void)state;
    on_threads(1, hide_unborn);
    assert_int_equal(slm_thread_list_count(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_recall_is_attended_to_at_the_next_slow_path, begin_with_helper,
                                        end_with_helper),
        cmocka_unit_test(a_destroyed_cache_goes_when_the_last_has_attended),
        cmocka_unit_test(a_wish_for_a_destroyed_cache_is_void),
        cmocka_unit_test(a_hidden_block_is_nobody_else_s),
        cmocka_unit_test(a_thread_without_a_block_hides_too),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
