/* Kernels and sandboxes that know few system calls, and set-user-ID programs.
 *
 * Written in: seccomp(2), membarrier(2), madvise(2), mbind(2) ("ENOSYS: the kernel does not know it"; an old kernel,
 * gVisor and container filters answer so, or with EPERM). That threads may go on allocating inside a filter which
 * kills on all but memory calls and futex is a habit of sandboxes (Chromium's, OpenSSH's, systemd's) that glibc lets
 * them have. Set-user-ID: ld.so(8) and getauxval(3) (AT_SECURE): the environment belongs to the attacker, so options
 * in it are ignored. */
#include "filters.h"

#include <dirent.h>
#include <semaphore.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* madvise and prctl by number: the headers of the day need not know them, and the filter must. */
enum { ADVICE_FREE = 8, ADVICE_POPULATE_READ = 22, ADVICE_POPULATE_WRITE = 23, ADVICE_COLLAPSE = 25 };
enum { PRCTL_SET_VMA = 0x53564d41 };

/* -- calls that are not there ------------------------------------------------------------------------------------ */

static void role_work(const char *argument)
{
    (void)argument;
    require(syscall(SYS_membarrier, 0, 0, 0) == -1);
    exercise();
    free(memset(malloc(64 * MIB), 1, 64 * MIB));
    malloc_trim(0);
    char *zeroed = calloc(1, 64 * MIB);
    require(zeroed != NULL && all_zero(zeroed, 64 * MIB));
    require((zeroed = realloc(zeroed, 100 * MIB)) != NULL);
    free(zeroed);
    pid_t child = fork();
    if (child == 0) {
        exercise();
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    exercise();
}

/* As on a kernel of 2014. */
static void forget_new_calls(void *nothing)
{
    (void)nothing;
    const unsigned missing = SECCOMP_RET_ERRNO | ENOSYS, invalid = SECCOMP_RET_ERRNO | EINVAL;
    const struct sock_filter filter[] = {
        UNLESS_ARCHITECTURE_HERE(SECCOMP_RET_ALLOW),
        LOAD(nr),
        IF_EQUAL(__NR_membarrier, missing),
        IF_EQUAL(__NR_getrandom, missing),
        IF_EQUAL(__NR_memfd_create, missing),
        IF_EQUAL(__NR_mlock2, missing),
        IF_EQUAL(__NR_mbind, missing),
        IF_EQUAL(__NR_set_mempolicy, missing),
        IF_EQUAL(__NR_get_mempolicy, missing),
        IF_EQUAL(__NR_getcpu, missing),
        IF_AT_LEAST(__NR_rseq, missing),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_madvise, 0, 6),
        LOAD(args[2]),
        IF_EQUAL(ADVICE_FREE, invalid),
        IF_AT_LEAST(ADVICE_POPULATE_READ, invalid),
        RETURN(SECCOMP_RET_ALLOW),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_prctl, 0, 3),
        LOAD(args[0]),
        IF_EQUAL(PRCTL_SET_VMA, invalid),
        RETURN(SECCOMP_RET_ALLOW),
    };
    install_filter(filter, COUNT(filter), 0);
}

static void test_calls_that_the_kernel_does_not_know(void **state)
{
    (void)state;
    assert_role_succeeds("work", &(struct launch){.prepare = forget_new_calls});
}

/* As in a container whose filter dates from before these calls: EPERM, not ENOSYS. */
static void forbid_new_calls(void *nothing)
{
    (void)nothing;
    const unsigned forbidden = SECCOMP_RET_ERRNO | EPERM;
    const struct sock_filter filter[] = {
        UNLESS_ARCHITECTURE_HERE(SECCOMP_RET_ALLOW),
        LOAD(nr),
        IF_EQUAL(__NR_membarrier, forbidden),
        IF_EQUAL(__NR_rseq, forbidden),
        IF_EQUAL(__NR_mbind, forbidden),
        IF_EQUAL(__NR_set_mempolicy, forbidden),
        IF_EQUAL(__NR_get_mempolicy, forbidden),
        IF_EQUAL(__NR_move_pages, forbidden),
        IF_EQUAL(__NR_sched_getaffinity, forbidden),
        RETURN(SECCOMP_RET_ALLOW),
    };
    install_filter(filter, COUNT(filter), 0);
}

static void test_calls_that_are_forbidden(void **state)
{
    (void)state;
    assert_role_succeeds("work", &(struct launch){.prepare = forbid_new_calls});
}

/* -- a filter that kills, after start ---------------------------------------------------------------------------- */

/* Waits by futex alone. */
static void rest_ms(long ms)
{
    struct timespec until;
    sem_t never;
    require(sem_init(&never, 0, 0) == 0 && clock_gettime(CLOCK_REALTIME, &until) == 0);
    until.tv_nsec += ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (sem_timedwait(&never, &until) != 0 && errno == EINTR)
        continue;
}

static void allocate_and_free_much(uint64_t seed)
{
    for (unsigned round = 0; round < 3; round++) {
        churn(seed + round, 4000);
        free(memset(malloc(40 * MIB), 1, 40 * MIB));
        void **many = malloc(20000 * sizeof *many);
        for (unsigned i = 0; i < 20000; i++)
            many[i] = memset(malloc(500), 2, 500);
        for (unsigned i = 0; i < 20000; i++)
            free(many[i]);
        free(realloc(many, 80 * MIB));
        rest_ms(100);
    }
    malloc_trim(0);
    require(mallinfo2().uordblks < (size_t)1 << 40);
}

static pthread_barrier_t sandbox_stages;
static bool threads_are_warm;

static void *live_in_sandbox(void *argument)
{
    uint64_t seed = (uintptr_t)argument;
    free(malloc(100));
    if (threads_are_warm)
        allocate_and_free_much(seed);
    pthread_barrier_wait(&sandbox_stages); /* everything is ready for the filter */
    pthread_barrier_wait(&sandbox_stages); /* the filter is in place */
    allocate_and_free_much(seed);
    pthread_barrier_wait(&sandbox_stages);
    for (;;)
        rest_ms(900);
    return NULL;
}

/* Whether a thread sleeps, by its line in /proc: "12 (name) S ...". */
static bool thread_sleeps(const char *task)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", task);
    if (!read_proc(path, text, sizeof text))
        return true; /* it has ended */
    const char *name_end = strrchr(text, ')');
    require(name_end != NULL);
    return name_end[2] == 'S';
}

/* Waits until all other threads sleep, the library's included. A thread that has been made and has not had a CPU yet
 * is still to make its first system calls, which are libc's, and none of those that the sandbox allows. */
static void let_others_fall_asleep(void)
{
    for (bool all = false; !all; sleep_ms(1)) {
        DIR *tasks = opendir("/proc/self/task");
        require(tasks != NULL);
        all = true;
        for (const struct dirent *task; (task = readdir(tasks)) != NULL;)
            if (task->d_name[0] != '.' && atoi(task->d_name) != (int)syscall(SYS_gettid))
                all = all && thread_sleeps(task->d_name);
        closedir(tasks);
    }
}

/* The threads of a sandbox exist before it closes; how much they have allocated by then is nobody's business. */
static void role_sandbox(const char *argument)
{
    pthread_t thread;
    threads_are_warm = strcmp(argument, "warm") == 0;
    require(pthread_barrier_init(&sandbox_stages, NULL, 4) == 0);
    for (uintptr_t i = 0; i < 3; i++)
        require(pthread_create(&thread, NULL, live_in_sandbox, (void *)i) == 0);
    pthread_barrier_wait(&sandbox_stages);
    let_others_fall_asleep();
    kill_on_other_calls(SECCOMP_FILTER_FLAG_TSYNC);
    pthread_barrier_wait(&sandbox_stages);
    allocate_and_free_much(9);
    pthread_barrier_wait(&sandbox_stages);
    _exit(0);
}

static void role_sandbox_alone(const char *argument)
{
    if (strcmp(argument, "warm") == 0)
        allocate_and_free_much(1);
    free(malloc(1));
    kill_on_other_calls(0);
    allocate_and_free_much(2);
    _exit(0);
}

static void test_a_sandbox_around_busy_threads(void **state)
{
    (void)state;
    assert_role_succeeds("sandbox", &(struct launch){.argument = "warm"});
}

static void test_a_sandbox_around_fresh_threads(void **state)
{
    (void)state;
    skip_on_glibc("it counts processors when a second thread first allocates in earnest");
    assert_role_succeeds("sandbox", &(struct launch){.argument = "fresh"});
}

static void test_a_sandbox_around_one_thread(void **state)
{
    (void)state;
    assert_role_succeeds("sandbox-alone", &(struct launch){.argument = "fresh"});
    assert_role_succeeds("sandbox-alone", &(struct launch){.argument = "warm"});
}

/* -- set-user-ID ------------------------------------------------------------------------------------------------- */

static void role_options(const char *expected)
{
    if ((getauxval(AT_SECURE) != 0) != (strcmp(expected, "secure") == 0))
        _exit(EXIT_SKIPPED);
    churn(1, 1000);
}

static void lead_as_nobody(void *nothing)
{
    (void)nothing;
    become_nobody();
}

static void copy_program(const char *path, uid_t owner, mode_t mode)
{
    copy_file("/proc/self/exe", path);
    assert_int_equal(chown(path, owner, owner), 0);
    assert_int_equal(chmod(path, mode), 0);
}

/* What the copied program says on standard error when an option is set that does not exist. */
static int run_copy(const char *path, const char *expected, char *said, size_t size)
{
    FILE *error = tmpfile();
    int status = run_role("options", &(struct launch){.program = path,
                                                      .argument = expected,
                                                      .prepare = lead_as_nobody,
                                                      .error_fd = fileno(error),
                                                      .environment = {"SLABMALLOC_OPTIONS=no_such_option=1"}});
    rewind(error);
    said[fread(said, 1, size - 1, error)] = '\0';
    fclose(error);
    return status;
}

static void compare_plain_and_secure(const char *plain, const char *secure)
{
    char said[2000];
    int status = run_copy(plain, "plain", said, sizeof said);
    explain_status("plain copy", status);
    assert_true(ended_well(status));
    if (!on_glibc()) {
        assert_non_null(strstr(said, "no_such_option"));
        assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1); /* one line */
    }
    status = run_copy(secure, "secure", said, sizeof said);
    if (was_skipped(status)) {
        print_message("skipped: set-user-ID has no effect in /tmp\n");
        skip();
    }
    if (*said != '\0')
        print_error("%s\n", said);
    explain_status("set-user-ID copy", status);
    assert_true(ended_well(status));
    assert_string_equal(said, "");
}

static char copies[] = "/tmp/contract.XXXXXX", plain_copy[64], secure_copy[64];

static int remove_copies(void **state)
{
    (void)state;
    unlink(plain_copy);
    unlink(secure_copy);
    rmdir(copies);
    return 0;
}

static void test_set_user_id_programs_ignore_options(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: not root\n");
        skip();
    }
    assert_true(mkdtemp(copies) != NULL && chmod(copies, 0755) == 0);
    snprintf(plain_copy, sizeof plain_copy, "%s/plain", copies);
    snprintf(secure_copy, sizeof secure_copy, "%s/secure", copies);
    copy_program(plain_copy, 1, 0755);
    copy_program(secure_copy, 1, 04755);
    compare_plain_and_secure(plain_copy, secure_copy);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {
        {"work", role_work},
        {"sandbox", role_sandbox},
        {"sandbox-alone", role_sandbox_alone},
        {"options", role_options},
    };
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_that_the_kernel_does_not_know),
        cmocka_unit_test(test_calls_that_are_forbidden),
        cmocka_unit_test(test_a_sandbox_around_one_thread),
        cmocka_unit_test(test_a_sandbox_around_busy_threads),
        cmocka_unit_test(test_a_sandbox_around_fresh_threads),
        cmocka_unit_test_teardown(test_set_user_id_programs_ignore_options, remove_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
