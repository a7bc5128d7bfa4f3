/* src/heap/deferred.h, with several at once: a pass at any instruction of slm_defer, and threads that retire while
 * others make passes, polls and barriers. Nothing is lost, and nothing comes free twice: a slab would see that. */
#include "retiring.h"

#include <sched.h>

#include "trap.h"

static struct helper passer;
static _Atomic bool passed;
static void *next_object;

static void pass_over_all(void *nothing)
{
    bool open;
    (void)nothing;
    struct slm_thread *self = slm_thread_hide();
    slm_retire_pass(self, true, &open);
    slm_thread_unhide(self);
    store_release(&passed, true);
}

/* It may need a lock of the interrupted call's: then it goes on behind that. */
static void have_it_pass(void)
{
    store_relaxed(&passed, false);
    begin_task(&passer, pass_over_all, NULL);
    const uint64_t start = slm_sys_now_us();
    while (!load_acquire(&passed) && slm_sys_now_us() < start + 500)
        sched_yield();
}

static void defer_next(void)
{
    slm_defer(next_object, NULL);
}

/* Each object is in a magazine or on the queue behind each call, and comes free once: a slab would see more. */
static unsigned long interrupt_retiring(unsigned before, unsigned sparse_from)
{
    unsigned long at = 1;
    begin_tracing();
    for (bool some = true; some; at += at < sparse_from ? 1 : 1 + at / 30) {
        begin_reading();
        defer_some(before);
        next_object = object_of_cache();
        const uint64_t held = waiting();
        some = interrupt_at(at, defer_next, have_it_pass);
        if (some)
            await(&passer);
        require(waiting() == held + 1);
        slm_defer_queue_check();
        end_reading();
        slm_deferred_free_all(UINT_MAX);
        require(waiting() == 0);
    }
    return at;
}

static void a_pass_may_come_at_any_instruction_of_retiring(void **state)
{
    (void)state;
    start_live_helper(&passer);
    interrupt_retiring(1, UINT_MAX); /* its magazine is open: the hot path, whole */
    const unsigned long slow = interrupt_retiring(0, (unsigned)scaled(100));
    end_tracing(slow);
    end_helper(&passer);
}

static _Atomic bool enough;
static _Atomic uint64_t retired;

static void retire_all_the_time(void *nothing)
{
    (void)nothing;
    while (!load_relaxed(&enough)) {
        void *object = object_of_cache();
        memset(object, 0x5a, SIZE);
        slm_defer(object, (uintptr_t)object / SIZE % 2 ? head_in(object) : NULL);
        add_relaxed(&retired, 1);
    }
}

static void threads_retire_while_others_pass(void **state)
{
    (void)state;
    struct helper threads[3];
    store_relaxed(&enough, false);
    for (size_t i = 0; i < COUNT(threads); i++) {
        start_live_helper(&threads[i]);
        begin_task(&threads[i], retire_all_the_time, NULL);
    }
    for (unsigned turn = 0; turn < scaled(200) || load_relaxed(&retired) < scaled(20000); turn++) {
        pass_over_all(NULL);
        slm_deferred_poll();
        slm_defer_queue_check();
        if (turn % 8 == 0)
            slm_deferred_barrier();
        slm_options.refuse_blocks = turn % 4 == 0;
    }
    slm_options.refuse_blocks = 0;
    store_relaxed(&enough, true);
    for (size_t i = 0; i < COUNT(threads); i++) {
        await(&threads[i]);
        end_helper(&threads[i]);
    }
}

#define race_test(name) cmocka_unit_test_setup_teardown(name, fresh_cache, all_is_free)

int main(void)
{
    const struct CMUnitTest tests[] = {
        race_test(a_pass_may_come_at_any_instruction_of_retiring),
        race_test(threads_retire_while_others_pass),
    };
    return cmocka_run_group_tests(tests, begin_retiring, NULL);
}
