/* What the tests share that ask for a machine of their own: several NUMA nodes, CPUs that come and go. tools/numa-vm
 * boots one and runs them as root; test/system/test_vm_percpu.py says which.
 *
 * What the machine is like they read for themselves, not through the library: the kernel's lists in /sys, and of each
 * page the node that it lies on, from move_pages(2). */
#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <slabmalloc.h>

#define CPU_FOLDER "/sys/devices/system/cpu"
#define NODE_FOLDER "/sys/devices/system/node"

enum { CPUS_MAX = 64, NODES_MAX = 16 }; /* of the machines that these tests are run on */

__attribute__((format(printf, 1, 2))) static inline _Noreturn void fail(const char *format, ...)
{
    va_list words;
    va_start(words, format);
    vfprintf(stderr, format, words);
    va_end(words);
    fputc('\n', stderr);
    exit(1);
}

/* -- the kernel's lists ------------------------------------------------------------------------------------------ */

/* The first line of a file, without its end; false where there is no such file. */
static inline bool read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool found = fgets(line, (int)size, file) != NULL;
    fclose(file);
    line[found ? strcspn(line, "\n") : 0] = 0;
    return true;
}

/* Whether the list in that file, such as "0-2,5", names the number. */
static inline bool is_in_list(const char *path, int number)
{
    char text[256];
    if (!read_line(path, text, sizeof text))
        fail("no %s", path);
    for (char *rest = text; *rest >= '0' && *rest <= '9'; rest += *rest == ',') {
        long first = strtol(rest, &rest, 10);
        long last = *rest == '-' ? strtol(rest + 1, &rest, 10) : first;
        if (first <= number && number <= last)
            return true;
    }
    return false;
}

static inline bool cpu_is_possible(int cpu)
{
    return is_in_list(CPU_FOLDER "/possible", cpu);
}

static inline bool cpu_is_present(int cpu)
{
    return is_in_list(CPU_FOLDER "/present", cpu);
}

static inline bool cpu_is_online(int cpu)
{
    return is_in_list(CPU_FOLDER "/online", cpu);
}

static inline bool node_has_memory(int node)
{
    return is_in_list(NODE_FOLDER "/has_memory", node);
}

/* The node that lists the CPU, which only those do that are online: -1 for others. */
static inline int node_of_cpu(int cpu)
{
    char path[64];
    for (int node = 0; node < NODES_MAX; node++) {
        snprintf(path, sizeof path, NODE_FOLDER "/node%d/cpulist", node);
        if (access(path, R_OK) == 0 && is_in_list(path, cpu))
            return node;
    }
    return -1;
}

/* -- acting ------------------------------------------------------------------------------------------------------ */

static inline void set_online(int cpu, bool online)
{
    char path[64];
    snprintf(path, sizeof path, CPU_FOLDER "/cpu%d/online", cpu);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, online ? "1" : "0", 1) != 1)
        fail("%s: %m", path);
    close(file);
    if (cpu_is_online(cpu) != online)
        fail("CPU %d did not go %s", cpu, online ? "online" : "offline");
}

static inline void pin(pthread_t thread, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    int error = pthread_setaffinity_np(thread, sizeof set, &set);
    if (error != 0)
        fail("a thread cannot be pinned to CPU %d: %s", cpu, strerror(error));
}

static inline pthread_t start(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, function, argument);
    if (error != 0)
        fail("no thread: %s", strerror(error));
    return thread;
}

static inline void join(pthread_t thread)
{
    int error = pthread_join(thread, NULL);
    if (error != 0)
        fail("a thread cannot be joined: %s", strerror(error));
}

/* The node that the page of that address lies on; negative where there is none: -ENOENT, or -EFAULT for the page of
 * zeros that reading maps. */
static inline int node_of_page(void *address)
{
    int status;
    void *page = (void *)((uintptr_t)address & ~(uintptr_t)(sysconf(_SC_PAGESIZE) - 1));
    if (syscall(SYS_move_pages, 0, 1ul, &page, NULL, &status, 0) != 0)
        fail("move_pages: %m");
    return status;
}

/* -- the objects under test -------------------------------------------------------------------------------------- */

static inline slab_percpu alloc_object(size_t size, size_t align)
{
    slab_percpu object = slab_percpu_alloc(size, align);
    if (object == NULL)
        fail("slab_percpu_alloc(%zu, %zu): %m", size, align);
    return object;
}

/* How this process changes its copies; after its first object. */
static inline const char *ways(void)
{
    return slab_percpu_here.sequence != 0 ? "restartable sequences" : "atomic operations";
}
