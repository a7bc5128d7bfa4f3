/* Spans: runs of granules. The descriptor of a span is that of its first granule.
 *
 *     granule   n          n+1        n+2        n+3
 *     kind      FREE       NONE       FREE_END   SLAB  SLAB_INSIDE ...
 *                `-- granules = 3        `-- back = 2
 *
 * A descriptor's kind is NONE except at the start of a span, at the end of a free one, and throughout a slab (or what
 * has guards). A free
 * span is dirty (its RAM may have data), clean (it reads as zero), or unmapped (its addresses are the kernel's
 * again). Two free spans of the same state are never neighbours: they are joined. */
#pragma once

#include "base/list.h"
#include "page/area.h"

enum slm_span_kind {
    SLM_SPAN_NONE,
    SLM_SPAN_FREE,
    SLM_SPAN_FREE_END,
    SLM_SPAN_SLAB,
    SLM_SPAN_SAMPLED, /* a slab of sampled objects: see slab/slab.h */
    SLM_SPAN_SLAB_INSIDE,
    SLM_SPAN_LARGE,
    SLM_SPAN_RETIRED, /* a large object that waits for a grace period */
    SLM_SPAN_KEPT,    /* one that is free, and kept for the next call: see slab/kept.h */
    SLM_SPAN_GUARDED, /* an object between inaccessible pages; one that is retired; and freed: see slab/guard.h */
    SLM_SPAN_GUARDED_RETIRED,
    SLM_SPAN_GUARDED_FREE,
};

enum slm_span_state { SLM_SPAN_CLEAN, SLM_SPAN_DIRTY, SLM_SPAN_UNMAPPED, SLM_SPAN_STATES };

struct slm_span {
    struct slm_list link; /* free: of a bin; slab: of a depot's partial slabs */
    uint32_t granules;
    union {
        uint32_t back;           /* distance to the first granule, in granules */
        _Atomic uint32_t worked; /* a slab of one granule, while it is hidden: see depot/partial.h */
    };
    _Atomic uint8_t kind;
    uint8_t state : 2;    /* enum slm_span_state: in use: DIRTY if any of it was when it was taken, else CLEAN */
    uint8_t ahead : 6;    /* slab: pages that were populated, see slab/fresh.h */
    bool moved : 1;       /* in use: mremap has moved a separate mapping here, or away from here */
    bool some_purged : 1; /* slab: it has purged pages */
    bool some_joined : 1; /* slab: it has joined objects, or had some when it was last filed */
    uint8_t fresh : 5;    /* slab: see slab/fresh.h */
    uint8_t short_runs;   /* slab, its depot's: see depot/join.c */
    union {
        uint32_t generation; /* free: the area's when it was listed */
        struct {
            uint16_t swept;  /* slab, its depot's: see depot/sweep.c */
            uint16_t purged; /* each granule of a slab: which pages are, see slab/pages.h */
        };
    };
};

slm_inline bool slm_span_is_slab(unsigned kind)
{
    return kind - SLM_SPAN_SLAB <= SLM_SPAN_SAMPLED - SLM_SPAN_SLAB;
}

slm_inline size_t slm_span_granule(const struct slm_span *span)
{
    return (size_t)((const char *)span - slm_range.descriptors) / SLM_DESCRIPTOR_BYTES;
}

slm_inline char *slm_span_start(const struct slm_span *span)
{
    return slm_granule_address(slm_span_granule(span));
}

slm_inline size_t slm_span_bytes(const struct slm_span *span)
{
    return (size_t)span->granules << SLM_GRANULE_SHIFT;
}

/* Cut an unlisted span after `granules`; the rest becomes a span that is not listed either. */
struct slm_span *slm_span_split(struct slm_span *span, size_t granules);

/* Cut the first granule off a span in use, *row, of which the rest becomes *row; NULL: there is none (any more). */
struct slm_span *slm_span_next_of_row(struct slm_span **row);

/* The span of the slab, or of the large object's first granule, that the pointer lies in; NULL for other pointers. */
struct slm_span *slm_span_of(const void *pointer);
