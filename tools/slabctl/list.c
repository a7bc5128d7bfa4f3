/* A table of the processes that run on the library, as far as this user may look into them. */
#include "list.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "amount.h"
#include "process.h"

struct tally {
    unsigned shown, refused;
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

void list_print(void)
{
    struct problem problem;
    if (!process_numbers_fit(&problem))
        fail("%s", problem.text);
    DIR *folder = opendir("/proc");
    if (!folder)
        fail("/proc cannot be read");
    pid_t *pids = NULL;
    size_t count = 0, room = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        uint64_t pid;
        if (!number_parse(entry->d_name, INT32_MAX, &pid) || (pid_t)pid == getpid())
            continue;
        pids = array_grow(pids, &room, count + 1, sizeof *pids);
        pids[count++] = (pid_t)pid;
    }
    closedir(folder);
    struct tally tally = {0};
    if (count)
        qsort(pids, count, sizeof *pids, pid_compare);
    for (size_t i = 0; i < count; i++)
        process_look(pids[i], &tally);
    free(pids);
    if (!tally.shown)
        puts("no process that runs on slabmalloc");
    if (tally.refused)
        printf("%u %s may not be looked into\n", tally.refused, tally.refused == 1 ? "process" : "processes");
}
