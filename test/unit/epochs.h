/* What the tests of src/sync/epoch.h share: sections entered and left by any way, and membarriers. */
#pragma once

#include "unit.h"

#include "base/options.h"
#include "os/sys.h"
#include "sync/epoch.h"

#define NO_MORE_BARRIERS                                                                                             \
    "slabmalloc: membarrier(2) is refused since sections have been entered: grace periods end when every thread "    \
    "that has entered one has entered one again or ended\n"

/* A group's setup. Whose thread is held up inside a section is not named: children have nothing to say. */
static inline int start_unnamed(void **state)
{
    slm_settings.epoch_stall_ms = 0;
    return start_library(state);
}

static inline void enter(void)
{
    if (!slm_epoch_enter())
        slm_epoch_enter_slow(true);
}

static inline void leave(void)
{
    if (!slm_epoch_leave())
        slm_epoch_leave_slow();
}

static inline uint64_t barriers(void)
{
    return load_relaxed(&slm_sys_membarriers);
}

static inline bool readers_fence(void)
{
    return (load_relaxed(&slm_epoch_started) & SLM_EPOCH_FENCES) != 0;
}

/* Of all threads. */
static inline void take_membarrier_away(void)
{
    refuse_call(SYS_membarrier, EPERM, SECCOMP_FILTER_FLAG_TSYNC);
}
