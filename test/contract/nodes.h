/* What the tests of NUMA nodes share: the nodes' figures, by which they judge, and threads that are on several nodes.
 *
 * On real machines threads are kept on CPUs, and so on nodes; on simulated ones (checked builds) the library gives
 * each thread a node by its number. In both, a thread learns its node from where its large objects count. */
#ifndef CONTRACT_NODES_H
#define CONTRACT_NODES_H

#include "caches.h"

#include <sched.h>

enum { THREADS = 40, NODES_MAX = 64 };

/* -- nodes and their figures ------------------------------------------------------------------------------------- */

static inline int count_nodes(void)
{
    return (int)process_figures().nodes;
}

static inline slab_node_stats node_figures(int node)
{
    slab_node_stats stats;
    require(slab_get_node_stats(node, &stats, sizeof stats) == 0);
    return stats;
}

/* All nodes' at about the same time. */
struct nodes {
    int count;
    slab_node_stats of[NODES_MAX];
};

static inline struct nodes all_figures(void)
{
    struct nodes nodes = {.count = count_nodes()};
    require(nodes.count >= 1 && nodes.count <= NODES_MAX);
    for (int node = 0; node < nodes.count; node++)
        nodes.of[node] = node_figures(node);
    return nodes;
}

/* Nothing but that node's live bytes have changed since, and those by so many. */
static inline void require_live(const struct nodes *before, int changed, int64_t bytes)
{
    for (int node = 0; node < before->count; node++) {
        const int64_t grown = (int64_t)(node_figures(node).live_bytes - before->of[node].live_bytes);
        if (grown != (node == changed ? bytes : 0))
            fprintf(stderr, "node %d: %lld live bytes more\n", node, (long long)grown);
        require(grown == (node == changed ? bytes : 0));
    }
}

/* What a thread on the node has done since raised its count of remote frees by so many, and nobody else's. */
static inline void require_remote_frees(const struct nodes *before, int changed, uint64_t frees)
{
    for (int node = 0; node < before->count; node++) {
        const uint64_t grown = node_figures(node).remote_frees - before->of[node].remote_frees;
        if (grown != (node == changed ? frees : 0))
            fprintf(stderr, "node %d: %llu remote frees more\n", node, (unsigned long long)grown);
        require(grown == (node == changed ? frees : 0));
    }
}

#define ADDED_UP(field)                                                                                              \
    {                                                                                                                \
#field, offsetof(slab_stats, field), offsetof(slab_node_stats, field)                                        \
    }

static const struct added_up {
    const char *name;
    size_t of_process, of_node;
} added_up[] = {
    ADDED_UP(live_bytes),     ADDED_UP(cached_bytes),    ADDED_UP(dirty_bytes),    ADDED_UP(purged_bytes),
    ADDED_UP(reserved_bytes), ADDED_UP(slabs_made),      ADDED_UP(slabs_released), ADDED_UP(purges),
    ADDED_UP(depot_locks),    ADDED_UP(depot_contended), ADDED_UP(remote_frees),   ADDED_UP(threads),
};

static inline uint64_t figure_at(const void *stats, size_t offset)
{
    return *(const uint64_t *)((const char *)stats + offset);
}

/* Whether the nodes' figures add up to the process's, which are read before and after them: reading takes locks,
 * which are counted. */
static inline bool sums_hold(bool say)
{
    const slab_stats before = process_figures();
    const struct nodes nodes = all_figures();
    const slab_stats after = process_figures();
    bool hold = true;
    for (size_t i = 0; i < COUNT(added_up); i++) {
        const uint64_t least = figure_at(&before, added_up[i].of_process);
        const uint64_t most = figure_at(&after, added_up[i].of_process);
        uint64_t sum = 0;
        for (int node = 0; node < nodes.count; node++)
            sum += figure_at(&nodes.of[node], added_up[i].of_node);
        if (sum >= least && sum <= most)
            continue;
        hold = false;
        if (say)
            fprintf(stderr, "%s: %llu to %llu, the nodes' %llu\n", added_up[i].name, (unsigned long long)least,
                    (unsigned long long)most, (unsigned long long)sum);
    }
    return hold;
}

/* Figures are exact when the process is quiet, which the library's own worker leaves it from time to time. */
static inline void require_sums(void)
{
    for (unsigned tries = 1; !sums_hold(tries % 500 == 0); tries++) /* what never adds up is said, and hangs */
        sleep_ms(10);
}

/* -- threads ----------------------------------------------------------------------------------------------------- */

/* Keeps the calling thread on the n-th CPU that the process has, round and round: on real machines it stays on a
 * node, and many threads are on all. */
static inline void stay(unsigned n)
{
    static cpu_set_t allowed; /* settled by the first call, in main, which is on the first CPU */
    if (CPU_COUNT(&allowed) == 0)
        require(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    n %= (unsigned)CPU_COUNT(&allowed);
    unsigned cpu = 0;
    for (; !CPU_ISSET(cpu, &allowed) || n-- > 0; cpu++)
        continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    require(sched_setaffinity(0, sizeof one, &one) == 0);
}

static inline void *take_from(size_t size, int node)
{
    void *object = slab_alloc_node(size, node);
    require(object != NULL);
    return opaque(object);
}

/* The calling thread's node: where its large objects count. */
static inline int node_here(void)
{
    const struct nodes before = all_figures();
    void *large = malloc(MIB);
    int found = -1;
    for (int node = 0; node < before.count; node++)
        if (node_figures(node).live_bytes > before.of[node].live_bytes) {
            require(found < 0);
            found = node;
        }
    require(found >= 0);
    free(opaque(large));
    return found;
}

struct guest {
    struct parked parked;
    unsigned number;
    int node;
    void **objects; /* to free */
    size_t count;
};

#endif
