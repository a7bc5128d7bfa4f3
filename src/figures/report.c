/* The report at exit; see report.h. */
#include "figures/report.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/call.h"
#include "base/options.h"
#include "base/panic.h"
#include "figures/figures.h"
#include "os/background.h"
#include "os/sys.h"
#include "os/topology.h"
#include "sync/lock.h"

/* A report on its way out. It is written in whole lines, so that on a pipe, or in a file that is shared or appended
 * to, it does not mix with other processes'. Without nodes it is one write, whatever its numbers are. */
struct report {
    int descriptor;
    struct slm_line before; /* each figure's name; then `between`, its number, `behind` */
    const char *between, *behind;
    size_t length;
    char text[PIPE_BUF];
};

static slm_seldom void flush(struct report *report)
{
    slm_write_quietly(report->descriptor, report->text, report->length);
    report->length = 0;
}

static slm_seldom void add_line(struct report *report, const struct slm_line *line)
{
    if (line->length > sizeof report->text - report->length)
        flush(report);
    memcpy(report->text + report->length, line->text, line->length);
    report->length += line->length;
}

static slm_seldom void add_figure(struct report *report, const char *name, uint64_t value)
{
    struct slm_line line = report->before;
    slm_line_text(&line, name);
    slm_line_text(&line, report->between);
    slm_line_number(&line, value);
    slm_line_text(&line, report->behind);
    add_line(report, &line);
}

static slm_seldom void add_process(struct report *report)
{
    struct slab_stats stats;
    slm_figures_gather(&stats);
    for (const struct slm_figure *figure = slm_figures; figure < slm_figures + SLM_FIGURES; figure++)
        add_figure(report, figure->name, ((const uint64_t *)&stats)[figure->word]);
}

static slm_seldom void add_node(struct report *report, int node)
{
    struct slab_node_stats stats;
    slm_figures_gather_node(node, &stats);
    for (const struct slm_figure *figure = slm_figures; figure < slm_figures + SLM_FIGURES; figure++)
        if (figure->node_word != SLM_FIGURE_OF_PROCESS)
            add_figure(report, figure->name, ((const uint64_t *)&stats)[figure->node_word]);
}

/* The kernel's name of the main thread, in characters that a terminal and JSON accept. */
static slm_seldom void line_program(struct slm_line *line)
{
    char name[16] = "?";
    if (!slm_sys_read_file("/proc/self/comm", name, sizeof name))
        slm_call(SYS_prctl, PR_GET_NAME, name); /* there is no /proc here: the calling thread's */
    name[strcspn(name, "\n")] = 0;
    for (char *c = name; *c; c++)
        *c = *c < ' ' || *c > '~' || *c == '"' || *c == '\\' ? '?' : *c;
    slm_line_text(line, name);
}

/* A duplicate of standard error as it was at start, which many programs close before they exit. */
static slm_once int kept_stderr = -1;

/* Lines "slabmalloc: PROGRAM[PID]: NAME NUMBER"; "node N NAME" for a node's. */
static slm_seldom void report_text(void)
{
    const int standard = slm_stderr_is(STDERR_FILENO) ? STDERR_FILENO : -1; /* -1: nothing is open on it any more */
    struct report report = {
        .descriptor = slm_stderr_is(kept_stderr) ? kept_stderr : standard, .between = " ", .behind = "\n"};
    struct slm_line *before = &report.before;
    slm_line_text(before, "slabmalloc: ");
    line_program(before);
    slm_line_text(before, "[");
    slm_line_number(before, (uint64_t)slm_call(SYS_getpid));
    slm_line_text(before, "]: ");
    add_process(&report);
    const size_t length = before->length;
    for (unsigned node = 0; slm_nodes > 1 && node < slm_nodes; node++) {
        before->length = length;
        slm_line_text(before, "node ");
        slm_line_number(before, node);
        slm_line_text(before, " ");
        add_node(&report, (int)node);
    }
    flush(&report);
}

/* One line in one write, so that the processes of a server may share the file. */
static slm_seldom void report_json(void)
{
    const int file = slm_sys_open_to_append(slm_options.stats_file, true);
    if (file < 0)
        return;
    struct report report = {.descriptor = file, .before = {3, ", \""}, .between = "\": ", .behind = ""};
    struct slm_line line = {0};
    slm_line_text(&line, "{\"pid\": ");
    slm_line_number(&line, (uint64_t)slm_call(SYS_getpid));
    slm_line_text(&line, ", \"program\": \"");
    line_program(&line);
    slm_line_text(&line, "\"");
    add_line(&report, &line);
    add_figure(&report, "objects_taken", slm_figures_objects_taken());
    add_process(&report);
    add_line(&report, &(struct slm_line){2, "}\n"});
    flush(&report);
    slm_sys_close(file);
}

static slm_once bool stats_at_start;

/* Who has the figures written from the start lets a sandbox know these calls. Whoever asks for them later cannot. */
static __attribute__((noinline)) slm_seldom void report_if_known(void)
{
    const bool may = slm_background_begin();
    if (stats_at_start || (may && !slm_sys_is_filtered()))
        report_text();
    slm_background_end();
}

slm_cold void slm_report_write(void)
{
    if (slm_setting(stats))
        report_if_known();
    if (slm_options.stats_file[0])
        report_json();
}

/* The path is an option's. */
slm_seldom int slm_report_folder_error(const char *path)
{
    char folder[sizeof slm_options.stats_file + 1] = ".";
    const char *slash = strrchr(path, '/');
    if (slash) /* with the slash, which the root's name consists of */
        memcpy(folder, path, (size_t)(slash - path) + 1);
    return slm_sys_access_to_make(folder);
}

/* The last is for what is not listed. */
static const struct {
    int error;
    char text[32];
} reasons[] = {
    {EACCES, "permission denied"},
    {EPERM, "permission denied"},
    {EISDIR, "it is a folder"},
    {ENOENT, "there is no such folder"},
    {ENOTDIR, "a part of the path is no folder"},
    {EROFS, "the file system is read-only"},
    {ENOSPC, "there is no room"},
    {EDQUOT, "there is no room"},
    {EFBIG, "it may not be so long"},
    {ENOMEM, "there is no memory"},
    {0, "it cannot be opened"},
};

slm_seldom void slm_report_refuse(const char *option, const char *path, int error, const char *so)
{
    size_t reason = 0;
    while (reasons[reason].error != 0 && reasons[reason].error != error)
        reason++;
    struct slm_line line = {0};
    slm_line_add(&line, "slabmalloc: option %s=%s: %s; %s", option, path, reasons[reason].text, so);
    slm_line_write(&line, STDERR_FILENO);
}

/* Creates nothing: the user that starts a process is not always the one that ends it. */
static slm_seldom void check_file(const char *path)
{
    const int file = slm_sys_open_to_append(path, false);
    if (file >= 0) {
        slm_sys_close(file);
        return;
    }
    int error = -file;
    if (error == ENOENT)
        error = slm_report_folder_error(path);
    if (error == 0 || error == ENXIO) /* a pipe that nobody reads yet */
        return;
    slm_report_refuse("stats_file", path, error, "no figures will be written to it");
}

slm_seldom void slm_report_start(void)
{
    stats_at_start = slm_setting(stats);
    if (stats_at_start)
        kept_stderr = slm_sys_duplicate(STDERR_FILENO);
    if (slm_options.stats_file[0])
        check_file(slm_options.stats_file);
}
