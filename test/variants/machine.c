/* The simulated machine; see machine.h. The linker puts the functions __wrap_NAME here in the place of the library's
 * own, which are __real_NAME from then on (test/variants/meson.build lists them). Calls inside the file that defines
 * NAME stay as they are. */
#include "machine.h"

#include <stdlib.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/rseq.h"
#include "os/sys.h"

static unsigned cpus_a_node;  /* 0 on a real machine */
static unsigned looks_a_move; /* of a thread; 0: they stay */

void slm_topology_simulate(const char *text)
{
    char *end;
    if (!*text)
        return;
    const unsigned long nodes = strtoul(text, &end, 10);
    const unsigned long cpus = *end == 'x' ? strtoul(end + 1, &end, 10) : 0;
    if (nodes == 0 || nodes > SLM_NODES_MAX || cpus == 0 || cpus > 4096) {
        slm_warn("bad topology in SLABMALLOC_OPTIONS, the machine's own kept", NULL);
        return;
    }
    slm_nodes = (unsigned)nodes;
    cpus_a_node = (unsigned)cpus;
    looks_a_move = *end == '/' ? (unsigned)strtoul(end + 1, NULL, 10) : 0;
}

bool slm_topology_is_simulated(void)
{
    return cpus_a_node != 0;
}

void __real_slm_options_read(void);
void __wrap_slm_options_read(void);
void __wrap_slm_options_read(void)
{
    __real_slm_options_read();
    slm_topology_simulate(slm_options.topology);
}

unsigned __real_slm_topology_node_again(uintptr_t thread, uint32_t *cpu, unsigned node);
unsigned __wrap_slm_topology_node_again(uintptr_t thread, uint32_t *cpu, unsigned node);
unsigned __wrap_slm_topology_node_again(uintptr_t thread, uint32_t *cpu, unsigned node)
{
    if (cpus_a_node == 0 || slm_nodes == 1)
        return __real_slm_topology_node_again(thread, cpu, node);
    if (looks_a_move != 0)
        thread += ++*cpu / looks_a_move;
    return (unsigned)(thread % (slm_nodes * cpus_a_node) / cpus_a_node);
}

unsigned __real_slm_topology_cpus(void);
unsigned __wrap_slm_topology_cpus(void);
unsigned __wrap_slm_topology_cpus(void)
{
    return cpus_a_node != 0 ? slm_nodes * cpus_a_node : __real_slm_topology_cpus();
}

bool __real_slm_topology_binds(void);
bool __wrap_slm_topology_binds(void);
bool __wrap_slm_topology_binds(void)
{
    return cpus_a_node == 0 && __real_slm_topology_binds();
}

bool __real_slm_topology_is_online(unsigned node);
bool __wrap_slm_topology_is_online(unsigned node);
bool __wrap_slm_topology_is_online(unsigned node)
{
    return cpus_a_node != 0 ? node < slm_nodes : __real_slm_topology_is_online(node);
}

/* The kernel's records tell of the real machine's CPUs. */
bool __real_slm_rseq_find(struct slm_rseq *rseq);
bool __wrap_slm_rseq_find(struct slm_rseq *rseq);
bool __wrap_slm_rseq_find(struct slm_rseq *rseq)
{
    return cpus_a_node == 0 && __real_slm_rseq_find(rseq);
}

/* Who asks brings the number into range (percpu/here.c). */
void __real_slm_sys_where(unsigned *cpu, unsigned *node);
void __wrap_slm_sys_where(unsigned *cpu, unsigned *node);
void __wrap_slm_sys_where(unsigned *cpu, unsigned *node)
{
    __real_slm_sys_where(cpu, node);
    if (cpus_a_node != 0)
        *cpu = slm_sys_thread_id();
}
