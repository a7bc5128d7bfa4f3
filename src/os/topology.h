/* Which NUMA nodes there are and which one a thread is on. Machines with one node answer 0 at once. */
#pragma once

#include "base/compiler.h"

enum { SLM_NODES_MAX = 64, SLM_CPUS_MAX = 8192 };

extern slm_hidden unsigned slm_nodes; /* 1 until slm_topology_start has looked */

/* Count the nodes. Before the first allocation: areas and page map depend on it. */
void slm_topology_start(void);

/* The node that the calling thread runs on, below slm_nodes; a load or two where the C library has registered
 * restartable sequences. *cpu is what the last call has left there, 0 before the first; `node` is what it returned.
 * `thread` is a number that stays the same for a thread: a simulated machine (test/variants/machine.c) goes by it. */
unsigned slm_topology_node_again(uintptr_t thread, uint32_t *cpu, unsigned node);

/* The same where it is asked for once. */
slm_inline unsigned slm_topology_node(uintptr_t thread)
{
    uint32_t cpu = 0;
    return slm_topology_node_again(thread, &cpu, 0);
}

/* One more than the highest number of a CPU that this machine may ever have (at most SLM_CPUS_MAX), whether it is
 * online or not; 0 where nobody tells. Opens a file. */
unsigned slm_topology_cpus(void);

/* For CPUs 0 to `cpus` less 1 the nodes that they belong to, SLM_NODES_MAX where the kernel does not say (CPUs that
 * are not there yet). Opens files. */
void slm_topology_cpu_nodes(uint8_t *nodes, unsigned cpus);

/* True where ranges should be bound to their nodes: the machine has several, and nobody has set a policy for this
 * process before it began (numactl(8)): that wins over ours. */
bool slm_topology_binds(void);

/* Is there such a node? Their numbers may have gaps. */
bool slm_topology_is_online(unsigned node);
