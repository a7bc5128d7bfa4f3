/* Misuse: a row a diagnostic, on the library as it is shipped.
 *
 *     misuse                  runs every case as a test
 *     misuse --only PATTERN   runs the tests with PATTERN in their names; * and ? as a shell has them
 *     misuse --list           names the cases
 *     misuse NAME             is that case: says what the library is to say, and commits the misuse, in this process
 *
 * A test executes this program with the case's name, so that the library starts anew. The process must end by SIGABRT
 * (or SIGSEGV, where the row says so) after exactly the line on standard error that it has announced on standard
 * output. One that hangs is left to whoever runs the tests. SLABMALLOC_CHECKED=1 says that the library is a checked
 * build of it. */
#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "misuse.h"
#include "rows.h"

static const char options_variable[] = "SLABMALLOC_OPTIONS", self[] = "/proc/self/exe";

/* main adds the last one. */
static const struct misuse_case *tables[] = {
    misuse_of_large,  misuse_of_small,   misuse_of_foreign,
    misuse_of_caches, misuse_of_epochs,  misuse_of_hooks,
    misuse_of_percpu, misuse_of_checker, NULL,
};

enum { TABLES = sizeof tables / sizeof tables[0] };

static _Noreturn void give_up(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

/* -- a case's process -------------------------------------------------------------------------------------------- */

/* An object that is sampled lies elsewhere than others: where a row does not say which are, none is. */
static const char *options_of(const struct misuse_case *row)
{
    static char text[256];
    const char *options = row->options ? row->options : "";
    const char *first = strstr(options, "sample_bytes=") ? "" : "sample_bytes=0,";
    snprintf(text, sizeof text, "%s%s", first, options);
    return text;
}

static void set_options(const struct misuse_case *row)
{
    if (setenv(options_variable, options_of(row), 1) != 0)
        give_up(options_variable);
}

/* So on one node: what a thread's magazines hold goes other ways when it comes to another. */
static void stay_on_this_cpu(void)
{
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    if (sched_setaffinity(0, sizeof here, &here) != 0)
        give_up("sched_setaffinity");
}

/* The library has read its options by now: where the case has others, the process begins again with these. */
static int be_case(const struct misuse_case *row)
{
    static char line[1024];
    const char *options = getenv(options_variable);
    if (row->options && (!options || strcmp(options, options_of(row)) != 0)) {
        set_options(row);
        execl(self, "misuse", row->name, (char *)NULL);
        give_up(self);
    }
    stay_on_this_cpu();
    setvbuf(stdout, line, _IOFBF, sizeof line); /* or the announcement would be a call of malloc */
    row->commit(row);
    return EXIT_SUCCESS;
}

/* -- how it ended ------------------------------------------------------------------------------------------------ */

struct output {
    int file;
    size_t length;
    char text[4096];
};

static void open_output(struct output *output, const char *name)
{
    output->file = memfd_create(name, MFD_CLOEXEC);
    if (output->file < 0)
        give_up("memfd_create");
}

static void read_output(struct output *output)
{
    const ssize_t length = pread(output->file, output->text, sizeof output->text - 1, 0);
    if (length < 0)
        give_up("pread");
    close(output->file);
    output->length = (size_t)length;
    output->text[length] = 0;
}

/* Run the case; its status as waitpid(2) tells it. */
static int run(const struct misuse_case *row, struct output *announced, struct output *said)
{
    char *const words[] = {"misuse", (char *)(uintptr_t)row->name, NULL};
    posix_spawn_file_actions_t actions;
    pid_t process;
    int status;
    open_output(announced, "announced");
    open_output(said, "said");
    set_options(row);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, announced->file, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, said->file, STDERR_FILENO);
    if ((errno = posix_spawn(&process, self, &actions, NULL, words, environ)) != 0)
        give_up("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    while (waitpid(process, &status, 0) < 0)
        if (errno != EINTR)
            give_up("waitpid");
    read_output(announced);
    read_output(said);
    return status;
}

static bool is_one_line(const struct output *output)
{
    return output->length > 1 && memchr(output->text, '\n', output->length) == output->text + output->length - 1;
}

/* `stacks`: as in misuse_case. */
static bool are_alike(const struct output *announced, const struct output *said, bool stacks)
{
    static const char about_object[] = "slabmalloc: it was ";
    const char *line = said->text, *end;
    while (stacks && strncmp(line, about_object, sizeof about_object - 1) == 0 && (end = strchr(line, '\n')))
        line = end + 1;
    return strcmp(announced->text, line) == 0;
}

/* What is wrong with the case; NULL: nothing. */
static const char *complaint_about(const struct misuse_case *row)
{
    static char complaint[3 * sizeof(struct output)];
    struct output announced, said;
    const int status = run(row, &announced, &said), wanted = row->faults ? SIGSEGV : SIGABRT;
    const char *name = row->faults ? "SIGSEGV" : "SIGABRT";
    char what[64] = "";
    if (WIFEXITED(status))
        snprintf(what, sizeof what, "ended with status %d, not by %s", WEXITSTATUS(status), name);
    else if (WTERMSIG(status) != wanted)
        snprintf(what, sizeof what, "ended by signal %d, not by %s", WTERMSIG(status), name);
    else if (!is_one_line(&announced))
        snprintf(what, sizeof what, "announced no line, or several");
    else if (!are_alike(&announced, &said, row->stacks))
        snprintf(what, sizeof what, "said something else than it had announced");
    else
        return NULL;
    snprintf(complaint, sizeof complaint, "%s %s\nannounced: %s\nsaid: %s", row->name, what, announced.text,
             said.text);
    return complaint;
}

/* -- tests ------------------------------------------------------------------------------------------------------- */

static void ends_as_announced(void **state)
{
    const struct misuse_case *row = *state;
    const char *checked = getenv("SLABMALLOC_CHECKED");
    if (row->checked && (!checked || strcmp(checked, "1") != 0)) {
        print_message("%s is an option of checked builds (SLABMALLOC_CHECKED=1)\n", row->options);
        skip();
    }
    const char *complaint = complaint_about(row);
    if (complaint)
        fail_msg("%s", complaint);
}

static void is_complained_of(void **state)
{
    const struct misuse_case *row = *state;
    const char *complaint = complaint_about(row);
    if (!complaint || !strstr(complaint, row->kind))
        fail_msg("%s: \"%s\" was expected, not %s", row->name, row->kind, complaint ? complaint : "praise");
}

static const struct misuse_case *find(const char *name)
{
    for (unsigned i = 0; i < TABLES; i++)
        for (const struct misuse_case *row = tables[i]; row->name; row++)
            if (strcmp(row->name, name) == 0)
                return row;
    return NULL;
}

/* What counts tests goes by their names. */
static void names_are_words_and_differ(void **state)
{
    (void)state;
    for (unsigned i = 0; i < TABLES; i++)
        for (const struct misuse_case *row = tables[i]; row->name; row++) {
            if (row->name[strspn(row->name, "abcdefghijklmnopqrstuvwxyz0123456789_-")] != 0)
                fail_msg("\"%s\" is no word", row->name);
            if (find(row->name) != row)
                fail_msg("%s is the name of two cases", row->name);
        }
}

static unsigned count_tests(void)
{
    unsigned n = 1;
    for (unsigned i = 0; i < TABLES; i++)
        for (const struct misuse_case *row = tables[i]; row->name; row++)
            n++;
    return n;
}

/* Those of which the name has the pattern in it. */
static unsigned choose_tests(const char *pattern, struct CMUnitTest *tests)
{
    static const struct CMUnitTest of_names = cmocka_unit_test(names_are_words_and_differ);
    char around[256];
    unsigned n = 0;
    snprintf(around, sizeof around, "*%s*", pattern);
    for (unsigned i = 0; i < TABLES; i++)
        for (const struct misuse_case *row = tables[i]; row->name; row++) {
            const CMUnitTestFunction function = tables[i] == misuse_of_checker ? is_complained_of : ends_as_announced;
            if (fnmatch(around, row->name, 0) == 0)
                tests[n++] = (struct CMUnitTest){row->name, function, NULL, NULL, (void *)(uintptr_t)row};
        }
    if (fnmatch(around, of_names.name, 0) == 0)
        tests[n++] = of_names;
    return n;
}

static int test(const char *pattern)
{
    const struct rlimit no_core = {0, 0};
    struct CMUnitTest *tests = calloc(count_tests(), sizeof *tests);
    if (!tests)
        give_up("calloc");
    const unsigned n = choose_tests(pattern, tests);
    if (n == 0) {
        fprintf(stderr, "no test has %s in its name\n", pattern);
        return 2;
    }
    setrlimit(RLIMIT_CORE, &no_core);
    const int failed = _cmocka_run_group_tests("misuse", tests, n, NULL, NULL);
    free(tests);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int list(void)
{
    for (unsigned i = 0; i < TABLES; i++)
        for (const struct misuse_case *row = tables[i]; row->name && tables[i] != misuse_of_checker; row++)
            puts(row->name);
    return EXIT_SUCCESS;
}

/* A class's first objects are lent by the next power of two's, and lines would say that size. Here all have been
 * lent; none is freed, as what was lent stays known. The thread ends: that of the rows has magazines of its own. */
static void *age_classes(void *nothing)
{
    for (size_t i = 2, larger = 32; size_classes[i] <= 2048; i++) {
        const size_t size = size_classes[i];
        larger = size > larger ? larger * 2 : larger;
        size_t n = size == larger ? 0 : 1024 / (larger - size);
        for (n = n < 8 ? n : 8; n > 0; n--) {
            char *volatile object = malloc(size);
            (void)object;
        }
    }
    return nothing;
}

int main(int argc, char **argv)
{
    pthread_t ager;
    if (pthread_create(&ager, NULL, age_classes, NULL) != 0 || pthread_join(ager, NULL) != 0)
        return EXIT_FAILURE;
    tables[TABLES - 1] = misuse_of_loops();
    if (argc == 1)
        return test("");
    if (argc == 3 && strcmp(argv[1], "--only") == 0)
        return test(argv[2]);
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list();
    const struct misuse_case *row = argc == 2 ? find(argv[1]) : NULL;
    if (row)
        return be_case(row);
    fprintf(stderr, "usage: misuse [NAME | --only PATTERN | --list]\n");
    return 2;
}
