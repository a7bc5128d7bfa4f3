/* Nodes; see topology.h. A node without memory still gets a depot; the kernel chooses where that memory lies. */
#include "os/topology.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <string.h>

#include "base/atomic.h"
#include "base/bits.h"
#include "base/call.h"
#include "base/panic.h"
#include "os/rseq.h"
#include "os/sys.h"

slm_once unsigned slm_nodes = 1;

/* x86's vDSO has getcpu, which takes some nanoseconds. Elsewhere it is a system call, made once in so many looks. */
#ifdef __x86_64__
enum { getcpu_is_cheap = 1, calls_a_look = 32 };
#else
enum { getcpu_is_cheap = 0, calls_a_look = 32 };
#endif

static slm_once bool users_policy; /* numactl, or another parent, has set a memory policy for this process */
static slm_once uint8_t online[SLM_NODES_MAX];
static _Atomic ptrdiff_t here_field;  /* of the record's fields the one that tells; 0: none */
static slm_once struct slm_rseq rseq; /* where the kernel tells a thread its CPU and node; 0: nowhere */

/* The number of the highest bit that is set; -1: none is. */
static int last_bit(const uint64_t *mask, unsigned words)
{
    while (words > 0 && mask[words - 1] == 0)
        words--;
    return words == 0 ? -1 : (int)(words * 64 - 64 + slm_log2(mask[words - 1]));
}

/* The highest node that this process may have memory from, by one call; -1 if a filter forbids it. */
static int last_allowed_node(void)
{
    uint64_t mask[SLM_NODES_MAX * 16 / 64] = {0}; /* the kernel's own mask must fit */
    const bool asked = slm_call(SYS_get_mempolicy, NULL, mask, sizeof mask * 8, NULL, MPOL_F_MEMS_ALLOWED) == 0;
    return asked ? last_bit(mask, sizeof mask / sizeof mask[0]) : -1;
}

/* The number at *text, which moves past it. Not strtoul, which must not be called before libc's own start. */
static unsigned read_number(const char **text)
{
    unsigned number = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++)
        number = number * 10 + (unsigned)(**text - '0');
    return number;
}

/* The highest number in a list such as "0-3,8". */
static unsigned last_of_list(const char *text)
{
    unsigned last = 0;
    for (; *text; text += *text != 0)
        last = (unsigned)slm_max(last, read_number(&text));
    return last;
}

/* values[n] = value for each n below `end` in such a list. */
static slm_seldom void set_all_of_list(const char *text, uint8_t *values, unsigned end, unsigned value)
{
    while (*text >= '0' && *text <= '9') {
        unsigned first = read_number(&text), last = first;
        if (*text == '-') {
            text++;
            last = read_number(&text);
        }
        for (; first <= last && first < end; first++)
            values[first] = (uint8_t)value;
        text += *text == ',';
    }
}

slm_cold void slm_topology_start(void)
{
    char text[256];
    int mode = MPOL_DEFAULT;
    if (last_allowed_node() == 0) /* the common machine: no file is opened */
        return;
    if (slm_sys_read_file("/sys/devices/system/node/online", text, sizeof text))
        slm_nodes = (unsigned)slm_min(last_of_list(text) + 1, SLM_NODES_MAX);
    if (slm_nodes == 1)
        return;
    users_policy = slm_call(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0) == 0 && mode != MPOL_DEFAULT;
    set_all_of_list(text, online, SLM_NODES_MAX, true);
    slm_rseq_find(&rseq);
}

/* The kernel writes the record whenever the thread resumes on another CPU; a thread that is not registered has a
 * negative CPU there. Before Linux 6.3 the node is not told: while the CPU stays the same, so does the node. Without
 * a record, and where getcpu is a system call, *cpu counts the looks since the last one. */
unsigned slm_topology_node_again(uintptr_t thread, uint32_t *cpu, unsigned node)
{
    (void)thread;
    if (likely(slm_nodes == 1))
        return 0;
    const int32_t here = rseq.cpu != 0 ? slm_rseq_read(rseq.cpu) : -1;
    if (here >= 0 && rseq.node != 0) {
        node = (unsigned)slm_rseq_read(rseq.node);
        return node < slm_nodes ? node : 0;
    }
    if (here >= 0 && (uint32_t)here + 1 == *cpu)
        return node;
    if (here < 0 && !getcpu_is_cheap && ++*cpu % calls_a_look != 1)
        return node;
    unsigned at;
    slm_sys_where(&at, &node);
    if (here >= 0)
        *cpu = at + 1;
    return node < slm_nodes ? node : 0;
}

slm_cold void slm_topology_find_here(void)
{
    struct slm_rseq found = {0};
    if (slm_rseq_find(&found))
        store_relaxed(&here_field, found.cid != 0 ? found.cid : found.cpu);
}

/* A thread that is not registered has a negative CPU. */
unsigned slm_topology_here(uintptr_t thread)
{
    const ptrdiff_t field = load_relaxed(&here_field);
    const int32_t at = field != 0 ? slm_rseq_read(field) : -1;
    return at >= 0 ? (unsigned)at : (unsigned)(thread * 0x9e3779b97f4a7c15u >> 32);
}

/* A /sys that is not the kernel's own (in a container) is not trusted, nor is one with fewer CPUs than this thread
 * may run on. Then the answer is the size of the affinity mask: all possible CPUs, and often more. */
slm_seldom unsigned slm_topology_cpus(void)
{
    static const char possible[] = "/sys/devices/system/cpu/possible";
    char text[4096];
    uint64_t mask[SLM_CPUS_MAX / 64];
    unsigned cpus = 0;
    if (slm_sys_is_sysfs(possible) && slm_sys_read_file(possible, text, sizeof text))
        cpus = last_of_list(text) + 1;
    const long bytes = slm_call(SYS_sched_getaffinity, 0, sizeof mask, mask);
    const unsigned words = bytes > 0 ? (unsigned)bytes / 8 : 0;
    if (cpus == 0 || last_bit(mask, words) >= (int)cpus)
        cpus = words * 64;
    return cpus <= SLM_CPUS_MAX ? cpus : 0;
}

/* A node's list has only the CPUs that are online; those that are present and offline have a link to their node. */
static slm_seldom unsigned node_of_offline(unsigned cpu)
{
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct slm_line path = {0};
        slm_line_add(&path, "/sys/devices/system/cpu/cpu%u/node%u", cpu, node);
        if (slm_call(SYS_faccessat, AT_FDCWD, path.text, F_OK) == 0)
            return node;
    }
    return SLM_NODES_MAX;
}

slm_seldom void slm_topology_cpu_nodes(uint8_t *nodes, unsigned cpus)
{
    char text[4096];
    memset(nodes, SLM_NODES_MAX, cpus);
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct slm_line path = {0};
        slm_line_add(&path, "/sys/devices/system/node/node%u/cpulist", node);
        if (slm_sys_read_file(path.text, text, sizeof text))
            set_all_of_list(text, nodes, cpus, node);
    }
    for (unsigned cpu = 0; cpu < cpus; cpu++)
        if (nodes[cpu] == SLM_NODES_MAX)
            nodes[cpu] = (uint8_t)node_of_offline(cpu);
}

bool slm_topology_binds(void)
{
    return slm_nodes > 1 && !users_policy;
}

bool slm_topology_is_online(unsigned node)
{
    return slm_nodes == 1 ? node == 0 : node < slm_nodes && online[node];
}
