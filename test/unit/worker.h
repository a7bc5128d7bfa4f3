/* What the tests of the library's worker thread share: whether it is there, how often it sleeps, and a second thread
 * that makes it come. What waits polls, until it has come; and clocks go fast, because the worker looks around for
 * seconds before it sleeps. */
#pragma once

#include "unit.h"

#include <dirent.h>
#include <fcntl.h>

enum { PF_EXITING = 4, CLOCK_SPEED = 20, POLL_MS = 5, FAR_OFF_MS = CLOCK_SPEED * 3600000 };

/* Where the clock stands still, if not 0. */
static _Atomic uint64_t still_ns;

/* The library's calls come here, too. What sleeps sleeps as long as ever. */
int clock_gettime(clockid_t clock, struct timespec *time)
{
    const long failed = syscall(SYS_clock_gettime, clock, time);
    const uint64_t still = load_relaxed(&still_ns);
    const uint64_t ns = still ? still : ((uint64_t)time->tv_sec * 1000000000 + (uint64_t)time->tv_nsec) * CLOCK_SPEED;
    *time = (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    return (int)failed;
}

/* A thread that has been joined may still be at its very end in the kernel. */
static inline bool is_at_its_end(const char *task)
{
    char stat[1024] = "";
    unsigned flags = 0;
    FILE *file = fopen(text("/proc/self/task/%s/stat", task), "r");
    if (!file || !fgets(stat, sizeof stat, file) ||
        sscanf(strrchr(stat, ')'), ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
        flags = PF_EXITING;
    if (file)
        fclose(file);
    return (flags & PF_EXITING) != 0;
}

/* The number of this process's threads, and the worker's among them, 0 if there is none. */
static inline unsigned count_tasks(long *worker)
{
    unsigned tasks = 0;
    DIR *folder = opendir("/proc/self/task");
    require(folder != NULL);
    *worker = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        char name[32] = "";
        if (entry->d_name[0] == '.')
            continue;
        FILE *file = fopen(text("/proc/self/task/%s/comm", entry->d_name), "r");
        if (!file)
            continue;
        if (fgets(name, sizeof name, file) && strcmp(name, "slabmalloc\n") == 0 && !is_at_its_end(entry->d_name))
            *worker = atol(entry->d_name);
        fclose(file);
        tasks++;
    }
    closedir(folder);
    return tasks;
}

static inline bool worker_there(void)
{
    long worker;
    count_tasks(&worker);
    return worker != 0;
}

static inline bool worker_gone(void)
{
    return !worker_there();
}

static inline bool alone(void)
{
    long worker;
    return count_tasks(&worker) == 1;
}

/* Without a single allocation meanwhile, if the condition makes none. */
static inline void wait_until(bool (*condition)(void))
{
    while (!condition())
        sleep_ms(POLL_MS);
}

/* How often a thread has gone to sleep. Makes no objects, whose frees could wake the worker. */
static inline unsigned long count_sleeps(long thread)
{
    char status[4096] = "";
    const int file = open(text("/proc/self/task/%ld/status", thread), O_RDONLY);
    require(file >= 0 && read(file, status, sizeof status - 1) > 0);
    close(file);
    const char *line = strstr(status, "\nvoluntary_ctxt_switches:");
    require(line != NULL);
    return strtoul(strchr(line, ':') + 1, NULL, 10);
}

/* Until it does not wake any more: while it is awake it looks, and sleeps again, every 22 ms. */
static inline void wait_until_asleep(long thread)
{
    unsigned long before = count_sleeps(thread);
    for (unsigned same = 0; same < 20; same++) {
        sleep_ms(10);
        const unsigned long sleeps = count_sleeps(thread);
        if (sleeps != before)
            same = 0;
        before = sleeps;
    }
}

/* A second thread, that lives until it is told to end. */
static _Atomic bool may_end;
static pthread_t second;

static inline void *be_second(void *nothing)
{
    void *volatile object = malloc(100);
    while (!load_acquire(&may_end))
        sleep_ms(5);
    free(object);
    return nothing;
}

static inline void start_second(void)
{
    store_relaxed(&may_end, false);
    require(pthread_create(&second, NULL, be_second, NULL) == 0);
}

static inline void end_second(void)
{
    store_release(&may_end, true);
    require(pthread_join(second, NULL) == 0);
}
