/* Areas: parts of the range (page/reservation.h), with their free spans. Private to area.c, span.c and purge.c; what
 * others may call stands in span.h.
 *
 * An area keeps its free spans in bins by length, the states apart. What no bin has comes from the frontier, behind
 * which nothing was ever mapped.
 *
 *     | used and free spans ...            | mapped ahead | nothing mapped yet ...
 *                                          ^ frontier     ^ mapped
 */
#pragma once

#include "page/bins.h"
#include "sync/lock.h"

/* A free span's descriptor: the queue by age stands behind what all spans have, and where a slab keeps its owner
 * stays what a slab that has gone has left there: nothing. */
struct slm_free_span {
    struct slm_span span;
    void *no_owner;
    struct slm_list age;
};

static_assert(sizeof(struct slm_free_span) <= SLM_DESCRIPTOR_BYTES, "a descriptor holds it");

struct slm_area {
    struct slm_lock lock;
    bool started;
    uint32_t generation; /* of the lists */
    size_t first, frontier, mapped, end;
    struct slm_bins bins[SLM_SPAN_STATES];
    uint32_t spans[SLM_SPAN_STATES]; /* in the bins */
    struct slm_list ages;            /* dirty spans, oldest first */
    uint64_t dirty_low;              /* the least bytes that were dirty since the last purge of surplus */
    _Atomic uint64_t free_bytes[SLM_SPAN_STATES];
    _Atomic uint64_t lost_bytes, purges, purged_bytes;
} slm_cacheline;

extern slm_hidden struct slm_area slm_areas[SLM_AREAS_MAX];

slm_inline struct slm_area *slm_area_of(const struct slm_span *span)
{
    return &slm_areas[slm_area_of_granule(slm_span_granule(span))];
}

slm_inline struct slm_free_span *slm_free_span_of(struct slm_span *span)
{
    return (struct slm_free_span *)span;
}

/* Released by slm_lock_release. All below are called under it. */
void slm_area_lock(struct slm_area *area);

/* List a free span and mark both its ends. Its neighbours are not looked at. */
void slm_area_list(struct slm_area *area, struct slm_span *span);
void slm_area_unlist(struct slm_area *area, struct slm_span *span);

/* The free span before or behind, when it may be joined with one of that state; NULL otherwise. */
struct slm_span *slm_area_joinable(struct slm_area *area, size_t granule, unsigned state);

/* Join an unlisted free span with its free neighbours of the same state, and list the result, which is returned. */
struct slm_span *slm_area_join(struct slm_area *area, struct slm_span *span);

/* What is mapped ahead but was never part of a span becomes a clean free one. */
void slm_area_give_up_ahead(struct slm_area *area);

/* After dirty memory has been taken into use. */
slm_inline void slm_area_note_dirty_low(struct slm_area *area)
{
    area->dirty_low = slm_min(area->dirty_low, load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]));
}

/* Make the part of an unlisted span behind `granules` a span of its own, not listed. */
struct slm_span *slm_span_split(struct slm_span *span, size_t granules);
