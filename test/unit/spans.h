/* What the tests of spans share. */
#pragma once

#include "base/panic.h"
#include "page/free_spans.h"
#include "page/span.h"
#include "slab/large.h"

/* Of all areas. */
static inline struct slm_span_figures sum_figures(void)
{
    struct slm_span_figures sums = {0};
    for (unsigned area = 0; area < slm_area_count(); area++)
        slm_span_add_figures(area, &sums);
    return sums;
}

/* Usable bytes of all large objects. */
static inline uint64_t large_live_bytes(void)
{
    uint64_t bytes = 0;
    for (unsigned area = 0; area < slm_area_count(); area++)
        bytes += slm_large_area_bytes(area);
    return bytes;
}

struct walk {
    struct slm_free_spans *area;
    unsigned state;
    uint64_t bytes;
};

static inline bool check_free_span(struct slm_span *span, void *context)
{
    struct walk *walk = context;
    const struct slm_span *last = slm_descriptor(slm_span_granule(span) + span->granules - 1);
    if (span->state != walk->state)
        slm_panic("check", slm_span_start(span), "a free span in the bins of another state", NULL, 0);
    if (last != span && (load_relaxed(&last->kind) != SLM_SPAN_FREE_END || last->back != span->granules - 1))
        slm_panic("check", slm_span_start(span), "a free span's end is not marked", NULL, 0);
    if (slm_free_spans_after(walk->area, span, walk->state))
        slm_panic("check", slm_span_start(span), "two free spans of one state side by side", NULL, 0);
    walk->bytes += slm_span_bytes(span);
    return false;
}

/* Walk an area and stop the process where an invariant does not hold. */
static inline void slm_span_check(unsigned number)
{
    struct slm_free_spans *area = slm_free_spans_in(number);
    slm_free_spans_lock(area);
    for (unsigned state = 0; state < SLM_SPAN_STATES; state++) {
        struct walk walk = {.area = area, .state = state};
        slm_bins_foreach(&area->bins[state], check_free_span, &walk);
        if (walk.bytes != load_relaxed(&area->free_bytes[state]))
            slm_panic("check", area, "free bytes do not add up", NULL, 0);
    }
    slm_lock_release(&area->lock);
}
