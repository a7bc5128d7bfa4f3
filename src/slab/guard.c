/* Making places, the pattern, and the ring; see guard.h. */
#include "slab/guard.h"

#include <string.h>

#include "os/background.h"
#include "page/charge.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/huge.h"
#include "page/reservation.h"
#include "page/span_alloc.h"

enum { PATTERN = 0xa5 };

/* From this size on calloc should not have to clear all. */
#define CLEAN_BYTES ((size_t)64 << 10)

static const uint64_t ring_bytes_most = (uint64_t)4 << 20;

slm_sparse _Atomic uint32_t slm_guards_live;

/* Places enter at `entered`, modulo the length, and leave at `left`. Who has raised a count alone may exchange
 * what is there. A thread that falls behind by a whole turn, or is lost in a fork, may leave a place empty, or
 * find one that nobody has taken, which it gives back: so none is lost. */
static slm_sparse struct {
    struct slm_guard *_Atomic places[SLM_GUARDS_FREED];
    _Atomic uint32_t entered, left;
    _Atomic uint64_t bytes;
} ring;

/* Freed by a signal handler, and not in the ring yet. */
static slm_sparse struct slm_large *_Atomic pending;

struct layout {
    size_t granules, data, data_bytes, object; /* offsets in the span */
};

static struct layout lay_out(size_t usable, size_t alignment)
{
    const size_t data = slm_max(slm_page_size, alignment), data_bytes = slm_align_up(usable, slm_page_size);
    return (struct layout){
        .granules = slm_align_up(data + data_bytes + slm_page_size, SLM_GRANULE) >> SLM_GRANULE_SHIFT,
        .data = data,
        .data_bytes = data_bytes,
        .object = (data + data_bytes - usable) & ~(alignment - 1),
    };
}

/* -- pages ------------------------------------------------------------------------------------------------------- */

static char *start_of(const struct slm_guard *guard)
{
    return slm_span_start(&guard->large.span);
}

static slm_for_few bool protect(const struct slm_guard *guard, size_t from, size_t end, bool accessible)
{
    return from == end || slm_vm_protect(start_of(guard) + from, end - from, accessible);
}

/* What is inaccessible for good has no RAM: it is neither charged nor counted as in use. */
static slm_for_few void uncount(const struct slm_guard *guard)
{
    const size_t never = slm_span_bytes(&guard->large.span) - guard->data_bytes;
    slm_charge_sub(never);
    add_relaxed(&slm_demand_sums.dropped, never);
}

static slm_for_few void mark(struct slm_guard *guard, uint8_t kind)
{
    const size_t first = slm_span_granule(&guard->large.span);
    for (uint32_t i = guard->large.span.granules - 1; i > 0; i--) {
        struct slm_span *granule = slm_descriptor(first + i);
        granule->back = i;
        store_relaxed(&granule->kind, kind == SLM_SPAN_NONE ? kind : SLM_SPAN_SLAB_INSIDE);
    }
    store_release(&guard->large.span.kind, kind); /* pairs with slm_guard_at */
}

/* All of it goes back to the kernel: most of it has no RAM, and would count as dirty. */
static slm_for_few void give_back(struct slm_guard *guard)
{
    struct slm_span *span = &guard->large.span;
    const size_t bytes = slm_span_bytes(span), never = bytes - guard->data_bytes;
    if (!protect(guard, 0, bytes, true)) /* it stays as it is */
        return;
    const bool clean = slm_vm_purge(start_of(guard), bytes);
    add_relaxed(&slm_demand_sums.taken, never);
    if (clean)
        slm_charge_sub(guard->data_bytes);
    else
        slm_charge_add(never);
    mark(guard, SLM_SPAN_NONE);
    (likely(clean) ? slm_span_free_clean : slm_span_free)(span);
}

/* A span of its own, all inaccessible but the data. */
static slm_for_few struct slm_guard *make_new(unsigned area, const struct layout *layout)
{
    struct slm_guard *guard = (struct slm_guard *)slm_span_alloc(area, layout->granules, 1);
    if (!guard)
        return NULL;
    const size_t bytes = slm_span_bytes(&guard->large.span), end = layout->data + layout->data_bytes;
    guard->clean = guard->large.span.state == SLM_SPAN_CLEAN;
    if (guard->clean)
        slm_huge_break_unused(start_of(guard), bytes);
    else
        guard->clean = slm_huge_purge(start_of(guard), bytes);
    if (!protect(guard, 0, layout->data, false) || !protect(guard, end, bytes, false)) {
        protect(guard, 0, layout->data, true);
        slm_span_free(&guard->large.span);
        return NULL;
    }
    guard->data_page = (uint8_t)(layout->data / slm_page_size);
    guard->data_bytes = (uint32_t)layout->data_bytes;
    uncount(guard);
    return guard;
}

/* -- the ring ---------------------------------------------------------------------------------------------------- */

/* The oldest, or NULL: its place is empty. False: all are. */
static slm_for_few bool take_oldest(struct slm_guard **oldest)
{
    uint32_t left = load_relaxed(&ring.left);
    *oldest = NULL;
    do {
        if (left == load_relaxed(&ring.entered))
            return false;
    } while (!atomic_compare_exchange_weak(&ring.left, &left, left + 1));
    *oldest = atomic_exchange(&ring.places[left % SLM_GUARDS_FREED], NULL); /* pairs with enter */
    if (*oldest)
        sub_relaxed(&ring.bytes, (*oldest)->data_bytes);
    return true;
}

static slm_for_few bool is_full(void)
{
    return load_relaxed(&ring.entered) - load_relaxed(&ring.left) >= SLM_GUARDS_FREED ||
           load_relaxed(&ring.bytes) > ring_bytes_most;
}

static slm_for_few void enter(struct slm_guard *guard)
{
    struct slm_guard *oldest;
    while (is_full() && take_oldest(&oldest))
        if (oldest)
            give_back(oldest);
    add_relaxed(&ring.bytes, guard->data_bytes);
    const uint32_t at = atomic_fetch_add(&ring.entered, 1) % SLM_GUARDS_FREED;
    struct slm_guard *late = atomic_exchange(&ring.places[at], guard); /* pairs with itself and take_oldest */
    if (late) {
        sub_relaxed(&ring.bytes, late->data_bytes);
        give_back(late);
    }
}

static slm_for_few void enter_pending(void)
{
    if (likely(!load_relaxed(&pending)))
        return;
    /* acquire: pairs with the release in slm_guard_put_away */
    struct slm_large *large = atomic_exchange_explicit(&pending, NULL, memory_order_acquire), *next;
    for (; large; large = next) {
        next = large->next;
        enter((struct slm_guard *)large);
    }
}

slm_seldom void slm_guard_drain(void)
{
    struct slm_guard *oldest;
    if (load_relaxed(&ring.entered) == load_relaxed(&ring.left))
        return;
    if (slm_background_begin())
        while (take_oldest(&oldest))
            if (oldest)
                give_back(oldest);
    slm_background_end();
}

/* It has this layout from now on, and is accessible. False: the kernel refuses. */
static slm_for_few bool lay_out_again(struct slm_guard *guard, const struct layout *layout)
{
    const bool other = slm_guard_data(guard) != layout->data || guard->data_bytes != layout->data_bytes;
    guard->clean = (other || layout->data_bytes >= CLEAN_BYTES) &&
                   slm_vm_purge(start_of(guard) + slm_guard_data(guard), guard->data_bytes);
    if (other) {
        slm_charge_add(layout->data_bytes - guard->data_bytes); /* modulo 2^64: down, too */
        add_relaxed(&slm_demand_sums.taken, layout->data_bytes - guard->data_bytes);
        guard->data_page = (uint8_t)(layout->data / slm_page_size);
        guard->data_bytes = (uint32_t)layout->data_bytes;
    }
    return protect(guard, layout->data, layout->data + layout->data_bytes, true);
}

/* The oldest of a full ring, if it is as long, or NULL. Its contents stay as they were. */
static slm_for_few struct slm_guard *reuse(unsigned area, const struct layout *layout)
{
    struct slm_guard *guard;
    if (!is_full() || !take_oldest(&guard) || !guard)
        return NULL;
    const bool fits = guard->large.span.granules == layout->granules &&
                      slm_area_of_granule(slm_span_granule(&guard->large.span)) == area;
    if (fits && lay_out_again(guard, layout))
        return guard;
    give_back(guard);
    return NULL;
}

/* -- objects ----------------------------------------------------------------------------------------------------- */

static slm_for_few void fill_in(struct slm_guard *guard, size_t usable, const struct layout *layout)
{
    char *start = start_of(guard), *object = start + layout->object, *end = object + usable;
    guard->large.usable = guard->large.weighed = usable;
    guard->large.grown = guard->large.was_moved = guard->large.purged = guard->large.tail_unmapped = false;
    guard->large.rest_clean = false;
    store_relaxed(&guard->large.sample, 0);
    guard->object = object;
    guard->stand_in = NULL;
    guard->stack = guard->thread = guard->end_stack = guard->end_thread = 0;
    memset(start + layout->data, PATTERN, (size_t)(object - start) - layout->data);
    memset(end, PATTERN, (size_t)(start + layout->data + layout->data_bytes - end));
    mark(guard, SLM_SPAN_GUARDED);
}

static slm_for_few struct slm_guard *make(unsigned area, const struct layout *layout)
{
    struct slm_guard *guard = NULL;
    if (slm_background_begin()) {
        enter_pending();
        guard = reuse(area, layout);
        guard = guard ? guard : make_new(area, layout);
    }
    slm_background_end();
    return guard;
}

slm_for_few struct slm_guard *slm_guard_make(size_t n, size_t alignment, unsigned area)
{
    if (n > SLM_GUARD_BYTES || alignment > SLM_GRANULE || slm_span_scarce() || slm_charge_is_near())
        return NULL;
    const size_t usable = slm_max(n, 1);
    const struct layout layout = lay_out(usable, alignment);
    struct slm_guard *guard = add_relaxed(&slm_guards_live, 1) < SLM_GUARDS_LIVE ? make(area, &layout) : NULL;
    if (guard)
        fill_in(guard, usable, &layout);
    else
        sub_relaxed(&slm_guards_live, 1);
    return guard;
}

slm_for_few struct slm_guard *slm_guard_at(const void *address)
{
    size_t granule = slm_granule_of(address);
    if (!slm_reservation_described(granule))
        return NULL;
    struct slm_span *span = slm_descriptor(granule);
    if (load_relaxed(&span->kind) == SLM_SPAN_SLAB_INSIDE && span->back <= granule)
        span = slm_descriptor(granule - span->back);
    const unsigned kind = load_acquire(&span->kind); /* pairs with mark */
    return kind == SLM_SPAN_GUARDED || kind == SLM_SPAN_GUARDED_RETIRED || kind == SLM_SPAN_GUARDED_FREE
               ? (struct slm_guard *)span
               : NULL;
}

slm_for_few bool slm_guard_end(struct slm_guard *guard, uint8_t becomes)
{
    uint8_t kind = SLM_SPAN_GUARDED;
    if (!atomic_compare_exchange_strong(&guard->large.span.kind, &kind, becomes))
        return false;
    slm_large_end_sample(&guard->large);
    return true;
}

static slm_for_few bool has_pattern(const char *from, const char *end)
{
    return from == end || ((unsigned char)*from == PATTERN && memcmp(from, from + 1, (size_t)(end - from) - 1) == 0);
}

slm_for_few const char *slm_guard_damage(const struct slm_guard *guard)
{
    const char *data = start_of(guard) + slm_guard_data(guard), *end = guard->object + guard->large.usable;
    if (!has_pattern(end, data + guard->data_bytes))
        return "something was written behind the end of an object";
    return has_pattern(data, guard->object) ? NULL : "something was written before the start of an object";
}

slm_for_few void slm_guard_put_away(struct slm_guard *guard, bool nolock)
{
    struct slm_large *large = &guard->large;
    store_relaxed(&large->span.kind, SLM_SPAN_GUARDED_FREE);
    sub_relaxed(&slm_guards_live, 1);
    if (slm_background_begin()) {
        protect(guard, slm_guard_data(guard), slm_guard_data(guard) + guard->data_bytes, false);
        if (nolock) {
            large->next = load_relaxed(&pending);
            /* release: pairs with the exchange in enter_pending */
            while (!atomic_compare_exchange_weak_explicit(&pending, &large->next, large, memory_order_release,
                                                          memory_order_relaxed))
                ;
        } else {
            enter_pending();
            enter(guard);
        }
    }
    slm_background_end();
}
