/* What the contract tests share.
 *
 * A contract test checks what a manual page, POSIX, C23 or glibc's habits promise to every program, and
 * never how slabmalloc keeps the promise. So each test passes on glibc's own malloc as well, but for what
 * glibc lacks or gets wrong: SLABMALLOC_TEST_ON=glibc in the environment says that glibc is under test.
 *
 * A scenario that limits, forks, hangs or kills a process is a *role*: the test program runs itself again
 * (/proc/self/exe ROLE ARGUMENT) and judges the exit status. Inside a role, in threads and in forked
 * children, require() takes the place of cmocka's asserts: it says what failed, and ends the process.
 */
#ifndef CONTRACT_COMMON_H
#define CONTRACT_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

/* Ends this process with the message and EXIT_HUNG unless it has ended by itself before. */
static inline void watchdog(unsigned seconds, const char *message)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = watchdog_bark;
    *watchdog_message() = message;
    require(sigaction(SIGALRM, &action, NULL) == 0);
    alarm(seconds);
}

/* -- running a program with a time limit ------------------------------------------------------------------------- */

/* How to start a program: everything is optional. prepare runs between fork and exec. */
struct launch {
    const char *program;            /* this program by default */
    const char *argument;           /* what follows the role's name */
    unsigned seconds;               /* 60 by default; then the process group is killed */
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
    if (launch->output_fd > 0)
        dup2(launch->output_fd, STDOUT_FILENO);
    if (launch->error_fd > 0)
        dup2(launch->error_fd, STDERR_FILENO);
    for (size_t i = 0; i < COUNT(launch->environment) && launch->environment[i] != NULL; i++)
        putenv((char *)launch->environment[i]);
    if (launch->prepare != NULL)
        launch->prepare(launch->context);
    execv(program, argv);
    _exit(127);
}

/* Waits for the child; kills its process group when the time is up. Returns the wait status, or -1 if killed. */
static inline int wait_for(pid_t child, unsigned seconds)
{
    const struct timespec nap = {0, 2 * 1000 * 1000};
    int status = 0;
    for (unsigned naps = 0; naps < seconds * 500; naps++) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        if (ended == child)
            return status;
        if (ended < 0 && errno != EINTR)
            return -1;
        nanosleep(&nap, NULL);
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
    return wait_for(child, launch->seconds ? launch->seconds : 60);
}

static inline bool ended_well(int status)
{
    return status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static inline void explain_status(const char *role, int status)
{
    if (status == -1)
        print_error("%s: killed, it did not end in time\n", role);
    else if (WIFSIGNALED(status))
        print_error("%s: ended by signal %d (%s)\n", role, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        print_error("%s: exit status %d\n", role, WEXITSTATUS(status));
}

static inline void assert_role_succeeds(const char *role, const struct launch *launch)
{
    int status = run_role(role, launch);
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

/* -- what the kernel says of this process ------------------------------------------------------------------------ */

/* A line of /proc/self/status, "VmRSS:" and the like, as a number (KiB where it is a size). No allocation. */
static inline size_t status_number(const char *field)
{
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    require(fd >= 0);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    require(length > 0);
    text[length] = '\0';
    const char *line = strstr(text, field);
    require(line != NULL);
    return strtoul(line + strlen(field), NULL, 10);
}

static inline size_t rss_kib(void)
{
    return status_number("VmRSS:");
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

/* -- contents ---------------------------------------------------------------------------------------------------- */

static inline uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

static inline unsigned char pattern_byte(size_t index, unsigned seed)
{
    return (unsigned char)(seed + index + (index >> 8) + (index >> 16));
}

static inline void pattern_fill(void *ptr, size_t size, unsigned seed)
{
    unsigned char *bytes = (unsigned char *)ptr;
    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern_byte(i, seed);
}

static inline bool pattern_holds(const void *ptr, size_t size, unsigned seed)
{
    const unsigned char *bytes = (const unsigned char *)ptr;
    unsigned different = 0;
    for (size_t i = 0; i < size; i++)
        different |= (unsigned)(bytes[i] ^ pattern_byte(i, seed));
    return different == 0;
}

static inline bool all_zero(const void *ptr, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)ptr;
    unsigned seen = 0;
    for (size_t i = 0; i < size; i++)
        seen |= bytes[i];
    return seen == 0;
}

/* -- a load ------------------------------------------------------------------------------------------------------ */

struct block {
    void *ptr;
    size_t size;
    unsigned seed;
};

/* Mostly small, some of pages, a few large: the shape that servers have. */
static inline size_t random_size(uint64_t *state)
{
    uint64_t dice = random_next(state);
    unsigned kind = (unsigned)(dice >> 8) % 100;
    uint64_t value = dice >> 16;
    if (kind < 80)
        return (size_t)(value % 512);
    if (kind < 97)
        return (size_t)(value % (16 * KIB));
    return (size_t)(value % (400 * KIB));
}

static inline void block_make(struct block *block, uint64_t *state)
{
    block->size = random_size(state);
    block->seed = (unsigned)random_next(state);
    switch (block->seed >> 8 & 7) {
    case 0:
        block->ptr = calloc(1, block->size);
        require(block->ptr != NULL && all_zero(block->ptr, block->size));
        break;
    case 1:
        require(posix_memalign(&block->ptr, 64, block->size) == 0);
        break;
    default:
        block->ptr = malloc(block->size);
        require(block->ptr != NULL);
    }
    pattern_fill(block->ptr, block->size, block->seed);
}

static inline void block_resize(struct block *block, uint64_t *state)
{
    size_t size = random_size(state) + 1;
    size_t kept = size < block->size ? size : block->size;
    block->ptr = realloc(block->ptr, size);
    require(block->ptr != NULL && pattern_holds(block->ptr, kept, block->seed));
    block->size = size;
    pattern_fill(block->ptr, size, block->seed);
}

static inline void block_free(struct block *block)
{
    require(block->ptr == NULL || pattern_holds(block->ptr, block->size, block->seed));
    free(block->ptr);
    block->ptr = NULL;
}

/* Makes, resizes and frees blocks at random and checks every byte of them. */
static inline void churn(uint64_t seed, unsigned steps)
{
    struct block blocks[64];
    uint64_t state = seed * 2654435761u + 88172645463325252u;
    memset(blocks, 0, sizeof blocks);
    for (unsigned step = 0; step < steps; step++) {
        struct block *block = &blocks[random_next(&state) % COUNT(blocks)];
        if (block->ptr == NULL)
            block_make(block, &state);
        else if (random_next(&state) % 4 == 0)
            block_resize(block, &state);
        else
            block_free(block);
    }
    for (size_t i = 0; i < COUNT(blocks); i++)
        block_free(&blocks[i]);
}

/* Lets the other threads and processes of a test go first: what this one does is only the background. */
static inline void become_background(void)
{
    require(setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19) == 0);
}

struct churner {
    pthread_t thread;
    uint64_t seed;
    unsigned steps; /* 0: in the background until *stop */
    const volatile bool *stop;
};

static inline void *churner_run(void *argument)
{
    struct churner *self = (struct churner *)argument;
    if (self->steps != 0) {
        churn(self->seed, self->steps);
        return NULL;
    }
    become_background();
    while (!__atomic_load_n(self->stop, __ATOMIC_RELAXED))
        churn(self->seed++, 500);
    return NULL;
}

static inline void churners_start(struct churner *churners, size_t count, unsigned steps, const volatile bool *stop)
{
    for (size_t i = 0; i < count; i++) {
        churners[i].seed = i + 1;
        churners[i].steps = steps;
        churners[i].stop = stop;
        require(pthread_create(&churners[i].thread, NULL, churner_run, &churners[i]) == 0);
    }
}

static inline void churners_join(struct churner *churners, size_t count)
{
    for (size_t i = 0; i < count; i++)
        require(pthread_join(churners[i].thread, NULL) == 0);
}

/* A little of everything in a few threads: proof that allocation works in this process. */
static inline void exercise(void)
{
    struct churner churners[4];
    churn(7, 2000);
    churners_start(churners, COUNT(churners), 2000, NULL);
    churners_join(churners, COUNT(churners));
    churn(8, 2000);
}

#endif
