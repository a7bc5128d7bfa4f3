/* One-object spans; see large.h. */
#include "slab/large.h"

#include <errno.h>
#include <string.h>

#include "os/vm.h"
#include "page/charge.h"
#include "page/free_spans.h"
#include "page/huge.h"
#include "page/populate.h"
#include "page/reservation.h"
#include "page/span_alloc.h"

/* From this size on moving page tables is cheaper than copying, even into memory that is resident already; from the
 * smaller one where a copy would fault its pages in. A moved object is a mapping of its own, with its headroom. So
 * their number is limited. */
#define MOVE_BYTES ((size_t)1 << 20)
#define MOVE_TO_CLEAN_BYTES ((size_t)128 << 10)
enum { moved_most = 1000 };

/* Where growing objects are freed soon, what they copy from and to is resident when the next ones come, but what they
 * move is not. So for each that is freed the next few copy. */
#define COPY_BYTES ((size_t)8 << 20)
enum { copies_for_freed = 8, copies_due_most = 64 };

/* As much again, and at most this. It is addresses: its pages come as they are touched. Where it lies in memory that
 * is resident already, it is a quarter. */
static const size_t headroom_most = ((size_t)64 << 20) / SLM_GRANULE;

/* calloc on dirty memory from this size on gives it back to the kernel: where less than a sixth of the pages is
 * written, new ones cost less than clearing all. Where an object has been freed of which more was written, the next
 * ones of its size, in powers of two, are cleared. Then one is purged again, to see, and the others are cleared until
 * it is freed: of a population that is written all the others would be purged meanwhile. */
#define PURGE_BYTES ((size_t)256 << 10)
enum { clears_for_written = 256 };

/* Where addresses are scarce and the heap takes a quarter of them (or this much, if the limit is not known), an
 * object's unused pages are unmapped, if they are so many. Each such hole is one mapping more. */
#define TAIL_BYTES ((size_t)16 << 10)
enum { tails_most = 32000 };
static const uint64_t tails_heap_bytes = (uint64_t)256 << 20;

static _Atomic uint32_t tails;
static _Atomic uint16_t clears_due[64];
static _Atomic bool written_last[64]; /* what the last one that was purged and freed has shown */
static _Atomic uint32_t live_moved, copies_due;

static size_t granules_for(size_t n)
{
    return slm_max(n + SLM_GRANULE - 1, SLM_GRANULE) >> SLM_GRANULE_SHIFT;
}

/* Modulo 2^64: down as well as up. */
static void count_live(const struct slm_large *large, uint64_t bytes)
{
    add_relaxed(&slm_free_spans_of(&large->span)->large_bytes, bytes);
}

/* Headroom that nobody has written to is not charged. */
static size_t uncharged(const struct slm_large *large)
{
    return large->rest_clean ? (large->span.granules - granules_for(large->usable)) << SLM_GRANULE_SHIFT : 0;
}

static struct slm_large *make(size_t n, size_t granules, size_t align_granules, unsigned area)
{
    struct slm_large *large = (struct slm_large *)slm_span_alloc(area, granules, align_granules);
    if (!large)
        return NULL;
    large->usable = slm_large_usable_for(n);
    large->weighed = n;
    large->grown = large->was_moved = large->purged = large->tail_unmapped = false;
    store_relaxed(&large->sample, 0);
    large->rest_clean = large->span.state == SLM_SPAN_CLEAN;
    slm_charge_sub(uncharged(large));
    if (large->rest_clean)
        slm_huge_break_unused(slm_span_start(&large->span), slm_span_bytes(&large->span));
    count_live(large, large->usable);
    store_relaxed(&large->span.kind, SLM_SPAN_LARGE);
    return large;
}

/* It was counted as live all the time. */
void slm_large_reuse(struct slm_large *large, size_t usable)
{
    if (usable != large->usable)
        count_live(large, usable - large->usable);
    large->usable = large->weighed = usable;
    large->grown = large->rest_clean = false;
    large->span.state = SLM_SPAN_DIRTY;
    store_relaxed(&large->span.kind, SLM_SPAN_LARGE);
}

static char *tail_of(const struct slm_large *large)
{
    return slm_span_start(&large->span) + large->usable;
}

static size_t tail_bytes(const struct slm_large *large)
{
    return slm_span_bytes(&large->span) - large->usable;
}

static slm_seldom __attribute__((noinline)) void unmap_tail(struct slm_large *large)
{
    const uint64_t limit = slm_vm_address_limit;
    if (slm_range.reserved || tail_bytes(large) < TAIL_BYTES ||
        slm_reservation_heap_bytes() < (limit == UINT64_MAX ? tails_heap_bytes : limit / 4) ||
        load_relaxed(&tails) >= tails_most || !slm_reservation_unmap(tail_of(large), tail_bytes(large)))
        return;
    large->tail_unmapped = true;
    add_relaxed(&tails, 1);
}

/* Before its size changes, or it is freed. False: there is no memory, or (EEXIST) a foreign mapping. */
static slm_seldom __attribute__((noinline)) bool map_tail(struct slm_large *large)
{
    if (!slm_reservation_map_again(tail_of(large), tail_bytes(large)))
        return false;
    large->tail_unmapped = false;
    sub_relaxed(&tails, 1);
    return true;
}

static slm_seldom __attribute__((noinline)) void expect_writes(struct slm_large *large)
{
    char *start = slm_span_start(&large->span);
    const size_t whole = large->usable & ~(SLM_VM_HUGE_PAGE - 1);
    if (slm_populate_expects_writes(large->usable, start, whole))
        slm_huge_expect_object(start, large->usable);
}

void *slm_large_alloc(size_t n, size_t alignment, unsigned area, bool *clean)
{
    if (n > (size_t)PTRDIFF_MAX || alignment > SLM_GRANULES_MAX << SLM_GRANULE_SHIFT) {
        errno = ENOMEM;
        return NULL;
    }
    struct slm_large *large = make(n, granules_for(n), slm_max(alignment >> SLM_GRANULE_SHIFT, 1), area);
    if (!large)
        return NULL;
    *clean = large->rest_clean;
    if (large->rest_clean && large->usable >= SLM_VM_HUGE_PAGE)
        expect_writes(large);
    if (unlikely(slm_span_scarce()))
        unmap_tail(large);
    return slm_span_start(&large->span);
}

slm_for_few void *slm_large_clear(void *object)
{
    struct slm_large *large = slm_large_of(object);
    const unsigned doubling = slm_log2(large->usable);
    const uint16_t clears = load_relaxed(&clears_due[doubling]);
    if (clears > 0)
        store_relaxed(&clears_due[doubling], clears - 1);
    else if (load_relaxed(&written_last[doubling]))
        store_relaxed(&clears_due[doubling], clears_for_written);
    large->purged = large->usable >= PURGE_BYTES && clears == 0 && slm_huge_purge(object, large->usable);
    return large->purged ? object : memset(object, 0, large->usable);
}

struct slm_large *slm_large_of(const void *pointer)
{
    const size_t granule = slm_granule_of(pointer);
    if (((uintptr_t)pointer & (SLM_GRANULE - 1)) != 0 || !slm_reservation_described(granule))
        return NULL;
    struct slm_span *span = slm_descriptor(granule);
    const unsigned kind = load_relaxed(&span->kind);
    return kind == SLM_SPAN_LARGE || kind == SLM_SPAN_RETIRED ? (struct slm_large *)span : NULL;
}

/* If two threads free or retire the object, one of them wins. */
static bool win(struct slm_large *large, uint8_t becomes)
{
    uint8_t kind = SLM_SPAN_LARGE;
    if (!atomic_compare_exchange_strong(&large->span.kind, &kind, becomes))
        return false;
    slm_large_end_sample(large);
    return true;
}

/* Free the headroom. */
static void give_back_rest(struct slm_large *large)
{
    const size_t granules = granules_for(large->usable);
    if (large->span.granules > granules)
        slm_span_trim(&large->span, granules, large->rest_clean ? SLM_SPAN_CLEAN : SLM_SPAN_DIRTY);
}

/* Was enough of it written that clearing would have been cheaper? Of eight pages two are not all zero. */
static slm_unordered slm_for_few __attribute__((noinline)) void judge_purge(struct slm_large *large)
{
    unsigned written = 0;
    for (size_t i = 0; i < 8; i++) {
        const size_t at = (2 * i + 1) * large->usable / 16 & ~(slm_page_size - 1);
        const uint64_t *page = (const uint64_t *)(const void *)(slm_span_start(&large->span) + at);
        size_t word = 0;
        while (word < slm_page_size / sizeof *page && page[word] == 0)
            word++;
        written += word < slm_page_size / sizeof *page;
    }
    const unsigned doubling = slm_log2(large->usable);
    store_relaxed(&written_last[doubling], written >= 2);
    store_relaxed(&clears_due[doubling], written >= 2 ? clears_for_written : 0);
}

/* The rest of an object whose tail cannot be mapped. */
static slm_seldom __attribute__((noinline)) void give_back_addresses(struct slm_large *large)
{
    const bool foreign = errno == EEXIST;
    const bool unmapped = slm_reservation_unmap(slm_span_start(&large->span), large->usable);
    sub_relaxed(&tails, 1);
    if (unmapped)
        slm_charge_sub(slm_span_bytes(&large->span));
    slm_span_free_unmapped(&large->span, !unmapped || foreign);
}

static void give_back(struct slm_large *large)
{
    if (unlikely(large->purged))
        judge_purge(large);
    const uint32_t copies = load_relaxed(&copies_due);
    if (large->was_moved && copies < copies_due_most)
        store_relaxed(&copies_due, copies + copies_for_freed);
    if (unlikely(large->tail_unmapped) && !map_tail(large)) {
        give_back_addresses(large);
        return;
    }
    if (large->span.moved) {
        sub_relaxed(&live_moved, 1);
        slm_charge_add(uncharged(large)); /* all of it is unmapped, and no longer charged */
    } else {
        give_back_rest(large);
    }
    slm_span_free(&large->span);
}

bool slm_large_retire(struct slm_large *large)
{
    return win(large, SLM_SPAN_RETIRED);
}

void slm_large_release(struct slm_large *large)
{
    store_relaxed(&large->span.kind, SLM_SPAN_NONE);
    count_live(large, -(uint64_t)large->usable);
    give_back(large);
}

size_t slm_large_free(struct slm_large *large)
{
    const size_t bytes = large->usable;
    if (!win(large, SLM_SPAN_NONE))
        return 0;
    slm_large_release(large);
    return bytes;
}

struct slm_large *_Atomic slm_large_pending;

bool slm_large_free_nolock(struct slm_large *large)
{
    if (!win(large, SLM_SPAN_NONE))
        return false;
    count_live(large, -(uint64_t)large->usable);
    large->next = load_relaxed(&slm_large_pending);
    /* release: pairs with the exchange in slm_large_free_pending */
    while (!atomic_compare_exchange_weak_explicit(&slm_large_pending, &large->next, large, memory_order_release,
                                                  memory_order_relaxed))
        ;
    return true;
}

void slm_large_free_pending(void)
{
    struct slm_large *large = atomic_exchange_explicit(&slm_large_pending, NULL, memory_order_acquire), *next;
    for (; large; large = next) {
        next = large->next;
        give_back(large);
    }
}

/* From now on the object's mapping is separate from its neighbours'. */
static void mark_moved(struct slm_large *large)
{
    if (!large->span.moved)
        add_relaxed(&live_moved, 1);
    large->span.moved = true;
}

static slm_for_few bool moves_pages(const struct slm_large *large, const struct slm_large *to)
{
    const uint32_t copies = load_relaxed(&copies_due);
    if (large->usable < (to->rest_clean ? MOVE_TO_CLEAN_BYTES : MOVE_BYTES) ||
        (!large->span.moved && load_relaxed(&live_moved) >= moved_most))
        return false;
    if (large->usable >= COPY_BYTES || copies == 0 || slm_charge_is_near())
        return true;
    store_relaxed(&copies_due, copies - 1);
    return false;
}

/* False: `to` may have been unmapped. */
static slm_for_few bool move_pages(struct slm_large *large, struct slm_large *to)
{
    mark_moved(to);
    slm_charge_add(uncharged(to));
    to->rest_clean = true;
    slm_charge_sub(uncharged(to));
    slm_huge_break(slm_span_start(&large->span), large->usable);
    slm_huge_break(slm_span_start(&to->span), slm_span_bytes(&to->span));
    if (!slm_vm_move(slm_span_start(&large->span), slm_span_start(&to->span), large->usable,
                     slm_span_bytes(&to->span)))
        return false;
    mark_moved(large); /* nothing is mapped there any more */
    return true;
}

static slm_for_few void copy(struct slm_large *large, struct slm_large *to)
{
    const size_t granules = granules_for(to->usable), most = granules + granules / 4;
    if (!to->rest_clean && to->span.granules > most)
        slm_span_trim(&to->span, most, SLM_SPAN_DIRTY);
    memcpy(slm_span_start(&to->span), slm_span_start(&large->span), large->usable);
}

/* Where new memory is locked it is resident from the start: the first purge gives it back, and finds that out. */
static slm_for_few void empty_headroom(struct slm_large *large, size_t granules)
{
    const size_t used = granules << SLM_GRANULE_SHIFT, all = slm_span_bytes(&large->span);
    if (large->rest_clean && all - used >= MOVE_TO_CLEAN_BYTES)
        slm_huge_purge(slm_span_start(&large->span) + used, all - used);
}

/* To a longer span, within its area, so that added pages are bound if its pages are. Pages that move are there once,
 * and charged once: where the object is to be. */
static slm_for_few __attribute__((noinline)) void *move(struct slm_large *large, size_t n, size_t headroom)
{
    const unsigned area = slm_area_of_granule(slm_span_granule(&large->span));
    const size_t charged = slm_span_bytes(&large->span) - uncharged(large);
    slm_charge_sub(charged);
    struct slm_large *to = make(n, granules_for(n) + headroom, 1, area);
    if (!to && headroom > 0)
        to = make(n, granules_for(n), 1, area);
    const bool moves = to && moves_pages(large, to), copies = to && !moves && slm_charge_take(charged);
    const bool done = moves ? move_pages(large, to) : copies;
    if (copies)
        copy(large, to);
    else
        slm_charge_add(charged);
    if (!done && to)
        slm_large_free(to);
    if (!done)
        return NULL;
    to->grown = to->was_moved = true;
    to->weighed = large->weighed;
    store_relaxed(&to->sample, load_relaxed(&large->sample));
    store_relaxed(&large->sample, 0);
    large->was_moved = large->purged = false; /* it has not been freed by the program */
    slm_large_free(large);
    empty_headroom(to, granules_for(n));
    return slm_span_start(&to->span);
}

/* What grows for the second time in a row will go on growing. Near the limit it stays where it is if it can. */
static slm_for_few size_t headroom_for(const struct slm_large *large, size_t granules)
{
    return large->grown && !slm_span_scarce() && !slm_vm_locked() && !slm_charge_is_near()
               ? slm_min(granules, headroom_most)
               : 0;
}

static slm_for_few __attribute__((noinline)) void shrink(struct slm_large *large, size_t granules)
{
    if (large->span.moved)
        slm_charge_add(uncharged(large)); /* as in give_back */
    else
        give_back_rest(large);
    large->grown = false;
    if (granules < large->span.granules)
        slm_span_trim(&large->span, granules, SLM_SPAN_DIRTY);
}

/* In place, into its headroom and the free memory behind it. A moved object rather moves again, and so stays a
 * single mapping. */
static slm_for_few bool grow(struct slm_large *large, size_t granules, size_t headroom)
{
    bool clean;
    const size_t more = (granules - granules_for(large->usable)) << SLM_GRANULE_SHIFT;
    const size_t taken = slm_min(more, uncharged(large));
    if (taken > 0 && !slm_charge_take(taken))
        return false;
    if (granules > large->span.granules) {
        if ((large->span.moved && headroom > 0) ||
            !slm_span_extend(&large->span, granules, granules + headroom, &clean)) {
            slm_charge_sub(taken);
            return false;
        }
        large->rest_clean = clean;
        if (clean)
            slm_charge_sub((large->span.granules - granules) << SLM_GRANULE_SHIFT);
        empty_headroom(large, granules);
    }
    large->grown = true;
    return true;
}

slm_for_few void *slm_large_resize(struct slm_large *large, size_t n)
{
    const size_t granules = granules_for(n), usable = slm_large_usable_for(n);
    if (unlikely(large->tail_unmapped) && usable != large->usable && !map_tail(large))
        return NULL;
    if (usable < large->usable) {
        shrink(large, granules);
    } else if (usable > large->usable) {
        const size_t headroom = headroom_for(large, granules);
        if (!grow(large, granules, headroom))
            return move(large, n, headroom);
    }
    count_live(large, usable - large->usable);
    large->usable = usable;
    return slm_span_start(&large->span);
}

uint64_t slm_large_area_bytes(unsigned area)
{
    return load_relaxed(&slm_free_spans_in(area)->large_bytes);
}
