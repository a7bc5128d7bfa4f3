/* Limits on memory: limit_bytes and soft_limit_bytes, and with limit=cgroup those of the process's control group.
 * page/charge.h counts what is limited, and refuses. Here the limits come from, and what is done above the soft one.
 *
 * With limit=cgroup files of /proc/self and the group are read: at start, then once a second by whoever gives memory
 * back (process/worker.h), when a sixteenth of the room has been used that there was at the last look, and before a
 * call is refused. No descriptor stays open: programs close those that they do not know, and the group may be another
 * one by the next time. Where nothing can be read any more (a chroot, a sandbox) the last limits stay in force. */
#pragma once

#include "base/atomic.h"

enum {
    SLM_LIMITS_LOOK_MS = 1000,     /* from one look at the group's limits to the next */
    SLM_LIMITS_SLAB_MOST = 1 << 20 /* bytes of a slab that are not the object's own */
};

extern slm_hidden _Atomic bool slm_limits_watched; /* there are options for slm_limits_tick to see to */

/* Once, if an option sets a limit. One line says if there is no control group, or no such option. */
void slm_limits_start(void);

/* limit_bytes or soft_limit_bytes has changed. */
void slm_limits_change(void);

/* Now and then: read the group's limits if that is due; above the soft limit, or where the group stalls for memory,
 * give back what is free. True if anything was given back. */
bool slm_limits_tick(uint64_t now_ms);

/* After memory was freed, near the soft limit: purge what must not stay dirty. */
void slm_limits_purge(void);

/* There is no room before the stop for an object of n bytes. True: now there is, also for some threads that ask for
 * as much at the same time. */
bool slm_limits_make_room(size_t n);

/* The folder in which the files are looked for, "" outside of tests. */
extern slm_hidden const char *slm_limits_root;
