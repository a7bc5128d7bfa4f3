/* slabctl: looks into processes that run on slabmalloc, and commands them.
 *
 *     slabctl [--core FILE | PID] COMMAND [ARG...]
 *             \ argp, in order ------/ \ argp once more, with the command's own options
 *
 * Common options may stand in front of the command's name or behind it. */
#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "amount.h"
#include "command.h"
#include "list.h"
#include "profile_commands.h"
#include "save.h"
#include "watch.h"

enum { KEY_CORE = 256, KEY_BYTES, KEY_TIMEOUT };
#define MEMORY_BYTES_LEAST ((rlim_t)4 << 30) /* debug information of a browser has 2 GiB */

enum { TIMEOUT_S_MOST = 86400, SILENCE_MS_LEAST = 1000 };

static const struct command *const tables[] = {mailbox_commands, profile_commands, NULL};

static struct {
    const char *core;
    const char *pid;
    const struct command *command;
    int rest; /* index of the word behind the command's name */
    struct request request;
} state = {.request.timeout_ms = 2000};

const char *argp_program_version = "slabctl " SLAB_VERSION_STRING;

/* -- common options ------------------------------------------------------------------------------------------- */

static const struct argp_option common_options[] = {
    {"core", KEY_CORE, "FILE", 0, "Look into a core dump, in the place of a process", 0},
    {"bytes", KEY_BYTES, NULL, 0, "Print exact numbers of bytes, no KiB, MiB and GiB", 0},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "Wait so long for an answer, or to read (default 2)", 0},
    {0},
};

static error_t common_parse(int key, char *word, struct argp_state *argp)
{
    char *end;
    double seconds;
    switch (key) {
    case KEY_CORE:
        state.core = word;
        return 0;
    case KEY_BYTES:
        amount_exact = true;
        return 0;
    case KEY_TIMEOUT:
        seconds = strtod(word, &end);
        if (end == word || *end || !(seconds >= 0 && seconds <= TIMEOUT_S_MOST))
            argp_error(argp, "%s: not a number of seconds, 0 to %d", word, TIMEOUT_S_MOST);
        state.request.timeout_ms = (unsigned)ceil(seconds * 1000);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp common_argp = {.options = common_options, .parser = common_parse};

/* -- up to the command ---------------------------------------------------------------------------------------- */

static const struct command *command_find(const char *name)
{
    for (size_t i = 0; tables[i]; i++)
        for (const struct command *command = tables[i]; command->name; command++)
            if (strcmp(command->name, name) == 0)
                return command;
    return NULL;
}

static error_t main_parse(int key, char *word, struct argp_state *argp)
{
    if (key != ARGP_KEY_ARG)
        return ARGP_ERR_UNKNOWN;
    if (!state.core && !state.pid) {
        uint64_t pid;
        if (!number_parse(word, INT32_MAX, &pid) || !pid)
            argp_error(argp, "%s: not the number of a process", word);
        state.pid = word;
        return 0;
    }
    state.command = command_find(word);
    if (!state.command)
        argp_error(argp, "%s: no such command", word);
    state.rest = argp->next;
    argp->next = argp->argc; /* the command's argp takes them */
    return 0;
}

static char *help_commands(void)
{
    static const char examples[] =
        "\nWithout a word it lists the processes that run on the library.\n"
        "\nWho may ptrace a process may look into it, and nobody else: its user, where the system lets him "
        "(kernel.yama.ptrace_scope), and root. Nothing has to be prepared in the process. What is only read is read "
        "while it goes on. A command is done by the process itself: by its worker thread, or where it has none by "
        "the "
        "next of its threads that leaves the fast path.\n"
        "\nExamples:\n"
        "  slabctl\n"
        "  slabctl $(pidof redis-server) top\n"
        "  slabctl $(pidof redis-server) stats\n"
        "  slabctl 4711 limit 512M\n"
        "  slabctl 4711 tune connection 32\n"
        "  slabctl 4711 option purge_delay_ms=100\n"
        "  slabctl --timeout 10 4711 purge\n"
        "\nExit status: 0 done, 1 it could not be done, or not all of it: samples or stacks could not be read, and "
        "the figures are too low; 2 wrong usage.\n";
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return NULL;
    fputs("Commands:\n", out);
    for (size_t i = 0; tables[i]; i++)
        for (const struct command *command = tables[i]; command->name; command++) {
            char line[80];
            snprintf(line, sizeof line, "%s %s", command->name, command->words);
            fprintf(out, "  %-31s%s\n", line, command->does);
        }
    fputs(examples, out);
    return fclose(out) == 0 ? text : NULL;
}

static char *help_filter(int key, const char *text, void *input)
{
    (void)input;
    return key == ARGP_KEY_HELP_POST_DOC ? help_commands() : (char *)text;
}

static const struct argp_child main_children[] = {{&common_argp, 0, NULL, 0}, {0}};
static const struct argp main_argp = {
    .parser = main_parse,
    .args_doc = "\nPID COMMAND [ARG...]\n--core FILE COMMAND [ARG...]",
    .doc = "Looks into processes that run on slabmalloc, and commands them.\v ",
    .children = main_children,
    .help_filter = help_filter,
};

/* -- behind it ------------------------------------------------------------------------------------------------ */

static error_t rest_parse(int key, char *word, struct argp_state *argp) /* NOLINT(readability-non-const-parameter) */
{
    (void)word;
    const struct command *command = state.command;
    switch (key) {
    case ARGP_KEY_INIT:
        argp->child_inputs[1] = command->options ? command->input : NULL;
        return 0;
    case ARGP_KEY_ARGS:
        state.request.words = argp->argv + argp->next;
        state.request.count = argp->argc - argp->next;
        return 0;
    case ARGP_KEY_END:
        if (state.request.count < command->least || state.request.count > command->most)
            argp_error(argp, "usage: %s %s", command->name, command->words);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void rest_take(int argc, char **argv)
{
    const struct command *command = state.command;
    const struct argp_child children[] = {{&common_argp, 0, NULL, 0}, {command->options, 0, NULL, -1}, {0}};
    const struct argp argp = {
        .parser = rest_parse, .args_doc = command->words, .doc = command->does, .children = children};
    /* argp takes the word in front for the program's name. */
    static char name[64];
    snprintf(name, sizeof name, "slabctl %s %s", state.core ? "--core FILE" : "PID", command->name);
    argv[state.rest - 1] = name;
    argp_parse(&argp, argc - (state.rest - 1), argv + (state.rest - 1), 0, NULL, NULL);
}

/* What files make libelf and libdw unpack has no other limit. Where memory ends before it, on a small machine or in
 * a container, this is who has to go, and not a server that is looked into. */
static void memory_limit(void)
{
    static const char first[] = "1000";
    int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t written = write(file, first, sizeof first - 1);
        (void)written; /* as well as it goes */
        close(file);
    }
#ifndef __SANITIZE_ADDRESS__ /* which maps more than there is */
    struct rlimit limit;
    rlim_t most = (rlim_t)sysconf(_SC_PHYS_PAGES) * (rlim_t)sysconf(_SC_PAGESIZE) / 4;
    most = most < MEMORY_BYTES_LEAST ? MEMORY_BYTES_LEAST : most;
    if (getrlimit(RLIMIT_DATA, &limit) != 0 || limit.rlim_cur <= most)
        return;
    limit.rlim_cur = most;
    setrlimit(RLIMIT_DATA, &limit);
#endif
}

/* Argp, too, ends the tool, when it has printed the help. */
static void output_check(int status, void *unused)
{
    (void)unused;
    const char *error = status == EXIT_DONE ? output_error() : NULL;
    if (!error)
        return;
    complain("standard output: %s", error);
    _exit(EXIT_COULD_NOT);
}

static void command_run(void *unused)
{
    (void)unused;
    state.request.target =
        state.core ? target_open_core(state.core) : target_open_process((pid_t)strtol(state.pid, NULL, 10));
    state.command->run(&state.request);
    target_close(state.request.target);
}

/* A disk may be slow, whatever the time for an answer. */
static unsigned silence_ms(void)
{
    return state.request.timeout_ms < SILENCE_MS_LEAST ? SILENCE_MS_LEAST : state.request.timeout_ms;
}

static int process_command_run(void)
{
    save_share();
    struct watch_end end = watch_run(command_run, NULL, silence_ms(), false);
    save_clean();
    if (end.hung)
        fail("%s: does not answer: its memory or a file of it could not be read for %g s", state.pid,
             silence_ms() / 1000.0);
    if (end.signal)
        fail("%s: slabctl's child that looked into it was ended by signal %d (%s)", state.pid, end.signal,
             strsignal(end.signal));
    if (end.code == EXIT_COULD_NOT && !end.said)
        fail("%s: could not be done, and why could not be written: is there a limit to the size of files?",
             state.pid);
    return end.code;
}

int main(int argc, char **argv)
{
    if (argc < 1)
        return EXIT_USAGE;
    static char name[] = "slabctl";
    setlocale(LC_CTYPE, ""); /* and numbers as scripts expect them */
    on_exit(output_check, NULL);
    signal(SIGXFSZ, SIG_IGN); /* then write says so */
    memory_limit();
    argv[0] = name; /* for messages of getopt */
    argp_err_exit_status = EXIT_USAGE;
    argp_parse(&main_argp, argc, argv, ARGP_IN_ORDER, NULL, NULL);
    if (state.command)
        rest_take(argc, argv);
    if (!state.command && (state.pid || state.core)) {
        complain("which command? (--help says more)");
        return EXIT_USAGE;
    }
    if (state.command) {
        if (state.core && state.pid) {
            complain("a process or a core dump, not both (--help says more)");
            return EXIT_USAGE;
        }
        if (state.pid)
            return process_command_run();
        command_run(NULL);
    } else {
        list_print(silence_ms());
    }
    return fails_later() ? EXIT_COULD_NOT : EXIT_DONE;
}
