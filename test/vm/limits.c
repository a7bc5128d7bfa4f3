/* Programs with limit=cgroup in control groups: limits FOLDER [SCENARIO]. FOLDER is a group with the memory
 * controller, of version 1 or 2, in which groups may be made. A line for each scenario says "ok" or "failed".
 *
 * Promised in README.md ("Memory limits"): a program that the kernel would end for lack of memory gets NULL and
 * ENOMEM instead, and goes on; limits hold that are set while it runs; when the soft one falls, what is free goes
 * back to the kernel. */
#include "machine.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define MIB ((size_t)1 << 20)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static char group[512]; /* the folder of the group that the scenario runs in */
static bool first;      /* of version 1 */

/* -- groups ------------------------------------------------------------------------------------------------------ */

static void put(const char *folder, const char *name, const char *text)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    const int file = open(path, O_WRONLY | O_CLOEXEC); /* not fopen, as there may be no memory */
    if (file < 0 || write(file, text, strlen(text)) < 0)
        fail("%s to %s: %m", text, path);
    close(file);
}

static void put_bytes(const char *folder, const char *name, size_t bytes)
{
    char text[32];
    snprintf(text, sizeof text, "%zu", bytes);
    put(folder, name, text);
}

static void set_max(const char *folder, size_t bytes)
{
    put_bytes(folder, first ? "memory.limit_in_bytes" : "memory.max", bytes);
}

static void set_high(const char *folder, size_t bytes)
{
    put_bytes(folder, first ? "memory.soft_limit_in_bytes" : "memory.high", bytes);
}

static void make_groups(const char *folder)
{
    char path[sizeof group];
    snprintf(group, sizeof group, "%s/outer", folder);
    mkdir(group, 0755);
    if (!first) {
        put(folder, "cgroup.subtree_control", "+memory");
        put(group, "cgroup.subtree_control", "+memory");
    }
    snprintf(path, sizeof path, "%s/outer/inner", folder);
    mkdir(path, 0755);
    memcpy(group, path, sizeof group);
}

static void outer_group(char *path, size_t size)
{
    snprintf(path, size, "%s", group);
    *strrchr(path, '/') = 0;
}

static void drop_groups(void)
{
    while (rmdir(group) != 0 && errno == EBUSY) /* the last process is on its way out */
        usleep(1000);
    *strrchr(group, '/') = 0;
    rmdir(group);
}

/* -- the memory of a process ------------------------------------------------------------------------------------- */

static size_t rss(void)
{
    char line[128];
    size_t pages = 0;
    if (!read_line("/proc/self/statm", line, sizeof line) || sscanf(line, "%*u %zu", &pages) != 1)
        fail("no /proc/self/statm");
    return pages * 4096;
}

struct link {
    struct link *next;
};

/* Written blocks in front of the list, until there is no memory or `most` bytes are made. Returns the bytes. */
static size_t fill(struct link **list, size_t size, size_t most)
{
    size_t made = 0;
    struct link *block;
    errno = 0;
    while (made < most && (block = malloc(size)) != NULL) {
        memset(block, 1, size);
        block->next = *list;
        *list = block;
        made += size;
    }
    if (made < most && errno != ENOMEM)
        fail("no memory, but errno is %d", errno);
    return made;
}

static void empty(struct link **list)
{
    for (struct link *next; *list != NULL; *list = next) {
        next = (*list)->next;
        free(*list);
    }
}

static void expect_between(const char *what, size_t bytes, size_t least, size_t most)
{
    if (bytes < least || bytes > most)
        fail("%s: %zu MiB, not %zu to %zu", what, bytes / MIB, least / MIB, most / MIB);
}

static slab_stats figures(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    return stats;
}

/* -- scenarios --------------------------------------------------------------------------------------------------- */

/* Whatever the sizes, it fills most of what the group may have, and again after it has freed all. */
static void full(void)
{
    static const size_t sizes[] = {1000, 20000, 100 << 10, 5 << 20};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        struct link *list = NULL;
        expect_between("made", fill(&list, sizes[i], 1024 * MIB), 36 * MIB, 64 * MIB);
        empty(&list);
    }
    if (figures().limit_refusals != COUNT(sizes))
        fail("%zu calls refused", (size_t)figures().limit_refusals);
}

static void limit_inner(void)
{
    set_max(group, 64 * MIB);
}

static void limit_outer(void)
{
    char outer[512];
    outer_group(outer, sizeof outer);
    set_max(outer, 64 * MIB);
    set_max(group, 512 * MIB);
}

/* The same on threads, at once. */
static void *fill_on_thread(void *nothing)
{
    for (unsigned round = 0; round < 4; round++) {
        struct link *list = NULL;
        fill(&list, (size_t)300 << 5 * round, 1024 * MIB);
        empty(&list);
    }
    return nothing;
}

static void threads(void)
{
    pthread_t each[4];
    for (size_t i = 0; i < COUNT(each); i++)
        if (pthread_create(&each[i], NULL, fill_on_thread, NULL) != 0)
            fail("no thread");
    for (size_t i = 0; i < COUNT(each); i++)
        pthread_join(each[i], NULL);
    if (figures().limit_refusals < 16)
        fail("%zu calls refused", (size_t)figures().limit_refusals);
}

/* Memory of others in the group: a sibling's, here a child's. And page cache is no obstacle. */
static void others(void)
{
    int gate[2];
    struct link *list = NULL;
    char byte;
    if (pipe(gate) != 0)
        fail("no pipe");
    const pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        void *held = memset(malloc(24 * MIB), 1, 24 * MIB);
        __asm__ volatile("" : : "r"(held) : "memory"); /* or the compiler leaves it out */
        if (write(gate[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    if (read(gate[0], &byte, 1) != 1)
        fail("no child");
    expect_between("made beside 24 MiB", fill(&list, 10000, 1024 * MIB), 16 * MIB, 40 * MIB);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    expect_between("made when they are gone", fill(&list, 10000, 1024 * MIB), 12 * MIB, 40 * MIB);
    empty(&list);
}

static void child_has_ended(int number)
{
    static const char line[] = "a child has ended\n";
    (void)number;
    if (write(STDERR_FILENO, line, sizeof line - 1) > 0)
        _exit(1);
}

/* Processes that grow at the same moment, each with the same room before it, do not pass the limit together. */
static void prefork(void)
{
    enum { CHILDREN = 4 };
    pid_t children[CHILDREN];
    size_t made = 0, bytes;
    int gate[2];
    if (pipe(gate) != 0)
        fail("no pipe");
    signal(SIGCHLD, child_has_ended);
    for (unsigned i = 0; i < CHILDREN; i++) {
        struct link *list = NULL;
        children[i] = fork();
        if (children[i] != 0)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bytes = fill(&list, (size_t)1000 << 2 * i, 1024 * MIB);
        if (write(gate[1], &bytes, sizeof bytes) == sizeof bytes)
            pause();
        _exit(list != NULL);
    }
    for (unsigned i = 0; i < CHILDREN; made += bytes, i++)
        if (read(gate[0], &bytes, sizeof bytes) != sizeof bytes)
            fail("no child");
    expect_between("made by all", made, 32 * MIB, 64 * MIB);
    signal(SIGCHLD, SIG_DFL);
    for (unsigned i = 0; i < CHILDREN; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
}

/* A limit that rises counts at once, one that falls from the next look on. */
static void changes(void)
{
    struct link *list = NULL;
    size_t more;
    expect_between("made", fill(&list, 10000, 1024 * MIB), 48 * MIB, 64 * MIB);
    set_max(group, 128 * MIB);
    while ((more = fill(&list, 10000, 1024 * MIB)) == 0) /* it has just been looked at */
        usleep(1000);
    expect_between("more", more, 48 * MIB, 72 * MIB);
    empty(&list);
    malloc_trim(0);
    set_max(group, 48 * MIB);
    while (figures().limit_bytes > 48 * MIB) {
        for (unsigned i = 0; i < 20; i++)
            fill(&list, 10000, 100000);
        empty(&list);
    }
    expect_between("less", fill(&list, 10000, 1024 * MIB), 24 * MIB, 48 * MIB);
    empty(&list);
}

static void *idle(void *gate)
{
    pthread_barrier_wait(gate);
    return NULL;
}

/* Nothing but the limit has free memory go back. What is in use stays. */
static void high_falls(bool several)
{
    struct link *list = NULL, *kept = NULL;
    pthread_barrier_t gate;
    pthread_t thread;
    pthread_barrier_init(&gate, NULL, 2);
    if (several && pthread_create(&thread, NULL, idle, &gate) != 0)
        fail("no thread");
    for (unsigned i = 0; i < 1000; i++) {
        fill(&list, 100000, 100000);
        fill(&kept, 5000, 5000);
    }
    empty(&list);
    const size_t before = rss();
    expect_between("resident", before, 95 * MIB, 400 * MIB);
    set_high(group, 32 * MIB);
    while (rss() > 32 * MIB) {
        if (several)
            usleep(10000);
        for (unsigned i = 0; !several && i < 20; i++) {
            fill(&list, 10000, 1000000);
            empty(&list);
        }
    }
    empty(&kept);
    if (several) {
        pthread_barrier_wait(&gate);
        pthread_join(thread, NULL);
    }
}

static void high_falls_idle(void)
{
    high_falls(true);
}

static void high_falls_busy(void)
{
    high_falls(false);
}

static void no_limit(void) {}

/* -- running them ------------------------------------------------------------------------------------------------ */

static const struct scenario {
    const char *name;
    void (*run)(void);
    void (*prepare)(void);
    const char *more_options;
} scenarios[] = {
    {"full", full, limit_inner, ""},
    {"full_in_outer", full, limit_outer, ""},
    {"threads", threads, limit_inner, ""},
    {"others", others, limit_inner, ""},
    {"prefork", prefork, limit_inner, ""},
    {"changes", changes, limit_inner, ""},
    {"high_falls_idle", high_falls_idle, no_limit, ",purge_delay_ms=3600000,dirty_bytes=1G"},
    {"high_falls_busy", high_falls_busy, no_limit, ",purge_delay_ms=3600000,dirty_bytes=1G"},
};

/* In a group of its own, and started there: that is when the option is read. */
static int run_apart(const struct scenario *scenario, const char *folder, const char *options)
{
    int status = 0;
    make_groups(folder);
    scenario->prepare();
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        char variable[128];
        put(group, "cgroup.procs", "0");
        snprintf(variable, sizeof variable, "%s%s", options, scenario->more_options);
        setenv("SLABMALLOC_OPTIONS", variable, 1);
        setenv("LIMITS_GROUP", group, 1);
        execl("/proc/self/exe", "limits", folder, scenario->name, NULL);
        _exit(127);
    }
    waitpid(child, &status, 0);
    drop_groups();
    return status;
}

int main(int argc, char **argv)
{
    char path[512];
    bool failed = false;
    if (argc < 2)
        fail("limits FOLDER");
    snprintf(path, sizeof path, "%s/memory.use_hierarchy", argv[1]);
    first = access(path, F_OK) == 0;
    for (size_t i = 0; argc > 2 && i < COUNT(scenarios); i++)
        if (strcmp(argv[2], scenarios[i].name) == 0) {
            snprintf(group, sizeof group, "%s", getenv("LIMITS_GROUP"));
            scenarios[i].run();
            return 0;
        }
    for (size_t i = 0; i < COUNT(scenarios); i++) {
        const int status = run_apart(&scenarios[i], argv[1], "limit=cgroup");
        printf("%s %s\n", scenarios[i].name, status == 0 ? "ok" : "failed");
        if (status != 0)
            fprintf(stderr, "%s: status %d\n", scenarios[i].name, status);
        failed |= status != 0;
    }
    const bool killed = run_apart(&scenarios[0], argv[1], "limit=none") == SIGKILL; /* or the tests show nothing */
    printf("killed_without %s\n", killed ? "ok" : "failed");
    return failed || !killed;
}
