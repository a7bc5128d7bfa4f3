/* What of the library's memory may be resident, and the limits of that (limit_bytes, soft_limit_bytes, limit=cgroup).
 *
 * Charged are spans in use or dirty, pieces of metadata, their maps, and per-CPU blocks. What nobody has ever written
 * to, or the kernel has got back, is not charged; nor is the headroom of a large object before it grows into it. A
 * slab is charged whole. A span is charged as it is taken, before anyone writes to it, and one atomic addition
 * decides: threads that come at once do not pass the limit together. Metadata is charged and never refused, so that
 * frees and threads' births go on at the limit: by that much the sum may exceed it. Without limits the bounds are
 * UINT64_MAX, which no sum reaches.
 *
 * A child of fork starts with its parent's sum, as it has the same memory. */
#pragma once

#include "base/atomic.h"

struct slm_charge {
    _Atomic uint64_t bytes;
    _Atomic uint64_t metadata;    /* the part of it that is pieces of metadata, and maps */
    _Atomic uint64_t stop;        /* at most the limit: here it is looked at again, if it may have changed */
    _Atomic uint64_t limit, soft; /* in force; set by process/limits.c */
    _Atomic uint64_t near;        /* from here on no memory is kept dirty */
    _Atomic uint64_t refusals;    /* calls left without memory under a limit */
};

extern slm_hidden struct slm_charge slm_charge;

slm_inline void slm_charge_add(uint64_t bytes)
{
    add_relaxed(&slm_charge.bytes, bytes);
}

slm_inline void slm_charge_metadata(uint64_t bytes)
{
    add_relaxed(&slm_charge.metadata, bytes);
    slm_charge_add(bytes);
}

slm_inline void slm_charge_sub(uint64_t bytes)
{
    sub_relaxed(&slm_charge.bytes, bytes);
}

/* False: that would go beyond the stop, and nothing is charged. */
bool slm_charge_take(uint64_t bytes);

/* Is there no room for so much below a bound, the stop or the limit? */
slm_inline bool slm_charge_exceeds(const _Atomic uint64_t *bound, uint64_t bytes)
{
    const uint64_t most = load_relaxed(bound), charged = load_relaxed(&slm_charge.bytes);
    return charged > most || bytes > most - charged;
}

/* Is so much charged that no memory is kept dirty? */
slm_inline bool slm_charge_is_near(void)
{
    return load_relaxed(&slm_charge.bytes) > load_relaxed(&slm_charge.near);
}

/* How much of what is charged may stay dirty, if `dirty` bytes are. */
uint64_t slm_charge_dirty_most(uint64_t dirty);

slm_inline bool slm_charge_has_limit(void)
{
    return load_relaxed(&slm_charge.near) != UINT64_MAX;
}

/* Set the limits; UINT64_MAX is none. The soft one is at most the hard one, and the stop `step` bytes from here. */
void slm_charge_limit(uint64_t hard, uint64_t soft, uint64_t step);

/* A call has got no memory: count that if there is a limit. Returns ENOMEM. */
int slm_charge_refused(void);
