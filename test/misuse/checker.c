/* Processes that do not end as they announce, so that it is seen that misuse.c tells. Each row's kind is what it has
 * to complain of. */
#include <signal.h>
#include <unistd.h>

#include "misuse.h"

static const char *announced(void)
{
    static char line[100];
    snprintf(line, sizeof line, "slabmalloc: free(0x1): not allocated by this library (thread %d)\n", (int)gettid());
    return line;
}

static void say(const char *line)
{
    if (write(STDERR_FILENO, line, strlen(line)) < 0)
        _exit(EXIT_FAILURE);
}

static void announce_number(void)
{
    announce("free", (void *)1, "not allocated by this library");
}

static void commit_nothing(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    free(malloc(64));
}

static void say_and_return(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    say(announced());
}

/* As a shell tells of SIGABRT. */
static void say_and_exit(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    say(announced());
    _exit(128 + SIGABRT);
}

static void say_and_be_terminated(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    say(announced());
    raise(SIGTERM);
}

static void crash(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    *(volatile char *)hidden((void *)1) = 0;
}

static void announce_another_pointer(const struct misuse_case *row)
{
    (void)row;
    announce("free", (void *)2, "not allocated by this library");
    free(hidden((void *)1));
}

static void announce_half(const struct misuse_case *row)
{
    (void)row;
    fwrite(announced(), 1, 40, stdout);
    fflush(stdout);
    free(hidden((void *)1));
}

static void announce_twice(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    announce_number();
    say(announced());
    free(hidden((void *)1));
}

static void announce_nothing(const struct misuse_case *row)
{
    (void)row;
    free(hidden((void *)1));
}

static void abort_in_silence(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    abort();
}

static void abort_unannounced(const struct misuse_case *row)
{
    (void)row;
    abort();
}

static void say_more(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    say("slabmalloc: a warning\n");
    free(hidden((void *)1));
}

/* The row's options are the process's: the library warns of one that it does not know. */
static void commit_with_options(const struct misuse_case *row)
{
    (void)row;
    announce_number();
    free(hidden((void *)1));
}

const struct misuse_case misuse_of_checker[] = {
    {"checker-no_misuse", commit_nothing, .kind = "ended with status 0"},
    {"checker-right_text_and_return", say_and_return, .kind = "ended with status 0"},
    {"checker-right_text_and_status_134", say_and_exit, .kind = "ended with status 134"},
    {"checker-right_text_and_another_signal", say_and_be_terminated, .kind = "ended by signal 15"},
    {"checker-crash", crash, .kind = "ended by signal 11"},
    {"checker-another_pointer", announce_another_pointer, .kind = "said something else"},
    {"checker-half_a_line", announce_half, .kind = "announced no line"},
    {"checker-two_lines", announce_twice, .kind = "announced no line"},
    {"checker-nothing_announced", announce_nothing, .kind = "announced no line"},
    {"checker-abort_in_silence", abort_in_silence, .kind = "said something else"},
    {"checker-nothing_at_all", abort_unannounced, .kind = "announced no line"},
    {"checker-more_than_announced", say_more, .kind = "said something else"},
    {"checker-unknown_option", commit_with_options, .kind = "said something else", .options = "no_such_option=1"},
    {0},
};
