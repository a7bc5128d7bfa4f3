/* src/sync/lock.h: mutual exclusion, locks of threads that a fork left behind, the order of ranks. */
#include "unit.h"

#include "sync/lock.h"

enum { THREADS = 8, TURNS = 20000 };

static struct slm_lock lock = {.rank = SLM_RANK_DEPOT};
static struct slm_lock lower = {.rank = SLM_RANK_START}, higher = {.rank = SLM_RANK_SPANS};

static void a_free_lock_is_had_and_given_back(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        assert_false(slm_lock_acquire(&lock));
        assert_int_equal(load_relaxed(&lock.word), slm_fork_generation << 2 | SLM_LOCK_HELD);
        slm_lock_release(&lock);
        assert_int_equal(load_relaxed(&lock.word), 0);
    }
}

static pthread_barrier_t steps; /* no thread is made, nor memory had, while the lock is held */

static void *try_held(void *nothing)
{
    pthread_barrier_wait(&steps);
    const uint64_t contended = load_relaxed(&lock.contended);
    require(!slm_lock_try(&lock));
    require(load_relaxed(&lock.contended) == contended); /* nobody waited */
    slm_lock_acquire(&lower);                            /* a try that failed is no rank held */
    slm_lock_release(&lower);
    pthread_barrier_wait(&steps);
    return nothing;
}

static void a_try_does_not_wait(void **state)
{
    (void)state;
    pthread_t thread;
    pthread_barrier_init(&steps, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, try_held, NULL), 0);
    assert_true(slm_lock_try(&lock));
    assert_int_equal(load_relaxed(&lock.word), slm_fork_generation << 2 | SLM_LOCK_HELD);
    pthread_barrier_wait(&steps);
    pthread_barrier_wait(&steps);
    slm_lock_release(&lock);
    assert_true(slm_lock_try(&lock));
    slm_lock_release(&lock);
    assert_int_equal(load_relaxed(&lock.word), 0);
    pthread_join(thread, NULL);
}

static uint64_t plain_count; /* guarded by the lock */

static void *count_under_lock(void *number)
{
    for (unsigned turn = 0; turn < TURNS; turn++) {
        require(!slm_lock_acquire(&lock));
        const uint64_t before = plain_count;
        if (turn % 1024 == (uintptr_t)number)
            sched_yield(); /* others run into it and sleep */
        plain_count = before + 1;
        slm_lock_release(&lock);
    }
    return NULL;
}

static void one_thread_at_a_time(void **state)
{
    (void)state;
    on_threads(THREADS, count_under_lock);
    assert_int_equal(plain_count, THREADS * TURNS);
    assert_int_equal(load_relaxed(&lock.word), 0);
}

static void try_what_the_dead_held(void)
{
    require(slm_lock_try(&lock)); /* who tries can bear it torn, and is not told */
    require(load_relaxed(&lock.word) == (slm_fork_generation << 2 | SLM_LOCK_HELD));
    require(!slm_lock_try(&lock));
    slm_lock_release(&lock);
    require(!slm_lock_acquire(&lock));
    slm_lock_release(&lock);
}

static void a_child_can_try_what_the_dead_held(void **state)
{
    (void)state;
    slm_lock_acquire(&lock);
    const struct outcome outcome = in_child(try_what_the_dead_held);
    slm_lock_release(&lock);
    if (outcome.status != 0)
        fail_msg("%s", outcome.said);
}

static void *try_and_count(void *number)
{
    for (unsigned turn = 0; turn < TURNS; turn++) {
        while (!slm_lock_try(&lock))
            sched_yield();
        const uint64_t before = plain_count;
        if (turn % 1024 == (uintptr_t)number)
            sched_yield();
        plain_count = before + 1;
        slm_lock_release(&lock);
    }
    return NULL;
}

static void one_thread_at_a_time_by_trying(void **state)
{
    (void)state;
    plain_count = 0;
    on_threads(2, try_and_count);
    assert_int_equal(plain_count, 2 * TURNS);
}

static void *wait_for_lock(void *nothing)
{
    require(!slm_lock_acquire(&lock));
    slm_lock_release(&lock);
    return nothing;
}

static void sleepers_are_woken_one_after_the_other(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    const uint64_t contended = load_relaxed(&lock.contended), acquired = load_relaxed(&lock.acquired);
    slm_lock_acquire(&lock);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_for_lock, NULL), 0);
    while (load_relaxed(&lock.contended) < contended + THREADS || !(load_relaxed(&lock.word) & SLM_LOCK_SLEPT_ON))
        sleep_ms(1);
    sleep_ms(10); /* most of them sleep by now */
    slm_lock_release(&lock);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0); /* hangs if not */
    assert_int_equal(load_relaxed(&lock.contended), contended + THREADS);
    assert_int_equal(load_relaxed(&lock.acquired), acquired + 1 + THREADS);
    assert_int_equal(load_relaxed(&lock.word), 0);
}

static void take_what_the_dead_held(void)
{
    require(slm_lock_acquire(&lock));
    slm_lock_release(&lock);
    require(!slm_lock_acquire(&lock)); /* that was said once */
    slm_lock_release(&lock);
    require(load_relaxed(&lock.word) == 0);
}

static void a_child_is_told_that_the_holder_is_gone(void **state)
{
    (void)state;
    slm_lock_acquire(&lock);
    const struct outcome outcome = in_child(take_what_the_dead_held);
    slm_lock_release(&lock);
    assert_int_equal(outcome.status, 0);
}

static _Atomic bool may_release;

static void *hold(void *held)
{
    slm_lock_acquire(&lock);
    store_release((_Atomic bool *)held, true);
    while (!load_acquire(&may_release))
        sleep_ms(1);
    slm_lock_release(&lock);
    return NULL;
}

/* A signal handler may fork in the middle of a slow path: the child comes back into it, is past the look that every
 * slow path begins with, and meets a lock that a lost thread held. It hangs until the alarm if it is not told. */
static void so_it_is_without_a_look_before(void **state)
{
    (void)state;
    static _Atomic bool held;
    pthread_t holder;
    int how = 0;
    fflush(NULL);
    assert_int_equal(pthread_create(&holder, NULL, hold, &held), 0);
    while (!load_acquire(&held))
        sleep_ms(1);
    const pid_t child = fork();
    if (child == 0) {
        alarm(CHILD_SECONDS);
        take_what_the_dead_held();
        _exit(0);
    }
    store_release(&may_release, true);
    pthread_join(holder, NULL);
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
}

static void so_it_is_when_somebody_slept_on_it(void **state)
{
    (void)state;
    store_relaxed(&lock.word, slm_fork_generation << 2 | SLM_LOCK_SLEPT_ON);
    const struct outcome outcome = in_child(take_what_the_dead_held);
    store_relaxed(&lock.word, 0);
    assert_int_equal(outcome.status, 0);
}

static void a_free_lock_survives_a_fork(void)
{
    require(!slm_lock_acquire(&lock));
    slm_lock_release(&lock);
}

static void free_locks_are_free_in_the_child(void **state)
{
    (void)state;
    assert_child_silent(a_free_lock_survives_a_fork);
}

static _Atomic unsigned told;

static void *count_the_told(void *number)
{
    for (unsigned turn = 0; turn < 100; turn++) {
        if (slm_lock_acquire(&lock))
            add_relaxed(&told, 1);
        if (number == NULL)
            sched_yield();
        slm_lock_release(&lock);
    }
    return NULL;
}

static void run_into_an_abandoned_lock(void)
{
    on_threads(THREADS, count_the_told);
    require(load_relaxed(&told) == 1);
    require(load_relaxed(&lock.word) == 0);
}

static void one_of_many_is_told(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        slm_lock_acquire(&lock);
        const struct outcome outcome = in_child(run_into_an_abandoned_lock);
        slm_lock_release(&lock);
        assert_int_equal(outcome.status, 0);
    }
}

static void take_in_order(void)
{
    slm_lock_acquire(&lock);
    slm_lock_acquire(&higher);
    slm_lock_release(&higher);
    slm_lock_acquire(&higher);
    slm_lock_release(&lock); /* in any order out */
    slm_lock_release(&higher);
    slm_lock_acquire(&lock);
    slm_lock_release(&lock);
}

static void take_lower(void)
{
    slm_lock_acquire(&higher);
    slm_lock_acquire(&lock);
}

static void take_equal(void)
{
    struct slm_lock equal = {.rank = SLM_RANK_SPANS};
    slm_lock_acquire(&equal);
    slm_lock_acquire(&higher);
}

static void try_lower(void)
{
    slm_lock_acquire(&higher);
    slm_lock_try(&lock);
}

static void forget_and_take_lower(void)
{
    slm_lock_acquire(&higher);
    slm_lock_rank_forget();
    slm_lock_acquire(&lock);
}

static void ranks_rise(void **state)
{
    (void)state;
    assert_child_silent(take_in_order);
    assert_child_aborts(take_lower, text("slabmalloc: lock(" POINTER "): taken out of rank", pointer_of(&lock)));
    assert_child_aborts(take_equal, text("slabmalloc: lock(" POINTER "): taken out of rank", pointer_of(&higher)));
    assert_child_aborts(try_lower, text("slabmalloc: lock(" POINTER "): taken out of rank", pointer_of(&lock)));
    assert_child_silent(forget_and_take_lower);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_free_lock_is_had_and_given_back),
        cmocka_unit_test(a_try_does_not_wait),
        cmocka_unit_test(one_thread_at_a_time),
        cmocka_unit_test(one_thread_at_a_time_by_trying),
        cmocka_unit_test(a_child_can_try_what_the_dead_held),
        cmocka_unit_test(sleepers_are_woken_one_after_the_other),
        cmocka_unit_test(a_child_is_told_that_the_holder_is_gone),
        cmocka_unit_test(so_it_is_without_a_look_before),
        cmocka_unit_test(so_it_is_when_somebody_slept_on_it),
        cmocka_unit_test(free_locks_are_free_in_the_child),
        cmocka_unit_test(one_of_many_is_told),
        cmocka_unit_test(ranks_rise),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
