/* src/heap/stats.h: figures of the process, and the report at exit. */
#include "unit.h"
#include "machine.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "base/options.h"
#include "base/panic.h"
#include "base/size_class.h"
#include "heap/heap.h"
#include "heap/stats.h"
#include "os/sys.h"
#include "thread/thread_list.h"

static struct slab_stats gather(void)
{
    struct slab_stats stats;
    memset(&stats, 0xff, sizeof stats);
    slm_stats_gather(&stats);
    return stats;
}

static void live_bytes_are_sizes_of_classes(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        void *objects[50];
        const uint64_t before = gather().live_bytes;
        for (size_t i = 0; i < COUNT(objects); i++)
            objects[i] = malloc(slm_class_size[class]);
        assert_int_equal(gather().live_bytes - before, COUNT(objects) * slm_class_size[class]);
        for (size_t i = 0; i < COUNT(objects); i++)
            free(objects[i]);
        assert_int_equal(gather().live_bytes, before);
    }
}

static void large_objects_count_in_pages(void **state)
{
    (void)state;
    const uint64_t before = gather().live_bytes;
    void *object = malloc(1000001);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    assert_int_equal(gather().live_bytes - before, (1000001 + page - 1) / page * page);
    free(object);
    assert_int_equal(gather().live_bytes, before);
    assert_true(gather().dirty_bytes >= 1000001);
}

static void cached_bytes_are_what_magazines_hold(void **state)
{
    (void)state;
    static void *objects[2000];
    slm_heap_purge();
    const struct slab_stats before = gather();
    assert_int_equal(before.cached_bytes, 0);
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = malloc(500);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    const struct slab_stats after = gather();
    assert_in_range(after.cached_bytes, 512, 2 * COUNT(objects) * 512);
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_true(after.refills > before.refills);
    assert_true(after.drains > before.drains);
    assert_true(after.slabs_made > before.slabs_made);
    slm_heap_purge();
    assert_int_equal(gather().cached_bytes, 0);
}

static void purges_are_counted(void **state)
{
    (void)state;
    char *object = malloc(8 * MIB);
    memset(object, 1, 8 * MIB);
    const struct slab_stats before = gather();
    free(object);
    assert_int_equal(gather().dirty_bytes, before.dirty_bytes + 8 * MIB);
    const size_t given = slm_heap_purge();
    const struct slab_stats after = gather();
    assert_true(given >= 8 * MIB);
    assert_int_equal(after.purged_bytes - before.purged_bytes, given);
    assert_true(after.purges > before.purges);
    assert_int_equal(after.dirty_bytes, 0);
}

static void the_rest_is_filled_in(void **state)
{
    (void)state;
    const struct slab_stats stats = gather();
    assert_int_equal(stats.threads, 1);
    assert_int_equal(stats.nodes, slm_nodes);
    assert_int_equal(stats.caches, SLM_CLASSES);
    assert_true(stats.reserved_bytes >= stats.live_bytes + stats.cached_bytes + stats.dirty_bytes);
    assert_in_range(stats.metadata_bytes, 1, 1024 * MIB);
    assert_true(stats.slabs_made >= stats.slabs_released);
    assert_int_equal(stats.deferred_bytes + stats.deferred_objects + stats.grace_periods + stats.membarriers, 0);
}

static void *take_and_give(void *nothing)
{
    void *volatile objects[1000];
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = malloc(72);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    return nothing;
}

static void threads_that_ended_stay_counted(void **state)
{
    (void)state;
    const struct slab_stats before = gather();
    const uint64_t taken = slm_stats_objects_taken();
    on_threads(4, take_and_give);
    const struct slab_stats after = gather();
    assert_true(slm_stats_objects_taken() >= taken + 4000);
    assert_true(after.refills >= before.refills + 4);
    assert_true(after.drains >= before.drains + 4);
    assert_int_equal(after.threads, 1);
}

static void what_a_program_was_served_only_rises(void **state)
{
    (void)state;
    const uint64_t before = slm_stats_objects_taken();
    free(malloc(100000)); /* each large object counts */
    assert_int_equal(slm_stats_objects_taken(), before + 1);
    slm_heap_purge();
    assert_int_equal(slm_stats_objects_taken(), before + 1);
}

static void report_text(void)
{
    slm_options.stats = 1;
    slm_stderr_remember(); /* this child's */
    errno = EDOM;
    slm_stats_report();
    require(errno == EDOM);
}

static const char *const names[] = {"live_bytes",
                                    "cached_bytes",
                                    "dirty_bytes",
                                    "purged_bytes",
                                    "reserved_bytes",
                                    "metadata_bytes",
                                    "refills",
                                    "drains",
                                    "depot_locks",
                                    "depot_contended",
                                    "slabs_made",
                                    "slabs_released",
                                    "purges",
                                    "threads",
                                    "nodes",
                                    "caches",
                                    "membarriers",
                                    "grace_periods",
                                    "deferred_bytes",
                                    "deferred_objects",
                                    "deferred_waits",
                                    "deferred_excesses",
                                    "deferred_unfreed",
                                    "epoch_stalls",
                                    "percpu_objects",
                                    "percpu_bytes",
                                    "percpu_mapped_bytes",
                                    "percpu_metadata_bytes",
                                    "remote_frees"};

/* "slabmalloc: test_stats[PID]: NAME NUMBER" a line; how many there are, with those of `nodes` behind them. */
static void assert_is_report(char *said, unsigned nodes)
{
    static const char *const node_names[] = {"live_bytes",     "cached_bytes",    "dirty_bytes",    "purged_bytes",
                                             "reserved_bytes", "slabs_made",      "slabs_released", "purges",
                                             "depot_locks",    "depot_contended", "remote_frees",   "threads"};
    size_t i = 0;
    int pid = 0;
    for (char *line = strtok(said, "\n"); line; line = strtok(NULL, "\n"), i++) {
        const size_t at = i < COUNT(names) ? i : (i - COUNT(names)) % COUNT(node_names);
        const size_t node = i < COUNT(names) ? 0 : (i - COUNT(names)) / COUNT(node_names);
        int who, length = -1;
        unsigned long figure;
        assert_int_equal(sscanf(line, "slabmalloc: test_stats[%d]: %n", &who, &length), 1);
        assert_true(length > 0 && who > 0 && (pid == 0 || who == pid));
        pid = who;
        const char *expected = i < COUNT(names) ? names[at] : text("node %zu %s", node, node_names[at]);
        assert_memory_equal(line + length, expected, strlen(expected));
        assert_int_equal(sscanf(line + length + strlen(expected), " %lu%n", &figure, &length), 1);
    }
    assert_int_equal(i, COUNT(names) + nodes * COUNT(node_names));
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
    slm_options.stats = 1;
    slm_stderr_remember();
    slm_stats_start();
}

static void report_after_closing(void)
{
    begin_report();
    close(STDERR_FILENO);
    slm_stats_report();
}

static void report_over_a_file(void)
{
    begin_report();
    const int file = memfd_create("of the program", 0);
    require(dup2(file, STDERR_FILENO) == STDERR_FILENO);
    slm_stats_report();
    require(lseek(file, 0, SEEK_END) == 0);
}

/* As a program that closed all but the first three. */
static void report_without_the_duplicate(void)
{
    begin_report();
    require(close_range(3, 4095, 0) == 0);
    slm_stats_report();
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
    slm_stats_report();
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
    assert_child_silent(slm_stats_report);
}

static char path[] = "/tmp/test_stats.XXXXXX";

static void report_to_file(void)
{
    strcpy(slm_options.stats_file, path);
    slm_stats_report();
    slm_stats_report();
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
        assert_int_equal(sscanf(line, "{\"pid\": %u, \"program\": \"test_stats\", \"objects_taken\": %u, %100s", &pid,
                                &taken, begins),
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
    slm_stats_report();
    require(errno == EDOM);
}

static void a_file_that_cannot_be_opened_does_no_harm(void **state)
{
    (void)state;
    assert_child_silent(report_to_nowhere);
}

static char folder[] = "/tmp/test_stats.XXXXXX";

static void start_with_file(void)
{
    errno = EDOM;
    slm_stats_start();
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
    assert_start_says("/new.test_stats", geteuid() == 0 ? NULL : "permission denied");
    assert_start_says("link", NULL);
    assert_start_says("pipe", NULL); /* nobody reads it: yet */
    assert_start_says("/dev/null", NULL);
    slm_options.stats_file[0] = 0;
    assert_int_equal(access("new", F_OK), -1); /* nothing was made */
    assert_int_equal(access("folder/new", F_OK), -1);
    assert_int_equal(unlink("pipe") | unlink("link") | rmdir("folder") | rmdir(folder), 0);
}

/* -- what of os/sys.h serves the report ---------------------------------------------------------------------------
 */

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
    require(slm_sys_duplicate(STDERR_FILENO) == -1 && errno == EDOM); /* the lower ones are left to the program */
    require(slm_sys_duplicate(-1) == -1 && errno == EDOM);
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
    slm_sys_write(ends[1], "unheard", 7);
    slm_sys_write(-1, "unheard", 7);
    require(errno == EDOM && !is_pending(SIGPIPE));
    sigemptyset(&broken);
    sigaddset(&broken, SIGPIPE);
    sigprocmask(SIG_BLOCK, &broken, &before);
    raise(SIGPIPE); /* the program's own stays */
    slm_sys_write(ends[1], "unheard", 7);
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
        cmocka_unit_test(live_bytes_are_sizes_of_classes),
        cmocka_unit_test(large_objects_count_in_pages),
        cmocka_unit_test(cached_bytes_are_what_magazines_hold),
        cmocka_unit_test(purges_are_counted),
        cmocka_unit_test(the_rest_is_filled_in),
        cmocka_unit_test(threads_that_ended_stay_counted),
        cmocka_unit_test(what_a_program_was_served_only_rises),
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
