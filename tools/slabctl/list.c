/* A table of the processes that run on the library, as far as this user may look into them.
 *
 * A child makes it (watch.h). Where one process keeps it waiting, or ends it, another child goes on with the next. */
#include "list.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "amount.h"
#include "process.h"
#include "watch.h"

/* Shared by the children that make the table, one after the other. */
struct tally {
    unsigned shown, refused;
};

struct list {
    pid_t *pids;
    size_t count, at; /* the children's first one */
    struct tally *tally;
};

static void row_print(pid_t pid, struct target *target, struct tally *tally)
{
    struct process_stat stat;
    struct problem problem;
    if (!process_stat_read(pid, &stat, &problem))
        return;
    if (tally->shown++ == 0)
        printf("%8s  %-16s %7s %11s %11s %11s\n", "PID", "PROGRAM", "THREADS", "RSS", "IN USE", "LIVE");
    uint64_t used = 0, live = 0;
    bool has_used = target_used_bytes(target, &used);
    bool has_live = list_live_bytes(target, &live);
    printf("%8d  %-16s %7u %11s %11s %11s\n", (int)pid, printable(stat.program), stat.threads,
           amount_of(process_resident(pid)).text, has_used ? amount_of(used).text : "-",
           has_live ? amount_of(live).text : "-");
}

static void process_look(pid_t pid, struct tally *tally)
{
    struct problem problem = {0};
    struct target *target = target_try_process(pid, &problem);
    if (target) {
        row_print(pid, target, tally);
        target_close(target);
    } else if (problem.kind == PROBLEM_NO_PERMISSION) {
        tally->refused++;
    } else if (problem.kind == PROBLEM_OTHER) {
        complain("%s", problem.text);
    }
}

static int pid_compare(const void *a, const void *b)
{
    return (*(const pid_t *)a > *(const pid_t *)b) - (*(const pid_t *)a < *(const pid_t *)b);
}

static void table_print(void *input)
{
    const struct list *list = input;
    for (size_t i = list->at; i < list->count; i++) {
        watch_step();
        process_look(list->pids[i], list->tally);
        output_flush(); /* the next one may hang */
    }
}

static void pids_read(struct list *list)
{
    DIR *folder = opendir("/proc");
    size_t room = 0;
    if (!folder)
        fail("/proc cannot be read");
    for (struct dirent *entry; (entry = readdir(folder));) {
        uint64_t pid;
        if (!number_parse(entry->d_name, INT32_MAX, &pid) || (pid_t)pid == getpid())
            continue;
        list->pids = array_grow(list->pids, &room, list->count + 1, sizeof *list->pids);
        list->pids[list->count++] = (pid_t)pid;
    }
    closedir(folder);
    if (list->count)
        qsort(list->pids, list->count, sizeof *list->pids, pid_compare);
}

static void bad_print(pid_t pid, bool hung)
{
    struct process_stat stat;
    struct problem problem;
    if (process_stat_read(pid, &stat, &problem))
        printf("%d (%s) %s\n", (int)pid, printable(stat.program),
               hung ? "does not answer" : "could not be looked into");
}

/* Goes on behind a process that a child has not survived. The more there are the shorter is the wait. */
void list_print(unsigned silence_ms)
{
    enum { SILENCE_MS_LEAST = 100 };
    struct list list = {.tally = watch_memory(sizeof *list.tally)};
    struct bad {
        pid_t pid;
        bool hung;
    } *bad = NULL;
    size_t bad_count = 0, room = 0;
    struct problem problem;
    if (!process_numbers_fit(&problem))
        fail("%s", problem.text);
    pids_read(&list);
    while (list.at < list.count) {
        struct watch_end end = watch_run(table_print, &list, silence_ms, true);
        if (!end.hung && !end.signal && end.code == EXIT_DONE)
            break;
        list.at += end.steps ? end.steps : 1;
        bad = array_grow(bad, &room, bad_count + 1, sizeof *bad);
        bad[bad_count++] = (struct bad){list.pids[list.at - 1], end.hung};
        if (end.hung && silence_ms / 2 >= SILENCE_MS_LEAST)
            silence_ms /= 2;
    }
    if (!list.tally->shown)
        puts("no process that runs on slabmalloc");
    for (size_t i = 0; i < bad_count; i++)
        bad_print(bad[i].pid, bad[i].hung);
    if (list.tally->refused)
        printf("%u %s may not be looked into\n", list.tally->refused,
               list.tally->refused == 1 ? "process" : "processes");
    free(bad);
    free(list.pids);
}
