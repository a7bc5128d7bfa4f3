/* src/figures/report.h: the report at exit. */
#include "unit.h"
#include "machine.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "base/options.h"
#include "base/panic.h"
#include "figures/figures.h"
#include "figures/report.h"
#include "os/sys.h"
#include "os/topology.h"

static void report_text(void)
{
    slm_settings.stats = 1;
    slm_stderr_remember(); /* this child's */
    errno = EDOM;
    slm_report_write();
    require(errno == EDOM);
}

static void assert_is_line(const char *line, const char *name)
{
    int who, length = -1;
    unsigned long figure;
    assert_non_null(line);
    assert_int_equal(sscanf(line, "slabmalloc: test_report[%d]: %n", &who, &length), 1);
    assert_true(length > 0 && who > 0);
    assert_memory_equal(line + length, name, strlen(name));
    assert_int_equal(sscanf(line + length + strlen(name), " %lu", &figure), 1);
}

/* "slabmalloc: test_report[PID]: NAME NUMBER", a line each; then "node N NAME NUMBER" for so many nodes. */
static void assert_is_report(char *said, unsigned nodes)
{
    char *line = strtok(said, "\n");
    assert_is_line(line, "live_bytes");
    for (size_t i = 0; i < SLM_FIGURES; i++, line = strtok(NULL, "\n"))
        assert_is_line(line, slm_figures[i].name);
    for (unsigned node = 0; node < nodes; node++)
        for (size_t i = 0; i < SLM_FIGURES; i++) {
            if (slm_figures[i].node_word == SLM_FIGURE_OF_PROCESS)
                continue;
            assert_is_line(line, text("node %u %s", node, slm_figures[i].name));
            line = strtok(NULL, "\n");
        }
    assert_null(line);
}

static void the_report_is_a_figure_a_line(void **state)
{
    (void)state;
    struct outcome outcome = in_child(report_text);
    assert_int_equal(outcome.status, 0);
    assert_is_report(outcome.said, 0);
}

static int file_of_report; /* a file in memory */

static void report_nodes(void)
{
    dup2(file_of_report, STDERR_FILENO);
    slm_topology_simulate("8x2");
    report_text();
}

/* More than is written at once. */
static void a_report_of_nodes_loses_no_line(void **state)
{
    (void)state;
    static char said[20000];
    file_of_report = memfd_create("report", 0);
    assert_true(file_of_report >= 0);
    assert_child_silent(report_nodes);
    const ssize_t length = pread(file_of_report, said, sizeof said - 1, 0);
    assert_true(length > PIPE_BUF);
    assert_int_equal(said[length - 1], '\n');
    assert_is_report(said, 8);
    close(file_of_report);
}

static void begin_report(void)
{
    slm_settings.stats = 1;
    slm_stderr_remember();
    slm_report_start();
}

static void report_after_closing(void)
{
    begin_report();
    close(STDERR_FILENO);
    slm_report_write();
}

static void report_over_a_file(void)
{
    begin_report();
    const int file = memfd_create("of the program", 0);
    require(dup2(file, STDERR_FILENO) == STDERR_FILENO);
    slm_report_write();
    require(lseek(file, 0, SEEK_END) == 0);
}

/* As a program that closed all but the first three. */
static void report_without_the_duplicate(void)
{
    begin_report();
    require(close_range(3, 4095, 0) == 0);
    slm_report_write();
}

static void the_report_finds_standard_error_again(void **state)
{
    (void)state;
    void (*const ways[])(void) = {report_after_closing, report_over_a_file, report_without_the_duplicate};
    for (size_t i = 0; i < COUNT(ways); i++) {
        struct outcome outcome = in_child(ways[i]);
        assert_int_equal(outcome.status, 0);
        assert_is_report(outcome.said, 0);
    }
}

/* Whatever has taken the numbers of standard error and of its duplicate. */
static void report_over_files(void)
{
    begin_report();
    const int file = memfd_create("of the program", 0);
    for (int descriptor = 0; descriptor < 1024; descriptor++)
        dup2(file, descriptor);
    slm_report_write();
    _exit(lseek(file, 0, SEEK_END) == 0 ? 0 : CHILD_FAILED);
}

static void files_of_the_program_get_no_report(void **state)
{
    (void)state;
    assert_child_silent(report_over_files);
}

static void report_a_strange_name(void)
{
    prctl(PR_SET_NAME, "a\"b\\c\033\303");
    report_text();
}

static void a_strange_name_is_made_plain(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(report_a_strange_name);
    assert_int_equal(outcome.status, 0);
    assert_memory_equal(outcome.said, "slabmalloc: a?b?c??[", 20);
}

static void nothing_is_reported_unasked(void **state)
{
    (void)state;
    assert_child_silent(slm_report_write);
}

static char path[] = "/tmp/test_report.XXXXXX";

static void report_to_file(void)
{
    strcpy(slm_options.stats_file, path);
    slm_report_write();
    slm_report_write();
}

/* Two lines of JSON: braces around, names and numbers in between. */
static void the_file_gets_a_line_of_json_each_time(void **state)
{
    (void)state;
    char line[2048], begins[128];
    const int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_child_silent(report_to_file);
    FILE *file = fdopen(descriptor, "r");
    for (unsigned i = 0; i < 2; i++) {
        unsigned pid, taken;
        assert_non_null(fgets(line, sizeof line, file));
        assert_int_equal(sscanf(line, "{\"pid\": %u, \"program\": \"test_report\", \"objects_taken\": %u, %100s",
                                &pid, &taken, begins),
                         3);
        assert_string_equal(begins, "\"live_bytes\":");
        assert_true(taken > 0);
        assert_string_equal(line + strlen(line) - 2, "}\n");
        assert_null(strchr(line + 1, '{'));
    }
    assert_null(fgets(line, sizeof line, file));
    fclose(file);
    unlink(path);
}

static void report_to_nowhere(void)
{
    strcpy(slm_options.stats_file, "/nowhere/at/all");
    errno = EDOM;
    slm_report_write();
    require(errno == EDOM);
}

static void a_file_that_cannot_be_opened_does_no_harm(void **state)
{
    (void)state;
    assert_child_silent(report_to_nowhere);
}

static char folder[] = "/tmp/test_report.XXXXXX";

static void start_with_file(void)
{
    errno = EDOM;
    slm_report_start();
    require(errno == EDOM);
}

/* Starting says "slabmalloc: option stats_file=PATH: REASON; ..."; nothing, where the reason is NULL. */
static void assert_start_says(const char *file, const char *reason)
{
    strcpy(slm_options.stats_file, file);
    const struct outcome outcome = in_child(start_with_file);
    assert_int_equal(outcome.status, 0);
    assert_string_equal(outcome.said, reason
                                          ? text("slabmalloc: option stats_file=%s: %s; no figures will be written "
                                                 "to it\n",
                                                 file, reason)
                                          : "");
}

static void a_file_that_cannot_be_written_is_told_at_start(void **state)
{
    (void)state;
    char stays[sizeof folder + 8];
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(mkdir("folder", 0755) | mkfifo("pipe", 0644) | symlink("new", "link"), 0);
    snprintf(stays, sizeof stays, "%s/new", folder);
    assert_start_says("nowhere/new", "there is no such folder");
    assert_start_says("folder/nowhere/new", "there is no such folder");
    assert_start_says("/nowhere/at/all", "there is no such folder");
    assert_start_says("pipe/new", "a part of the path is no folder");
    assert_start_says("folder", "it is a folder");
    assert_start_says("/", "it is a folder");
    assert_start_says("new", NULL);
    assert_start_says("folder/new", NULL);
    assert_start_says(stays, NULL);
    assert_start_says("/new.test_report", geteuid() == 0 ? NULL : "permission denied");
    assert_start_says("link", NULL);
    assert_start_says("pipe", NULL); /* nobody reads it: yet */
    assert_start_says("/dev/null", NULL);
    slm_options.stats_file[0] = 0;
    assert_int_equal(access("new", F_OK), -1); /* nothing was made */
    assert_int_equal(access("folder/new", F_OK), -1);
    assert_int_equal(unlink("pipe") | unlink("link") | rmdir("folder") | rmdir(folder), 0);
}

/* -- what of os/sys.h serves the report -------------------------------------------------------------------------- */

static void duplicate_within_limits(void)
{
    static const struct {
        unsigned most;
        int least, end;
    } cases[] = {{2048, 900, 1024}, {1024, 900, 1024}, {256, 200, 256}, {64, 50, 64}, {20, 16, 20}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct rlimit limit = {cases[i].most, cases[i].most};
        require(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        errno = EDOM;
        const int made = slm_sys_duplicate(STDERR_FILENO);
        require(made >= cases[i].least && made < cases[i].end && fcntl(made, F_GETFD) == FD_CLOEXEC);
        require(errno == EDOM);
        close(made);
    }
    require(dup2(STDERR_FILENO, 18) == 18 && dup2(STDERR_FILENO, 19) == 19);
    require(slm_sys_duplicate(STDERR_FILENO) < 0 && errno == EDOM); /* the lower ones are left to the program */
    require(slm_sys_duplicate(-1) < 0 && errno == EDOM);
}

static void a_duplicate_is_high_within_the_limits(void **state)
{
    (void)state;
    assert_child_silent(duplicate_within_limits);
}

static bool is_pending(int signal_number)
{
    sigset_t pending;
    sigpending(&pending);
    return sigismember(&pending, signal_number) == 1;
}

static void write_to_nobody(void)
{
    int ends[2];
    sigset_t broken, before, after;
    require(pipe(ends) == 0);
    close(ends[0]);
    signal(SIGPIPE, SIG_DFL);
    errno = EDOM;
    slm_write_quietly(ends[1], "unheard", 7);
    slm_write_quietly(-1, "unheard", 7);
    require(errno == EDOM && !is_pending(SIGPIPE));
    sigemptyset(&broken);
    sigaddset(&broken, SIGPIPE);
    sigprocmask(SIG_BLOCK, &broken, &before);
    raise(SIGPIPE); /* the program's own stays */
    slm_write_quietly(ends[1], "unheard", 7);
    require(is_pending(SIGPIPE));
    sigprocmask(SIG_SETMASK, NULL, &after);
    require(sigismember(&after, SIGPIPE) == 1);
}

static void writing_to_nobody_raises_no_signal(void **state)
{
    (void)state;
    assert_child_silent(write_to_nobody);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_report_is_a_figure_a_line),
        cmocka_unit_test(a_report_of_nodes_loses_no_line),
        cmocka_unit_test(the_report_finds_standard_error_again),
        cmocka_unit_test(files_of_the_program_get_no_report),
        cmocka_unit_test(a_strange_name_is_made_plain),
        cmocka_unit_test(nothing_is_reported_unasked),
        cmocka_unit_test(the_file_gets_a_line_of_json_each_time),
        cmocka_unit_test(a_file_that_cannot_be_opened_does_no_harm),
        cmocka_unit_test(a_file_that_cannot_be_written_is_told_at_start),
        cmocka_unit_test(a_duplicate_is_high_within_the_limits),
        cmocka_unit_test(writing_to_nobody_raises_no_signal),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
