/* Which NUMA nodes there are and which one a thread is on. Machines with one node answer 0 at once. */
#pragma once

#include "base/compiler.h"

enum { SLM_NODES_MAX = 64, SLM_CPUS_MAX = 8192 };

extern slm_hidden unsigned slm_nodes; /* 1 until slm_topology_start has looked */

/* Count the nodes. Before the first allocation: areas and page map depend on it. */
void slm_topology_start(void);

/* Checked builds: be a machine of "NODESxCPUS" from here on; before there are threads. "NODESxCPUS/N": threads move
 * on to the next CPU each Nth time that they look where they are (slm_topology_node_again). */
void slm_topology_simulate(const char *text);

/* The node that the calling thread runs on, below slm_nodes. A simulated machine deals its threads out to its CPUs by
 * `thread`, any number that stays the same for a thread. */
unsigned slm_topology_node(uintptr_t thread);

/* The same where it is asked for again and again: a load or two where the C library has registered restartable
 * sequences. *cpu is what the last call has left there, 0 before the first; `node` is what it returned. */
unsigned slm_topology_node_again(uintptr_t thread, uint32_t *cpu, unsigned node);

/* One more than the highest number of a CPU that this machine may ever have (at most SLM_CPUS_MAX), whether it is
 * online or not; 0 where nobody tells. On a simulated machine all nodes' CPUs. Opens a file. */
unsigned slm_topology_cpus(void);

/* True on a simulated machine, whose CPUs are dealt out as its nodes are. */
bool slm_topology_is_simulated(void);

/* For CPUs 0 to `cpus` less 1 the nodes that they belong to, SLM_NODES_MAX where the kernel does not say (CPUs that
 * are not there yet). Opens files. */
void slm_topology_cpu_nodes(uint8_t *nodes, unsigned cpus);

/* True where ranges should be bound to their nodes: a real machine with several, and nobody has set a policy for this
 * process before it began (numactl(8)): that wins over ours. */
bool slm_topology_binds(void);

/* Is there such a node? Their numbers may have gaps. */
bool slm_topology_is_online(unsigned node);
