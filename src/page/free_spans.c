/* Listing and joining; see free_spans.h. */
#include "page/free_spans.h"

#include "page/reservation.h"

struct slm_free_spans slm_free_spans_first;
slm_sparse struct slm_free_spans slm_free_spans_others[SLM_AREAS_MAX - 1];

_Atomic bool slm_span_is_scarce;

void slm_span_set_scarce(bool is_scarce)
{
    store_relaxed(&slm_span_is_scarce, is_scarce);
}

slm_cold void slm_span_start_areas(void)
{
    for (unsigned number = 0; number < slm_area_count(); number++) {
        struct slm_free_spans *area = slm_free_spans_in(number);
        const size_t start = (size_t)number << slm_range.area_shift;
        const bool started = area->end != 0;
        area->end = start + slm_area_granules();
        if (started)
            continue;
        area->lock.rank = SLM_RANK_SPANS;
        area->first = start + (slm_range.node_mask > 0 && slm_reservation_bind(number)); /* past its anchor */
        area->frontier = area->first;
        area->generation = area->mapping_generation = slm_fork_generation;
        slm_list_init(&area->ages);
    }
}

/* What is marked as a free span is one, in a list or not: see slm_free_spans_list. */
static slm_seldom void find_free_spans(struct slm_free_spans *area)
{
    for (size_t granule = area->first; granule < area->frontier; granule++) {
        struct slm_span *span = slm_reservation_described(granule) ? slm_descriptor(granule) : NULL;
        if (!span || load_relaxed(&span->kind) != SLM_SPAN_FREE)
            continue;
        granule += span->granules - 1;
        slm_free_spans_join(area, span);
    }
}

/* The holder is lost in a fork: the lists may be torn. What it had in its hands is lost. */
static __attribute__((noinline)) slm_seldom void restart_area(struct slm_free_spans *area)
{
    uint64_t bytes = 0;
    for (unsigned state = 0; state < SLM_SPAN_STATES; state++) {
        bytes += load_relaxed(&area->free_bytes[state]);
        area->bins[state].occupied = 0;
        area->spans[state] = 0;
        store_relaxed(&area->free_bytes[state], 0);
    }
    slm_list_init(&area->ages);
    area->dirty_low = area->dirty_low_before = 0;
    area->generation = slm_fork_generation;
    find_free_spans(area);
    for (unsigned state = 0; state < SLM_SPAN_STATES; state++)
        bytes -= slm_min(bytes, load_relaxed(&area->free_bytes[state]));
    add_relaxed(&area->lost_bytes, bytes);
}

void slm_free_spans_lock(struct slm_free_spans *area)
{
    if (unlikely(slm_lock_acquire(&area->lock)))
        restart_area(area);
}

static struct slm_span *last_descriptor(struct slm_span *span)
{
    return slm_descriptor(slm_span_granule(span) + span->granules - 1);
}

/* Others only read it. */
static void count(struct slm_free_spans *area, const struct slm_span *span, uint64_t bytes)
{
    _Atomic uint64_t *free = &area->free_bytes[span->state];
    store_relaxed(free, load_relaxed(free) + bytes);
}

void slm_free_spans_list(struct slm_free_spans *area, struct slm_span *span)
{
    slm_bins_add(&area->bins[span->state], span);
    area->spans[span->state]++;
    if (span->state == SLM_SPAN_DIRTY)
        slm_list_insert_before(&area->ages, &slm_free_span_of(span)->age);
    count(area, span, slm_span_bytes(span));
    span->generation = area->generation;
    span->back = 0;
    struct slm_span *last = last_descriptor(span);
    last->back = span->granules - 1;
    last->generation = area->generation;
    store_relaxed(&last->kind, SLM_SPAN_FREE_END);
    signal_fence();                            /* pairs with find_free_spans, in the child of a fork */
    store_relaxed(&span->kind, SLM_SPAN_FREE); /* last: with one granule both are the same */
}

void slm_free_spans_unlist(struct slm_free_spans *area, struct slm_span *span)
{
    slm_bins_remove(&area->bins[span->state], span);
    area->spans[span->state]--;
    if (span->state == SLM_SPAN_DIRTY)
        slm_list_remove(&slm_free_span_of(span)->age);
    count(area, span, -(uint64_t)slm_span_bytes(span));
    store_relaxed(&last_descriptor(span)->kind, SLM_SPAN_NONE);
    store_relaxed(&span->kind, SLM_SPAN_NONE);
    signal_fence(); /* as above */
}

static struct slm_span *joinable(struct slm_free_spans *area, size_t granule, unsigned state)
{
    struct slm_span *span = slm_descriptor(granule);
    const unsigned kind = load_relaxed(&span->kind);
    if ((kind != SLM_SPAN_FREE && kind != SLM_SPAN_FREE_END) || span->generation != area->generation)
        return NULL;
    if (kind == SLM_SPAN_FREE_END)
        span = slm_descriptor(granule - span->back);
    return span->state == state ? span : NULL;
}

struct slm_span *slm_free_spans_before(struct slm_free_spans *area, const struct slm_span *span, unsigned state)
{
    const size_t first = slm_span_granule(span);
    return first > area->first ? joinable(area, first - 1, state) : NULL;
}

struct slm_span *slm_free_spans_after(struct slm_free_spans *area, const struct slm_span *span, unsigned state)
{
    const size_t behind = slm_span_granule(span) + span->granules;
    return behind < area->frontier ? joinable(area, behind, state) : NULL;
}

struct slm_span *slm_free_spans_join(struct slm_free_spans *area, struct slm_span *span)
{
    struct slm_span *before = slm_free_spans_before(area, span, span->state);
    struct slm_span *behind = slm_free_spans_after(area, span, span->state);
    if (behind) {
        slm_free_spans_unlist(area, behind);
        span->granules += behind->granules;
    }
    if (before) {
        slm_free_spans_unlist(area, before);
        before->granules += span->granules;
        span = before;
    }
    slm_free_spans_list(area, span);
    return span;
}

uint64_t slm_span_dirty_bytes(void)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < slm_area_count(); i++)
        bytes += load_relaxed(&slm_free_spans_in(i)->free_bytes[SLM_SPAN_DIRTY]);
    return bytes;
}

void slm_span_add_figures(unsigned number, struct slm_span_figures *sums)
{
    struct slm_free_spans *area = slm_free_spans_in(number);
    sums->dirty_bytes += load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]);
    sums->lost_bytes += load_relaxed(&area->lost_bytes);
    sums->purges += load_relaxed(&area->purges);
    sums->purged_bytes += load_relaxed(&area->purged_bytes);
    sums->mapped_bytes += slm_reservation_area_bytes(number);
}
