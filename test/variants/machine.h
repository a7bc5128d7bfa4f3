/* A simulated machine, of checked builds. Its nodes and CPUs are dealt out to threads by their numbers. The option
 * "topology" asks for it; see machine.c. */
#pragma once

#include "os/topology.h"

/* Be a machine of "NODESxCPUS" from here on; before there are threads. "NODESxCPUS/N": threads move on to the next
 * CPU each Nth time that they look where they are (slm_topology_node_again). */
void slm_topology_simulate(const char *text);

bool slm_topology_is_simulated(void);
