/* What the tests of machines with several nodes share. Simulated ones deal threads out to their nodes by the number
 * that each block has, so a test moves a thread by giving its block another one. */
#pragma once

#include "caches.h"
#include "machine.h"

/* Skip the test, with the reason, on machines with fewer nodes. */
static inline void need_nodes(unsigned nodes)
{
    if (slm_nodes >= nodes)
        return;
    print_message("for machines with %u nodes or more\n", nodes);
    skip();
}

/* The same where threads are to be moved. */
static inline void need_simulated_nodes(unsigned nodes)
{
    need_nodes(nodes);
    if (slm_topology_is_simulated())
        return;
    print_message("for simulated machines: the kernel alone says where a thread runs\n");
    skip();
}

static inline unsigned last_node(void)
{
    return slm_nodes - 1;
}

/* What makes a thread the node's. */
static inline uint32_t number_on(unsigned node)
{
    return node * (slm_topology_cpus() / slm_nodes);
}

/* The calling thread: be on another node, as its next slow path finds out. */
static inline void go_to(unsigned node)
{
    slm_tls.self->ordinal = number_on(node);
    struct slm_thread *thread = slm_thread_enter(false);
    require(thread == slm_tls.self && thread->node == node);
    slm_thread_leave(thread);
}

/* The same as a helper's task. */
static inline void go_to_node(void *node)
{
    go_to(*(const unsigned *)node);
}

static inline void start_helper_on(struct helper *helper, unsigned node)
{
    start_live_helper(helper);
    tell(helper, go_to_node, &node);
}

/* Objects of a node, out of its slabs and in nobody's magazine. */
static inline void take_from_node(struct slm_cache *cache, unsigned node, unsigned n, void **objects)
{
    for (unsigned got = 0; got < n;) {
        const unsigned now = slm_depot_fill(slm_cache_depot(cache, node), objects + got, n - got);
        require(now > 0);
        got += now;
    }
    for (unsigned i = 0; i < n; i++)
        require(slm_node_of(objects[i]) == node);
}

/* Rounds in the stock of one node's depot, each of which lies in memory of that node. */
static inline uint64_t stock_at_home(struct slm_cache *cache, unsigned node)
{
    const struct slm_depot *depot = slm_cache_depot_made(cache, node);
    uint64_t rounds = 0;
    if (!depot)
        return 0;
    for (const struct slm_magazine *full = depot->full; full; full = full->next) {
        rounds += full->count;
        for (uint32_t i = 0; i < full->count; i++)
            require(slm_node_of(full->rounds[i]) == node);
    }
    require(rounds == load_relaxed(&depot->stock_rounds));
    return rounds;
}

/* Of one node's slabs: live, or in magazines. */
static inline uint64_t node_out(struct slm_cache *cache, unsigned node)
{
    uint64_t out = 0;
    slm_for_each_depot (depot, cache)
        out += depot->node == node ? load_relaxed(&depot->objects_out) : 0;
    return out;
}
