/* Giving free spans' memory back to the kernel: only the RAM, or the addresses too where address space is scarce, so
 * that the program's own mappings find room. A span too short for that becomes clean, and is unmapped once it has
 * joined to something longer, or its neighbour is unmapped. Any thread; no lock is held during system calls. */
#pragma once

#include "base/atomic.h"

/* Why memory goes back: nobody has needed it for `purge_delay_ms`; use has fallen, or addresses are scarce, and more
 * is dirty than may be; a cgroup stalls; the program calls for it; a limit is near, or there is no memory; or others
 * take new memory. */
enum slm_purge_reason {
    SLM_PURGE_IDLE,
    SLM_PURGE_BOUND,
    SLM_PURGE_PRESSURE,
    SLM_PURGE_TRIM,
    SLM_PURGE_LIMIT,
    SLM_PURGE_GROWTH,
    SLM_PURGE_REASONS
};
extern slm_hidden _Atomic uint64_t slm_purged_bytes[SLM_PURGE_REASONS];

/* Count what was purged in an area. */
void slm_purge_count(unsigned area, size_t bytes, enum slm_purge_reason reason);

/* Purge dirty spans, oldest first, until at most `keep_bytes` are dirty. Returns the bytes given back. */
size_t slm_span_purge(uint64_t keep_bytes, enum slm_purge_reason reason);

/* Purge the surplus: as many bytes as have stayed dirty, so unneeded, since the last call; `patient`: since the call
 * before that one. */
size_t slm_span_purge_surplus(bool patient);

/* Give back the pages of descriptors and of the page map that say nothing: those of granules inside long clean spans.
 * A late look at one finds no slab, as before (slab/slab.h). Not in a process where slm_span_keep_descriptors was
 * called before the slabs that it is about became free: then such a look may also follow a link. */
void slm_span_purge_descriptors(void);
void slm_span_keep_descriptors(void);

/* From now on address space is scarce: unmap free spans. Returns the bytes given back. */
size_t slm_span_unmap_free(enum slm_purge_reason reason);
