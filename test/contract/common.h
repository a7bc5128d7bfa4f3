/* What the contract tests share.
 *
 * A contract test checks what a manual page, POSIX, C23 or glibc's habits promise to every program, and
 * never how slabmalloc keeps the promise. So each test passes on glibc's own malloc as well, but for what
 * glibc lacks or gets wrong: SLABMALLOC_TEST_ON=glibc in the environment says that glibc is under test.
 *
 * A scenario that limits, forks, hangs or kills a process is a *role*: the test program runs itself again
 * (/proc/self/exe ROLE ARGUMENT) and judges the exit status. Inside a role, in threads and in forked
 * children, require() takes the place of cmocka's asserts: it says what failed, and ends the process;
 * skip_role() takes the place of skip().
 *
 * No test judges by the clock. What must come is waited for until it has come, however busy the machine is; what
 * never comes is a hang, which ends after HANG_SECONDS with a line that says whose it was. SLABMALLOC_TEST_SCALE in
 * the environment makes repeated work longer by that factor (1 by default). */
#ifndef CONTRACT_COMMON_H
#define CONTRACT_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define NATURAL_ALIGNMENT 16
#define EXIT_HUNG 124
#define EXIT_SKIPPED 77
#define HANG_SECONDS 600

/* cmocka does not ask for C's linkage itself. C23's calls, which glibc before 2.42 does not declare, and the one that
 * it no longer declares. */
#ifdef __cplusplus
extern "C" {
#endif
#include <cmocka.h>

extern void free_sized(void *ptr, size_t size) __attribute__((weak));
extern void free_aligned_sized(void *ptr, size_t alignment, size_t size) __attribute__((weak));
extern void cfree(void *ptr) __attribute__((weak));
#ifdef __cplusplus
}
#endif

/* -- which malloc is under test ---------------------------------------------------------------------------------- */

static inline bool on_glibc(void)
{
    const char *under_test = getenv("SLABMALLOC_TEST_ON");
    return under_test != NULL && strcmp(under_test, "glibc") == 0;
}

/* Whether the library is one of a checked build, as whoever runs the tests says: it has options of its own. */
static inline bool library_is_checked(void)
{
    const char *checked = getenv("SLABMALLOC_CHECKED");
    return checked != NULL && strcmp(checked, "1") == 0;
}

/* Ends a test that asks for what glibc does not promise. */
static inline void skip_on_glibc(const char *reason)
{
    if (on_glibc()) {
        print_message("skipped on glibc: %s\n", reason);
        skip();
    }
}

/* The file from which this process got the function, or "" where it has none of that name. */
static inline const char *provider_of(const char *function)
{
    void *address = dlsym(RTLD_DEFAULT, function);
    Dl_info info;
    if (address == NULL || dladdr(address, &info) == 0)
        return "";
    return info.dli_fname;
}

/* So often, or by SLABMALLOC_TEST_SCALE oftener. */
static inline unsigned scaled(unsigned times)
{
    const char *scale = getenv("SLABMALLOC_TEST_SCALE");
    const double factor = scale != NULL ? atof(scale) : 1;
    const double more = factor > 0 ? factor * times : times;
    return more > 1 ? (unsigned)more : 1;
}

/* -- values that the compiler must not see through --------------------------------------------------------------- */

static inline size_t opaque_size(size_t size)
{
    __asm__ volatile("" : "+r"(size));
    return size;
}

static inline void *opaque(void *ptr)
{
    __asm__ volatile("" : "+r"(ptr) : : "memory");
    return ptr;
}

static inline bool is_aligned(const void *ptr, size_t alignment)
{
    return ((uintptr_t)ptr & (alignment - 1)) == 0;
}

/* -- asserts for roles, threads and children --------------------------------------------------------------------- */

#define require(condition)                                                                                           \
    do {                                                                                                             \
        if (!(condition))                                                                                            \
            require_failed(__FILE__, __LINE__, #condition);                                                          \
    } while (0)

__attribute__((noreturn)) static inline void require_failed(const char *file, int line, const char *condition)
{
    int error = errno;
    char text[512];
    int length = snprintf(text, sizeof text, "%s:%d: %s does not hold (errno %d)\n", file, line, condition, error);
    if (write(STDERR_FILENO, text, (size_t)length) < 0)
        _exit(2);
    _exit(1);
}

/* Ends a role that asks for what this machine has not got, and its test with it. */
__attribute__((noreturn)) static inline void skip_role(const char *reason)
{
    fprintf(stderr, "skipped: %s\n", reason);
    exit(EXIT_SKIPPED);
}

/* -- a watchdog for what must not hang --------------------------------------------------------------------------- */

static inline const char **watchdog_message(void)
{
    static const char *message;
    return &message;
}

static inline void watchdog_bark(int signal_number)
{
    (void)signal_number;
    const char *message = *watchdog_message();
    if (write(STDERR_FILENO, message, strlen(message)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
        _exit(2);
    _exit(EXIT_HUNG);
}

/* Ends this process with the message and EXIT_HUNG when it is a hang beyond doubt. */
static inline void watchdog(const char *message)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = watchdog_bark;
    *watchdog_message() = message;
    require(sigaction(SIGALRM, &action, NULL) == 0);
    alarm(HANG_SECONDS);
}

/* -- the library that this process has --------------------------------------------------------------------------- */

static inline int note_library(struct dl_phdr_info *info, size_t size, void *path)
{
    (void)size;
    if (strstr(info->dlpi_name, "libslabmalloc.so") == NULL)
        return 0;
    *(const char **)path = info->dlpi_name;
    return 1;
}

/* The path of the libslabmalloc.so that is loaded, "" if there is none. No allocation: a role may be about to make a
 * process's first. */
static inline const char *loaded_library(void)
{
    const char *path = "";
    dl_iterate_phdr(note_library, &path);
    return path;
}

/* A program that runs itself again must find the same library, wherever LD_LIBRARY_PATH has led the first to. */
#define LIBRARY_VARIABLE "SLABMALLOC_TEST_LIBRARY"

static inline void require_same_library(void)
{
    const char *expected = getenv(LIBRARY_VARIABLE), *library = loaded_library();
    if (expected == NULL || strcmp(library, expected) == 0)
        return;
    fprintf(stderr, "the library is \"%s\", not \"%s\"\n", library, expected);
    require(!"the same library as that of the program that started this one");
}

/* -- running a program ------------------------------------------------------------------------------------------- */

/* How to start a program: everything is optional. prepare runs between fork and exec. */
struct launch {
    const char *program;            /* this program by default */
    const char *argument;           /* what follows the role's name */
    void (*prepare)(void *context); /* limits, filters, user id */
    void *context;
    const char *environment[4]; /* NAME=value, ended by NULL */
    int output_fd, error_fd;    /* redirections, where not 0 */
};

static inline void launch_exec(const char *role, const struct launch *launch)
{
    const char *program = launch->program ? launch->program : "/proc/self/exe";
    char *argv[] = {(char *)program, (char *)role, (char *)launch->argument, NULL};

    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* whoever ends this test for hanging ends the role, too */
    if (launch->output_fd > 0)
        dup2(launch->output_fd, STDOUT_FILENO);
    if (launch->error_fd > 0)
        dup2(launch->error_fd, STDERR_FILENO);
    if (launch->program == NULL)
        setenv(LIBRARY_VARIABLE, loaded_library(), 1);
    for (size_t i = 0; i < COUNT(launch->environment) && launch->environment[i] != NULL; i++)
        putenv((char *)launch->environment[i]);
    if (launch->prepare != NULL)
        launch->prepare(launch->context);
    execv(program, argv);
    _exit(127);
}

/* Waits for the child, and ends its process group if it hangs. Returns the wait status, or -1 if it hung. */
static inline int wait_for(pid_t child)
{
    struct timespec nap = {0, 50 * 1000};
    int status = 0;
    for (double waited = 0; waited < HANG_SECONDS; waited += (double)nap.tv_nsec / 1e9) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        if (ended == child)
            return status;
        if (ended < 0 && errno != EINTR)
            return -1;
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < 3 * 1000 * 1000)
            nap.tv_nsec += nap.tv_nsec / 8;
    }
    kill(-child, SIGKILL);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return -1;
}

static inline int run_role(const char *role, const struct launch *launch)
{
    static struct launch nothing_special;
    if (launch == NULL)
        launch = &nothing_special;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        launch_exec(role, launch);
    assert_true(child > 0);
    return wait_for(child);
}

static inline bool ended_well(int status)
{
    return status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* It has said why. */
static inline bool was_skipped(int status)
{
    return status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED;
}

static inline void explain_status(const char *role, int status)
{
    if (status == -1)
        print_error("%s: killed, it hung\n", role);
    else if (WIFSIGNALED(status))
        print_error("%s: ended by signal %d (%s)\n", role, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        print_error("%s: exit status %d\n", role, WEXITSTATUS(status));
}

static inline void assert_role_succeeds(const char *role, const struct launch *launch)
{
    int status = run_role(role, launch);
    if (was_skipped(status))
        skip();
    explain_status(role, status);
    assert_true(ended_well(status));
}

/* For launch.prepare: the rest of the child's life is that of a user without rights. */
#define NOBODY 65534

static inline void become_nobody(void)
{
    require(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
}

/* -- the roles of a test program --------------------------------------------------------------------------------- */

struct role {
    const char *name;
    void (*play)(const char *argument); /* returning is success */
};

static inline int play_role(const struct role *roles, size_t count, int argc, char **argv)
{
    require_same_library();
    for (size_t i = 0; i < count; i++)
        if (strcmp(roles[i].name, argv[1]) == 0) {
            roles[i].play(argc > 2 ? argv[2] : "");
            return 0;
        }
    fprintf(stderr, "%s: no role %s\n", argv[0], argv[1]);
    return 126;
}

/* For tests of exec alone, and of whether a program can be run at all. */
static inline void role_noop(const char *argument)
{
    free(malloc(strlen(argument) + 1));
}

/* A file that stands beside this program. */
static inline const char *sibling(const char *name, char *buffer, size_t size)
{
    ssize_t length = readlink("/proc/self/exe", buffer, size - 1);
    require(length > 0);
    buffer[length] = '\0';
    char *slash = strrchr(buffer, '/');
    require(slash != NULL && (size_t)(slash - buffer) + strlen(name) + 2 < size);
    strcpy(slash + 1, name);
    return buffer;
}

static inline void copy_file(const char *from, const char *to)
{
    char bytes[64 * KIB];
    FILE *source = fopen(from, "r"), *copy = fopen(to, "w");
    require(source != NULL && copy != NULL);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, source)) > 0;)
        require(fwrite(bytes, 1, n, copy) == n);
    fclose(source);
    require(fclose(copy) == 0);
}

/* -- what the kernel says of this process ------------------------------------------------------------------------ */

/* The text of a small file of /proc. No allocation. */
static inline bool read_proc(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* The number that follows the field's name in such a text. */
static inline size_t number_behind(const char *text, const char *field)
{
    const char *line = strstr(text, field);
    require(line != NULL);
    return strtoul(line + strlen(field), NULL, 10);
}

/* A line of /proc/self/status, "VmSize:" and the like, as a number (KiB where it is a size). */
static inline size_t status_number(const char *field)
{
    char text[4096];
    require(read_proc("/proc/self/status", text, sizeof text));
    return number_behind(text, field);
}

/* What this process has in memory, or in swap. smaps_rollup counts pages; VmRSS adds up what each CPU has counted
 * now and then, and is some MiB off on machines with many. */
static inline size_t rss_kib(void)
{
    char text[4096];
    if (read_proc("/proc/self/smaps_rollup", text, sizeof text))
        return number_behind(text, "\nRss:") + number_behind(text, "\nSwap:");
    return status_number("VmRSS:") + status_number("VmSwap:");
}

/* For roles that measure what is resident: a huge page where a small one was asked for is the kernel's choice. */
static inline void do_without_huge_pages(void)
{
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* fails where there are none */
}

/* Does the work again and again until once no more is resident behind it than there was before, but for so many KiB.
 * What a process keeps grows for a while, as threads meet in ever new ways; what leaks grows each time. */
static inline void require_no_growth(void (*work)(void *context), void *context, size_t most_kib)
{
    size_t before = 0, after = 0;
    malloc_trim(0);
    for (unsigned attempt = 0; attempt < 30; attempt++) {
        before = rss_kib();
        work(context);
        malloc_trim(0);
        after = rss_kib();
        if (after <= before + most_kib)
            return;
    }
    fprintf(stderr, "grows each time, the last time from %zu to %zu KiB\n", before, after);
    require(!"memory that does not grow each time");
}

/* Bytes that the program holds, as malloc counts them. */
static inline size_t in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static inline void sleep_ms(long ms)
{
    struct timespec nap = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&nap, &nap) != 0 && errno == EINTR)
        continue;
}

#include "load.h"

#endif
