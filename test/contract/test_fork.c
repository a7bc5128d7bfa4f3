/* fork, vfork, posix_spawn, daemon and unshare, in processes that are busy allocating. None may hang, ever.
 *
 * Written in: fork(2), pthread_atfork(3), vfork(2), posix_spawn(3), daemon(3), unshare(2) (CLONE_NEWUSER wants a
 * single-threaded process). POSIX promises the child of a multithreaded process little; glibc lets it use malloc
 * whatever the other threads were doing, and real programs do. Two traps are known to hang other allocators:
 * locks that are held over fork, against stdio's; and a signal handler that forks in the middle of its own
 * thread's malloc. */
#include "common.h"

#include <sched.h>
#include <spawn.h>
#include <sys/poll.h>

extern char **environ;

static void wait_for_success(pid_t child, const char *what)
{
    int status = 0;
    require(child > 0);
    while (waitpid(child, &status, 0) < 0)
        require(errno == EINTR);
    if (!ended_well(status))
        fprintf(stderr, "%s: wait status %#x\n", what, (unsigned)status);
    require(ended_well(status));
}

/* -- the stress: forks from a busy process ----------------------------------------------------------------------- */

static struct block inherited[100];

static void make_inherited(void)
{
    uint64_t random = 6;
    for (size_t i = 0; i < COUNT(inherited); i++)
        block_make(&inherited[i], &random);
}

static void *churn_in_child(void *argument)
{
    churn((uintptr_t)argument, 200);
    return NULL;
}

static void child_starts_a_thread(unsigned number)
{
    pthread_t thread;
    require(pthread_create(&thread, NULL, churn_in_child, (void *)(uintptr_t)number) == 0);
    require(pthread_join(thread, NULL) == 0);
}

static void child_forks(unsigned number)
{
    pid_t grandchild = fork();
    if (grandchild == 0) {
        watchdog("a grandchild hangs");
        churn(number, 200);
        _exit(0);
    }
    wait_for_success(grandchild, "grandchild");
}

__attribute__((noreturn)) static void live_as_child(unsigned number)
{
    watchdog("a child hangs");
    for (size_t i = 0; i < COUNT(inherited); i++)
        block_free(&inherited[i]);
    churn(number, 100);
    char *large = calloc(1, MIB);
    require(large != NULL && all_zero(large, MIB));
    require((large = realloc(large, 3 * MIB)) != NULL);
    free(large);
    if (number % 50 == 0)
        execl("/proc/self/exe", "test_fork", "noop", "executed", (char *)NULL);
    if (number % 50 == 1)
        child_starts_a_thread(number);
    if (number % 50 == 2)
        child_forks(number);
    if (number % 50 == 3)
        exit(0);
    _exit(0);
}

static void *fork_many(void *count)
{
    for (unsigned number = 0; number < *(unsigned *)count; number++) {
        pid_t child = fork();
        if (child == 0)
            live_as_child(number);
        wait_for_success(child, "child of a busy process");
    }
    return NULL;
}

static void role_busy(const char *argument)
{
    struct churner churners[3];
    pthread_t forkers[2];
    bool stop = false, main_forks = strcmp(argument, "main") == 0;
    unsigned count = main_forks ? scaled(300) : scaled(150);
    watchdog("forks of a busy process hang");
    make_inherited();
    churners_start(churners, COUNT(churners), 0, &stop);
    if (main_forks)
        fork_many(&count);
    for (size_t i = 0; !main_forks && i < COUNT(forkers); i++)
        require(pthread_create(&forkers[i], NULL, fork_many, &count) == 0);
    for (size_t i = 0; !main_forks && i < COUNT(forkers); i++)
        require(pthread_join(forkers[i], NULL) == 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
    for (size_t i = 0; i < COUNT(inherited); i++)
        block_free(&inherited[i]);
}

static void check_busy(const char *who)
{
    assert_role_succeeds("busy", &(struct launch){.argument = who});
}

static void test_main_forks_beside_busy_threads(void **state)
{
    (void)state;
    check_busy("main");
}

static void test_busy_threads_fork(void **state)
{
    (void)state;
    check_busy("threads");
}

enum { GENERATIONS = 20 };

/* Children of children of children, each of them multithreaded while it forks. */
static void live_as_generation(unsigned generation)
{
    struct churner churners[2];
    bool stop = false;
    if (generation == 0)
        return;
    watchdog("a generation of forks hangs");
    make_inherited();
    churners_start(churners, COUNT(churners), 0, &stop);
    churn(generation, 1000);
    pid_t child = fork();
    if (child == 0) {
        for (size_t i = 0; i < COUNT(inherited); i++)
            block_free(&inherited[i]);
        live_as_generation(generation - 1);
        _exit(0);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
    wait_for_success(child, "next generation");
}

static void role_generations(const char *argument)
{
    (void)argument;
    live_as_generation(GENERATIONS);
}

static void test_twenty_generations(void **state)
{
    (void)state;
    assert_role_succeeds("generations", NULL);
}

/* -- trap A: locks over fork against stdio's --------------------------------------------------------------------- */

static bool trap_over;

/* More than any thread keeps for itself, so that it must ask for what threads share. */
static void allocate_in_bulk(uint64_t *random)
{
    void *blocks[300];
    size_t size = 16 + random_next(random) % 4000;
    for (size_t i = 0; i < COUNT(blocks); i++)
        require((blocks[i] = malloc(size)) != NULL);
    free(malloc(100000 + random_next(random) % MIB));
    for (size_t i = 0; i < COUNT(blocks); i++)
        free(blocks[i]);
}

static void *hold_stream_and_allocate(void *stream)
{
    become_background();
    uint64_t random = 12;
    while (!__atomic_load_n(&trap_over, __ATOMIC_RELAXED)) {
        flockfile(stream);
        allocate_in_bulk(&random);
        fprintf(stream, "%0*d\n", (int)(random % 3000), 1);
        funlockfile(stream);
    }
    return NULL;
}

/* Here stdio itself asks for memory under the stream's lock. */
static void *print_into_memory(void *unused)
{
    char *text = NULL;
    size_t length = 0;
    become_background();
    while (!__atomic_load_n(&trap_over, __ATOMIC_RELAXED)) {
        FILE *stream = open_memstream(&text, &length);
        for (int i = 0; i < 200; i++)
            fprintf(stream, "%0*d\n", i * 5, i);
        fclose(stream);
        free(text);
    }
    return unused;
}

static void *flush_everything(void *unused)
{
    become_background();
    while (!__atomic_load_n(&trap_over, __ATOMIC_RELAXED))
        fflush(NULL);
    return unused;
}

static void *allocate_until_over(void *unused)
{
    become_background();
    uint64_t random = 77;
    while (!__atomic_load_n(&trap_over, __ATOMIC_RELAXED))
        allocate_in_bulk(&random);
    return unused;
}

static void fork_while_trapped(unsigned forks, const char *what)
{
    for (unsigned i = 0; i < forks; i++) {
        pid_t child = fork();
        if (child == 0) {
            watchdog(what);
            churn(i, 100);
            _exit(0);
        }
        wait_for_success(child, what);
    }
    __atomic_store_n(&trap_over, true, __ATOMIC_RELAXED);
}

static void role_stdio_trap(const char *argument)
{
    (void)argument;
    pthread_t threads[4];
    FILE *stream = fopen("/dev/null", "w");
    watchdog("trap A: fork, fflush(NULL) and a thread that allocates under a stream's lock hang together");
    require(stream != NULL);
    require(pthread_create(&threads[0], NULL, hold_stream_and_allocate, stream) == 0);
    require(pthread_create(&threads[1], NULL, flush_everything, NULL) == 0);
    require(pthread_create(&threads[2], NULL, print_into_memory, NULL) == 0);
    require(pthread_create(&threads[3], NULL, allocate_until_over, NULL) == 0);
    fork_while_trapped(scaled(100), "trap A: a child hangs");
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    fclose(stream);
}

static void test_trap_a_fork_against_stdio(void **state)
{
    (void)state;
    assert_role_succeeds("stdio-trap", NULL);
}

/* The same with a mutex of the program's: its atfork handlers take it, as the manual page teaches, and were
 * registered before any constructor ran, the library's included. So its prepare handler is the last to run. */
static pthread_mutex_t program_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool handlers_act;
static unsigned handlers_ran;

static void prepare_fork(void)
{
    if (!handlers_act)
        return;
    require(pthread_mutex_lock(&program_mutex) == 0);
    churn(41, 50);
    handlers_ran++;
}

static void after_fork(void)
{
    if (!handlers_act)
        return;
    churn(42, 50);
    require(pthread_mutex_unlock(&program_mutex) == 0);
    handlers_ran++;
}

static void register_handlers(void)
{
    require(pthread_atfork(prepare_fork, after_fork, after_fork) == 0);
}

__attribute__((section(".preinit_array"), used)) static void (*const register_early)(void) = register_handlers;

static void *allocate_under_mutex(void *unused)
{
    become_background();
    uint64_t random = 5;
    while (!__atomic_load_n(&trap_over, __ATOMIC_RELAXED)) {
        require(pthread_mutex_lock(&program_mutex) == 0);
        allocate_in_bulk(&random);
        require(pthread_mutex_unlock(&program_mutex) == 0);
    }
    return unused;
}

static void role_atfork_trap(const char *argument)
{
    (void)argument;
    pthread_t threads[3];
    handlers_act = true;
    watchdog("fork hangs against the program's own atfork handlers");
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, i ? allocate_until_over : allocate_under_mutex, NULL) == 0);
    const unsigned forks = scaled(100);
    fork_while_trapped(forks, "a child hangs in an atfork handler");
    for (size_t i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    require(handlers_ran == 2 * forks);
}

static void test_atfork_handlers_may_allocate(void **state)
{
    (void)state;
    assert_role_succeeds("atfork-trap", NULL);
}

/* -- trap B: a handler forks in the middle of malloc ------------------------------------------------------------- */

static unsigned handler_forks, handler_forks_in_all;

static void arm(timer_t timer, unsigned long microseconds)
{
    struct itimerspec once = {{0, 0}, {0, (long)microseconds * 1000}};
    require(timer_settime(timer, 0, &once, NULL) == 0);
}

static void fork_in_handler(int signal_number, siginfo_t *info, void *context)
{
    int saved = errno;
    (void)signal_number;
    (void)context;
    pid_t child = fork();
    if (child == 0) {
        watchdog("trap B: the child of a handler that forked inside malloc hangs");
        churn(handler_forks, 100);
        _exit(0);
    }
    wait_for_success(child, "trap B: child of a handler");
    unsigned forks = __atomic_add_fetch(&handler_forks, 1, __ATOMIC_RELAXED);
    if (forks < handler_forks_in_all) /* or what the threads still have to do would not come to its end */
        arm(*(timer_t *)info->si_value.sival_ptr, 20 + forks * 37 % 300);
    errno = saved;
}

static void *churn_under_signals(void *timer)
{
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR2;
    event.sigev_value.sival_ptr = timer;
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    require(timer_create(CLOCK_MONOTONIC, &event, timer) == 0);
    arm(*(timer_t *)timer, 100);
    for (uint64_t seed = 0; __atomic_load_n(&handler_forks, __ATOMIC_RELAXED) < handler_forks_in_all; seed++) {
        churn(seed, 300);
        allocate_in_bulk(&(uint64_t){seed + 1});
    }
    require(timer_delete(*(timer_t *)timer) == 0);
    return NULL;
}

static void role_handler_trap(const char *argument)
{
    struct sigaction action;
    timer_t timers[2];
    pthread_t threads[2];
    bool alone = strcmp(argument, "alone") == 0;
    watchdog("trap B: a handler that forks while its thread is inside malloc hangs");
    handler_forks_in_all = scaled(250);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = fork_in_handler;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    require(sigaction(SIGUSR2, &action, NULL) == 0);
    if (!alone) {
        require(pthread_create(&threads[0], NULL, churn_under_signals, &timers[1]) == 0);
        require(pthread_create(&threads[1], NULL, allocate_until_over, NULL) == 0);
    }
    churn_under_signals(&timers[0]);
    __atomic_store_n(&trap_over, true, __ATOMIC_RELAXED);
    for (size_t i = 0; !alone && i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    churn(1, 5000);
}

static void test_trap_b_a_handler_forks_inside_malloc(void **state)
{
    (void)state;
    skip_on_glibc("its fork is not legal in a handler, and hangs");
    assert_role_succeeds("handler-trap", &(struct launch){.argument = "alone"});
    assert_role_succeeds("handler-trap", &(struct launch){.argument = "threads"});
}

/* -- vfork, posix_spawn and system ------------------------------------------------------------------------------- */

static void role_spawn(const char *argument)
{
    (void)argument;
    struct churner churners[3];
    bool stop = false;
    char *argv[] = {(char *)"test_fork", (char *)"noop", (char *)"spawned", NULL};
    watchdog("vfork or posix_spawn hangs");
    churners_start(churners, COUNT(churners), 0, &stop);
    for (unsigned i = 0, spawns = scaled(40); i < spawns; i++) {
        pid_t child = vfork();
        if (child == 0) {
            execv("/proc/self/exe", argv);
            _exit(127);
        }
        wait_for_success(child, "vfork");
        require(posix_spawn(&child, "/proc/self/exe", NULL, NULL, argv, environ) == 0);
        wait_for_success(child, "posix_spawn");
        churn(i, 200);
    }
    require(system("exit 0") == 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
}

static void test_vfork_and_posix_spawn(void **state)
{
    (void)state;
    assert_role_succeeds("spawn", NULL);
}

/* -- daemon ------------------------------------------------------------------------------------------------------ */

static void role_daemon(const char *argument)
{
    (void)argument;
    exercise();
    free(memset(malloc(30 * MIB), 1, 30 * MIB));
    make_inherited();
    require(daemon(1, 1) == 0);
    watchdog("a daemon hangs");
    for (size_t i = 0; i < COUNT(inherited); i++)
        block_free(&inherited[i]);
    exercise();
    require(write(STDOUT_FILENO, "ready", 5) == 5);
}

static void test_a_daemon_goes_on(void **state)
{
    (void)state;
    int ends[2];
    char said[8] = "";
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_role_succeeds("daemon", &(struct launch){.output_fd = ends[1]});
    close(ends[1]);
    struct pollfd poll_end = {.fd = ends[0], .events = POLLIN};
    assert_int_equal(poll(&poll_end, 1, -1), 1);
    assert_int_equal(read(ends[0], said, sizeof said - 1), 5);
    assert_string_equal(said, "ready");
    close(ends[0]);
}

/* -- unshare ----------------------------------------------------------------------------------------------------- */

static void unshare_user(void)
{
    if (unshare(CLONE_NEWUSER) == 0)
        return;
    if (errno == EPERM || errno == ENOSPC || errno == ENOSYS || errno == EUSERS)
        skip_role("this system does not let us make user namespaces");
    require(!"unshare(CLONE_NEWUSER): EINVAL means that this process has a thread more than it started");
}

static void work_hard_alone(void)
{
    for (unsigned i = 0; i < 10; i++) {
        churn(i, 1000);
        free(memset(malloc(20 * MIB), 1, 20 * MIB));
        require(status_number("Threads:") == 1);
    }
    sleep_ms(300);
    churn(99, 3000);
    require(status_number("Threads:") == 1);
}

static void role_unshare(const char *argument)
{
    if (strcmp(argument, "after-threads") == 0) {
        exercise();
        free(memset(malloc(100 * MIB), 1, 100 * MIB));
        for (unsigned i = 0; status_number("Threads:") > 1; i++) {
            churn(i, 50);
            sleep_ms(5);
        }
    } else {
        work_hard_alone();
    }
    require(status_number("Threads:") == 1);
    if (strcmp(argument, "child") == 0) {
        struct churner churner;
        churners_start(&churner, 1, 2000, NULL);
        pid_t child = fork();
        if (child == 0) {
            work_hard_alone();
            unshare_user();
            _exit(0);
        }
        int status = wait_for(child);
        churners_join(&churner, 1);
        explain_status("child", status);
        require(ended_well(status) || was_skipped(status));
        _exit(WEXITSTATUS(status));
    }
    unshare_user();
    churn(100, 3000);
}

static void test_unshare_in_a_single_threaded_process(void **state)
{
    (void)state;
    assert_role_succeeds("unshare", &(struct launch){.argument = "alone"});
}

static void test_unshare_after_the_threads_have_ended(void **state)
{
    (void)state;
    assert_role_succeeds("unshare", &(struct launch){.argument = "after-threads"});
}

static void test_unshare_in_a_child_of_a_multithreaded_process(void **state)
{
    (void)state;
    assert_role_succeeds("unshare", &(struct launch){.argument = "child"});
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"noop", role_noop},
        {"busy", role_busy},
        {"generations", role_generations},
        {"stdio-trap", role_stdio_trap},
        {"atfork-trap", role_atfork_trap},
        {"handler-trap", role_handler_trap},
        {"spawn", role_spawn},
        {"daemon", role_daemon},
        {"unshare", role_unshare},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_main_forks_beside_busy_threads),
        cmocka_unit_test(test_busy_threads_fork),
        cmocka_unit_test(test_twenty_generations),
        cmocka_unit_test(test_trap_a_fork_against_stdio),
        cmocka_unit_test(test_atfork_handlers_may_allocate),
        cmocka_unit_test(test_trap_b_a_handler_forks_inside_malloc),
        cmocka_unit_test(test_vfork_and_posix_spawn),
        cmocka_unit_test(test_a_daemon_goes_on),
        cmocka_unit_test(test_unshare_in_a_single_threaded_process),
        cmocka_unit_test(test_unshare_after_the_threads_have_ended),
        cmocka_unit_test(test_unshare_in_a_child_of_a_multithreaded_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
