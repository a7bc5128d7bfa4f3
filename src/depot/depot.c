/* Depots; see depot.h.
 *
 * Growing. A slab is made outside the lock: it may take system calls, and the new slab is its maker's alone until it
 * is put back. Bench builds can hold the lock meanwhile (grow=locked), to show what that costs: the Linux slab
 * allocator did so before its lock-less refill. The ranks allow it, as only locks of spans and metadata are taken. */
#include "depot/depot.h"

#include <errno.h>
#include <string.h>

#include "base/panic.h"
#include "depot/join.h"
#include "depot/pending_slabs.h"
#include "depot/shards.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/huge.h"
#include "page/metadata.h"
#include "slab/fresh.h"

enum { still_looks = 2, ahead = 4 };

_Atomic uint32_t slm_depot_granules_made;

/* From one shard. */
slm_inline bool get(struct slm_depot *depot, struct slm_magazine **magazine)
{
    if (load_relaxed(&depot->stock_rounds) == 0)
        return false;
    slm_depot_lock(depot);
    struct slm_magazine *full = depot->full;
    if (full) {
        depot->full = full->next;
        if (--depot->full_count < depot->full_low)
            depot->full_low = depot->full_count;
        sub_relaxed(&depot->stock_rounds, full->count);
        if (*magazine) {
            (*magazine)->next = depot->empty;
            depot->empty = *magazine;
        }
        *magazine = full;
        slm_count(&depot->exchanges, 1);
        slm_count(&depot->gets, 1);
        slm_count(&depot->rounds_got, full->count);
    }
    slm_lock_release(&depot->lock);
    return full != NULL;
}

/* From another shard whose stock has at least so many rounds. */
static slm_for_few __attribute__((noinline)) bool get_from_others(struct slm_depot *depot,
                                                                  struct slm_magazine **magazine, uint64_t least)
{
    struct slm_depot *other = depot;
    while ((other = slm_depot_other_shard(depot, other)))
        if (load_relaxed(&other->stock_rounds) >= least && get(other, magazine))
            return true;
    return false;
}

/* Threads of one CPU free what those of another allocate: so another shard's stock that is half full comes before
 * the shard's own partial slabs, and what is left anywhere when there are none. */
bool slm_depot_get(struct slm_depot *home, struct slm_magazine **magazine)
{
    struct slm_depot *depot = slm_depot_here(home);
    if (get(depot, magazine))
        return true;
    const struct slm_shards *shards = load_relaxed(&depot->shards);
    if (likely(!shards))
        return false;
    return get_from_others(depot, magazine, load_relaxed(&shards->share) / 2) ||
           (!slm_partial_any(depot) && get_from_others(depot, magazine, 1));
}

bool slm_depot_put(struct slm_depot *depot, struct slm_magazine **magazine, uint64_t limit_rounds)
{
    if (load_relaxed(&depot->shards))
        limit_rounds = slm_depot_share(depot, limit_rounds);
    slm_depot_lock(depot);
    const bool room = load_relaxed(&depot->stock_rounds) + (*magazine)->count <= limit_rounds;
    if (room) {
        struct slm_magazine *empty = depot->empty;
        if (empty)
            depot->empty = empty->next;
        (*magazine)->next = depot->full;
        depot->full = *magazine;
        depot->full_count++;
        add_relaxed(&depot->stock_rounds, (*magazine)->count);
        slm_count(&depot->exchanges, 1);
        slm_count(&depot->rounds_put, (*magazine)->count);
        *magazine = empty;
    }
    slm_lock_release(&depot->lock);
    return room;
}

slm_for_few bool slm_depot_stock_has(struct slm_depot *depot, const void *object)
{
    bool found = false;
    slm_depot_lock(depot);
    for (const struct slm_magazine *full = depot->full; full && !found; full = full->next)
        for (uint32_t i = 0; i < full->count && !found; i++)
            found = full->rounds[i] == object;
    slm_lock_release(&depot->lock);
    return found;
}

/* Nothing was taken from the slab yet. What is locked stays as it is. */
static __attribute__((noinline)) void clean(struct slm_slab *slab)
{
    if (slm_huge_purge(slm_slab_start(slab), slm_span_bytes(&slab->span)))
        slab->span.state = SLM_SPAN_CLEAN;
}

/* A slab that was just made, which the caller holds. */
static void adopt(struct slm_depot *depot, struct slm_slab *slab)
{
    if (slab->span.state == SLM_SPAN_DIRTY && load_relaxed(&depot->slabs_made) == 0)
        clean(slab); /* most sizes need few of its pages */
    slm_fresh_start(slab, load_relaxed(&depot->slabs_made));
    slm_partial_set(slab, SLM_SLAB_HELD);
    if (load_relaxed(&depot->slabs_released) > 0 && !load_relaxed(&depot->missed_vacant))
        store_relaxed(&depot->missed_vacant, true);
    add_relaxed(&depot->slabs_made, 1);
    add_relaxed(&slm_depot_granules_made, depot->shape->granules);
    store_release(&slab->owner, depot); /* pairs with slm_partial_relink(), which sees then that it is held */
}

/* A new slab, held by the caller. */
static struct slm_slab *grow(struct slm_depot *depot)
{
    const bool locked = slm_seam_grow_locked();
    if (locked)
        slm_depot_lock(depot);
    struct slm_slab *slab = slm_slab_make(depot->shape, depot->node, slm_depot_is_sampled(depot));
    if (locked)
        slm_lock_release(&depot->lock);
    if (slab)
        adopt(depot, slab);
    return slab;
}

static void reverse(void **first, void **last)
{
    for (; first < last; first++, last--) {
        void *round = *first;
        *first = *last;
        *last = round;
    }
}

static bool constructs(const struct slm_depot *depot)
{
    return depot->shape->hooks && depot->shape->hooks->constructor;
}

/* Only objects on resident pages. */
slm_inline unsigned take_from(struct slm_depot *depot, struct slm_slab *slab, unsigned n, void **rounds)
{
    const bool by_page = unlikely(slm_pages_differ(slab));
    const unsigned taken = by_page ? slm_pages_take(slab, n, rounds) : slm_slab_take(slab, n, rounds);
    if (depot->shape->keyed)
        slm_slab_set_keys(slab, rounds, taken);
    return taken;
}

/* Partial slabs of other shards. */
static slm_for_few __attribute__((noinline)) unsigned take_over(struct slm_depot *depot, struct slm_slab **slabs,
                                                                unsigned n)
{
    unsigned number = 0;
    for (struct slm_depot *other = depot; number == 0 && (other = slm_depot_other_shard(depot, other));)
        number = slm_partial_any(other) ? slm_partial_hold(depot, other, slabs, n) : 0;
    return number;
}

static const uint64_t join_from = (uint64_t)4 << 20; /* less has less than the code takes */

/* Where there is dirty memory for a slab nothing is won. */
static bool may_join(const struct slm_depot *depot)
{
    return slm_demand_used() >= join_from && slm_span_dirty_bytes() < depot->shape->granules * SLM_GRANULE;
}

/* As slm_depot_fill, of objects that are charged. */
static unsigned take(struct slm_depot *depot, void **rounds, unsigned n)
{
    struct slm_slab *slabs[SLM_PARTIAL_MOST];
    unsigned number = slm_partial_hold(depot, depot, slabs, n), got = 0, joined = 0;
    if (unlikely(number == 0) && load_relaxed(&depot->shards))
        number = take_over(depot, slabs, n);
    if (number == 0 && constructs(depot)) {
        errno = EAGAIN;
        return 0;
    }
    for (unsigned i = 0; i < number; i++)
        got += take_from(depot, slabs[i], n - got, rounds + got);
    if (unlikely(got == 0) && may_join(depot))
        joined = slm_join_take(depot, rounds, n);
    if (unlikely(got == 0) && joined == 0) {
        if (number > 0)
            slm_pages_touch(slabs[0], depot->shape); /* what is free lies on purged pages */
        else if (!(slabs[number++] = grow(depot)))
            return 0;
        got = take_from(depot, slabs[0], n, rounds);
    }
    add_relaxed(&depot->objects_out, got);
    got += joined;
    slm_depot_note_out(depot);
    slm_partial_put(depot, slabs, number, got);
    if (got > 1)
        reverse(rounds, rounds + got - 1);
    return got;
}

unsigned slm_depot_fill(struct slm_depot *home, void **rounds, unsigned n)
{
    struct slm_depot *depot = slm_depot_here(home);
    struct slm_limit *limit = depot->shape->limit;
    if (unlikely(load_relaxed(&slm_depot_pending)))
        slm_depot_relink_pending();
    const unsigned charged = slm_limit_charge(limit, n);
    if (unlikely(charged == 0)) {
        errno = EDQUOT;
        return 0;
    }
    const unsigned got = take(depot, rounds, charged);
    slm_limit_return(limit, charged - got);
    return got;
}

/* A new slab, held, of the next span of the row if it has any. Memory that others have used costs a system call. */
static slm_seldom struct slm_slab *grow_clean(struct slm_depot *depot, struct slm_span **row)
{
    struct slm_slab *slab = NULL;
    struct slm_span *span = depot->shape->granules == 1 ? slm_span_next_of_row(row) : NULL;
    if (!span)
        slab = grow(depot);
    else if ((slab = slm_slab_make_of(span, depot->shape, false)))
        adopt(depot, slab);
    if (slab && slab->span.state == SLM_SPAN_DIRTY)
        clean(slab);
    return slab;
}

/* It is held as long as it is kept apart. */
slm_seldom unsigned slm_depot_fill_clean(struct slm_depot *depot, struct slm_slab **aside, struct slm_span **row,
                                         void **rounds, unsigned n)
{
    unsigned got = 0;
    struct slm_slab *slab = *aside;
    while (got < n && (slab || (slab = grow_clean(depot, row)))) {
        got += slm_slab_take(slab, n - got, rounds + got);
        if (got < n) {
            slm_partial_put(depot, &slab, 1, 0);
            slab = NULL;
        }
    }
    add_relaxed(&depot->objects_out, got);
    if (n == 0 && slab && load_acquire(&slab->free) == slab->objects) { /* pairs with slm_slab_count */
        slm_partial_put(depot, &slab, 1, 0);
        slab = NULL;
    }
    *aside = slab;
    return got;
}

/* The slabs whose objects this thread is constructing, the innermost first, by their spans' links. (A constructor
 * that jumps away leaves its slab here: a frame would be gone, a descriptor stays.) */
static __thread struct slm_list *constructing;

bool slm_depot_is_constructing(const struct slm_depot *depot)
{
    for (struct slm_list *at = constructing; at; at = at->next) {
        const struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
        if (((struct slm_depot *)load_relaxed(&slab->owner))->shape == depot->shape)
            return true;
    }
    return false;
}

slm_for_few bool slm_depot_grow(struct slm_depot *home)
{
    struct slm_depot *depot = slm_depot_here(home);
    static _Atomic bool warned;
    if (slm_depot_is_constructing(depot)) {
        if (!atomic_exchange(&warned, true))
            slm_warn("a constructor allocated from its own cache, which had no free object: ", depot->cache_name);
        errno = EDEADLK;
        return false;
    }
    struct slm_slab *slab = grow(depot);
    if (!slab)
        return false;
    if (constructs(depot)) {
        const struct slm_object_hooks *hooks = depot->shape->hooks;
        struct slm_list *outer = slab->span.link.next = constructing;
        constructing = &slab->span.link;
        slm_slab_each_object(slab, hooks, hooks->constructor, "an exception or pthread_exit left the constructor");
        constructing = outer;
    }
    slm_partial_put(depot, &slab, 1, 0);
    return true;
}

static _Noreturn slm_slow void not_ours(const void *pointer, const char *call)
{
    const bool inside = slm_span_of(pointer);
    slm_panic(call, pointer, inside ? "not the start of an object" : "no object, or one that is free already", NULL,
              0);
}

/* A slab's descriptor, in which an object's bit is going to be set: both its lines. */
slm_inline void expect(const void *object)
{
    const char *descriptor = slm_descriptor(slm_granule_of(object));
    __builtin_prefetch(descriptor, 1);
    __builtin_prefetch(descriptor + SLM_DESCRIPTOR_BYTES / 2, 1);
}

void slm_depot_give(void *const *rounds, unsigned n, const char *call)
{
    struct slm_depot *depot = NULL;
    for (unsigned i = 0; i < n && i < ahead; i++)
        expect(rounds[i]);
    for (unsigned i = 0; i < n;) {
        if (i + ahead < n)
            expect(rounds[i + ahead]);
        struct slm_slab *slab = slm_slab_of(rounds[i]);
        depot = slab ? load_acquire(&slab->owner) : NULL; /* pairs with slm_partial_hold */
        if (!depot)
            not_ours(rounds[i], call);
        if (unlikely(slm_slab_joins(slab) != NULL)) {
            slm_join_give(slab, depot, rounds[i++], call, false);
            continue;
        }
        const unsigned given = slm_slab_give(slab, rounds + i, n - i, call, depot->cache_name);
        slm_limit_return(depot->shape->limit, given);
        /* release: pairs with the cache's destruction, which looks whether anything is out */
        atomic_fetch_sub_explicit(&depot->objects_out, given, memory_order_release);
        if (slm_partial_count(slab, given))
            slm_partial_relink(slab);
        i += given;
    }
    if (likely(depot != NULL))
        slm_depot_note_out(depot);
}

slm_for_few bool slm_depot_give_nolock(void *object, const char *call)
{
    struct slm_slab *slab = slm_slab_of(object);
    struct slm_depot *depot = slab ? load_acquire(&slab->owner) : NULL; /* as in slm_depot_give */
    if (!depot)
        return false;
    if (unlikely(slm_slab_joins(slab) != NULL)) {
        slm_join_give(slab, depot, object, call, true);
        return true;
    }
    slm_slab_give(slab, &object, 1, call, depot->cache_name);
    slm_limit_return(depot->shape->limit, 1);
    atomic_fetch_sub_explicit(&depot->objects_out, 1, memory_order_release); /* as in slm_depot_give */
    if (slm_partial_count(slab, 1))
        slm_partial_pend(slab);
    return true;
}

bool slm_depot_is_still(struct slm_depot *depot, bool next)
{
    const uint32_t moves = (uint32_t)(load_relaxed(&depot->exchanges) + load_relaxed(&depot->fills));
    const uint64_t out = load_relaxed(&depot->objects_out) + load_relaxed(&depot->taken_back);
    const bool same = moves == depot->seen_moves && out == depot->seen_out;
    if (next) {
        depot->still = same ? (uint8_t)slm_min(depot->still + 1u, still_looks) : 0;
        depot->seen_moves = moves;
        depot->seen_out = out;
    }
    return same && depot->still == still_looks;
}

/* Take the surplus magazines off the stock; under the lock only pointers move. */
static struct slm_magazine *take_surplus(struct slm_depot *depot, bool all, struct slm_magazine **empties)
{
    slm_depot_lock(depot);
    uint32_t surplus = all ? depot->full_count : depot->full_low;
    struct slm_magazine *first = depot->full, *last = NULL;
    for (uint32_t i = 0; i < surplus; i++) {
        last = last ? last->next : first;
        sub_relaxed(&depot->stock_rounds, last->count);
    }
    if (last) {
        depot->full = last->next;
        last->next = NULL;
    }
    depot->full_count -= surplus;
    depot->full_low = depot->full_count;
    *empties = depot->empty;
    depot->empty = NULL;
    slm_lock_release(&depot->lock);
    return last ? first : NULL;
}

bool slm_depot_trim(struct slm_depot *depot, bool all)
{
    slm_limit_carry(depot->shape->limit);
    struct slm_magazine *empties, *next, *full = take_surplus(depot, all, &empties);
    const bool stocked = full || empties;
    bool waiting;
    for (; full; full = next) {
        next = full->next;
        slm_depot_give(full->rounds, full->count, "trim");
        add_relaxed(&depot->taken_back, full->count);
        slm_metadata_free(full, slm_magazine_bytes(full->capacity));
    }
    slm_limit_carried(depot->shape->limit);
    for (; empties; empties = next) {
        next = empties->next;
        slm_metadata_free(empties, slm_magazine_bytes(empties->capacity));
    }
    struct slm_slab *vacant = slm_partial_take_vacant(depot, all, &waiting);
    if (vacant)
        slm_partial_release(depot, vacant);
    return stocked || vacant || waiting;
}

void slm_depot_trim_idle(struct slm_depot *depot)
{
    if (load_relaxed(&depot->stock_rounds) == 0 && !slm_depot_keeps_vacant(depot))
        return;
    slm_depot_lock(depot);
    const uint32_t moves = (uint32_t)(load_relaxed(&depot->gets) + load_relaxed(&depot->fills));
    const bool idle = moves == depot->moves_before;
    depot->moves_before = moves;
    slm_lock_release(&depot->lock);
    if (idle)
        slm_depot_trim(depot, true);
}
