/* /proc/PID/stat and statm. */
#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A small file of /proc, as text. Returns an errno code, or 0. */
static int file_read(pid_t pid, const char *name, char *text, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno;
    ssize_t length = read(file, text, room - 1);
    int error = length < 0 ? errno : 0;
    close(file);
    text[length < 0 ? 0 : length] = '\0';
    return error;
}

/* A program's name may have spaces and parentheses: the last one ends it. */
static bool stat_parse(char *text, struct process_stat *stat)
{
    char *name = strchr(text, '('), *end = strrchr(text, ')');
    if (!name || !end || end < name)
        return false;
    *end = '\0';
    snprintf(stat->program, sizeof stat->program, "%s", name + 1);
    /* Fields 3, 9, 20, 22 and 28 of proc(5). */
    enum { EXITING = 4 }; /* PF_EXITING, as it has always been */
    unsigned flags = 0;
    bool read = sscanf(end + 1,
                       " %c %*s %*s %*s %*s %*s %u %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %u %*s %" SCNu64
                       " %*s %*s %*s %*s %*s %" SCNu64,
                       &stat->state, &flags, &stat->threads, &stat->start_time, &stat->stack_start) == 5;
    stat->ends = flags & EXITING || stat->state == 'Z' || stat->state == 'X';
    return read;
}

bool process_stat_read(pid_t pid, struct process_stat *stat, struct problem *problem)
{
    char text[2048];
    int error = file_read(pid, "stat", text, sizeof text);
    if (error == ENOENT || error == ESRCH)
        return problem_set(problem, PROBLEM_ENDED, "%d: no such process", (int)pid);
    /* That is the tool's own trouble, and says nothing of the process. */
    if (error == EMFILE || error == ENFILE)
        fail("/proc/%d/stat: %s", (int)pid, strerror(error));
    if (error)
        return problem_set(problem, error == EACCES || error == EPERM ? PROBLEM_NO_PERMISSION : PROBLEM_OTHER,
                           "%d: /proc/%d/stat: %s", (int)pid, (int)pid, strerror(error));
    if (!stat_parse(text, stat))
        return problem_set(problem, PROBLEM_OTHER, "%d: /proc/%d/stat is not as it should be", (int)pid, (int)pid);
    return true;
}

pid_t process_live_task(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *folder = opendir(path);
    pid_t found = pid;
    for (struct dirent *entry; folder && found == pid && (entry = readdir(folder));) {
        struct process_stat stat = {0};
        struct problem problem;
        pid_t task = (pid_t)strtol(entry->d_name, NULL, 10);
        if (task > 0 && process_stat_read(task, &stat, &problem) && !stat.ends)
            found = task;
    }
    if (folder)
        closedir(folder);
    return found;
}

static uint64_t task_resident(pid_t task)
{
    char text[256];
    uint64_t pages = 0;
    if (file_read(task, "statm", text, sizeof text) || sscanf(text, "%*s %" SCNu64, &pages) != 1)
        return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t process_resident(pid_t pid)
{
    uint64_t bytes = task_resident(pid);
    return bytes ? bytes : task_resident(process_live_task(pid));
}

bool process_numbers_fit(struct problem *problem)
{
    char link[32];
    ssize_t length = readlink("/proc/self", link, sizeof link - 1);
    link[length < 0 ? 0 : length] = '\0';
    if (strtol(link, NULL, 10) == getpid())
        return true;
    return problem_set(problem, PROBLEM_OTHER, length < 0 ? "/proc is not there" : "/proc is of another namespace");
}
