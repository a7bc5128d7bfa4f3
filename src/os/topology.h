/* Which NUMA nodes there are and which one a thread is on. Machines with one node answer 0 at once. */
#pragma once

#include "base/compiler.h"

enum { SLM_NODES_MAX = 64, SLM_CPUS_MAX = 8192 };

extern slm_hidden unsigned slm_nodes; /* 1 before slm_topology_start */

/* Count the nodes. Before the first allocation: areas and page map depend on it. */
void slm_topology_start(void);

/* The node that the calling thread runs on, below slm_nodes; a load or two where the C library has registered
 * restartable sequences. *cpu is what the last call left there, 0 before the first; `node` is what it returned.
 * `thread` identifies the calling thread to a simulated machine (test/variants/machine.c). */
unsigned slm_topology_node_again(uintptr_t thread, uint32_t *cpu, unsigned node);

/* The same for a single call. */
slm_inline unsigned slm_topology_node(uintptr_t thread)
{
    uint32_t cpu = 0;
    return slm_topology_node_again(thread, &cpu, 0);
}

/* What tells the CPUs apart that the process uses: the concurrency id, else the CPU's number, which migrating threads
 * change between any two instructions; `thread` where the C library has not registered restartable sequences, and
 * before slm_topology_find_here. */
unsigned slm_topology_here(uintptr_t thread);
void slm_topology_find_here(void);

/* One more than the highest CPU that this machine may ever have, at most SLM_CPUS_MAX; 0: unknown. Opens a file. */
unsigned slm_topology_cpus(void);

/* The nodes of CPUs 0 to `cpus` less 1; SLM_NODES_MAX for CPUs that are not there yet. Opens files. */
void slm_topology_cpu_nodes(uint8_t *nodes, unsigned cpus);

/* Should ranges be bound to nodes? Not if there is one, or the process has inherited a memory policy (numactl(8)). */
bool slm_topology_binds(void);

/* Is there such a node? Node numbers may have gaps. */
bool slm_topology_is_online(unsigned node);
