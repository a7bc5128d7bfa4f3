/* Free spans: splitting, joining, purging; see span.h, and bins.h for where they wait.
 *
 * An area (one a node) keeps its free spans in bins by length, the states apart. Dirty ones are taken first:
 * their RAM is there. What no bin has comes from the frontier, behind which nothing was ever mapped.
 *
 *     | used and free spans ...            | mapped ahead | nothing mapped yet ...
 *                                          ^ frontier     ^ mapped
 */
#include "page/bins.h"

#include <errno.h>

#include "base/panic.h"
#include "os/topology.h"
#include "os/vm.h"
#include "sync/lock.h"

enum { lead_least = 16, lead_most = 1024 };

/* Holes split mappings, and the kernel allows 65,530: only long spans are unmapped, and only so many. */
enum { unmap_least = 16, unmapped_most = 2048 };

/* A free span's descriptor: the queue by age stands behind what all spans have. */
struct free_span {
    struct slm_span span;
    struct slm_list age;
};

static_assert(sizeof(struct free_span) <= SLM_DESCRIPTOR_BYTES, "a descriptor holds it");

struct area {
    struct slm_lock lock;
    bool started;
    uint32_t generation; /* of the lists */
    size_t first, frontier, mapped, end;
    struct slm_bins bins[SLM_SPAN_STATES];
    uint32_t spans[SLM_SPAN_STATES]; /* in the bins */
    struct slm_list ages;            /* dirty spans, oldest first */
    uint64_t dirty_low;              /* the least bytes that were dirty since the last purge of surplus */
    _Atomic uint64_t free_bytes[SLM_SPAN_STATES];
    _Atomic uint64_t lost_bytes;
} slm_cacheline;

static struct area areas[SLM_NODES_MAX];
static _Atomic uint64_t purges, purged_bytes;
static _Atomic bool scarce; /* address space */

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

void slm_span_start_areas(void)
{
    for (unsigned node = 0; node < slm_nodes; node++)
        if (!areas[node].started)
            start_area(&areas[node]);
}

/* The holder died in a fork: whatever was listed may be torn. */
static void restart_area(struct area *area)
{
    for (unsigned state = 0; state < SLM_SPAN_STATES; state++) {
        add_relaxed(&area->lost_bytes, load_relaxed(&area->free_bytes[state]));
        slm_bins_clear(&area->bins[state]);
        area->spans[state] = 0;
        store_relaxed(&area->free_bytes[state], 0);
    }
    slm_list_init(&area->ages);
    area->dirty_low = 0;
    area->generation = slm_fork_generation;
    if (area->mapped < area->frontier)
        area->mapped = area->frontier;
}

static void lock_area(struct area *area)
{
    if (unlikely(slm_lock_acquire(&area->lock)))
        restart_area(area);
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
    slm_bins_add(&area->bins[span->state], span);
    area->spans[span->state]++;
    if (span->state == SLM_SPAN_DIRTY)
        slm_list_insert_before(&area->ages, &free_span_of(span)->age);
    add_relaxed(&area->free_bytes[span->state], slm_span_bytes(span));
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
    slm_bins_remove(&area->bins[span->state], span);
    area->spans[span->state]--;
    if (span->state == SLM_SPAN_DIRTY)
        slm_list_remove(&free_span_of(span)->age);
    sub_relaxed(&area->free_bytes[span->state], slm_span_bytes(span));
    store_relaxed(&last_descriptor(span)->kind, SLM_SPAN_NONE);
    store_relaxed(&span->kind, SLM_SPAN_NONE);
}

/* The free span before or behind, when it may be joined with one of that state; NULL otherwise. */
static struct slm_span *joinable(struct area *area, size_t granule, unsigned state)
{
    struct slm_span *span = slm_descriptor(granule);
    const unsigned kind = load_relaxed(&span->kind);
    if ((kind != SLM_SPAN_FREE && kind != SLM_SPAN_FREE_END) || span->generation != area->generation)
        return NULL;
    if (kind == SLM_SPAN_FREE_END)
        span = slm_descriptor(granule - span->back);
    return span->state == state ? span : NULL;
}

/* Join an unlisted free span with its free neighbours of the same state, and list the result. */
static void join_and_list(struct area *area, struct slm_span *span)
{
    const size_t first = slm_span_granule(span);
    struct slm_span *before = first > area->first ? joinable(area, first - 1, span->state) : NULL;
    struct slm_span *behind =
        first + span->granules < area->frontier ? joinable(area, first + span->granules, span->state) : NULL;
    if (behind) {
        unlist_span(area, behind);
        span->granules += behind->granules;
    }
    if (before) {
        unlist_span(area, before);
        before->granules += span->granules;
        span = before;
    }
    list_span(area, span);
}

/* Make the part of an unlisted span behind `granules` a span of its own, not listed. */
static struct slm_span *split(struct slm_span *span, size_t granules)
{
    struct slm_span *rest = slm_descriptor(slm_span_granule(span) + granules);
    rest->granules = span->granules - (uint32_t)granules;
    rest->state = span->state;
    span->granules = (uint32_t)granules;
    return rest;
}

/* What is mapped ahead but was never part of a span becomes a clean free one. */
static void give_up_ahead(struct area *area)
{
    if (area->mapped == area->frontier)
        return;
    struct slm_span *span = slm_descriptor(area->frontier);
    span->granules = (uint32_t)(area->mapped - area->frontier);
    span->state = SLM_SPAN_CLEAN;
    area->frontier = area->mapped;
    join_and_list(area, span);
}

/* Map at least `granules` more behind what is mapped: an eighth of the area's use ahead, where that is granted. */
static bool map_ahead(struct area *area, size_t granules)
{
    const size_t used = area->mapped - area->first;
    size_t want = slm_max(granules, slm_min(slm_max(used / 8, lead_least), lead_most));
    for (size_t skip = lead_least; area->mapped + granules <= area->end; skip *= 2) {
        want = slm_min(want, area->end - area->mapped);
        if (slm_reservation_extend(area->mapped, want)) {
            area->mapped += want;
            return true;
        }
        if (errno != EEXIST && want == granules)
            return false;
        if (errno != EEXIST) { /* no memory for so much ahead, perhaps for less */
            want = slm_max(granules, want / 8);
            continue;
        }
        give_up_ahead(area);
        area->frontier = area->mapped + skip; /* something else lies there */
        signal_fence(); /* a child that is forked in between finds the frontier ahead: restart_area */
        area->mapped = area->frontier;
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
    span->state = SLM_SPAN_CLEAN;
    store_relaxed(&span->kind, SLM_SPAN_NONE);
    return span;
}

/* Map an unlisted span's addresses again: what is needed, and a little more that becomes clean. False: there is no
 * memory, and the span is listed again; or something else lies there now, and it is lost. */
static bool map_again(struct area *area, struct slm_span *span, size_t granules)
{
    const size_t want = slm_min(span->granules, slm_max(granules, lead_least));
    if (span->granules > want)
        list_span(area, split(span, want));
    if (slm_reservation_extend(slm_span_granule(span), want)) {
        span->state = SLM_SPAN_CLEAN;
        return true;
    }
    if (errno != EEXIST)
        join_and_list(area, span);
    else
        add_relaxed(&area->lost_bytes, slm_span_bytes(span));
    return false;
}

/* A listed span that is long enough, unlisted and mapped: RAM that is there before RAM that is not. */
static struct slm_span *take_listed(struct area *area, size_t granules)
{
    static const uint8_t order[] = {SLM_SPAN_DIRTY, SLM_SPAN_CLEAN, SLM_SPAN_UNMAPPED};
    for (unsigned i = 0; i < sizeof order; i++) {
        struct slm_span *span = slm_bins_find(&area->bins[order[i]], granules);
        if (!span)
            continue;
        unlist_span(area, span);
        if (span->state != SLM_SPAN_UNMAPPED || map_again(area, span, granules))
            return span;
    }
    return NULL;
}

static struct slm_span *take_unaligned(struct area *area, size_t granules)
{
    struct slm_span *span = take_listed(area, granules);
    if (!span)
        return take_frontier(area, granules);
    if (span->granules > granules)
        join_and_list(area, split(span, granules));
    return span;
}

/* After dirty memory has been taken into use. */
static void note_dirty_low(struct area *area)
{
    area->dirty_low = slm_min(area->dirty_low, load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]));
}

/* Cut an unlisted span down to what lies behind `alignment`. */
static struct slm_span *align_span(struct area *area, struct slm_span *span, size_t granules, size_t alignment)
{
    const size_t first = (uintptr_t)slm_span_start(span) >> SLM_GRANULE_SHIFT;
    const size_t lead = slm_align_up(first, alignment) - first;
    if (lead > 0) {
        struct slm_span *aligned = split(span, lead);
        join_and_list(area, span);
        span = aligned;
    }
    if (span->granules > granules)
        join_and_list(area, split(span, granules));
    return span;
}

static struct slm_span *alloc_from(struct area *area, size_t granules, size_t alignment)
{
    lock_area(area);
    struct slm_span *span = take_unaligned(area, granules + alignment - 1);
    if (span && alignment > 1)
        span = align_span(area, span, granules, alignment);
    note_dirty_low(area);
    slm_lock_release(&area->lock);
    if (span)
        span->moved = false;
    return span;
}

struct slm_span *slm_span_alloc(unsigned node, size_t granules, size_t alignment)
{
    struct slm_span *span = NULL;
    size_t take;
    if (!__builtin_add_overflow(granules, alignment - 1, &take) && take <= SLM_GRANULES_MAX)
        for (unsigned i = 0; i < slm_nodes && !span; i++) /* another node's memory is better than none */
            span = alloc_from(&areas[(node + i) % slm_nodes], granules, alignment);
    if (!span)
        errno = ENOMEM;
    return span;
}

static void free_locked(struct area *area, struct slm_span *span)
{
    span->state = SLM_SPAN_DIRTY;
    join_and_list(area, span);
}

void slm_span_free(struct slm_span *span)
{
    struct area *area = area_of(span);
    lock_area(area);
    free_locked(area, span);
    slm_lock_release(&area->lock);
}

void slm_span_free_moved(struct slm_span *span)
{
    struct area *area = area_of(span);
    const bool unmapped = slm_reservation_unmap(slm_span_start(span), slm_span_bytes(span));
    const bool renewed =
        unmapped && !slm_span_scarce() && slm_reservation_extend(slm_span_granule(span), span->granules);
    lock_area(area);
    span->state = renewed ? SLM_SPAN_CLEAN : SLM_SPAN_UNMAPPED;
    if (unmapped)
        join_and_list(area, span);
    else /* the limit of mappings: what is left there stays unused */
        add_relaxed(&area->lost_bytes, slm_span_bytes(span));
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
    if (next->state == SLM_SPAN_UNMAPPED && !map_again(area, next, more))
        return false;
    if (next->granules > more)
        join_and_list(area, split(next, more));
    *clean = next->state == SLM_SPAN_CLEAN;
    span->granules = (uint32_t)granules;
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

void slm_span_set_scarce(bool is_scarce)
{
    store_relaxed(&scarce, is_scarce);
}

bool slm_span_scarce(void)
{
    return load_relaxed(&scarce);
}

/* Up to `most` bytes of the oldest dirty span, unlisted: its far end, when it is longer. NULL if there is none. */
static struct slm_span *take_oldest(struct area *area, uint64_t most)
{
    if (slm_list_empty(&area->ages) || most < SLM_GRANULE)
        return NULL;
    struct slm_span *span = &slm_container(area->ages.next, struct free_span, age)->span;
    unlist_span(area, span);
    if (slm_span_bytes(span) > most && !slm_span_scarce()) { /* else its parts could not join again */
        struct slm_span *end = split(span, span->granules - (most >> SLM_GRANULE_SHIFT));
        list_span(area, span);
        slm_list_remove(&free_span_of(span)->age); /* it is the oldest still */
        slm_list_insert_after(&area->ages, &free_span_of(span)->age);
        span = end;
    }
    note_dirty_low(area);
    return span;
}

static bool beside_hole(struct area *area, const struct slm_span *span)
{
    const size_t first = slm_span_granule(span), behind = first + span->granules;
    return (first > area->first && joinable(area, first - 1, SLM_SPAN_UNMAPPED)) ||
           (behind < area->frontier && joinable(area, behind, SLM_SPAN_UNMAPPED));
}

/* A hole that becomes wider is no further one. */
static bool may_unmap(struct area *area, const struct slm_span *span)
{
    const bool new_hole = span->granules >= unmap_least && area->spans[SLM_SPAN_UNMAPPED] < unmapped_most;
    return slm_span_scarce() && (new_hole || beside_hole(area, span));
}

/* The state that an unlisted span's memory is in after it has been given back as far as the kernel takes it. */
static uint8_t give_back(const struct slm_span *span, bool unmap)
{
    char *start = slm_span_start(span);
    const size_t bytes = slm_span_bytes(span);
    if (unmap && slm_reservation_unmap(start, bytes))
        return SLM_SPAN_UNMAPPED;
    if (span->state == SLM_SPAN_CLEAN)
        return SLM_SPAN_CLEAN;
    return slm_vm_purge(start, bytes) ? SLM_SPAN_CLEAN : SLM_SPAN_DIRTY;
}

/* Give an unlisted span back and list it; the system call is made without the lock. False: the kernel did not take
 * it. */
static bool give_back_and_list(struct area *area, struct slm_span *span, bool unmap)
{
    const uint8_t before = span->state, after = give_back(span, unmap);
    lock_area(area);
    span->state = after;
    join_and_list(area, span);
    slm_lock_release(&area->lock);
    return after != before;
}

/* Purge up to that many bytes, a span at a time. */
static size_t purge_area(struct area *area, uint64_t bytes)
{
    size_t given = 0;
    while (given < bytes) {
        lock_area(area);
        struct slm_span *span = take_oldest(area, bytes - given);
        const bool unmap = span && may_unmap(area, span);
        slm_lock_release(&area->lock);
        const size_t size = span ? slm_span_bytes(span) : 0;
        if (!span ||
            !give_back_and_list(area, span, unmap)) /* locked pages stay, and asking again at once would not help */
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
        const uint64_t dirty = load_relaxed(&areas[node].free_bytes[SLM_SPAN_DIRTY]), keep = keep_bytes / slm_nodes;
        if (dirty > keep)
            given += purge_area(&areas[node], dirty - keep);
    }
    return given;
}

static bool look_for_unmappable(struct slm_span *span, void *area)
{
    return may_unmap(area, span);
}

static size_t unmap_clean(struct area *area)
{
    size_t given = 0;
    for (;;) {
        lock_area(area);
        give_up_ahead(area);
        struct slm_span *span = slm_bins_foreach(&area->bins[SLM_SPAN_CLEAN], look_for_unmappable, area);
        if (span)
            unlist_span(area, span);
        slm_lock_release(&area->lock);
        const size_t size = span ? slm_span_bytes(span) : 0;
        if (!span || !give_back_and_list(area, span, true))
            return given;
        given += size;
    }
}

size_t slm_span_unmap_free(void)
{
    store_relaxed(&scarce, true);
    size_t given = slm_span_purge(0);
    for (unsigned node = 0; node < slm_nodes; node++)
        given += unmap_clean(&areas[node]);
    return given;
}

size_t slm_span_purge_surplus(void)
{
    size_t given = 0;
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct area *area = &areas[node];
        if (load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]) == 0)
            continue;
        lock_area(area);
        const uint64_t surplus = area->dirty_low;
        area->dirty_low = load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]) - surplus;
        slm_lock_release(&area->lock);
        given += purge_area(area, surplus);
    }
    return given;
}

uint64_t slm_span_dirty_bytes(void)
{
    uint64_t bytes = 0;
    for (unsigned node = 0; node < slm_nodes; node++)
        bytes += load_relaxed(&areas[node].free_bytes[SLM_SPAN_DIRTY]);
    return bytes;
}

void slm_span_get_figures(struct slm_span_figures *out)
{
    *out = (struct slm_span_figures){.purges = load_relaxed(&purges), .purged_bytes = load_relaxed(&purged_bytes)};
    for (unsigned node = 0; node < slm_nodes; node++) {
        out->dirty_bytes += load_relaxed(&areas[node].free_bytes[SLM_SPAN_DIRTY]);
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

struct walk {
    struct area *area;
    unsigned state;
    uint64_t bytes;
};

static bool check_free_span(struct slm_span *span, void *context)
{
    struct walk *walk = context;
    const struct slm_span *last = last_descriptor(span);
    if (span->state != walk->state)
        slm_panic("check", slm_span_start(span), "a free span in the bins of another state", NULL, span);
    if (last != span && (load_relaxed(&last->kind) != SLM_SPAN_FREE_END || last->back != span->granules - 1))
        slm_panic("check", slm_span_start(span), "a free span's end is not marked", NULL, span);
    const size_t behind = slm_span_granule(span) + span->granules;
    if (behind < walk->area->frontier && joinable(walk->area, behind, walk->state))
        slm_panic("check", slm_span_start(span), "two free spans of one state side by side", NULL, span);
    walk->bytes += slm_span_bytes(span);
    return false;
}

void slm_span_check(unsigned node)
{
    struct area *area = &areas[node];
    lock_area(area);
    for (unsigned state = 0; state < SLM_SPAN_STATES; state++) {
        struct walk walk = {.area = area, .state = state};
        slm_bins_foreach(&area->bins[state], check_free_span, &walk);
        if (walk.bytes != load_relaxed(&area->free_bytes[state]))
            slm_panic("check", area, "free bytes do not add up", NULL, NULL);
    }
    slm_lock_release(&area->lock);
}
