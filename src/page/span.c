/* Free spans: bins, splitting, joining, purging; see span.h.
 *
 * An area (one a node) keeps its free spans in bins by length, dirty and clean apart. Dirty ones are taken first: their
 * RAM is there. What no bin has comes from the frontier, behind which nothing was ever mapped.
 *
 *     | used and free spans ...            | mapped ahead | nothing mapped yet ...
 *                                          ^ frontier     ^ mapped
 */
#include "page/span.h"

#include <errno.h>

#include "base/panic.h"
#include "os/topology.h"
#include "os/vm.h"
#include "sync/lock.h"

enum { EXACT_BINS = 32, BINS = 64, SCAN = 32 };

/* A free span's descriptor: the queue by age stands behind what all spans have. */
struct free_span {
    struct slm_span span;
    struct slm_list age;
};

static_assert(sizeof(struct free_span) <= SLM_DESCRIPTOR_BYTES, "a descriptor holds it");

struct bins {
    uint64_t occupied; /* a bit a bin; a bin without is not initialised */
    struct slm_list bin[BINS];
};

struct area {
    struct slm_lock lock;
    bool started;
    uint32_t generation; /* of the lists */
    size_t first, frontier, mapped, end;
    struct bins bins[2]; /* clean, dirty */
    struct slm_list ages; /* dirty spans, oldest first */
    uint64_t dirty_low;   /* the least bytes that were dirty since the last purge of surplus */
    _Atomic uint64_t free_bytes[2];
    _Atomic uint64_t lost_bytes;
} slm_cacheline;

static struct area areas[SLM_NODES_MAX];
static _Atomic uint64_t purges, purged_bytes;

static struct area *area_of(const struct slm_span *span)
{
    return &areas[slm_nodes == 1 ? 0 : slm_span_granule(span) / slm_reservation_area()];
}

static void start_area(struct area *area)
{
    const size_t size = slm_reservation_area();
    area->lock.rank = SLM_RANK_SPANS;
    area->first = area->frontier = area->mapped = (size_t)(area - areas) * size;
    area->end = area->first + size;
    area->generation = slm_fork_generation;
    slm_list_init(&area->ages);
    area->started = true;
}

/* The holder died in a fork: whatever was listed may be torn. */
static void restart_area(struct area *area)
{
    add_relaxed(&area->lost_bytes, load_relaxed(&area->free_bytes[0]) + load_relaxed(&area->free_bytes[1]));
    for (unsigned dirty = 0; dirty < 2; dirty++) {
        area->bins[dirty].occupied = 0;
        store_relaxed(&area->free_bytes[dirty], 0);
    }
    slm_list_init(&area->ages);
    area->dirty_low = 0;
    area->generation = slm_fork_generation;
    if (area->mapped < area->frontier)
        area->mapped = area->frontier;
}

static void lock_area(struct area *area)
{
    bool torn = slm_lock_acquire(&area->lock);
    if (unlikely(!area->started))
        start_area(area);
    if (unlikely(torn))
        restart_area(area);
}

/* One bin a length up to 32 granules, then four a doubling; the last takes all that is longer. */
static unsigned bin_of(size_t granules)
{
    if (granules <= EXACT_BINS)
        return (unsigned)granules - 1;
    unsigned doubling = slm_log2(granules); /* 5 and up */
    unsigned bin = EXACT_BINS + (doubling - 5) * 4 + (unsigned)(granules >> (doubling - 2) & 3);
    return bin < BINS ? bin : BINS - 1;
}

static struct free_span *free_span_of(struct slm_span *span)
{
    return (struct free_span *)span;
}

static struct slm_span *last_descriptor(struct slm_span *span)
{
    return slm_descriptor(slm_span_granule(span) + span->granules - 1);
}

/* List a free span and mark both its ends. Its neighbours are not looked at. */
static void list_span(struct area *area, struct slm_span *span)
{
    struct bins *bins = &area->bins[span->dirty];
    const unsigned bin = bin_of(span->granules);
    if (!(bins->occupied >> bin & 1)) {
        slm_list_init(&bins->bin[bin]);
        bins->occupied |= (uint64_t)1 << bin;
    }
    slm_list_insert_after(&bins->bin[bin], &span->link);
    if (span->dirty)
        slm_list_insert_before(&area->ages, &free_span_of(span)->age);
    add_relaxed(&area->free_bytes[span->dirty], slm_span_bytes(span));
    span->generation = area->generation;
    span->back = 0;
    struct slm_span *last = last_descriptor(span);
    last->back = span->granules - 1;
    last->generation = area->generation;
    store_relaxed(&last->kind, SLM_SPAN_FREE_END);
    store_relaxed(&span->kind, SLM_SPAN_FREE); /* last: with one granule both are the same */
}

static void unlist_span(struct area *area, struct slm_span *span)
{
    struct bins *bins = &area->bins[span->dirty];
    const unsigned bin = bin_of(span->granules);
    slm_list_remove(&span->link);
    if (slm_list_empty(&bins->bin[bin]))
        bins->occupied &= ~((uint64_t)1 << bin);
    if (span->dirty)
        slm_list_remove(&free_span_of(span)->age);
    sub_relaxed(&area->free_bytes[span->dirty], slm_span_bytes(span));
    store_relaxed(&last_descriptor(span)->kind, SLM_SPAN_NONE);
    store_relaxed(&span->kind, SLM_SPAN_NONE);
}

/* The free span before or behind, when it may be joined with one that is `dirty`; NULL otherwise. */
static struct slm_span *joinable(struct area *area, size_t granule, bool dirty)
{
    struct slm_span *span = slm_descriptor(granule);
    const unsigned kind = load_relaxed(&span->kind);
    if ((kind != SLM_SPAN_FREE && kind != SLM_SPAN_FREE_END) || span->generation != area->generation)
        return NULL;
    if (kind == SLM_SPAN_FREE_END)
        span = slm_descriptor(granule - span->back);
    return span->dirty == dirty ? span : NULL;
}

/* Join an unlisted free span with its free neighbours of the same state, and list the result. */
static void join_and_list(struct area *area, struct slm_span *span)
{
    const size_t first = slm_span_granule(span);
    struct slm_span *before = first > area->first ? joinable(area, first - 1, span->dirty) : NULL;
    struct slm_span *behind =
        first + span->granules < area->frontier ? joinable(area, first + span->granules, span->dirty) : NULL;
    if (behind) {
        unlist_span(area, behind);
        span->granules += behind->granules;
        span->moved |= behind->moved;
    }
    if (before) {
        unlist_span(area, before);
        before->granules += span->granules;
        before->moved |= span->moved;
        span = before;
    }
    list_span(area, span);
}

/* Make the part of an unlisted span behind `granules` a span of its own, not listed. */
static struct slm_span *split(struct slm_span *span, size_t granules)
{
    struct slm_span *rest = slm_descriptor(slm_span_granule(span) + granules);
    rest->granules = span->granules - (uint32_t)granules;
    rest->dirty = span->dirty;
    rest->moved = span->moved;
    span->granules = (uint32_t)granules;
    return rest;
}

/* The best of a bin's first spans that is long enough: the shortest, of these the lowest, so that what lies high up is
 * left alone and can be purged. */
static struct slm_span *best_of_bin(const struct slm_list *bin, size_t granules)
{
    struct slm_span *best = NULL;
    unsigned looked = 0;
    for (struct slm_list *at = bin->next; at != bin && (looked++ < SCAN || !best); at = at->next) {
        struct slm_span *span = slm_container(at, struct slm_span, link);
        if (span->granules < granules || (best && span->granules > best->granules))
            continue;
        if (!best || span->granules < best->granules || span < best)
            best = span;
    }
    return best;
}

static struct slm_span *find_fit(const struct bins *bins, size_t granules)
{
    uint64_t candidates = bins->occupied >> bin_of(granules) << bin_of(granules);
    while (candidates != 0) {
        struct slm_span *span = best_of_bin(&bins->bin[__builtin_ctzll(candidates)], granules);
        if (span)
            return span;
        candidates &= candidates - 1;
    }
    return NULL;
}

/* What is mapped ahead but was never part of a span becomes a clean free one. */
static void give_up_ahead(struct area *area)
{
    if (area->mapped == area->frontier)
        return;
    struct slm_span *span = slm_descriptor(area->frontier);
    span->granules = (uint32_t)(area->mapped - area->frontier);
    span->dirty = span->moved = false;
    area->frontier = area->mapped;
    join_and_list(area, span);
}

/* Map at least `granules` more behind what is mapped: an eighth of the area's use ahead, where that is granted. */
static bool map_ahead(struct area *area, size_t granules)
{
    const size_t used = area->mapped - area->first;
    size_t want = slm_max(granules, slm_min(slm_max(used / 8, 16), 1024));
    for (size_t skip = 16; area->mapped + granules <= area->end; skip *= 2) {
        want = slm_min(want, area->end - area->mapped);
        if (slm_reservation_extend(area->mapped, want)) {
            area->mapped += want;
            return true;
        }
        if (errno != EEXIST && want == granules)
            return false;
        if (errno != EEXIST) { /* no memory for the lead, perhaps for the need */
            want = granules;
            continue;
        }
        give_up_ahead(area);
        area->frontier = area->mapped = area->mapped + skip; /* something else lies there */
    }
    errno = ENOMEM;
    return false;
}

static struct slm_span *take_frontier(struct area *area, size_t granules)
{
    size_t ahead = area->mapped - area->frontier;
    if (ahead < granules && !map_ahead(area, granules - ahead))
        return NULL;
    if (area->mapped - area->frontier < granules) /* it had to step over something */
        return take_frontier(area, granules);
    struct slm_span *span = slm_descriptor(area->frontier);
    area->frontier += granules;
    span->granules = (uint32_t)granules;
    span->dirty = span->moved = false;
    store_relaxed(&span->kind, SLM_SPAN_NONE);
    return span;
}

static struct slm_span *take_unaligned(struct area *area, size_t granules)
{
    struct slm_span *span = find_fit(&area->bins[1], granules);
    if (!span)
        span = find_fit(&area->bins[0], granules);
    if (!span)
        return take_frontier(area, granules);
    unlist_span(area, span);
    if (span->granules > granules)
        list_span(area, split(span, granules));
    return span;
}

/* After dirty memory has been taken into use. */
static void note_dirty_low(struct area *area)
{
    area->dirty_low = slm_min(area->dirty_low, load_relaxed(&area->free_bytes[1]));
}

struct slm_span *slm_span_alloc(unsigned node, size_t granules, size_t alignment)
{
    struct area *area = &areas[node];
    size_t take;
    if (__builtin_add_overflow(granules, alignment - 1, &take) || take > SLM_GRANULES_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    lock_area(area);
    struct slm_span *span = take_unaligned(area, take);
    if (span && alignment > 1) {
        const size_t page = (uintptr_t)slm_span_start(span) >> SLM_GRANULE_SHIFT;
        const size_t lead = slm_align_up(page, alignment) - page;
        if (lead > 0) {
            struct slm_span *aligned = split(span, lead);
            join_and_list(area, span);
            span = aligned;
        }
        if (span->granules > granules)
            join_and_list(area, split(span, granules));
    }
    note_dirty_low(area);
    slm_lock_release(&area->lock);
    if (!span)
        errno = ENOMEM;
    return span;
}

static void free_locked(struct area *area, struct slm_span *span)
{
    span->dirty = true;
    join_and_list(area, span);
}

void slm_span_free(struct slm_span *span)
{
    struct area *area = area_of(span);
    lock_area(area);
    free_locked(area, span);
    slm_lock_release(&area->lock);
}

void slm_span_trim(struct slm_span *span, size_t granules)
{
    struct area *area = area_of(span);
    lock_area(area);
    free_locked(area, split(span, granules));
    slm_lock_release(&area->lock);
}

static bool extend_locked(struct area *area, struct slm_span *span, size_t granules, bool *clean)
{
    const size_t behind = slm_span_granule(span) + span->granules;
    const size_t more = granules - span->granules;
    if (behind == area->frontier) {
        struct slm_span *got = area->mapped - area->frontier >= more || map_ahead(area, more) ? span : NULL;
        if (!got || area->frontier != behind || area->mapped - behind < more)
            return false; /* no memory, or something lies in between */
        area->frontier += more;
        span->granules = (uint32_t)granules;
        *clean = true;
        return true;
    }
    struct slm_span *next = slm_descriptor(behind);
    if (behind > area->frontier || load_relaxed(&next->kind) != SLM_SPAN_FREE ||
        next->generation != area->generation || next->granules < more)
        return false;
    unlist_span(area, next);
    if (next->granules > more)
        list_span(area, split(next, more));
    *clean = !next->dirty;
    span->granules = (uint32_t)granules;
    span->moved |= next->moved;
    return true;
}

bool slm_span_extend(struct slm_span *span, size_t granules, bool *clean)
{
    struct area *area = area_of(span);
    int kept = errno;
    lock_area(area);
    bool done = extend_locked(area, span, granules, clean);
    note_dirty_low(area);
    slm_lock_release(&area->lock);
    errno = kept;
    return done;
}

/* Up to `most` bytes of the oldest dirty span, unlisted: its far end, when it is longer. NULL if there is none. */
static struct slm_span *take_oldest(struct area *area, uint64_t most)
{
    if (slm_list_empty(&area->ages) || most < SLM_GRANULE)
        return NULL;
    struct slm_span *span = &slm_container(area->ages.next, struct free_span, age)->span;
    const size_t granules = most >> SLM_GRANULE_SHIFT;
    unlist_span(area, span);
    if (span->granules <= granules)
        return span;
    struct slm_span *end = split(span, span->granules - granules);
    list_span(area, span);
    return end;
}

/* Purge up to that many bytes, a span at a time. */
static size_t purge_area(struct area *area, uint64_t bytes)
{
    size_t given = 0;
    while (given < bytes) {
        lock_area(area);
        struct slm_span *span = take_oldest(area, bytes - given);
        slm_lock_release(&area->lock);
        if (!span)
            break;
        const size_t size = slm_span_bytes(span);
        bool clean = span->moved ? slm_vm_renew(slm_span_start(span), size) : slm_vm_purge(slm_span_start(span), size);
        lock_area(area);
        span->dirty = !clean;
        span->moved &= !clean;
        join_and_list(area, span);
        slm_lock_release(&area->lock);
        if (!clean) /* locked pages: they stay, and asking again at once would not help */
            break;
        given += size;
        add_relaxed(&purges, 1);
        add_relaxed(&purged_bytes, size);
    }
    return given;
}

size_t slm_span_purge(uint64_t keep_bytes)
{
    size_t given = 0;
    for (unsigned node = 0; node < slm_nodes; node++) {
        const uint64_t dirty = load_relaxed(&areas[node].free_bytes[1]), keep = keep_bytes / slm_nodes;
        if (dirty > keep)
            given += purge_area(&areas[node], dirty - keep);
    }
    return given;
}

size_t slm_span_purge_surplus(void)
{
    size_t given = 0;
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct area *area = &areas[node];
        if (load_relaxed(&area->free_bytes[1]) == 0)
            continue;
        lock_area(area);
        const uint64_t surplus = area->dirty_low;
        area->dirty_low = load_relaxed(&area->free_bytes[1]) - surplus;
        slm_lock_release(&area->lock);
        given += purge_area(area, surplus);
    }
    return given;
}

uint64_t slm_span_dirty_bytes(void)
{
    uint64_t bytes = 0;
    for (unsigned node = 0; node < slm_nodes; node++)
        bytes += load_relaxed(&areas[node].free_bytes[1]);
    return bytes;
}

void slm_span_get_figures(struct slm_span_figures *out)
{
    *out = (struct slm_span_figures){.purges = load_relaxed(&purges), .purged_bytes = load_relaxed(&purged_bytes)};
    for (unsigned node = 0; node < slm_nodes; node++) {
        out->clean_bytes += load_relaxed(&areas[node].free_bytes[0]);
        out->dirty_bytes += load_relaxed(&areas[node].free_bytes[1]);
        out->lost_bytes += load_relaxed(&areas[node].lost_bytes);
    }
}

struct slm_span *slm_span_of(const void *pointer)
{
    const size_t granule = slm_granule_of(pointer);
    if (!slm_granule_valid(granule))
        return NULL;
    struct slm_span *span = slm_descriptor(granule);
    switch (load_relaxed(&span->kind)) {
    case SLM_SPAN_SLAB_INSIDE:
        return slm_descriptor(granule - span->back);
    case SLM_SPAN_SLAB:
    case SLM_SPAN_LARGE:
        return span;
    default:
        return NULL;
    }
}

static void check_free_span(struct area *area, struct slm_span *span)
{
    struct slm_span *last = last_descriptor(span);
    if (last != span && (load_relaxed(&last->kind) != SLM_SPAN_FREE_END || last->back != span->granules - 1))
        slm_panic("check", slm_span_start(span), "a free span's end is not marked", NULL, span);
    const size_t behind = slm_span_granule(span) + span->granules;
    if (behind < area->frontier && joinable(area, behind, span->dirty))
        slm_panic("check", slm_span_start(span), "two free spans of one state side by side", NULL, span);
}

void slm_span_check(unsigned node)
{
    struct area *area = &areas[node];
    uint64_t bytes[2] = {0, 0};
    lock_area(area);
    for (unsigned dirty = 0; dirty < 2; dirty++)
        for (unsigned bin = 0; bin < BINS; bin++) {
            const struct bins *bins = &area->bins[dirty];
            if (!(bins->occupied >> bin & 1))
                continue;
            for (struct slm_list *at = bins->bin[bin].next; at != &bins->bin[bin]; at = at->next) {
                struct slm_span *span = slm_container(at, struct slm_span, link);
                if (span->dirty != (dirty == 1) || bin_of(span->granules) != bin)
                    slm_panic("check", slm_span_start(span), "a free span in the wrong bin", NULL, span);
                check_free_span(area, span);
                bytes[dirty] += slm_span_bytes(span);
            }
        }
    for (unsigned dirty = 0; dirty < 2; dirty++)
        if (bytes[dirty] != load_relaxed(&area->free_bytes[dirty]))
            slm_panic("check", area, "free bytes do not add up", NULL, NULL);
    slm_lock_release(&area->lock);
}
