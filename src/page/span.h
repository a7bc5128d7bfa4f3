/* Spans: runs of granules. A span's descriptor is that of its first granule.
 *
 *     granule   n          n+1        n+2        n+3
 *     kind      FREE       NONE       FREE_END   SLAB  SLAB_INSIDE ...
 *                `-- granules = 3        `-- back = 2
 *
 * Invariants. Two free spans of the same state are never neighbours: they have joined. A descriptor's kind is NONE
 * but at the start of a span, at the end of a free one, and throughout a slab. A free span is dirty (its RAM may hold
 * data), clean (it reads as zero), or unmapped (its addresses are the kernel's again). Dirty ones also stand in a
 * queue by age, from which they are purged. What is purged is surplus: as much as stayed dirty throughout an
 * interval, so that nobody needed it.
 *
 * Address space is scarce where RLIMIT_AS is finite, or once the kernel has refused a mapping: purging unmaps then,
 * instead of giving back the RAM alone, so that the program's own mappings find room. What is too short to be
 * unmapped becomes clean, and goes when it has joined to something longer, or when what lies beside it is unmapped.
 *
 * After a fork that caught the lock held, the area starts afresh from its frontier; free spans of older generations
 * are not in any list, do not join, and are counted as lost. */
#pragma once

#include "base/list.h"
#include "page/reservation.h"

enum slm_span_kind {
    SLM_SPAN_NONE,
    SLM_SPAN_FREE,
    SLM_SPAN_FREE_END,
    SLM_SPAN_SLAB,
    SLM_SPAN_SLAB_INSIDE,
    SLM_SPAN_LARGE,
    SLM_SPAN_RETIRED, /* a large object that waits for a grace period */
};

enum slm_span_state { SLM_SPAN_CLEAN, SLM_SPAN_DIRTY, SLM_SPAN_UNMAPPED, SLM_SPAN_STATES };

struct slm_span {
    struct slm_list link; /* free: of a bin; slab: of a depot's partial slabs */
    uint32_t granules;
    uint32_t back; /* granules back to the first */
    _Atomic uint8_t kind;
    uint8_t state;       /* enum slm_span_state: while in use CLEAN or DIRTY, what it was when it was taken */
    bool moved;          /* in use: mremap has put a mapping of its own here, or taken it away */
    uint32_t generation; /* free: the area's when it was listed */
};

struct slm_span_figures {
    uint64_t dirty_bytes, lost_bytes, purges, purged_bytes, mapped_bytes;
};

slm_inline size_t slm_span_granule(const struct slm_span *span)
{
    return (size_t)((const char *)span - slm_descriptors) / SLM_DESCRIPTOR_BYTES;
}

slm_inline char *slm_span_start(const struct slm_span *span)
{
    return slm_granule_address(slm_span_granule(span));
}

slm_inline size_t slm_span_bytes(const struct slm_span *span)
{
    return (size_t)span->granules << SLM_GRANULE_SHIFT;
}

/* The span of the slab that the pointer lies in, or of the large object in whose first granule; NULL for others. */
struct slm_span *slm_span_of(const void *pointer);

/* A span of that many granules, on a boundary of `alignment` granules (a power of two), from that area, or from
 * another if there is no memory; its kind is NONE, and its state says what its memory may hold. NULL and ENOMEM.
 * Any thread. */
struct slm_span *slm_span_alloc(unsigned area, size_t granules, size_t alignment);

/* Give a span back whose kind the caller has set to NONE throughout. */
void slm_span_free(struct slm_span *span);

/* The same for a span that is `moved`: whatever is mapped there is replaced by fresh memory, which is one mapping
 * with its neighbours again. */
void slm_span_free_moved(struct slm_span *span);

/* Give back all but the first granules. */
void slm_span_trim(struct slm_span *span, size_t granules);

/* Make it longer in place, out of the free span or untouched memory behind it; false when that is not to be had. The
 * new part is cleared iff `*clean` comes back true. */
bool slm_span_extend(struct slm_span *span, size_t granules, bool *clean);

/* Purge dirty spans, oldest first, until at most `keep_bytes` are dirty. Bytes given back. No lock is held during
 * system calls. */
size_t slm_span_purge(uint64_t keep_bytes);

/* Before the first span, and again when there are more nodes: ready their areas. */
void slm_span_start_areas(void);

/* From now on address space is scarce: unmap what is free. Bytes unmapped. */
size_t slm_span_unmap_free(void);

/* Before the first span: is address space scarce from the start? */
void slm_span_set_scarce(bool is_scarce);

/* True if address space is scarce. */
bool slm_span_scarce(void);

/* Purge as much as has stayed dirty ever since the last call. */
size_t slm_span_purge_surplus(void);

/* Dirty bytes of all areas, cheap. */
uint64_t slm_span_dirty_bytes(void);

/* Add an area's figures to the sums. */
void slm_span_add_figures(unsigned area, struct slm_span_figures *sums);

/* Walk an area and stop the process when an invariant does not hold; checked builds and tests. */
void slm_span_check(unsigned area);
