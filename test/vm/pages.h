/* What the tests share that ask where the pages of objects lie: the machine's nodes by kind, pages, and scenarios.
 *
 * A scenario is played in a process of its own: what it is to find (a policy, a control group, a limit) is prepared
 * between fork and exec, as numactl(8) does, so that the library starts under it. Each ends with a line on standard
 * output: its name, and "ok" or what became of it. */
#pragma once

#include "machine.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, ANY_NODE = -1 };

/* -- the machine ------------------------------------------------------------------------------------------------- */

/* Nodes by what they have, and a CPU of each that has some. */
static struct {
    int count;
    int home, away; /* CPUs and memory, both */
    int bare;       /* memory alone */
    int empty;      /* CPUs alone */
    int cpu_of[NODES_MAX];
    bool has_memory[NODES_MAX];
} nodes = {.home = -1, .away = -1, .bare = -1, .empty = -1};

static inline void look_at_nodes(void)
{
    for (int node = 0; node < NODES_MAX; node++)
        nodes.cpu_of[node] = -1;
    for (int cpu = CPUS_MAX - 1; cpu >= 0; cpu--)
        if (node_of_cpu(cpu) >= 0)
            nodes.cpu_of[node_of_cpu(cpu)] = cpu;
    for (int node = 0; is_in_list(NODE_FOLDER "/online", node); nodes.count = ++node) {
        const bool cpus = nodes.cpu_of[node] >= 0;
        nodes.has_memory[node] = node_has_memory(node);
        if (!nodes.has_memory[node])
            nodes.empty = node;
        else if (!cpus)
            nodes.bare = node;
        else if (nodes.home < 0)
            nodes.home = node;
        else
            nodes.away = node;
    }
    if (nodes.home < 0 || nodes.away < 0 || nodes.bare < 0 || nodes.empty < 0)
        fail("not the machine for this: two whole nodes, one without CPUs, one without memory");
}

/* Where pages are that are to lie on a node: one without memory promises nothing. */
static inline int place_on(int node)
{
    return nodes.has_memory[node] ? node : ANY_NODE;
}

/* Run it in a thread of its own, on a CPU of that node. */
struct visit {
    int node;
    void (*work)(void *context);
    void *context;
};

static inline void *visit_run(void *argument)
{
    const struct visit *visit = argument;
    pin(pthread_self(), nodes.cpu_of[visit->node]);
    visit->work(visit->context);
    return NULL;
}

static inline void run_on(int node, void (*work)(void *context), void *context)
{
    struct visit visit = {node, work, context};
    join(start(visit_run, &visit));
}

/* -- what a process is started under --------------------------------------------------------------------------- */

static inline void write_line(const char *path, const char *text)
{
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text))
        fail("\"%s\" does not go into %s: %m", text, path);
    close(file);
}

#define GROUP_FOLDER "/sys/fs/cgroup"

static inline void allow_nodes(const char *group, const char *list)
{
    char path[128];
    snprintf(path, sizeof path, GROUP_FOLDER "/%s/cpuset.mems", group);
    write_line(path, list);
}

/* Into a control group that may have memory from the nodes in the list. */
static inline void join_group(const char *group, const char *list)
{
    char path[128];
    write_line(GROUP_FOLDER "/cgroup.subtree_control", "+cpuset");
    snprintf(path, sizeof path, GROUP_FOLDER "/%s", group);
    if (mkdir(path, 0755) != 0 && errno != EEXIST)
        fail("no control group %s: %m", path);
    allow_nodes(group, list);
    snprintf(path, sizeof path, GROUP_FOLDER "/%s/cgroup.procs", group);
    write_line(path, "0");
}

/* As numactl(8): the calling thread's policy, and of what it starts. */
static inline void set_policy(int mode, unsigned long mask)
{
    if (syscall(SYS_set_mempolicy, mode, mask != 0 ? &mask : NULL, mask != 0 ? 64ul : 0ul) != 0)
        fail("set_mempolicy: %m");
}

/* -- pages ------------------------------------------------------------------------------------------------------- */

/* A byte in each page; with a value, so that pages which read as zero are none by chance. */
static inline void write_pages(void *object, size_t size)
{
    for (size_t i = 0; i < size; i += PAGE)
        ((volatile char *)object)[i] = 0x5a;
    ((volatile char *)object)[size - 1] = 0x5a;
}

/* How many of an object's pages lie on each node, added to `found`; they have all been written. No allocation. */
static inline void count_pages(void *object, size_t size, size_t found[NODES_MAX])
{
    enum { BATCH = 256 };
    void *pages[BATCH];
    int where[BATCH];
    char *page = (char *)((uintptr_t)object & ~(uintptr_t)(PAGE - 1));
    while (page < (char *)object + size) {
        unsigned long count = 0;
        for (; count < BATCH && page < (char *)object + size; page += PAGE)
            pages[count++] = page;
        if (syscall(SYS_move_pages, 0, count, pages, NULL, where, 0) != 0)
            fail("move_pages: %m");
        for (unsigned long i = 0; i < count; i++) {
            if (where[i] < 0 || where[i] >= NODES_MAX)
                fail("a page at %p has been written and is none: %s", pages[i], strerror(-where[i]));
            found[where[i]]++;
        }
    }
}

/* All pages of an object lie on the node; ANY_NODE: somewhere. */
static inline void check_pages(const char *what, void *object, size_t size, int node)
{
    size_t found[NODES_MAX] = {0}, all = 0;
    count_pages(object, size, found);
    for (int n = 0; n < NODES_MAX; n++)
        all += found[n];
    if (node == ANY_NODE || found[node] == all)
        return;
    fprintf(stderr, "%s: %zu bytes at %p are to lie on node %d; pages a node:", what, size, object, node);
    for (int n = 0; n < nodes.count; n++)
        fprintf(stderr, " %zu", found[n]);
    fail(".");
}

static inline void write_and_check(const char *what, void *object, size_t size, int node)
{
    write_pages(object, size);
    check_pages(what, object, size, node);
}

static inline void *existing(void *object)
{
    if (object == NULL)
        fail("no memory: %m");
    return object;
}

/* -- scenarios --------------------------------------------------------------------------------------------------- */

struct scenario {
    const char *name;
    void (*play)(void);
    void (*prepare)(void); /* before exec; or NULL */
    const char *setting;   /* NAME=value for the environment, or NULL */
};

static inline pid_t launch(const char *name, void (*prepare)(void), const char *setting, int output)
{
    fflush(NULL);
    const pid_t child = fork();
    if (child != 0)
        return child;
    if (output >= 0)
        dup2(output, STDOUT_FILENO);
    if (setting != NULL)
        putenv((char *)setting);
    if (prepare != NULL)
        prepare();
    execl("/proc/self/exe", "scenario", name, (char *)NULL);
    fail("exec: %m");
}

static inline bool ended_well(pid_t child)
{
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Without a name: all. With one: that, in this process. */
static inline int run_scenarios(const struct scenario *scenarios, size_t count, int argc, char **argv)
{
    bool all_well = true;
    look_at_nodes();
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(scenarios[i].name, argv[1]) == 0) {
            alarm(600); /* it hangs: nothing else takes so long, on emulated CPUs either */
            scenarios[i].play();
            return 0;
        }
        if (argc > 1)
            continue;
        const bool well = ended_well(launch(scenarios[i].name, scenarios[i].prepare, scenarios[i].setting, -1));
        printf("%s %s\n", scenarios[i].name, well ? "ok" : "failed");
        if (!well)
            fprintf(stderr, "so %s failed\n", scenarios[i].name);
        all_well = all_well && well;
    }
    return argc > 1 ? 126 : !all_well;
}
