/* src/sync/fork.h: a child notices that it is one, whatever made it, at its first slow path. */
#include "unit.h"

#include <sys/syscall.h>

enum { THREADS = 8 };

static _Atomic unsigned children; /* called */
static uint32_t before;

static void count_child(void)
{
    add_relaxed(&children, 1);
    sleep_ms(5); /* others come by meanwhile */
}

/* Run in a child of a child: the first has put our function in place. */
static void with_own_function(void (*run)(void))
{
    slm_fork_start(count_child);
    before = slm_fork_generation;
    const struct outcome outcome = in_child(run);
    dprintf(STDERR_FILENO, "%s", outcome.said);
    require(outcome.status == 0);
    require(slm_fork_generation == before && load_relaxed(&children) == 0); /* nothing happens to the parent */
    slm_fork_check();
    require(slm_fork_generation == before && load_relaxed(&children) == 0);
}

static void look_again(void)
{
    require(slm_fork_generation == before + 1 && load_relaxed(&children) == 1); /* be_child has looked */
    for (unsigned i = 0; i < 3; i++)
        slm_fork_check();
    require(slm_fork_generation == before + 1 && load_relaxed(&children) == 1);
}

static void fork_once(void)
{
    with_own_function(look_again);
}

static void a_child_notices_once(void **state)
{
    (void)state;
    assert_child_silent(fork_once);
}

static void be_parent(void)
{
    before = slm_fork_generation;
    store_relaxed(&children, 0);
    require(in_child(look_again).status == 0);
}

static void fork_twice(void)
{
    with_own_function(be_parent);
}

static void a_grandchild_notices_too(void **state)
{
    (void)state;
    assert_child_silent(fork_twice);
}

static void *check(void *nothing)
{
    slm_fork_check();
    require(slm_fork_generation == before + 1 && load_relaxed(&children) == 1); /* and it is done */
    return nothing;
}

/* A bare clone(), whose child then has several threads before the first of them looks. */
static void clone_and_look_together(void)
{
    slm_fork_start(count_child);
    before = slm_fork_generation;
    const long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    int how = 0;
    if (child == 0) {
        on_threads(THREADS, check);
        require(slm_fork_generation == before + 1);
        _exit(0);
    }
    require(waitpid((pid_t)child, &how, 0) == child && how == 0);
}

static void one_of_many_threads_counts(void **state)
{
    (void)state;
    assert_child_silent(clone_and_look_together);
}

static void allocations_notice(void **state)
{
    (void)state;
    const uint32_t generation = slm_fork_generation;
    int how = 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        void *volatile object;
        for (unsigned i = 0; i < 1000 && slm_fork_generation == generation; i++)
            object = malloc(1000); /* some of them miss the magazine */
        (void)object;
        _exit(slm_fork_generation == generation + 1 ? 0 : CHILD_FAILED);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    assert_int_equal(slm_fork_generation, generation);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_notices_once),
        cmocka_unit_test(a_grandchild_notices_too),
        cmocka_unit_test(one_of_many_threads_counts),
        cmocka_unit_test(allocations_notice),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
