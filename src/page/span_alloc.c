/* Taking spans and freeing them; see span_alloc.h. */
#include "page/span_alloc.h"

#include "base/errno.h"
#include "os/vm.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/reservation.h"

enum { lead_least = 16, lead_most = 1024 };

/* Map at least `granules` more after what is mapped. If the kernel grants it, an eighth of the area's used size is
 * mapped ahead, but little where addresses are scarce, or what is mapped is locked. */
static bool map_ahead(struct slm_free_spans *area, size_t granules)
{
    const size_t used = slm_span_scarce() || slm_vm_locked() ? 0 : area->mapped - area->first;
    size_t want = slm_max(granules, slm_min(slm_max(used / 8, lead_least), lead_most));
    for (size_t skip = lead_least; area->mapped + granules <= area->end; skip *= 2) {
        want = slm_min(want, area->end - area->mapped);
        if (slm_reservation_extend(area->mapped, want)) {
            area->mapped += want;
            return true;
        }
        if (errno != EEXIST && want == granules)
            return false;
        if (errno != EEXIST) { /* no memory for so much ahead: try less */
            want = slm_max(granules, want / 8);
            continue;
        }
        slm_free_spans_give_up_ahead(area);
        area->frontier = area->mapped + skip; /* a foreign mapping lies there */
        signal_fence(); /* a child forked between the stores finds the frontier ahead: restart_area mends that */
        area->mapped = area->frontier;
    }
    errno = ENOMEM;
    return false;
}

static struct slm_span *take_frontier(struct slm_free_spans *area, size_t granules)
{
    const size_t ahead = area->mapped - area->frontier;
    if (ahead < granules && !map_ahead(area, granules - ahead))
        return NULL;
    if (area->mapped - area->frontier < granules) /* it had to skip a foreign mapping */
        return take_frontier(area, granules);
    struct slm_span *span = slm_descriptor(area->frontier);
    area->frontier += granules;
    span->granules = (uint32_t)granules;
    span->state = SLM_SPAN_CLEAN;
    store_relaxed(&span->kind, SLM_SPAN_NONE);
    return span;
}

/* Map an unlisted span's addresses again: what is needed, and a little more. False: there is no memory, and the span
 * is listed again; or a foreign mapping lies there now, and the span is lost. */
static bool map_again(struct slm_free_spans *area, struct slm_span *span, size_t granules)
{
    const size_t want = slm_min(span->granules, slm_max(granules, lead_least));
    if (span->granules > want)
        slm_free_spans_list(area, slm_span_split(span, want));
    if (slm_reservation_extend(slm_span_granule(span), want)) {
        span->state = SLM_SPAN_CLEAN;
        return true;
    }
    if (errno != EEXIST)
        slm_free_spans_join(area, span);
    else
        add_relaxed(&area->lost_bytes, slm_span_bytes(span));
    return false;
}

/* A listed span that is long enough, unlisted and mapped. Dirty ones come first: their RAM is resident. */
static struct slm_span *take_listed(struct slm_free_spans *area, size_t granules)
{
    slm_always_read static const uint8_t order[] = {SLM_SPAN_DIRTY, SLM_SPAN_CLEAN, SLM_SPAN_UNMAPPED};
    for (unsigned i = 0; i < sizeof order; i++) {
        struct slm_span *span = slm_bins_find(&area->bins[order[i]], granules);
        if (!span)
            continue;
        slm_free_spans_unlist(area, span);
        if (span->state != SLM_SPAN_UNMAPPED || map_again(area, span, granules))
            return span;
    }
    return NULL;
}

/* Cut an unlisted span down to that many granules, starting on a multiple of `alignment`. */
static struct slm_span *cut(struct slm_free_spans *area, struct slm_span *span, size_t granules, size_t alignment)
{
    const size_t first = (uintptr_t)slm_span_start(span) >> SLM_GRANULE_SHIFT;
    const size_t lead = slm_align_up(first, alignment) - first;
    if (lead > 0) {
        struct slm_span *aligned = slm_span_split(span, lead);
        slm_free_spans_join(area, span);
        span = aligned;
    }
    if (span->granules > granules)
        slm_free_spans_join(area, slm_span_split(span, granules));
    return span;
}

static struct slm_span *alloc_from(struct slm_free_spans *area, size_t granules, size_t alignment)
{
    slm_free_spans_lock(area);
    struct slm_span *span = take_listed(area, granules + alignment - 1);
    if (!span)
        span = take_frontier(area, granules + alignment - 1);
    if (span) {
        span = cut(area, span, granules, alignment);
        span->moved = false;
    }
    slm_free_spans_note_dirty_low(area);
    slm_lock_release(&area->lock);
    return span;
}

/* The order in which areas are tried: the given one, the node's other one, the same kind on other nodes, the rest. */
static unsigned next_best(unsigned area, unsigned attempt)
{
    const unsigned nodes = slm_range.node_mask + 1, node = slm_node_of_area(area), kind = area - node;
    if (attempt == 0 || slm_range.node_mask == 0)
        return area;
    if (attempt == 1)
        return (kind ^ nodes) + node;
    return attempt <= nodes ? kind + slm_node_of_area(node + attempt - 1)
                            : (kind ^ nodes) + slm_node_of_area(node + attempt - nodes);
}

struct slm_span *slm_span_alloc(unsigned area, size_t granules, size_t alignment)
{
    struct slm_span *span = NULL;
    size_t take;
    if (!__builtin_add_overflow(granules, alignment - 1, &take) && take <= SLM_GRANULES_MAX)
        for (unsigned i = 0; i < slm_area_count() && !span; i++) /* another node's memory is better than none */
            span = alloc_from(&slm_free_spans[next_best(area, i)], granules, alignment);
    if (!span)
        errno = ENOMEM;
    else
        slm_demand_rise(slm_span_bytes(span));
    return span;
}

/* The separate mapping is replaced by new memory, which is one mapping with its neighbours again. */
static void free_moved(struct slm_free_spans *area, struct slm_span *span)
{
    const bool unmapped = slm_reservation_unmap(slm_span_start(span), slm_span_bytes(span));
    const bool renewed =
        unmapped && !slm_span_scarce() && slm_reservation_extend(slm_span_granule(span), span->granules);
    slm_free_spans_lock(area);
    span->state = renewed ? SLM_SPAN_CLEAN : SLM_SPAN_UNMAPPED;
    if (unmapped)
        slm_free_spans_join(area, span);
    else /* the limit of mappings: the span stays unused */
        add_relaxed(&area->lost_bytes, slm_span_bytes(span));
    slm_lock_release(&area->lock);
}

static void free_part(struct slm_free_spans *area, struct slm_span *span)
{
    slm_free_spans_lock(area);
    slm_free_spans_join(area, span);
    slm_lock_release(&area->lock);
}

void slm_span_free(struct slm_span *span)
{
    span->state = SLM_SPAN_DIRTY;
    slm_demand_drop(slm_span_bytes(span));
    (unlikely(span->moved) ? free_moved : free_part)(slm_free_spans_of(span), span);
}

void slm_span_trim(struct slm_span *span, size_t granules, uint8_t state)
{
    struct slm_span *rest = slm_span_split(span, granules);
    rest->state = state;
    slm_demand_drop(slm_span_bytes(rest));
    (unlikely(span->moved) ? free_moved : free_part)(slm_free_spans_of(span), rest);
}

/* `most` as far as that costs no memory: clean. */
static bool extend_locked(struct slm_free_spans *area, struct slm_span *span, size_t granules, size_t most,
                          bool *clean)
{
    const size_t behind = slm_span_granule(span) + span->granules;
    size_t more = granules - span->granules;
    struct slm_span *next = slm_descriptor(behind);
    if (behind == area->frontier) {
        more = slm_max(more, slm_min(most - span->granules, area->end - behind));
        if (area->mapped - behind < more && !map_ahead(area, more))
            return false;
        if (area->frontier != behind || area->mapped - behind < more) /* a foreign mapping lies in between */
            return false;
        next = take_frontier(area, more);
    } else {
        if (behind > area->frontier || load_relaxed(&next->kind) != SLM_SPAN_FREE ||
            next->generation != area->generation || next->granules < more)
            return false;
        if (next->state != SLM_SPAN_DIRTY)
            more = slm_min(most - span->granules, next->granules);
        slm_free_spans_unlist(area, next);
        if (next->state == SLM_SPAN_UNMAPPED && !map_again(area, next, more))
            return false;
        next = cut(area, next, more, 1);
    }
    *clean = next->state == SLM_SPAN_CLEAN;
    span->granules += (uint32_t)more;
    return true;
}

bool slm_span_extend(struct slm_span *span, size_t granules, size_t most, bool *clean)
{
    struct slm_free_spans *area = slm_free_spans_of(span);
    slm_keep_errno();
    const size_t before = slm_span_bytes(span);
    slm_free_spans_lock(area);
    const bool done = extend_locked(area, span, granules, most, clean) ||
                      (most > granules && extend_locked(area, span, granules, granules, clean));
    slm_free_spans_note_dirty_low(area);
    slm_lock_release(&area->lock);
    if (done)
        slm_demand_rise(slm_span_bytes(span) - before);
    return done;
}
