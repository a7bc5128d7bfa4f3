/* A user's memory policy wins over the library's, on a machine with several nodes. Promised: where the process was
 * started under a policy (numactl(8)) or in a control group with fewer nodes, pages of all objects lie as that says,
 * those too that are asked of a node by name; a policy that the program sets itself holds for its large objects. And
 * nothing but memory calls and futex are needed once the process has started: a filter that kills for others is no
 * obstacle on any node, nor a limit of addresses. */
#include "pages.h"

#include <dirent.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* -- objects of all kinds ---------------------------------------------------------------------------------------- */

/* What is done with each object that has been made and written. */
typedef void judge(const char *what, void *object, size_t size, void *context);

struct tour {
    judge *judge;
    void *context;
    bool by_name; /* ask for nodes by name as well */
};

static void judge_one(const struct tour *tour, const char *what, void *object, size_t size)
{
    write_pages(existing(object), size);
    tour->judge(what, object, size, tour->context);
}

static void ask_for_nodes(const struct tour *tour)
{
    slab_stats stats;
    if (slab_get_stats(&stats, sizeof stats) != 0)
        fail("no figures: %m");
    slab_cache *cache = existing(slab_cache_create("tour", 3000, &(slab_cache_attr){.flags = SLAB_NO_MERGE}));
    for (int node = 0; node < (int)stats.nodes; node++) {
        for (unsigned i = 0; i < 100; i++) {
            judge_one(tour, "slab_alloc_node, small", slab_alloc_node(5000, node), 5000);
            judge_one(tour, "slab_cache_alloc_node", slab_cache_alloc_node(cache, node), 3000);
        }
        judge_one(tour, "slab_alloc_node, large", slab_alloc_node(300 * KIB, node), 300 * KIB);
        judge_one(tour, "slab_alloc_node, larger", slab_alloc_node(4 * MIB, node), 4 * MIB);
    }
}

/* All stay alive: each is fresh. */
static void make_objects(void *argument)
{
    const struct tour *tour = argument;
    for (unsigned i = 0; i < 500; i++) {
        judge_one(tour, "malloc, small", malloc(4096), 4096);
        judge_one(tour, "malloc, smaller", malloc(200), 200);
    }
    for (unsigned i = 0; i < 20; i++)
        judge_one(tour, "malloc, large", malloc(200 * KIB), 200 * KIB);
    judge_one(tour, "malloc, larger", malloc(12 * MIB), 12 * MIB);
    if (tour->by_name)
        ask_for_nodes(tour);
}

static void judge_node(const char *what, void *object, size_t size, void *node)
{
    check_pages(what, object, size, *(int *)node);
}

/* Whoever allocates and whatever is asked for, it lies on that node. */
static void check_all_on(int node)
{
    struct tour tour = {judge_node, &node, true};
    run_on(nodes.home, make_objects, &tour);
    run_on(nodes.away, make_objects, &tour);
    run_on(nodes.empty, make_objects, &tour);
}

static void judge_spread(const char *what, void *object, size_t size, void *found)
{
    (void)what;
    count_pages(object, size, found);
}

/* Each node of the mask has its share of the pages, or two thirds of it, and no other has any. */
static void check_spread(const size_t found[NODES_MAX], unsigned long mask)
{
    size_t all = 0;
    for (int node = 0; node < nodes.count; node++)
        all += found[node];
    for (int node = 0; node < nodes.count; node++) {
        const size_t least = all * 2 / 3 / (size_t)__builtin_popcountl(mask);
        if ((mask >> node & 1) != 0 ? found[node] < least : found[node] > 0)
            fail("of %zu pages %zu lie on node %d, of those in %#lx", all, found[node], node, mask);
    }
}

/* -- policies that a process is started under -------------------------------------------------------------------- */

static unsigned long whole_nodes(void)
{
    return 1ul << nodes.home | 1ul << nodes.away;
}

static void bind_to_away(void)
{
    set_policy(MPOL_BIND, 1ul << nodes.away);
}

static void all_on_away(void)
{
    check_all_on(nodes.away);
}

static void bind_to_bare(void)
{
    set_policy(MPOL_BIND, 1ul << nodes.bare);
}

static void all_on_bare(void)
{
    check_all_on(nodes.bare);
}

static void prefer_away(void)
{
    set_policy(MPOL_PREFERRED, 1ul << nodes.away);
}

static void interleave(void)
{
    set_policy(MPOL_INTERLEAVE, whole_nodes() | 1ul << nodes.bare);
}

static void all_spread(void)
{
    size_t found[NODES_MAX] = {0};
    struct tour tour = {judge_spread, found, true};
    run_on(nodes.home, make_objects, &tour);
    run_on(nodes.away, make_objects, &tour);
    check_spread(found, whole_nodes() | 1ul << nodes.bare);
}

static void local(void)
{
    set_policy(MPOL_LOCAL, 0);
}

/* numactl --localalloc: on the node of whoever writes, objects of a name too. */
static void all_on_writers_node(void)
{
    const int here[] = {nodes.home, nodes.away};
    for (size_t n = 0; n < COUNT(here); n++) {
        int node = here[n];
        run_on(node, make_objects, &(struct tour){judge_node, &node, false});
    }
}

/* -- control groups ---------------------------------------------------------------------------------------------- */

static char list_of_nodes[64];

static const char *list_of(int one, int other)
{
    snprintf(list_of_nodes, sizeof list_of_nodes, "%d,%d", one, other);
    return list_of_nodes;
}

static void group_of_away(void)
{
    join_group("away", list_of(nodes.away, nodes.away));
}

static void group_of_two(void)
{
    join_group("two", list_of(nodes.home, nodes.away));
}

static void judge_allowed(const char *what, void *object, size_t size, void *allowed)
{
    size_t found[NODES_MAX] = {0};
    count_pages(object, size, found);
    for (int node = 0; node < nodes.count; node++)
        if (found[node] != 0 && (*(unsigned long *)allowed >> node & 1) == 0)
            fail("%s: a page on node %d, of those in %#lx", what, node, *(unsigned long *)allowed);
}

/* Of two nodes each thread has its own; then one of them is taken from the process. */
static void fewer_nodes(void)
{
    unsigned long allowed = whole_nodes();
    struct tour tour = {judge_allowed, &allowed, true};
    all_on_writers_node();
    run_on(nodes.home, make_objects, &tour);
    run_on(nodes.empty, make_objects, &tour);
    allow_nodes("two", list_of(nodes.away, nodes.away));
    slab_purge();
    check_all_on(nodes.away);
    allow_nodes("two", list_of(nodes.home, nodes.away));
}

/* -- a policy that the program sets itself ----------------------------------------------------------------------- */

static void *make_large(size_t size)
{
    slab_purge(); /* nothing that others have written to is used again */
    void *object = existing(malloc(size));
    write_pages(object, size);
    return object;
}

static void own_policy(void)
{
    const size_t size = 12 * MIB;
    size_t found[NODES_MAX] = {0};
    pin(pthread_self(), nodes.cpu_of[nodes.home]);
    for (unsigned round = 0; round < 2; round++) {
        set_policy(MPOL_BIND, 1ul << nodes.away);
        void *bound = make_large(size);
        check_pages("bound by the program", bound, size, nodes.away);
        set_policy(MPOL_INTERLEAVE, whole_nodes());
        void *spread = make_large(size);
        count_pages(spread, size, found);
        check_spread(found, whole_nodes());
        set_policy(MPOL_DEFAULT, 0);
        void *plain = make_large(size);
        check_pages("of no policy", plain, size, nodes.home);
        free(bound);
        free(spread);
        free(plain);
    }
}

/* -- system calls that are not there any more -------------------------------------------------------------------- */

static pthread_barrier_t closing;

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##call, 0, 1), RETURN(SECCOMP_RET_ALLOW)

/* clock_gettime is none where the machine's clock can be read without; move_pages, write and exit_group are
 * the test's. */
static void kill_on_other_calls(void)
{
    const struct sock_filter filter[] = {
        LOAD(nr),      ALLOW(mmap),       ALLOW(munmap),
        ALLOW(mremap), ALLOW(mprotect),   ALLOW(madvise),
        ALLOW(futex),  ALLOW(move_pages), ALLOW(clock_gettime),
        ALLOW(write),  ALLOW(exit_group), RETURN(SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {COUNT(filter), (struct sock_filter *)filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        fail("no filter: %m");
}

/* A few thousand objects, by malloc and of each node by name. */
static void grow_on(int node)
{
    for (unsigned i = 0; i < 2500; i++)
        write_and_check("in the sandbox", existing(malloc(6000)), 6000, place_on(node));
    for (int n = 0; n < nodes.count; n++) {
        for (unsigned i = 0; i < 500; i++)
            write_and_check("in the sandbox", existing(slab_alloc_node(6000, n)), 6000, place_on(n));
        for (unsigned i = 0; i < 5; i++)
            write_and_check("in the sandbox", existing(slab_alloc_node(MIB, n)), MIB, place_on(n));
    }
    free(existing(realloc(existing(malloc(5 * MIB)), 20 * MIB)));
    slab_purge();
}

static void *live_in_sandbox(void *number)
{
    const int node = (int)(intptr_t)number;
    pin(pthread_self(), nodes.cpu_of[node]);
    free(existing(malloc(100)));
    pthread_barrier_wait(&closing); /* all threads are there */
    pthread_barrier_wait(&closing); /* the filter is */
    grow_on(node);
    pthread_barrier_wait(&closing);
    for (;;)
        pthread_barrier_wait(&closing); /* an end would take calls of the C library's */
    return NULL;
}

/* Whether the thread sleeps, by its line in /proc: "12 (name) S ...". */
static bool thread_sleeps(const char *task)
{
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", task);
    FILE *file = fopen(path, "re");
    if (file == NULL || fgets(line, sizeof line, file) == NULL)
        line[0] = 0; /* it has ended */
    if (file != NULL)
        fclose(file);
    const char *name_end = strrchr(line, ')');
    return name_end == NULL || name_end[2] == 'S';
}

/* Waits until all other threads sleep, the library's included: one that has not had a CPU yet is still to make its
 * first system calls, which are libc's, and none of those that the sandbox allows. */
static void let_others_fall_asleep(void)
{
    for (bool all = false; !all; usleep(1000)) {
        DIR *tasks = opendir("/proc/self/task");
        if (tasks == NULL)
            fail("/proc/self/task: %m");
        all = true;
        for (const struct dirent *task; (task = readdir(tasks)) != NULL;)
            if (task->d_name[0] != '.' && atoi(task->d_name) != (int)getpid())
                all = all && thread_sleeps(task->d_name);
        closedir(tasks);
    }
}

static void sandbox(void)
{
    pin(pthread_self(), nodes.cpu_of[nodes.home]);
    pthread_barrier_init(&closing, NULL, 3);
    start(live_in_sandbox, (void *)(intptr_t)nodes.away);
    start(live_in_sandbox, (void *)(intptr_t)nodes.empty);
    pthread_barrier_wait(&closing);
    let_others_fall_asleep();
    kill_on_other_calls();
    pthread_barrier_wait(&closing);
    grow_on(nodes.home);
    pthread_barrier_wait(&closing);
    _exit(0);
}

/* -- a limit of addresses: what is free is unmapped, and mapped again -------------------------------------------- */

static void limit_addresses(void)
{
    const struct rlimit limit = {1536 * MIB, 1536 * MIB};
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        fail("setrlimit: %m");
}

static void few_addresses(void)
{
    static void *objects[4][6];
    for (unsigned round = 0; round < 3; round++)
        for (int node = 0; node < nodes.count; node++) {
            for (unsigned i = 0; i < COUNT(objects[0]); i++)
                objects[node][i] = existing(slab_alloc_node((i + 1) * MIB, node));
            for (unsigned i = 0; i < COUNT(objects[0]); i++) {
                write_and_check("mapped again", objects[node][i], (i + 1) * MIB, place_on(node));
                free(objects[node][i]);
            }
            for (unsigned i = 0; i < 300; i++)
                write_and_check("beside what was unmapped", existing(slab_alloc_node(9000, node)), 9000,
                                place_on(node));
        }
}

int main(int argc, char **argv)
{
    static const struct scenario scenarios[] = {
        {"membind", all_on_away, bind_to_away, NULL},
        {"membind to a node without CPUs", all_on_bare, bind_to_bare, NULL},
        {"preferred", all_on_away, prefer_away, NULL},
        {"interleave", all_spread, interleave, NULL},
        {"localalloc", all_on_writers_node, local, NULL},
        {"cpuset.mems", all_on_away, group_of_away, NULL},
        {"fewer_nodes", fewer_nodes, group_of_two, NULL},
        {"own_policy", own_policy, NULL, NULL},
        {"sandbox", sandbox, NULL, NULL},
        {"few_addresses", few_addresses, limit_addresses, NULL},
    };
    return run_scenarios(scenarios, COUNT(scenarios), argc, argv);
}
