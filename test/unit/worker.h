/* What the tests of the library's worker thread share: whether it is there, how often it sleeps, and a second thread
 * that makes it come. What waits polls, and gives up after seconds. */
#pragma once

#include "unit.h"

#include <dirent.h>

enum { PATIENCE_MS = 15000, POLL_MS = 20 };

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
        if (fgets(name, sizeof name, file) && strcmp(name, "slabmalloc\n") == 0)
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

/* Without a single allocation meanwhile, if the condition makes none. */
static inline bool comes_true(bool (*condition)(void))
{
    for (unsigned waited = 0; waited < PATIENCE_MS; waited += POLL_MS) {
        if (condition())
            return true;
        sleep_ms(POLL_MS);
    }
    return false;
}

/* How often a thread has gone to sleep. Lists no folder: that makes a large object, and its free wakes the worker. */
static inline unsigned long count_sleeps(long thread)
{
    char line[128];
    unsigned long sleeps = 0;
    FILE *file = fopen(text("/proc/self/task/%ld/status", thread), "r");
    require(file != NULL);
    while (fgets(line, sizeof line, file))
        sscanf(line, "voluntary_ctxt_switches: %lu", &sleeps);
    fclose(file);
    return sleeps;
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
