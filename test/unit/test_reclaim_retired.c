/* src/process/worker.h: who looks after what is retired: the worker, whatever it has been doing, or slow
 * paths where there is none. */
#include "worker.h"

#include "base/options.h"
#include "epochs.h"
#include "heap/deferred.h"
#include "process/lifecycle.h"
#include "process/worker.h"

static int begin(void **state)
{
    const int started = start_unnamed(state);
    slm_settings.purge_delay_ms = 50;
    slm_options.worker = 1;
    return started;
}

static void add_retired(struct slm_thread *thread, void *sums)
{
    slm_retire_count(thread, sums);
}

static bool nothing_retired(void)
{
    struct slm_retired_sums sums = {0, 0};
    slm_thread_list_foreach(add_retired, &sums);
    return sums.objects == 0 && load_relaxed(&slm_defer_queue_objects) == 0 &&
           slm_defer_queue_functions_waiting() == 0;
}

static _Atomic unsigned called;

/* In the library's own thread. */
static void note_call(struct slm_epoch_head *head)
{
    (void)head;
    require(slm_tls.helper);
    add_relaxed(&called, 1);
}

/* A second thread counts as a reader: it enters and leaves what it is told to. */
static _Atomic int wanted_depth, reached_depth;

static void set_depth(int depth)
{
    store_release(&wanted_depth, depth);
    while (load_acquire(&reached_depth) != depth)
        sleep_ms(1);
}

static void *be_reader(void *nothing)
{
    void *volatile object = malloc(100);
    enter();
    leave();
    for (int depth = 0, wanted; !load_acquire(&may_end); sleep_ms(1)) {
        for (; depth != (wanted = load_acquire(&wanted_depth)); depth += wanted > depth ? 1 : -1)
            wanted > depth ? enter() : leave();
        store_release(&reached_depth, depth);
    }
    slm_defer(object, NULL);
    return nothing;
}

static void start_reader(void)
{
    store_relaxed(&may_end, false);
    store_relaxed(&wanted_depth, 0);
    require(pthread_create(&second, NULL, be_reader, NULL) == 0);
    wait_until(worker_there);
    while (slm_epoch_nobody_reads())
        sleep_ms(1);
}

static void retire_each(void)
{
    static struct slm_epoch_head head;
    void *volatile small = malloc(200), *volatile large = malloc(MIB);
    slm_defer(small, NULL);
    wait_until(nothing_retired);
    slm_defer(large, NULL);
    wait_until(nothing_retired);
    const unsigned before = load_relaxed(&called);
    slm_deferred_call(&head, note_call);
    wait_until(nothing_retired); /* nobody else does anything meanwhile */
    require(load_relaxed(&called) == before + 1);
}

/* Whatever it has been doing: before it sleeps, when it does, and after it was woken. */
static void let_the_worker_free(void)
{
    long worker;
    start_reader();
    retire_each();
    count_tasks(&worker);
    wait_until_asleep(worker);
    retire_each();
    end_second();
    wait_until(nothing_retired);
    wait_until(worker_gone);
}

static void the_worker_frees_what_is_retired(void **state)
{
    (void)state;
    assert_child_silent(let_the_worker_free);
}

/* A section keeps it at work; when there is nothing any more, it sleeps as before. */
static void let_it_wait_and_sleep(void)
{
    long worker;
    start_reader();
    set_depth(2);
    void *volatile small = malloc(200);
    slm_defer(small, NULL);
    sleep_ms(3000 / CLOCK_SPEED); /* longer than it looks around where nothing waits */
    require(!nothing_retired());
    set_depth(0);
    wait_until(nothing_retired);
    count_tasks(&worker);
    wait_until_asleep(worker);
    end_second();
    wait_until(worker_gone);
}

static void the_worker_sleeps_when_nothing_waits(void **state)
{
    (void)state;
    assert_child_silent(let_it_wait_and_sleep);
}

/* The last of the other threads has retired something at its end, and is gone. */
static void leave_it_with_one_thread(void)
{
    start_reader();
    enter();
    end_second();
    sleep_ms(100);
    require(!nothing_retired());
    leave();
    wait_until(nothing_retired);
    wait_until(worker_gone);
}

static void the_worker_stays_until_the_last_is_free(void **state)
{
    (void)state;
    assert_child_silent(leave_it_with_one_thread);
}

/* The program's code in the worker waits for a thread that is no more: nobody waits for the worker's end then. */
static _Atomic bool joined;
static pthread_key_t late_key;

static void wait_until_joined(void *nothing)
{
    (void)nothing;
    while (!load_acquire(&joined))
        sleep_ms(1);
}

static void call_and_wait(struct slm_epoch_head *head)
{
    (void)head;
    add_relaxed(&called, 1);
    wait_until_joined(NULL);
}

static void call_and_leave_value(struct slm_epoch_head *head)
{
    (void)head;
    require(pthread_setspecific(late_key, &late_key) == 0); /* whose destructor waits */
    add_relaxed(&called, 1);
}

static void *have_it_called(void *function)
{
    static struct slm_epoch_head head;
    const unsigned before = load_relaxed(&called);
    wait_until(worker_there);
    slm_deferred_call(&head, (void (*)(struct slm_epoch_head *))(uintptr_t)function);
    while (load_relaxed(&called) == before)
        sleep_ms(1);
    return NULL;
}

static void join_before_it_ends(void (*function)(struct slm_epoch_head *head))
{
    store_relaxed(&joined, false);
    require(pthread_create(&second, NULL, have_it_called, (void *)(uintptr_t)function) == 0);
    require(pthread_join(second, NULL) == 0); /* hangs if not */
    store_release(&joined, true);
    wait_until(worker_gone);
}

static void nobody_waits_for_the_program_s_functions(void **state)
{
    (void)state;
    void *volatile kept = malloc(1); /* this thread counts */
    assert_int_equal(pthread_key_create(&late_key, wait_until_joined), 0);
    join_before_it_ends(call_and_wait);
    join_before_it_ends(call_and_leave_value);
    free(kept);
}

/* Without a reader inside, the last thread's end is not the time for delays: all is freed, and the worker gone. */
static void *retire_some(void *nothing)
{
    enter();
    leave();
    for (unsigned i = 0; i < 10; i++)
        slm_defer(malloc(200), NULL);
    return nothing;
}

static void leave_it_little(void)
{
    slm_settings.deferred_max_delay_ms = FAR_OFF_MS / CLOCK_SPEED;
    void *volatile mine = malloc(200);
    start_reader();
    slm_defer(mine, NULL);
    pthread_t third;
    require(pthread_create(&third, NULL, retire_some, NULL) == 0 && pthread_join(third, NULL) == 0);
    require(worker_there());
    end_second();
    require(worker_gone() && nothing_retired());
}

static void the_worker_frees_all_before_it_goes(void **state)
{
    (void)state;
    assert_child_silent(leave_it_little);
}

static void defer_without_a_worker(void)
{
    slm_options.worker = 0;
    store_relaxed(&may_end, false);
    require(pthread_create(&second, NULL, be_reader, NULL) == 0);
    while (slm_epoch_nobody_reads())
        sleep_ms(1);
    void *volatile object = malloc(200);
    slm_defer(object, NULL);
    struct slm_thread *thread = slm_thread_enter(true);
    for (; !nothing_retired(); sleep_ms(1))
        slm_worker_tick(thread); /* slow paths do it */
    slm_thread_leave(thread);
    end_second();
}

static void without_a_worker_slow_paths_free_what_is_retired(void **state)
{
    (void)state;
    assert_child_silent(defer_without_a_worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_worker_slow_paths_free_what_is_retired),
        cmocka_unit_test(the_worker_frees_what_is_retired),
        cmocka_unit_test(the_worker_sleeps_when_nothing_waits),
        cmocka_unit_test(the_worker_stays_until_the_last_is_free),
        cmocka_unit_test(the_worker_frees_all_before_it_goes),
        cmocka_unit_test(nobody_waits_for_the_program_s_functions),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
