/* Saying what is wrong; see at_work.h. */
#include "at_work.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *program = "stress";
static uint64_t seed; /* for the lines */

/* The first is for threads that have no place: the library's worker. */
static struct at_work places[MOST_AT_WORK] = {{0, "working for the library"}};
__thread struct at_work *at_work = &places[0];

void start_work(unsigned place, uint64_t ordinal)
{
    at_work = &places[place];
    at_work->ordinal = ordinal;
    doing("starting");
}

/* Formats on the stack and writes by itself: stdio may want memory from the allocator that has just failed. */
static void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if ((size_t)length > sizeof line - 2)
        length = sizeof line - 2;
    line[length] = '\n';
    if (write(STDERR_FILENO, line, (size_t)length + 1) < 0)
        _exit(FOUND_WRONG);
}

void fail(enum found found, const char *format, ...)
{
    char what[384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    say("%s: seed %" PRIu64 ", thread %" PRIu64 ", %s: %s", program, seed, at_work->ordinal, is_doing(), what);
    _exit((int)found);
}

/* Somebody's patience is at its end. */
static void say_who_hangs(int signal_number)
{
    (void)signal_number;
    say("%s: seed %" PRIu64 ", ended in process %d; last seen:", program, seed, (int)getpid());
    for (unsigned i = 0; i < MOST_AT_WORK; i++) {
        const char *last = atomic_load_explicit(&places[i].doing, memory_order_relaxed);
        if (last != NULL)
            say("    thread %" PRIu64 ": %s", places[i].ordinal, last);
    }
    _exit(FOUND_HANG);
}

void begin_work(const char *name, uint64_t number)
{
    const struct sigaction hangs = {.sa_handler = say_who_hangs};
    program = name;
    seed = number;
    if (sigaction(SIGTERM, &hangs, NULL) != 0)
        fail(FOUND_WRONG, "%s", strerror(errno));
}

pthread_t start_thread(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    const int error = pthread_create(&thread, NULL, run, argument);
    if (error != 0)
        fail(FOUND_WRONG, "no thread: %s", strerror(error));
    return thread;
}

void await_child(pid_t child)
{
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        fail(FOUND_WRONG, "no child: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) != FOUND_NOTHING)
        fail((enum found)WEXITSTATUS(status), "in child %d", (int)child);
    if (status != 0)
        fail(FOUND_WRONG, "child %d: wait status %#x", (int)child, (unsigned)status);
}
