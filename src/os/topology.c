/* Nodes; see topology.h. A node without memory still gets a depot: what it asks for comes from the kernel's choice. */
#include "os/topology.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "os/sys.h"

unsigned slm_nodes = 1;

static unsigned simulated_cpus; /* CPUs a node, 0 on a real machine */

/* The highest number in a list such as "0-3,8". */
static unsigned last_of_list(const char *text)
{
    unsigned last = 0;
    while (*text) {
        char *end;
        last = (unsigned)slm_max(last, strtoul(text, &end, 10));
        text = end == text ? text + 1 : end;
    }
    return last;
}

static bool simulate(const char *text)
{
    const char *cross = strchr(text, 'x');
    unsigned long nodes = strtoul(text, NULL, 10), cpus = cross ? strtoul(cross + 1, NULL, 10) : 0;
    if (nodes == 0 || nodes > SLM_NODES_MAX || cpus == 0 || cpus > 4096)
        return false;
    slm_nodes = (unsigned)nodes;
    simulated_cpus = (unsigned)cpus;
    return true;
}

void slm_topology_start(const char *simulated)
{
    char text[256];
    if (slm_checked && simulated && *simulated && simulate(simulated))
        return;
    if (slm_sys_read_file("/sys/devices/system/node/online", text, sizeof text))
        slm_nodes = (unsigned)slm_min(last_of_list(text) + 1, SLM_NODES_MAX);
}

unsigned slm_topology_node(uintptr_t thread)
{
    if (likely(slm_nodes == 1))
        return 0;
    if (simulated_cpus != 0)
        return (unsigned)(thread % (slm_nodes * simulated_cpus) / simulated_cpus);
    unsigned cpu, node;
    slm_sys_where(&cpu, &node);
    return node < slm_nodes ? node : 0;
}

bool slm_topology_binds(void)
{
    return slm_nodes > 1 && simulated_cpus == 0;
}
