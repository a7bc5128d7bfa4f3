/* Scheduling of the library's own thread; see background.h.
 *
 * Its nice value is ten more than the process's: beside one busy thread it gets a tenth of the CPU. At 19 it would
 * get a seventieth, and threads of the program would wait so much longer for a lock whose holder has lost its CPU. */
#include "os/background.h"

#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <linux/mempolicy.h>

#include "base/atomic.h"
#include "base/call.h"
#include "os/sys.h"
#include "os/topology.h"

enum { nice_more = 10, nice_most = 19, deadline = 6 /* SCHED_DEADLINE, which sched.h may not have */ };

/* sched_setattr(2); libc's headers may not have it. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static slm_once struct attributes background = {.size = sizeof background, .nice = nice_more};
static slm_once long cpus_bytes;
static slm_once uint64_t cpus[SLM_CPUS_MAX / 64];

static _Atomic bool forbidden;
static _Atomic uint32_t busy; /* threads between begin and end */

slm_seldom void slm_background_forbid(void)
{
    store_relaxed(&forbidden, true);
}

bool slm_background_forbidden(void)
{
    return load_relaxed(&forbidden);
}

/* Once others can see that a call may follow, the thread looks whether a sandbox was announced. */
bool slm_background_begin(void)
{
    atomic_fetch_add(&busy, 1); /* pairs with slm_background_busy */
    return !slm_background_forbidden();
}

void slm_background_end(void)
{
    atomic_fetch_sub(&busy, 1);
}

slm_sampling uint64_t slm_background_now_us(void)
{
    const uint64_t now_us = slm_background_begin() ? slm_sys_now_us() : slm_sys_now_ms() * 1000;
    slm_background_end();
    return now_us;
}

slm_seldom bool slm_background_busy(void)
{
    slm_fence(); /* pairs with slm_background_begin: the announcement came before */
    return atomic_load(&busy) != 0;
}

slm_cold void slm_background_start(void)
{
    struct attributes now = {0};
    cpus_bytes = slm_call(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
    if (slm_call(SYS_sched_getattr, 0, &now, sizeof now, 0) != 0)
        return;
    if (now.policy != SCHED_FIFO && now.policy != SCHED_RR && now.policy != deadline)
        background.policy = now.policy;
    background.nice = now.nice < nice_most - nice_more ? now.nice + nice_more : nice_most;
}

/* The CPUs are set only if they differ: what was set is not widened again with the process's cpuset. A set of which
 * no CPU is allowed any more is refused. */
static slm_cold void use_all_cpus(void)
{
    uint64_t inherited[SLM_CPUS_MAX / 64];
    const long bytes = slm_call(SYS_sched_getaffinity, 0, sizeof inherited, inherited);
    if (bytes > 0 && bytes == cpus_bytes && memcmp(inherited, cpus, (size_t)bytes) != 0)
        slm_call(SYS_sched_setaffinity, 0, bytes, cpus);
}

/* Under a filter that knows no such calls they may end the process. But if the creator is scheduled in another way
 * than the process was, the program makes them itself. */
slm_cold bool slm_background_enter(void)
{
    struct attributes wanted = background, now = {.policy = wanted.policy};
    const struct sched_param none = {0};
    slm_always_read static const char name[] = "slabmalloc";
    if (slm_background_forbidden())
        return false;
    slm_call(SYS_prctl, PR_SET_NAME, name, 0, 0, 0);
    const bool filtered = slm_call(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
    if (filtered)
        slm_call(SYS_sched_getattr, 0, &now, sizeof now, 0);
    if ((!filtered || now.policy != wanted.policy) &&
        slm_call(SYS_sched_setattr, 0, &wanted, 0) != 0) /* its creator's nice value may be greater */
        slm_call(SYS_sched_setscheduler, 0, wanted.policy, &none);
    use_all_cpus();
    if (!filtered && slm_topology_binds())
        slm_call(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0);
    return !filtered;
}
