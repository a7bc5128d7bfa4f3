/* Taking spans and freeing them; see span_alloc.h.
 *
 * New memory comes in two steps. Under the area's lock a thread picks addresses: an unmapped span, which it unlists,
 * or those from the frontier on, which moves. Without the lock it maps them, and then lists them as a clean span. So
 * all others go on meanwhile; they may be mapping too. A thread that is lost in a fork between the steps has
 * addresses that nobody else will try. */
#include "page/span_alloc.h"

#include "base/errno.h"
#include "os/vm.h"
#include "page/charge.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/huge.h"
#include "page/reservation.h"

enum { lead_least = 16, lead_most = 1024, for_slabs_most = 8 };

/* What could be saved of fewer dirty bytes is hardly more than the code for it. */
static const size_t lengthen_from = (size_t)256 << 10;

enum { LOOK_AGAIN = -1 }; /* beside 0 and the kernel's errno */

/* How many granules are mapped ahead, if the kernel grants them: an eighth of the area's used size. Few where
 * addresses are scarce, or what is mapped is locked, or others are mapping: each of many would have its own. */
static slm_cold size_t lead_of(struct slm_free_spans *area)
{
    const size_t used = slm_span_scarce() || slm_vm_locked() ? 0 : area->frontier - area->first;
    if (area->mapping_generation != slm_fork_generation) {
        area->mapping_generation = slm_fork_generation;
        add_relaxed(&area->lost_bytes, (uint64_t)area->mapping << SLM_GRANULE_SHIFT);
        area->mapping = 0;
    }
    return area->mapping > 0 ? lead_least : slm_min(slm_max(used / 8, lead_least), lead_most);
}

static slm_cold void list(struct slm_free_spans *area, size_t first, size_t count, enum slm_span_state state)
{
    struct slm_span *span = slm_descriptor(first);
    span->granules = (uint32_t)count;
    span->state = (uint8_t)state;
    slm_free_spans_join(area, span);
}

/* Map addresses that are this thread's alone, without the lock, and list them. Returns 0 or the kernel's errno. */
static slm_cold int map_and_list(struct slm_free_spans *area, size_t first, size_t count, bool for_slabs)
{
    area->mapping += count;
    slm_lock_release(&area->lock);
    const int error = slm_reservation_extend(first, count) ? 0 : errno;
    if (for_slabs && error == 0 && unlikely(slm_demand_used() >= slm_huge_least))
        slm_huge_expect(first, count);
    slm_free_spans_lock(area);
    area->mapping -= slm_min(count, area->mapping); /* a handler may have forked */
    if (error == 0)
        list(area, first, count, SLM_SPAN_CLEAN);
    return error;
}

/* Map a listed span's addresses again: what is needed, and a little more. False: there is no memory, and the span is
 * listed as before; or a foreign mapping lies there now, and the span is lost. */
static slm_seldom bool map_again(struct slm_free_spans *area, struct slm_span *span, size_t granules)
{
    const size_t want = slm_min(span->granules, slm_max(granules, lead_least));
    slm_free_spans_unlist(area, span);
    if (span->granules > want)
        slm_free_spans_list(area, slm_span_split(span, want));
    const int error = map_and_list(area, slm_span_granule(span), want, false);
    if (error == EEXIST)
        add_relaxed(&area->lost_bytes, slm_span_bytes(span));
    else if (error != 0)
        slm_free_spans_join(area, span);
    return error == 0;
}

/* Addresses that could not be mapped: they are above the frontier again, unless that has moved on. Then they are a
 * span for later, or lost if a foreign mapping lies there. */
static slm_seldom void put_back(struct slm_free_spans *area, size_t first, size_t count, size_t skip)
{
    if (area->frontier == first + count) {
        area->frontier = first + slm_min(skip, area->end - first);
    } else if (skip > 0) {
        add_relaxed(&area->lost_bytes, (uint64_t)count << SLM_GRANULE_SHIFT);
    } else {
        list(area, first, count, SLM_SPAN_UNMAPPED);
    }
}

/* Move the frontier and map what is between, if it has descriptors: no thread takes addresses that it could not list
 * as a span. If it has none, only these are mapped, and the caller looks again. */
static slm_cold int advance(struct slm_free_spans *area, size_t count, size_t skip, bool for_slabs)
{
    const size_t first = area->frontier;
    if (slm_reservation_describe(first, count, false)) {
        area->frontier = first + count;
        const int error = map_and_list(area, first, count, for_slabs);
        if (error != 0)
            put_back(area, first, count, error == EEXIST ? skip : 0);
        return error;
    }
    slm_lock_release(&area->lock);
    const int error = slm_reservation_describe(first, count, true) ? LOOK_AGAIN : errno;
    slm_free_spans_lock(area);
    if (error == EEXIST)
        put_back(area, first, 0, skip);
    return error;
}

/* Map memory at the frontier: as much as, with the clean span that ends there, makes `granules`. What is mapped is
 * listed, and true returned. A foreign mapping is stepped over, in steps that become longer. */
static slm_cold bool extend(struct slm_free_spans *area, size_t granules)
{
    size_t lead = lead_of(area), skip = lead_least;
    for (;;) {
        const size_t first = area->frontier, left = area->end - first;
        const struct slm_span *tail = NULL;
        if (left > 0 && slm_reservation_describe(first, 1, false))
            tail = slm_free_spans_before(area, slm_descriptor(first), SLM_SPAN_CLEAN);
        const size_t has = tail ? tail->granules : 0;
        if (has >= granules) /* others have listed it meanwhile */
            return true;
        const size_t least = granules - has, count = slm_min(slm_max(least, lead), left);
        if (left < least)
            return false;
        const int error = advance(area, count, skip, granules <= for_slabs_most);
        if (error == 0)
            return true;
        if (error == EEXIST)
            skip *= 2;
        else if (error != LOOK_AGAIN && count == least)
            return false;
        else if (error != LOOK_AGAIN)
            lead = count / 8; /* no memory for so much ahead */
    }
}

struct wanted {
    struct slm_free_spans *area;
    size_t granules;
};

static slm_for_few bool suffices_with_clean(struct slm_span *span, void *context)
{
    const struct wanted *wanted = context;
    const struct slm_span *before = slm_free_spans_before(wanted->area, span, SLM_SPAN_CLEAN);
    const struct slm_span *behind = slm_free_spans_after(wanted->area, span, SLM_SPAN_CLEAN);
    return span->granules + (before ? before->granules : 0) + (behind ? behind->granules : 0) >= wanted->granules;
}

/* Make an unlisted span longer by the clean one behind it, then by the one before it. */
static slm_for_few struct slm_span *lengthen(struct slm_free_spans *area, struct slm_span *span, size_t granules)
{
    struct slm_span *behind = slm_free_spans_after(area, span, SLM_SPAN_CLEAN);
    if (behind) {
        const size_t more = slm_min(granules - span->granules, behind->granules);
        slm_free_spans_unlist(area, behind);
        if (behind->granules > more)
            slm_free_spans_list(area, slm_span_split(behind, more));
        span->granules += (uint32_t)more;
    }
    const size_t more = granules - span->granules;
    if (more == 0)
        return span;
    struct slm_span *before = slm_free_spans_before(area, span, SLM_SPAN_CLEAN), *end = before;
    slm_free_spans_unlist(area, before);
    if (before->granules > more) {
        end = slm_span_split(before, before->granules - more);
        slm_free_spans_list(area, before);
    }
    end->granules += span->granules;
    end->state = span->state;
    return end;
}

/* No dirty span is long enough. One of half the length or more may be, with the clean memory beside it: less is
 * touched for the first time than in a clean span, and less stays dirty. *clean: so many granules of it. */
static slm_for_few __attribute__((noinline)) struct slm_span *take_with_clean(struct slm_free_spans *area,
                                                                              size_t granules, size_t *clean)
{
    struct wanted wanted = {area, granules};
    struct slm_span *span =
        slm_bins_find_longest(&area->bins[SLM_SPAN_DIRTY], (granules + 1) / 2, suffices_with_clean, &wanted);
    if (!span)
        return NULL;
    slm_free_spans_unlist(area, span);
    *clean = granules - span->granules;
    return lengthen(area, span, granules);
}

/* A span that is long enough, unlisted and mapped. Dirty ones come first: their RAM is resident. *clean: if `exact`,
 * how much of a dirty one is clean all the same. */
static struct slm_span *take(struct slm_free_spans *area, size_t granules, bool exact, size_t *clean)
{
    for (;;) {
        struct slm_span *span = slm_bins_find(&area->bins[SLM_SPAN_DIRTY], granules);
        if (!span && exact && granules > 1 &&
            load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]) >= slm_max(granules * SLM_GRANULE / 2, lengthen_from))
            span = take_with_clean(area, granules, clean);
        if (*clean > 0)
            return span;
        if (!span)
            span = slm_bins_find(&area->bins[SLM_SPAN_CLEAN], granules);
        if (span) {
            slm_free_spans_unlist(area, span);
            return span;
        }
        span = slm_bins_find(&area->bins[SLM_SPAN_UNMAPPED], granules);
        if (!(span && map_again(area, span, granules)) && !extend(area, granules))
            return NULL;
    }
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

static struct slm_span *alloc_from(struct slm_free_spans *area, size_t granules, size_t alignment, size_t *clean)
{
    slm_free_spans_lock(area);
    struct slm_span *span = take(area, granules + alignment - 1, alignment == 1, clean);
    if (span) {
        span = cut(area, span, granules, alignment);
        span->moved = false;
        if (span->state == SLM_SPAN_CLEAN)
            *clean = granules;
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

/* The limit leaves no room for a clean span behind its first granules. */
static __attribute__((noinline)) slm_seldom void return_rest(struct slm_span *span, size_t granules)
{
    struct slm_free_spans *area = slm_free_spans_of(span);
    struct slm_span *rest = granules > 0 ? slm_span_split(span, granules) : span;
    slm_free_spans_lock(area);
    rest->state = SLM_SPAN_CLEAN;
    slm_free_spans_join(area, rest);
    slm_lock_release(&area->lock);
}

/* The same, of a dirty span that is clean in part: what is dirty is charged, and so all of it is. */
static __attribute__((noinline)) slm_seldom void return_all(struct slm_span *span, size_t clean)
{
    struct slm_free_spans *area = slm_free_spans_of(span);
    if (span->state == SLM_SPAN_CLEAN) {
        return_rest(span, 0);
        return;
    }
    slm_charge_add(clean << SLM_GRANULE_SHIFT);
    slm_free_spans_lock(area);
    slm_free_spans_join(area, span);
    slm_lock_release(&area->lock);
}

_Atomic bool slm_span_look_due;

void slm_span_note_growth(size_t bytes)
{
    if (unlikely(slm_demand_grow(bytes)))
        store_relaxed(&slm_span_look_due, true);
}

_Atomic uint64_t slm_span_unfit_bytes;

static void note_rise(size_t bytes, size_t clean)
{
    slm_demand_rise(bytes);
    if (clean == 0)
        return;
    if (slm_span_dirty_bytes() >= clean)
        add_relaxed(&slm_span_unfit_bytes, clean);
    slm_span_note_growth(clean);
}

struct slm_span *slm_span_alloc(unsigned area, size_t granules, size_t alignment)
{
    struct slm_span *span = NULL;
    size_t take, clean = 0; /* granules of those taken */
    if (!__builtin_add_overflow(granules, alignment - 1, &take) && take <= SLM_GRANULES_MAX)
        for (unsigned i = 0; i < slm_area_count() && !span; i++) /* another node's memory is better than none */
            span = alloc_from(slm_free_spans_in(next_best(area, i)), granules, alignment, &clean);
    if (span && clean > 0 && unlikely(!slm_charge_take(clean << SLM_GRANULE_SHIFT)))
        return_all(span, clean), span = NULL;
    if (!span)
        errno = ENOMEM;
    else
        note_rise(slm_span_bytes(span), clean << SLM_GRANULE_SHIFT);
    return span;
}

/* The separate mapping is replaced by new memory, which is one mapping with its neighbours again. */
static slm_for_few __attribute__((noinline)) void free_moved(struct slm_free_spans *area, struct slm_span *span)
{
    slm_huge_break(slm_span_start(span), slm_span_bytes(span));
    const bool unmapped = slm_reservation_unmap(slm_span_start(span), slm_span_bytes(span));
    const bool renewed = unmapped && !slm_span_scarce() && !slm_vm_locked() &&
                         slm_reservation_extend(slm_span_granule(span), span->granules);
    slm_free_spans_lock(area);
    span->state = renewed ? SLM_SPAN_CLEAN : SLM_SPAN_UNMAPPED;
    if (unmapped) {
        slm_charge_sub(slm_span_bytes(span));
        slm_free_spans_join(area, span);
    } else { /* the limit of mappings: the span stays unused */
        add_relaxed(&area->lost_bytes, slm_span_bytes(span));
    }
    slm_lock_release(&area->lock);
}

static void free_part(struct slm_free_spans *area, struct slm_span *span)
{
    slm_free_spans_lock(area);
    slm_free_spans_join(area, span);
    slm_lock_release(&area->lock);
}

/* Nothing can have become dirty that a slow path should see but by this. */
static void note_drop(size_t bytes)
{
    slm_demand_drop(bytes);
    if (unlikely(slm_demand_fell() || slm_demand_is_replaced() || slm_span_scarce() || slm_charge_is_near()))
        store_relaxed(&slm_span_look_due, true);
}

void slm_span_free(struct slm_span *span)
{
    span->state = SLM_SPAN_DIRTY;
    note_drop(slm_span_bytes(span));
    (unlikely(span->moved) ? free_moved : free_part)(slm_free_spans_of(span), span);
}

slm_for_few void slm_span_free_clean(struct slm_span *span)
{
    span->state = SLM_SPAN_CLEAN;
    note_drop(slm_span_bytes(span));
    free_part(slm_free_spans_of(span), span);
}

slm_seldom void slm_span_free_unmapped(struct slm_span *span, bool lost)
{
    struct slm_free_spans *area = slm_free_spans_of(span);
    span->state = SLM_SPAN_UNMAPPED;
    note_drop(slm_span_bytes(span));
    if (lost)
        add_relaxed(&area->lost_bytes, slm_span_bytes(span));
    else
        free_part(area, span);
}

slm_for_few void slm_span_trim(struct slm_span *span, size_t granules, uint8_t state)
{
    struct slm_span *rest = slm_span_split(span, granules);
    rest->state = state;
    note_drop(slm_span_bytes(rest));
    (unlikely(span->moved) ? free_moved : free_part)(slm_free_spans_of(span), rest);
}

/* The free span behind this one; NULL if there is none. */
static slm_for_few struct slm_span *free_behind(struct slm_free_spans *area, const struct slm_span *span)
{
    struct slm_span *next = NULL;
    for (unsigned state = 0; state < SLM_SPAN_STATES && !next; state++)
        next = slm_free_spans_after(area, span, state);
    return next;
}

/* Map memory behind the span, whose free neighbour is `next`, if that is the way to so much more, or to the least.
 * While the kernel works on it others may take the neighbour. */
static slm_for_few void map_behind(struct slm_free_spans *area, const struct slm_span *span, struct slm_span *next,
                                   size_t least, size_t more)
{
    const size_t has = next ? next->granules : 0;
    if (next && next->state == SLM_SPAN_UNMAPPED) {
        if (has >= least)
            map_again(area, next, slm_min(has, more));
    } else if (slm_span_granule(span) + span->granules + has == area->frontier && has < more &&
               (!next || next->state == SLM_SPAN_CLEAN)) {
        extend(area, more);
    }
}

/* `most` as far as that costs no memory: clean. */
static slm_for_few bool grow(struct slm_free_spans *area, struct slm_span *span, size_t granules, size_t most,
                             bool *clean)
{
    const size_t least = granules - span->granules;
    size_t more = most - span->granules;
    map_behind(area, span, free_behind(area, span), least, more);
    struct slm_span *next = free_behind(area, span);
    if (!next || next->state == SLM_SPAN_UNMAPPED || next->granules < least)
        return false;
    more = next->state == SLM_SPAN_CLEAN ? slm_min(more, next->granules) : least;
    slm_free_spans_unlist(area, next);
    next = cut(area, next, more, 1);
    *clean = next->state == SLM_SPAN_CLEAN;
    span->granules += (uint32_t)more;
    return true;
}

slm_for_few bool slm_span_extend(struct slm_span *span, size_t granules, size_t most, bool *clean)
{
    struct slm_free_spans *area = slm_free_spans_of(span);
    slm_keep_errno();
    const size_t before = slm_span_bytes(span);
    slm_free_spans_lock(area);
    bool done =
        grow(area, span, granules, most, clean) || (most > granules && grow(area, span, granules, granules, clean));
    slm_free_spans_note_dirty_low(area);
    slm_lock_release(&area->lock);
    if (done && *clean && unlikely(!slm_charge_take(slm_span_bytes(span) - before)))
        return_rest(span, before >> SLM_GRANULE_SHIFT), done = false;
    if (done)
        note_rise(slm_span_bytes(span) - before, *clean ? slm_span_bytes(span) - before : 0);
    return done;
}
