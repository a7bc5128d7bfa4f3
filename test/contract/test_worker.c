/* The library's own thread, which gives memory back in processes with several threads: nothing that a program does
 * may find it in the way.
 *
 * Written in: unshare(2) and setns(2) (EINVAL "if the caller is multithreaded", of which a program that has joined
 * all its threads is no example), pthread_create(3) (which fails only where its own thread is one too many), sched(7)
 * and pthread_attr_setinheritsched(3) (what a thread inherits is for the threads that the program creates),
 * seccomp(2). Threads may go on allocating inside a filter that kills on clone and prctl: glibc lets them do that. */
#include "filters.h"

#include <dirent.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <threads.h>

/* -- what is left of joined threads ------------------------------------------------------------------------------ */

enum { THREAD_IS_EXITING = 4 /* PF_EXITING in Linux's sched.h */ };

/* A thread may have been joined and still be on its last steps in the kernel. Such ones do not count in `live`. */
static void count_others(unsigned *live, unsigned *all)
{
    DIR *tasks = opendir("/proc/self/task");
    require(tasks != NULL);
    *live = *all = 0;
    for (const struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[64], text[512];
        unsigned flags = 0;
        if (task->d_name[0] == '.' || atoi(task->d_name) == (int)syscall(SYS_gettid))
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", task->d_name);
        if (!read_proc(path, text, sizeof text))
            continue;
        ++*all;
        require(sscanf(strrchr(text, ')'), ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1);
        *live += (flags & THREAD_IS_EXITING) == 0;
    }
    closedir(tasks);
}

/* unshare is EINVAL in a process with several threads, else without effect. A thread on its last steps leaves
 * /proc a moment before it leaves what unshare counts (the kernel's release_task): none that is live may be
 * seen meanwhile. */
static void require_single_threaded(void)
{
    unsigned live, all;
    do {
        count_others(&live, &all);
        require(live == 0);
    } while (all > 0 || (unshare(CLONE_VM) != 0 && errno == EINVAL));
    require(unshare(CLONE_VM) == 0);
}

static void *allocate(void *nothing)
{
    churn(7, 30);
    return nothing;
}

static void *do_nothing(void *nothing)
{
    return nothing;
}

static int allocate_in_c11(void *nothing)
{
    allocate(nothing);
    return 0;
}

static void join_many(void *(*run)(void *), unsigned count)
{
    pthread_t threads[20];
    for (unsigned i = 0; i < count; i++)
        require(pthread_create(&threads[i], NULL, run, NULL) == 0);
    for (unsigned i = 0; i < count; i++)
        require(pthread_join(threads[i], NULL) == 0);
    require_single_threaded();
}

static void join_one_by_one(void)
{
    for (unsigned i = 0; i < 50; i++)
        join_many(i % 2 ? allocate : do_nothing, 1);
}

static void join_c11(void)
{
    thrd_t threads[3];
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(thrd_create(&threads[i], allocate_in_c11, NULL) == thrd_success);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(thrd_join(threads[i], NULL) == thrd_success);
    require_single_threaded();
}

static atomic_int detached_id;

static void *note_id(void *nothing)
{
    allocate(nothing);
    detached_id = (int)syscall(SYS_gettid);
    return nothing;
}

static void await_detached(void)
{
    pthread_t thread;
    require(pthread_create(&thread, NULL, note_id, NULL) == 0 && pthread_detach(thread) == 0);
    while (detached_id == 0 || syscall(SYS_tgkill, getpid(), detached_id, 0) == 0)
        sched_yield();
    require_single_threaded();
}

/* In a thread, whose child has no other. */
static void *fork_and_join(void *nothing)
{
    const pid_t child = fork();
    if (child == 0) {
        require_single_threaded();
        join_many(allocate, 3);
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    return nothing;
}

static void fork_in_thread(void)
{
    pthread_t thread;
    require(pthread_create(&thread, NULL, fork_and_join, NULL) == 0 && pthread_join(thread, NULL) == 0);
    require_single_threaded();
}

static pthread_t first_thread;

static void *outlive_first(void *nothing)
{
    pthread_t thread;
    unsigned live, all;
    require(pthread_join(first_thread, NULL) == 0);
    require(pthread_create(&thread, NULL, allocate, NULL) == 0 && pthread_join(thread, NULL) == 0);
    count_others(&live, &all); /* with the first, which stays until the process ends */
    require(live == 0);
    _exit(0);
    return nothing;
}

static void leave_another_behind(void)
{
    pthread_t thread;
    first_thread = pthread_self();
    require(pthread_create(&thread, NULL, outlive_first, NULL) == 0);
    pthread_exit(NULL);
}

static void role_joined(const char *argument)
{
    const int kind = atoi(argument);
    free(malloc(10));
    for (unsigned turn = 0; turn < 40; turn++) {
        const pid_t child = fork();
        if (child == 0) {
            switch (kind) {
            case 0:
                join_many(allocate, 1 + turn / 2);
                break;
            case 1:
                join_many(do_nothing, 1 + turn / 2);
                break;
            case 2:
                join_one_by_one();
                break;
            case 3:
                join_c11();
                break;
            case 4:
                await_detached();
                break;
            case 5:
                fork_in_thread();
                break;
            default:
                leave_another_behind();
            }
            _exit(0);
        }
        require(ended_well(wait_for(child)));
    }
}

static void test_joined_threads_are_all_there_was(void **state)
{
    (void)state;
    static const char *const kinds[] = {"0", "1", "2", "3", "4", "5", "6"};
    for (unsigned i = 0; i < COUNT(kinds); i++)
        assert_role_succeeds("joined", &(struct launch){.argument = kinds[i]});
}

/* -- at the limit ------------------------------------------------------------------------------------------------ */

/* The program's threads come first. */
static void role_at_limit(const char *argument)
{
    (void)argument;
    const struct rlimit two = {2, 2};
    const uid_t nobody_else = 1000000 + (uid_t)getpid();
    if (geteuid() != 0)
        skip_role("not root");
    free(malloc(10));
    require(setgid(nobody_else) == 0 && setuid(nobody_else) == 0 && setrlimit(RLIMIT_NPROC, &two) == 0);
    for (unsigned turn = 0; turn < 20; turn++) {
        pthread_t thread;
        require(pthread_create(&thread, NULL, allocate, NULL) == 0 && pthread_join(thread, NULL) == 0);
        for (unsigned live, all = 1; all > 0;) /* the limit is of those that are on their last steps, too */
            count_others(&live, &all);
    }
}

static void test_it_takes_no_thread_s_place(void **state)
{
    (void)state;
    assert_role_succeeds("at-limit", NULL);
}

/* -- scheduling -------------------------------------------------------------------------------------------------- */

static int find_worker(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int found = 0;
    require(tasks != NULL);
    for (const struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[64], text[64];
        snprintf(path, sizeof path, "/proc/self/task/%.20s/comm", task->d_name);
        if (task->d_name[0] != '.' && read_proc(path, text, sizeof text) && strcmp(text, "slabmalloc\n") == 0)
            found = atoi(task->d_name);
    }
    closedir(tasks);
    return found;
}

static pthread_barrier_t looked;

static void *wait_for_look(void *nothing)
{
    free(malloc(10));
    pthread_barrier_wait(&looked);
    pthread_barrier_wait(&looked);
    return nothing;
}

static void role_scheduled(const char *argument)
{
    const struct sched_param urgent = {.sched_priority = 5}, none = {.sched_priority = 0};
    cpu_set_t cpus, one, its;
    int failed = 0;
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0)
        skip_role("in a sandbox already, as in a container");
    require(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    const int policy = sched_getscheduler(0), nice = getpriority(PRIO_PROCESS, 0);
    CPU_ZERO(&one);
    CPU_SET((unsigned)sched_getcpu(), &one);
    free(malloc(10));
    if (strcmp(argument, "fifo") == 0)
        failed = sched_setscheduler(0, SCHED_FIFO, &urgent);
    else if (strcmp(argument, "rr") == 0)
        failed = sched_setscheduler(0, SCHED_RR, &urgent);
    else if (strcmp(argument, "batch") == 0)
        failed = sched_setscheduler(0, SCHED_BATCH, &none);
    else if (strcmp(argument, "pinned") == 0)
        failed = sched_setaffinity(0, sizeof one, &one);
    else
        failed = setpriority(PRIO_PROCESS, 0, nice + 3);
    if (failed)
        skip_role("no right to be scheduled so");
    pthread_t thread;
    require(pthread_barrier_init(&looked, NULL, 2) == 0);
    require(pthread_create(&thread, NULL, wait_for_look, NULL) == 0);
    pthread_barrier_wait(&looked);
    const int worker = find_worker();
    require(worker != 0);
    require(sched_getscheduler(worker) == policy);
    require(getpriority(PRIO_PROCESS, (id_t)worker) == (nice > 9 ? 19 : nice + 10));
    require(sched_getaffinity(worker, sizeof its, &its) == 0 && CPU_EQUAL(&its, &cpus));
    pthread_barrier_wait(&looked);
    require(pthread_join(thread, NULL) == 0);
}

static void test_it_inherits_no_scheduling(void **state)
{
    (void)state;
    skip_on_glibc("it has no such thread");
    static const char *const kinds[] = {"pinned", "nice", "batch", "fifo", "rr"};
    for (unsigned i = 0; i < COUNT(kinds); i++)
        assert_role_succeeds("scheduled", &(struct launch){.argument = kinds[i]});
}

/* -- sandboxes --------------------------------------------------------------------------------------------------- */

#define KILL_ON(call) IF_EQUAL(call, SECCOMP_RET_KILL_PROCESS)

/* Not what an allocator needs, nor, without `clones`, what the birth of a thread does. */
static void forbid(bool clones, unsigned flags)
{
    const struct sock_filter filter[] = {
        UNLESS_ARCHITECTURE_HERE(SECCOMP_RET_ALLOW),
        LOAD(nr),
        KILL_ON(clones ? __NR_prctl : __NR_clone),
        KILL_ON(clones ? __NR_prctl : __NR_clone3),
        KILL_ON(__NR_prctl),
        KILL_ON(__NR_setpriority),
        KILL_ON(__NR_sched_setattr),
        KILL_ON(__NR_sched_getattr),
        KILL_ON(__NR_sched_setscheduler),
        KILL_ON(__NR_sched_setaffinity),
        KILL_ON(__NR_set_mempolicy),
        KILL_ON(__NR_tgkill),
        RETURN(SECCOMP_RET_ALLOW),
    };
    install_filter(filter, COUNT(filter), flags);
}

/* Closed by the first thread, before it has made another. */
static void role_closed_first(const char *argument)
{
    (void)argument;
    pthread_t threads[5];
    free(malloc(10));
    forbid(true, 0);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (unsigned i = 0; i < COUNT(threads); i++)
            require(pthread_create(&threads[i], NULL, allocate, NULL) == 0);
        for (unsigned i = 0; i < COUNT(threads); i++)
            require(pthread_join(threads[i], NULL) == 0);
    }
}

static pthread_barrier_t closing;

static void *allocate_when_closed(void *nothing)
{
    pthread_barrier_wait(&closing);
    pthread_barrier_wait(&closing);
    return allocate(nothing);
}

/* Closed around a thread that has not allocated yet. */
static void role_closed_around(const char *argument)
{
    (void)argument;
    pthread_t thread;
    free(malloc(10));
    require(pthread_barrier_init(&closing, NULL, 2) == 0);
    require(pthread_create(&thread, NULL, allocate_when_closed, NULL) == 0);
    pthread_barrier_wait(&closing);
    forbid(false, SECCOMP_FILTER_FLAG_TSYNC);
    pthread_barrier_wait(&closing);
    require(pthread_join(thread, NULL) == 0);
    allocate(NULL);
}

static void *close_and_allocate(void *nothing)
{
    forbid(false, 0);
    return allocate(nothing);
}

/* Closed by a thread around itself, before it allocates. */
static void role_closed_within(const char *argument)
{
    (void)argument;
    pthread_t thread;
    free(malloc(10));
    for (unsigned turn = 0; turn < 3; turn++)
        require(pthread_create(&thread, NULL, close_and_allocate, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

static void test_its_birth_needs_nothing_that_a_sandbox_forbids(void **state)
{
    (void)state;
    assert_role_succeeds("closed-first", NULL);
    assert_role_succeeds("closed-around", NULL);
    assert_role_succeeds("closed-within", NULL);
}

/* The library has a prctl of its own, which looks for sandboxes and passes on. */
static void test_prctl_is_as_libc_s(void **state)
{
    (void)state;
    char name[16] = "";
    int before = 0, after = 0;
    assert_int_equal(prctl(PR_SET_NAME, "contract"), 0);
    assert_int_equal(prctl(PR_GET_NAME, name), 0);
    assert_string_equal(name, "contract");
    assert_int_equal(prctl(PR_GET_PDEATHSIG, &before), 0);
    assert_int_equal(prctl(PR_SET_PDEATHSIG, SIGUSR1), 0);
    assert_int_equal(prctl(PR_GET_PDEATHSIG, &after), 0);
    assert_int_equal(after, SIGUSR1);
    assert_int_equal(prctl(PR_SET_PDEATHSIG, before), 0);
    assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), syscall(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    errno = 0;
    assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 1), -1); /* the last argument arrives, too */
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_int_equal(prctl(-1, 0, 0, 0, 0), -1);
    assert_int_equal(errno, EINVAL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"joined", role_joined},
        {"at-limit", role_at_limit},
        {"scheduled", role_scheduled},
        {"closed-first", role_closed_first},
        {"closed-around", role_closed_around},
        {"closed-within", role_closed_within},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joined_threads_are_all_there_was),
        cmocka_unit_test(test_it_takes_no_thread_s_place),
        cmocka_unit_test(test_it_inherits_no_scheduling),
        cmocka_unit_test(test_its_birth_needs_nothing_that_a_sandbox_forbids),
        cmocka_unit_test(test_prctl_is_as_libc_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
