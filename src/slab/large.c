/* One-object spans; see large.h. */
#include "slab/large.h"

#include <errno.h>

#include "os/vm.h"
#include "page/reservation.h"
#include "page/span_alloc.h"

/* From this size on moving page tables is cheaper than copying. A moved object has its own mapping, and one more
 * after each further move. So their number is limited, and only huge ones move again. */
#define MOVE_BYTES ((size_t)1 << 20)
#define MOVE_AGAIN_BYTES ((size_t)32 << 20)
enum { moved_most = 200 };

static _Atomic uint64_t made, live_bytes[SLM_AREAS_MAX];
static _Atomic uint32_t live_moved;

static size_t granules_for(size_t n)
{
    return slm_max(n + SLM_GRANULE - 1, SLM_GRANULE) >> SLM_GRANULE_SHIFT;
}

/* Modulo 2^64: down as well as up. */
static void count_live(const struct slm_large *large, uint64_t bytes)
{
    add_relaxed(&live_bytes[slm_area_of_granule(slm_span_granule(&large->span))], bytes);
}

void *slm_large_alloc(size_t n, size_t alignment, unsigned area, bool *clean)
{
    if (n > (size_t)PTRDIFF_MAX || alignment > SLM_GRANULES_MAX << SLM_GRANULE_SHIFT) {
        errno = ENOMEM;
        return NULL;
    }
    const size_t align_granules = slm_max(alignment >> SLM_GRANULE_SHIFT, 1);
    struct slm_large *large = (struct slm_large *)slm_span_alloc(area, granules_for(n), align_granules);
    if (!large)
        return NULL;
    *clean = large->span.state == SLM_SPAN_CLEAN;
    large->usable = slm_large_usable_for(n);
    add_relaxed(&made, 1);
    count_live(large, large->usable);
    store_relaxed(&large->span.kind, SLM_SPAN_LARGE);
    return slm_span_start(&large->span);
}

struct slm_large *slm_large_of(const void *pointer)
{
    const size_t granule = slm_granule_of(pointer);
    if (!slm_reservation_described(granule) || ((uintptr_t)pointer & (SLM_GRANULE - 1)) != 0)
        return NULL;
    struct slm_span *span = slm_descriptor(granule);
    const unsigned kind = load_relaxed(&span->kind);
    return kind == SLM_SPAN_LARGE || kind == SLM_SPAN_RETIRED ? (struct slm_large *)span : NULL;
}

/* If two threads free or retire the object, one of them wins. */
static bool win(struct slm_large *large, uint8_t becomes)
{
    uint8_t kind = SLM_SPAN_LARGE;
    return atomic_compare_exchange_strong(&large->span.kind, &kind, becomes);
}

static void give_back(struct slm_large *large)
{
    if (large->span.moved)
        sub_relaxed(&live_moved, 1);
    slm_span_free(&large->span);
}

bool slm_large_retire(struct slm_large *large)
{
    return win(large, SLM_SPAN_RETIRED);
}

void slm_large_free_retired(struct slm_large *large)
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
    slm_large_free_retired(large);
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

static bool may_move(const struct slm_large *large)
{
    return large->span.moved ? large->usable >= MOVE_AGAIN_BYTES
                             : large->usable >= MOVE_BYTES && load_relaxed(&live_moved) < moved_most;
}

/* From now on the object's mapping is separate from its neighbours'. */
static void mark_moved(struct slm_large *large)
{
    if (!large->span.moved)
        add_relaxed(&live_moved, 1);
    large->span.moved = true;
}

/* Within its area, so that added pages are bound if its pages are. */
static void *move_pages(struct slm_large *large, size_t n)
{
    bool clean;
    const size_t old_bytes = large->usable;
    char *to = slm_large_alloc(n, SLM_GRANULE, slm_area_of_granule(slm_span_granule(&large->span)), &clean);
    if (!to)
        return NULL;
    struct slm_large *moved = slm_large_of(to);
    mark_moved(moved); /* in any case: a move that fails may have unmapped it */
    if (!slm_vm_move(slm_span_start(&large->span), to, old_bytes)) {
        slm_large_free(moved);
        return NULL;
    }
    mark_moved(large); /* nothing is mapped there any more */
    slm_large_free(large);
    return to;
}

void *slm_large_resize(struct slm_large *large, size_t n)
{
    const size_t granules = granules_for(n);
    bool clean;
    if (granules < large->span.granules)
        slm_span_trim(&large->span, granules);
    if (granules <= large->span.granules || slm_span_extend(&large->span, granules, &clean)) {
        count_live(large, slm_large_usable_for(n) - large->usable);
        large->usable = slm_large_usable_for(n);
        return slm_span_start(&large->span);
    }
    return may_move(large) ? move_pages(large, n) : NULL;
}

uint64_t slm_large_area_bytes(unsigned area)
{
    return load_relaxed(&live_bytes[area]);
}

uint64_t slm_large_made(void)
{
    return load_relaxed(&made);
}
