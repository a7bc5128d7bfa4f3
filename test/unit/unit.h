/* What the unit tests share.
 *
 * A unit test stands beside one file of src/ and checks what that file's header promises. It is linked with the
 * library's own sources in checked form, so it reaches names that the library hides, and malloc in the test's process
 * is ours. Tests that need a process of their own - because they end it, change its options or its number of nodes,
 * or fill its memory - run in a child: in_child(). A child and threads check with require(), which says what does not
 * hold and ends the process; cmocka's assertions belong to the test's main thread. */
#pragma once

#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
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
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/options.h"
#include "base/size_class.h"
#include "sync/fork.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* What hangs is ended by SIGALRM, which tells who it was; nothing takes so long. */
enum { CHILD_FAILED = 99, CHILD_SECONDS = 600 };

#define require(condition) ((condition) ? (void)0 : give_up(__FILE__, __LINE__, #condition))

static inline _Noreturn void give_up(const char *file, int line, const char *what)
{
    dprintf(STDERR_FILENO, "%s:%d: %s does not hold\n", file, line, what);
    _exit(CHILD_FAILED);
}

/* Where objects lie that are sampled depends on chance; tests that want some set a mean. Options have been read. */
static __attribute__((constructor)) void sample_nothing(void)
{
    atomic_store(&slm_settings.sample_bytes, 0);
}

/* A class's first objects are lent by the next power of two's (heap/slow.c). From here on all have been lent; they
 * are not freed, as they stay known. */
static inline void age_classes(void)
{
    for (unsigned class = 0; class < SLM_CLASSES_IN_TABLE + 8; class ++) {
        const size_t size = slm_class_size[class], waste = slm_class_larger((uint32_t)size) - size;
        for (size_t n = waste == 0 ? 0 : 1024 / waste < 8 ? 1024 / waste : 8; n > 0; n--) {
            char *volatile object = malloc(size);
            (void)object;
        }
    }
}

/* A group's setup: see to it that the library has started in this process. It has no worker, which would do what
 * tests count; those that want one say so. */
static inline int start_library(void **state)
{
    (void)state;
    slm_options.worker = 0;
    char *volatile object = malloc(1);
    free(object);
    age_classes();
    return object ? 0 : -1;
}

/* libc's pthread_create, behind the library's: the calling thread goes through no slow path. */
typedef __typeof__(pthread_create) thread_creator;

static inline thread_creator *creator_in_libc(void)
{
    thread_creator *create = (thread_creator *)(uintptr_t)dlsym(RTLD_NEXT, "pthread_create");
    if (!create)
        fail_msg("libc has no pthread_create");
    return create;
}

/* How a child ended: its exit status or the signal that ended it (the other is -1), and its standard error. */
struct outcome {
    pid_t process;
    int status, signal;
    char said[4096];
};

static inline _Noreturn void be_child(void (*run)(void), int standard_error)
{
    const int caught[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS}; /* some by cmocka */
    const struct rlimit no_core = {0, 0};
    for (size_t i = 0; i < COUNT(caught); i++)
        signal(caught[i], SIG_DFL);
    setrlimit(RLIMIT_CORE, &no_core);
    dup2(standard_error, STDERR_FILENO);
    alarm(CHILD_SECONDS);
    slm_fork_check(); /* as every slow path does first */
    run();
    _exit(0);
}

static inline struct outcome in_child(void (*run)(void))
{
    struct outcome outcome = {-1, -1, -1, ""};
    int ends[2], how = 0;
    if (pipe(ends) != 0)
        fail_msg("no pipe");
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0)
        be_child(run, ends[1]);
    close(ends[1]);
    size_t length = 0;
    ssize_t got;
    while (length < sizeof outcome.said - 1 &&
           (got = read(ends[0], outcome.said + length, sizeof outcome.said - 1 - length)) > 0)
        length += (size_t)got;
    close(ends[0]);
    if (child < 0 || waitpid(child, &how, 0) != child)
        fail_msg("no child");
    outcome.process = child;
    outcome.status = WIFEXITED(how) ? WEXITSTATUS(how) : -1;
    outcome.signal = WIFSIGNALED(how) ? WTERMSIG(how) : -1;
    return outcome;
}

/* The child comes back with status 0 and has nothing to say. */
static inline void assert_child_silent(void (*run)(void))
{
    const struct outcome outcome = in_child(run);
    if (outcome.status != 0 || outcome.said[0])
        fail_msg("the child ended with status %d, signal %d, and said: %s", outcome.status, outcome.signal,
                 outcome.said);
}

/* The child's first thread panics: it ends itself with SIGABRT after exactly this on standard error, and its id. */
static inline void assert_child_aborts(void (*run)(void), const char *said)
{
    const struct outcome outcome = in_child(run);
    if (outcome.signal != SIGABRT)
        fail_msg("the child ended with status %d, signal %d, and said: %s", outcome.status, outcome.signal,
                 outcome.said);
    char line[sizeof outcome.said];
    snprintf(line, sizeof line, "%s (thread %d)\n", said, (int)outcome.process);
    assert_string_equal(outcome.said, line);
}

/* The same of a child that writes first what the library will say, as any of its threads may. */
static inline void assert_child_aborts_as_announced(void (*run)(void))
{
    const struct outcome outcome = in_child(run);
    const size_t half = strlen(outcome.said) / 2;
    if (outcome.signal != SIGABRT || half == 0 || memcmp(outcome.said, outcome.said + half, half) != 0)
        fail_msg("the child ended with status %d, signal %d, and said: %s", outcome.status, outcome.signal,
                 outcome.said);
}

/* A text put together, good until the next one. */
__attribute__((format(printf, 1, 2))) static inline const char *text(const char *format, ...)
{
    static char made[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(made, sizeof made, format, arguments);
    va_end(arguments);
    return made;
}

/* Pointers in the library's lines have no sign for NULL and leading zeros have gone. */
#define POINTER "0x%lx"
#define pointer_of(pointer) ((unsigned long)(uintptr_t)(pointer))

/* Random numbers that repeat (splitmix64). */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t bits = *state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return bits ^ bits >> 31;
}

static inline size_t random_below(uint64_t *state, size_t limit)
{
    return (size_t)(random_next(state) % limit);
}

/* As much of a random or repeated work as usual, or as many times that as the environment says. */
static inline unsigned long scaled(unsigned long usual)
{
    const char *factor = getenv("SLABMALLOC_TEST_SCALE");
    const double scale = factor ? atof(factor) : 1;
    return scale > 1 ? (unsigned long)((double)usual * scale) : usual;
}

/* Run a function on that many threads at once, with their numbers from 0, and wait for all. */
static inline void on_threads(unsigned count, void *(*run)(void *number))
{
    pthread_t threads[64];
    require(count <= COUNT(threads));
    for (uintptr_t i = 0; i < count; i++)
        require(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
    for (unsigned i = 0; i < count; i++)
        require(pthread_join(threads[i], NULL) == 0);
}

/* For on_threads: a short life. */
static inline void *live_briefly(void *nothing)
{
    void *volatile objects[10];
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = malloc(1 + i * 300);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    return nothing;
}

static inline bool all_zero(const void *memory, size_t size)
{
    const char *bytes = memory;
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static inline void sleep_ms(unsigned ms)
{
    const struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

/* From here on the process gets no further address space. */
static inline void forbid_memory(void)
{
    const struct rlimit none = {1, 1};
    setrlimit(RLIMIT_AS, &none);
}

/* From here on the calling thread, with SECCOMP_FILTER_FLAG_TSYNC all threads, gets `error` from a system call. */
static inline void refuse_call(long number, unsigned error, unsigned flags)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {COUNT(filter), filter};
    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

/* The same of calls with that argument, which threads that are made from here on inherit. The caller has given up
 * new privileges. */
static inline void refuse_argument(long number, unsigned index, unsigned value, unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, args) + index * 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {COUNT(filter), filter};
    require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}
