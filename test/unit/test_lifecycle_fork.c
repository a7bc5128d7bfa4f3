/* src/process/lifecycle.h: children of fork. */
#include "unit.h"
#include "heap_check.h"

#include <sys/time.h>

#include "process/lifecycle.h"
#include "thread/thread_list.h"

static char *inherited[500];

static void live_on(void)
{
    require(slm_thread_list_count() == 1);
    require(slm_tls.state == SLM_THREAD_LIVE && slm_tls.self);
    for (size_t i = 0; i < COUNT(inherited); i++) {
        require(inherited[i][0] == (char)i);
        free(inherited[i]);
    }
    on_threads(4, live_briefly);
    for (size_t i = 0; i < COUNT(inherited); i++)
        require((inherited[i] = malloc(i * 100)) != NULL);
    require(slm_thread_list_count() == 1);
    check_heap();
    require(in_child(check_heap).status == 0);
}

static _Atomic bool enough;

static void *allocate_all_the_time(void *nothing)
{
    void *volatile object;
    while (!load_relaxed(&enough))
        for (size_t n = 0; n < 100000; n += 777) {
            object = malloc(n);
            free(object);
        }
    return nothing;
}

/* What other threads are in the middle of must not matter. */
static void children_of_a_busy_process_live_on(void **state)
{
    (void)state;
    pthread_t busy[2];
    for (size_t i = 0; i < COUNT(inherited); i++) {
        inherited[i] = malloc(1 + i * 100);
        inherited[i][0] = (char)i;
    }
    for (size_t i = 0; i < COUNT(busy); i++)
        assert_int_equal(pthread_create(&busy[i], NULL, allocate_all_the_time, NULL), 0);
    for (unsigned long i = 0; i < scaled(30); i++) {
        const struct outcome outcome = in_child(live_on);
        if (outcome.status != 0)
            fail_msg("fork %lu: status %d, signal %d: %s", i, outcome.status, outcome.signal, outcome.said);
    }
    store_relaxed(&enough, true);
    for (size_t i = 0; i < COUNT(busy); i++)
        pthread_join(busy[i], NULL);
    for (size_t i = 0; i < COUNT(inherited); i++)
        free(inherited[i]);
}

enum { HERE = 1 }; /* no child's number */

static volatile sig_atomic_t forked; /* the child's number in the parent, HERE in the child itself; -1: refused */

static void fork_in_handler(int signal_number)
{
    (void)signal_number;
    const int kept = errno;
    forked = _Fork();
    if (forked == 0) {
        signal(SIGALRM, SIG_DFL);
        alarm(CHILD_SECONDS);
        forked = HERE;
    }
    errno = kept;
}

static void allocate_and_free(unsigned turns)
{
    static uint64_t seed;
    void *objects[32] = {NULL};
    for (unsigned i = 0; i < turns; i++) {
        void **object = &objects[random_below(&seed, COUNT(objects))];
        free(*object);
        *object = malloc(random_below(&seed, i % 2 ? 200000 : 20000));
        require(*object != NULL);
    }
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
}

/* The timer's signal comes somewhere in malloc or free; the child returns from the handler and goes on there. */
static int fork_in_the_middle(long microseconds)
{
    const struct itimerval soon = {.it_value = {0, microseconds}};
    int how = 0;
    forked = 0;
    setitimer(ITIMER_REAL, &soon, NULL);
    while (forked == 0)
        allocate_and_free(20);
    if (forked == HERE) {
        allocate_and_free(1000);
        _exit(0);
    }
    require(waitpid(forked, &how, 0) == forked);
    return how;
}

static void a_handler_may_fork_in_the_middle_of_malloc(void **state)
{
    (void)state;
    pthread_t busy[2];
    int how = 0;
    store_relaxed(&enough, false);
    signal(SIGALRM, fork_in_handler);
    fflush(NULL);
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarms, NULL); /* the signal is for this thread, not for the busy ones */
    for (size_t i = 0; i < COUNT(busy); i++)
        assert_int_equal(pthread_create(&busy[i], NULL, allocate_all_the_time, NULL), 0);
    pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
    for (unsigned long i = 0; i < scaled(60) && how == 0; i++)
        how = fork_in_the_middle(50 + (long)(i * 37 % 2000));
    store_relaxed(&enough, true);
    for (size_t i = 0; i < COUNT(busy); i++)
        pthread_join(busy[i], NULL);
    signal(SIGALRM, SIG_DFL);
    assert_int_equal(how, 0); /* SIGALRM, 14: it hung */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(children_of_a_busy_process_live_on),
        cmocka_unit_test(a_handler_may_fork_in_the_middle_of_malloc),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
