/* Births of threads: what they are given, what they return, how they end, and what a creation that fails leaves.
 *
 * Written in: pthread_create(3) and pthread_create(3p) (errors, attributes, "the stack is the caller's"),
 * thrd_create(3) (C11: an int is returned), pthread_exit(3), pthread_cancel(3) (a request stays pending until the
 * thread comes to a cancellation point), pthread_getattr_np(3), ld.so(8) (a preloaded library may stand in front of
 * libc's calls, and finds the next one by dlsym(3) with RTLD_NEXT), posix_spawn(3). */
#include "common.h"

#include <sched.h>
#include <spawn.h>
#include <sys/mman.h>
#include <threads.h>

extern char **environ;

/* -- results ----------------------------------------------------------------------------------------------------- */

static void *return_argument(void *argument)
{
    return argument;
}

static void *exit_with_argument(void *argument)
{
    void *block = malloc(100);
    free(block);
    pthread_exit(argument);
}

static int return_int(void *value)
{
    return *(int *)value;
}

static int exit_with_int(void *value)
{
    free(malloc(100));
    thrd_exit(*(int *)value);
}

static void test_results(void **state)
{
    (void)state;
    void *(*const runs[])(void *) = {return_argument, exit_with_argument};
    int (*const c11_runs[])(void *) = {return_int, exit_with_int};
    static int values[] = {0, 1, -1, INT_MIN, INT_MAX};
    for (size_t i = 0; i < 2 * COUNT(values); i++) {
        pthread_t thread;
        thrd_t c11;
        void *result;
        int number;
        int *const value = &values[i / 2];
        assert_int_equal(pthread_create(&thread, NULL, runs[i % 2], value), 0);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, value);
        assert_int_equal(thrd_create(&c11, c11_runs[i % 2], value), thrd_success);
        assert_int_equal(thrd_join(c11, &number), thrd_success);
        assert_int_equal(number, *value);
    }
}

/* -- creations that fail ----------------------------------------------------------------------------------------- */

static void *never(void *unused)
{
    (void)unused;
    require(!"a thread that was not made");
    return NULL;
}

/* One that libc refuses before it makes the thread, and one that ends a thread that has been made. */
static void fail_often(void *unused)
{
    (void)unused;
    pthread_attr_t too_large, nowhere;
    pthread_t thread;
    cpu_set_t no_cpu;
    CPU_ZERO(&no_cpu);
    CPU_SET(CPU_SETSIZE - 1, &no_cpu);
    require(pthread_attr_init(&too_large) == 0 && pthread_attr_setstacksize(&too_large, (size_t)1 << 46) == 0);
    require(pthread_attr_init(&nowhere) == 0 && pthread_attr_setaffinity_np(&nowhere, sizeof no_cpu, &no_cpu) == 0);
    for (unsigned i = 0; i < scaled(1000); i++) {
        require(pthread_create(&thread, &too_large, never, NULL) == EAGAIN);
        require(pthread_create(&thread, &nowhere, never, NULL) == EINVAL);
    }
    pthread_attr_destroy(&too_large);
    pthread_attr_destroy(&nowhere);
}

static void role_failures(const char *argument)
{
    (void)argument;
    do_without_huge_pages();
    fail_often(NULL);
    const size_t used = in_use();
    require_no_growth(fail_often, NULL, 100);
    require(in_use() < used + 8 * KIB); /* what is leaked for each shows */
}

static void test_failures_leave_nothing(void **state)
{
    (void)state;
    assert_role_succeeds("failures", NULL);
}

/* -- ends at the very beginning ---------------------------------------------------------------------------------- */

static void *come_to_a_cancellation_point(void *unused)
{
    pthread_testcancel();
    return unused;
}

static void *ask_for_cancellation_at_once(void *unused)
{
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    while (opaque(unused) == NULL)
        continue;
    return unused;
}

static void cancel_often(void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < scaled(500); i++) {
        pthread_t thread;
        void *result;
        const bool at_once = i % 2;
        require(pthread_create(&thread, NULL, at_once ? ask_for_cancellation_at_once : come_to_a_cancellation_point,
                               NULL) == 0);
        require(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
        require(result == PTHREAD_CANCELED || (!at_once && result == NULL));
    }
}

static void role_cancelled(const char *argument)
{
    (void)argument;
    do_without_huge_pages();
    cancel_often(NULL);
    const size_t used = in_use();
    require_no_growth(cancel_often, NULL, 100);
    require(in_use() < used + 8 * KIB); /* what is leaked for each shows */
}

static void test_cancelled_before_they_have_begun(void **state)
{
    (void)state;
    assert_role_succeeds("cancelled", NULL);
}

static volatile sig_atomic_t handled;

static void end_in_handler(int signal_number)
{
    (void)signal_number;
    handled++;
    pthread_exit(NULL);
}

/* The signal is pending when the thread is born, which inherits the mask: it is delivered to a thread that unblocks
 * it, not before the function has begun. */
static void *unblock_and_end(void *unused)
{
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    pause();
    return unused;
}

static void role_signalled(const char *argument)
{
    (void)argument;
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    signal(SIGUSR1, end_in_handler);
    require(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0);
    for (int i = 1; i <= 200; i++) {
        pthread_t thread;
        require(pthread_create(&thread, NULL, unblock_and_end, NULL) == 0);
        require(pthread_kill(thread, SIGUSR1) == 0 && pthread_join(thread, NULL) == 0);
        require(handled == i);
    }
}

static void test_ended_by_a_signal_that_is_pending(void **state)
{
    (void)state;
    assert_role_succeeds("signalled", NULL);
}

/* -- attributes -------------------------------------------------------------------------------------------------- */

struct place {
    char *lowest;
    size_t size;
};

/* The whole of the stack is the function's, but for little. */
static void *look_at_stack(void *place)
{
    const struct place *expected = place;
    pthread_attr_t attributes;
    void *lowest;
    size_t size;
    char here;
    require(pthread_getattr_np(pthread_self(), &attributes) == 0);
    require(pthread_attr_getstack(&attributes, &lowest, &size) == 0);
    pthread_attr_destroy(&attributes);
    require((char *)lowest == expected->lowest && size == expected->size);
    require(&here > expected->lowest && &here < expected->lowest + expected->size);
    require((size_t)(expected->lowest + expected->size - (char *)opaque(&here)) < 8 * KIB);
    return NULL;
}

static void test_the_stack_is_the_callers(void **state)
{
    (void)state;
    pthread_attr_t attributes;
    pthread_t thread;
    struct place place = {.size = (size_t)PTHREAD_STACK_MIN};
    place.lowest = mmap(NULL, place.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(place.lowest != MAP_FAILED);
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstack(&attributes, place.lowest, place.size), 0);
    assert_int_equal(pthread_create(&thread, &attributes, look_at_stack, &place), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attributes);
    munmap(place.lowest, place.size);
}

static void *tell_detach_state(void *unused)
{
    pthread_attr_t attributes;
    int detached;
    (void)unused;
    require(pthread_getattr_np(pthread_self(), &attributes) == 0);
    require(pthread_attr_getdetachstate(&attributes, &detached) == 0);
    pthread_attr_destroy(&attributes);
    return (void *)(intptr_t)detached;
}

static int seen_detached; /* atomic */

static void *note_detached(void *unused)
{
    __atomic_store_n(&seen_detached, tell_detach_state(unused) == (void *)PTHREAD_CREATE_DETACHED ? 1 : -1,
                     __ATOMIC_SEQ_CST);
    return NULL;
}

static void test_detached_or_not(void **state)
{
    (void)state;
    pthread_attr_t attributes;
    pthread_t thread;
    void *detached;
    assert_int_equal(pthread_create(&thread, NULL, tell_detach_state, NULL), 0);
    assert_int_equal(pthread_join(thread, &detached), 0);
    assert_ptr_equal(detached, (void *)PTHREAD_CREATE_JOINABLE);
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED), 0);
    assert_int_equal(pthread_create(&thread, &attributes, note_detached, NULL), 0);
    while (__atomic_load_n(&seen_detached, __ATOMIC_SEQ_CST) == 0)
        sleep_ms(1);
    assert_int_equal(seen_detached, 1);
    pthread_attr_destroy(&attributes);
}

/* -- others in front and behind ---------------------------------------------------------------------------------- */

static void *churn_in_thread(void *seed)
{
    churn((uintptr_t)seed, 500);
    return seed;
}

static void role_wrapped(const char *argument)
{
    unsigned (*wrapped)(void);
    pthread_t threads[8];
    *(void **)&wrapped = dlsym(RTLD_DEFAULT, "wrapped_creations");
    require(wrapped != NULL && strstr(provider_of("pthread_create"), argument) != NULL);
    const unsigned before = wrapped();
    for (uintptr_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, churn_in_thread, (void *)(i + 1)) == 0);
    for (uintptr_t i = 0; i < COUNT(threads); i++) {
        void *result;
        require(pthread_join(threads[i], &result) == 0 && result == (void *)(i + 1));
    }
    require(wrapped() >= before + COUNT(threads)); /* the library may make threads too */
}

static void check_wrapped(const char *first, const char *second)
{
    char setting[2 * PATH_MAX];
    snprintf(setting, sizeof setting, "LD_PRELOAD=%s:%s", first, second);
    assert_role_succeeds("wrapped", &(struct launch){.argument = first, .environment = {setting}});
}

static void test_wrapped_by_others(void **state)
{
    (void)state;
    char wrapper[PATH_MAX];
    sibling("libwrapper.so", wrapper, sizeof wrapper);
    check_wrapped(wrapper, "");
    if (!on_glibc())
        check_wrapped(provider_of("malloc"), wrapper);
}

/* -- from threads: other processes ------------------------------------------------------------------------------- */

static void *spawn_and_vfork(void *unused)
{
    char *const words[] = {"/proc/self/exe", "noop", NULL};
    for (unsigned i = 0; i < 10; i++) {
        pid_t child;
        int status;
        require(posix_spawn(&child, "/proc/self/exe", NULL, NULL, words, environ) == 0);
        require(waitpid(child, &status, 0) == child && ended_well(status));
        child = vfork();
        if (child == 0)
            _exit(7);
        require(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
        free(opaque(malloc(100 * i)));
    }
    return unused;
}

static void role_spawners(const char *argument)
{
    (void)argument;
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, spawn_and_vfork, NULL) == 0);
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
}

static void test_threads_start_programs(void **state)
{
    (void)state;
    assert_role_succeeds("spawners", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"failures", role_failures}, {"cancelled", role_cancelled}, {"signalled", role_signalled},
        {"wrapped", role_wrapped},   {"spawners", role_spawners},   {"noop", role_noop},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_failures_leave_nothing),
        cmocka_unit_test(test_cancelled_before_they_have_begun),
        cmocka_unit_test(test_ended_by_a_signal_that_is_pending),
        cmocka_unit_test(test_the_stack_is_the_callers),
        cmocka_unit_test(test_detached_or_not),
        cmocka_unit_test(test_wrapped_by_others),
        cmocka_unit_test(test_threads_start_programs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
