/* Giving back; see purge.h. */
#include "page/purge.h"

#include <limits.h>

#include "os/vm.h"
#include "page/charge.h"
#include "page/free_spans.h"
#include "page/huge.h"
#include "page/reservation.h"

/* Holes split mappings, and the kernel allows 65,530 of these: only some long spans are unmapped. */
enum { unmap_least = 16, unmapped_most = 2048 };

_Atomic uint64_t slm_purged_bytes[SLM_PURGE_REASONS];

void slm_purge_count(unsigned area, size_t bytes, enum slm_purge_reason reason)
{
    add_relaxed(&slm_free_spans_in(area)->purges, 1);
    add_relaxed(&slm_free_spans_in(area)->purged_bytes, bytes);
    add_relaxed(&slm_purged_bytes[reason], bytes);
}

/* Up to `most` bytes of the oldest dirty span, unlisted: its upper end if it is longer. NULL if there is none. Where
 * addresses are scarce, all of the span: a short hole is of no use for another large one. */
static struct slm_span *take_oldest(struct slm_free_spans *area, uint64_t most)
{
    if (slm_list_empty(&area->ages) || most < SLM_GRANULE)
        return NULL;
    struct slm_span *span = &slm_container(area->ages.next, struct slm_free_span, age)->span;
    slm_free_spans_unlist(area, span);
    if (slm_span_bytes(span) > most && !slm_span_scarce()) {
        struct slm_span *end = slm_span_split(span, span->granules - (most >> SLM_GRANULE_SHIFT));
        slm_free_spans_list(area, span);
        slm_list_remove(&slm_free_span_of(span)->age); /* it is still the oldest */
        slm_list_insert_after(&area->ages, &slm_free_span_of(span)->age);
        span = end;
    }
    slm_free_spans_note_dirty_low(area);
    return span;
}

/* Widening a hole does not create another one. */
static bool may_unmap(struct slm_free_spans *area, const struct slm_span *span)
{
    if (!slm_span_scarce())
        return false;
    return (span->granules >= unmap_least && area->spans[SLM_SPAN_UNMAPPED] < unmapped_most) ||
           slm_free_spans_before(area, span, SLM_SPAN_UNMAPPED) ||
           slm_free_spans_after(area, span, SLM_SPAN_UNMAPPED);
}

static __attribute__((noinline)) slm_seldom bool unmap_span(const struct slm_span *span)
{
    slm_huge_break(slm_span_start(span), slm_span_bytes(span));
    return slm_reservation_unmap(slm_span_start(span), slm_span_bytes(span));
}

/* Give an unlisted span's memory back as far as the kernel takes it. The state that it is in then. */
static uint8_t give_back(const struct slm_span *span, bool unmap)
{
    if (unlikely(unmap) && unmap_span(span))
        return SLM_SPAN_UNMAPPED;
    if (span->state == SLM_SPAN_CLEAN)
        return SLM_SPAN_CLEAN;
    if (likely(slm_huge_purge(slm_span_start(span), slm_span_bytes(span))))
        return SLM_SPAN_CLEAN;
    /* Locked, and the kernel is older than Linux 5.18. */
    return span->granules >= unmap_least && unmap_span(span) ? SLM_SPAN_UNMAPPED : SLM_SPAN_DIRTY;
}

/* A clean span that may be unmapped now that `span` has been listed: `span` itself, if joining has made it long
 * enough, or its neighbour if it is a hole. Unlisted; NULL if there is none. Otherwise clean pieces, which are in no
 * queue, would add up to a heap that stays mapped. */
static struct slm_span *take_unmappable(struct slm_free_spans *area, struct slm_span *span)
{
    if (span->state == SLM_SPAN_UNMAPPED) {
        struct slm_span *before = slm_free_spans_before(area, span, SLM_SPAN_CLEAN);
        span = before ? before : slm_free_spans_after(area, span, SLM_SPAN_CLEAN);
    }
    if (!span || span->state != SLM_SPAN_CLEAN || !may_unmap(area, span))
        return NULL;
    slm_free_spans_unlist(area, span);
    return span;
}

/* Give an unlisted span back and list it, then unmap what that makes unmappable. False: the kernel refused. */
static bool give_back_and_list(struct slm_free_spans *area, struct slm_span *span, bool unmap)
{
    bool given = false;
    for (; span; unmap = true) {
        const uint8_t before = span->state, after = give_back(span, unmap);
        const bool refused = unmap && after != SLM_SPAN_UNMAPPED; /* the limit of mappings: do not retry at once */
        given |= after != before;
        if (before == SLM_SPAN_DIRTY && after != SLM_SPAN_DIRTY)
            slm_charge_sub(slm_span_bytes(span));
        slm_free_spans_lock(area);
        span->state = after;
        span = slm_free_spans_join(area, span);
        span = refused ? NULL : take_unmappable(area, span);
        slm_lock_release(&area->lock);
    }
    return given;
}

/* Purge up to that many bytes, a span at a time, but leave `keep` dirty: other threads may be purging too. A span
 * with pages that the program has locked is the youngest from then on. Under mlockall there are no others: what a
 * free purges at once gives up at the first. */
static size_t purge_area(struct slm_free_spans *area, uint64_t bytes, uint64_t keep, enum slm_purge_reason reason)
{
    size_t given = 0;
    unsigned refusals = 0;
    while (given < bytes && refusals < (keep > 0 ? 1u : 1024u) &&
           load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]) > keep) {
        slm_free_spans_lock(area);
        struct slm_span *span = take_oldest(area, bytes - given);
        const bool unmap = span && may_unmap(area, span);
        slm_lock_release(&area->lock);
        if (!span)
            break;
        const size_t size = slm_span_bytes(span);
        if (!give_back_and_list(area, span, unmap)) {
            refusals++;
            continue;
        }
        given += size;
        slm_purge_count(slm_area_of_granule(area->first), size, reason);
    }
    return given;
}

static bool is_any(struct slm_span *span, void *nothing)
{
    (void)span, (void)nothing;
    return true;
}

/* Where all that is mapped is locked, what nobody has used is resident, too. */
static slm_seldom size_t purge_unused(enum slm_purge_reason reason)
{
    static _Atomic bool done;
    size_t given = 0;
    for (unsigned i = atomic_exchange(&done, true) ? UINT_MAX : 0; i < slm_area_count(); i++) {
        struct slm_free_spans *area = slm_free_spans_in(i);
        struct slm_span *span;
        slm_free_spans_lock(area);
        while ((span = slm_bins_foreach(&area->bins[SLM_SPAN_CLEAN], is_any, NULL))) {
            slm_free_spans_unlist(area, span);
            span->state = SLM_SPAN_DIRTY;
            slm_charge_add(slm_span_bytes(span));
            slm_free_spans_join(area, span);
        }
        slm_lock_release(&area->lock);
        given += purge_area(area, UINT64_MAX, 0, reason);
    }
    return given;
}

/* What is kept is shared among the areas in proportion to their dirty bytes. */
size_t slm_span_purge(uint64_t keep_bytes, enum slm_purge_reason reason)
{
    const uint64_t granules = slm_max(slm_span_dirty_bytes() / SLM_GRANULE, 1);
    size_t given = 0;
    for (unsigned i = 0; i < slm_area_count(); i++) {
        const uint64_t dirty = load_relaxed(&slm_free_spans_in(i)->free_bytes[SLM_SPAN_DIRTY]);
        const uint64_t keep = keep_bytes / granules * (dirty / SLM_GRANULE);
        if (dirty > keep)
            given += purge_area(slm_free_spans_in(i), dirty - keep, keep, reason);
    }
    return given + (unlikely(slm_vm_locked()) ? purge_unused(reason) : 0);
}

static slm_seldom bool look_for_unmappable(struct slm_span *span, void *area)
{
    return may_unmap(area, span);
}

static slm_seldom size_t unmap_clean(struct slm_free_spans *area)
{
    size_t given = 0;
    for (;;) {
        slm_free_spans_lock(area);
        struct slm_span *span = slm_bins_foreach(&area->bins[SLM_SPAN_CLEAN], look_for_unmappable, area);
        if (span)
            slm_free_spans_unlist(area, span);
        slm_lock_release(&area->lock);
        const size_t size = span ? slm_span_bytes(span) : 0;
        if (!span || !give_back_and_list(area, span, true))
            return given;
        given += size;
    }
}

slm_seldom size_t slm_span_unmap_free(enum slm_purge_reason reason)
{
    slm_span_set_scarce(true);
    size_t given = slm_span_purge(0, reason);
    for (unsigned i = 0; i < slm_area_count(); i++)
        given += unmap_clean(slm_free_spans_in(i));
    return given;
}

/* -- what describes nothing -------------------------------------------------------------------------------------- */

static _Atomic bool keeps_descriptors;

slm_seldom void slm_span_keep_descriptors(void)
{
    store_relaxed(&keeps_descriptors, true); /* before the slab's count: whoever takes its span sees it */
}

/* Granules: shorter spans have no whole page of descriptors inside. */
enum { described_least = 2 * 4096 / SLM_DESCRIPTOR_BYTES };

struct described {
    size_t from;            /* granules below were looked at */
    struct slm_span *first; /* the lowest span that is not, and is long enough */
};

static slm_seldom bool look_for_described(struct slm_span *span, void *context)
{
    struct described *described = context;
    const size_t granule = slm_span_granule(span);
    if (span->granules >= described_least && granule >= described->from &&
        (!described->first || granule < slm_span_granule(described->first)))
        described->first = span;
    return false;
}

/* Of a table with an entry for each granule, those of granules from `first` up to `end`. */
static slm_seldom void purge_entries(char *table, size_t entry_bytes, size_t first, size_t end)
{
    const uintptr_t from = slm_align_up((uintptr_t)table + first * entry_bytes, slm_page_size);
    const uintptr_t to = ((uintptr_t)table + end * entry_bytes) & ~(uintptr_t)(slm_page_size - 1);
    if (from < to)
        slm_vm_purge((void *)from, to - from); /* NOLINT(performance-no-int-to-ptr) */
}

static slm_seldom void purge_described(struct slm_free_spans *area)
{
    struct described described = {.from = area->first};
    while (!load_relaxed(&keeps_descriptors)) {
        described.first = NULL;
        slm_free_spans_lock(area);
        slm_bins_foreach(&area->bins[SLM_SPAN_CLEAN], look_for_described, &described);
        struct slm_span *span = described.first;
        if (span)
            slm_free_spans_unlist(area, span);
        slm_lock_release(&area->lock);
        if (!span)
            break;
        const size_t first = slm_span_granule(span), end = first + span->granules;
        if (!load_relaxed(&keeps_descriptors)) { /* after the span was taken: see slm_span_keep_descriptors */
            purge_entries(slm_range.descriptors, SLM_DESCRIPTOR_BYTES, first + 1, end - 1);
            const size_t in_area = slm_granule_in_area(first);
            purge_entries(slm_area_start(slm_area_of_granule(first)) + SLM_MAP_OFFSET, sizeof(uint32_t), in_area,
                          in_area + span->granules);
        }
        slm_free_spans_lock(area);
        slm_free_spans_join(area, span);
        slm_lock_release(&area->lock);
        described.from = end;
    }
}

slm_seldom void slm_span_purge_descriptors(void)
{
    for (unsigned i = 0; i < slm_area_count(); i++)
        purge_described(slm_free_spans_in(i));
}

size_t slm_span_purge_surplus(bool patient)
{
    size_t given = 0;
    for (unsigned i = 0; i < slm_area_count(); i++) {
        struct slm_free_spans *area = slm_free_spans_in(i);
        if (load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]) == 0)
            continue;
        slm_free_spans_lock(area);
        const uint64_t low = area->dirty_low, surplus = patient ? slm_min(low, area->dirty_low_before) : low;
        area->dirty_low_before = low - surplus;
        area->dirty_low = load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]) - surplus;
        slm_lock_release(&area->lock);
        given += purge_area(area, surplus, 0, SLM_PURGE_IDLE);
    }
    return given;
}
