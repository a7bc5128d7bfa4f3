/* Looking, taking, exchanging; see park.h. Under the cache mutex, so that there is one pass at a time, and no cache
 * is made, tuned or destroyed meanwhile. A pass works on so many threads at a time that the lock of the list is not
 * held for long. */
#include "thread/park.h"

#include "base/options.h"
#include "depot/magazines.h"
#include "os/background.h"
#include "os/sys.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/span_alloc.h"
#include "thread/remote.h"

enum { interval_least_ms = 20, attempts_most = 100, batch_most = SLM_MAGAZINE_ROUNDS_MAX, missed_wait_most_ms = 64 };

/* A thread's `still`: looks that have found the same `passes` as the one before, and what was done about it. */
enum { STILL = 4, MISSED, CHOSEN, PARKED };

struct parking {
    bool all;              /* still or not */
    bool first;            /* look of the pass: the others only choose */
    bool changed;          /* a thread was active, or is still for longer than before */
    bool missed;           /* a thread has stayed in one slow path */
    unsigned chosen, node; /* of one node at a time */
    uint32_t wanted[SLM_CLASSES];
    struct slm_magazine *stand_ins[SLM_CLASSES];
};

/* Kept apart for stand-ins, in this generation of the process. */
static struct slm_slab *aside[SLM_NODES_MAX][SLM_CLASSES];
static bool any_aside;
static uint32_t aside_generation;

/* -- looking ----------------------------------------------------------------------------------------------------- */

/* A thread that the batch before has chosen and left so was in a slow path, which changes `passes` at its end. */
static slm_seldom slm_unordered bool may_choose(struct slm_thread *thread, struct parking *parking)
{
    if (thread->still == CHOSEN)
        thread->still = MISSED;
    if (thread->seen != thread->passes || (parking->first && parking->all && thread->still == MISSED)) {
        thread->seen = thread->passes;
        thread->still = 0;
        parking->changed = true;
    } else if (parking->first && !parking->all && thread->still < STILL) {
        thread->still++;
        parking->changed = true;
    }
    return parking->all ? thread->still <= STILL : thread->still == STILL;
}

/* Does it hold anything? Counts the tops that need stand-ins. */
static __attribute__((noinline)) slm_seldom slm_unordered bool count_wanted(struct slm_thread *thread,
                                                                            struct parking *parking)
{
    bool any = false;
    slm_for_each_slot (cache_id, &thread->used) {
        if (load_relaxed(&slm_slot_of(thread, cache_id)->target) == 0)
            continue;
        const struct slm_slot *slot = slm_slot_of(thread, cache_id);
        const bool top = slot->top != slot->bottom;
        const struct slm_magazine *previous = slot->previous;
        if (cache_id < SLM_CLASSES)
            parking->wanted[cache_id] += top;
        any |= (top && (cache_id < SLM_CLASSES || slot->top - slot->bottom > 1)) || previous ||
               slm_remote_of(thread, cache_id);
    }
    return any || slm_kept_bytes(&thread->kept, 0, slm_nodes) > 0;
}

static slm_cold slm_often slm_unordered void look(struct slm_thread *thread, void *context)
{
    struct parking *parking = context;
    if (thread->tls == &slm_tls || thread->legacy)
        return;
    const bool chosen = may_choose(thread, parking);
    parking->missed |= thread->still == MISSED;
    if (!chosen || parking->chosen == batch_most)
        return;
    const unsigned node = load_relaxed(&thread->node);
    if (parking->chosen > 0 && node != parking->node)
        return;
    if (!count_wanted(thread, parking)) {
        thread->still = PARKED;
        return;
    }
    thread->still = CHOSEN;
    parking->node = node;
    parking->chosen++;
}

/* -- stand-ins --------------------------------------------------------------------------------------------------- */

/* Spans for those slabs, side by side: elsewhere each would have pages of descriptors and of the page map to itself,
 * in a heap that is all but empty. NULL: there are none. */
static slm_seldom struct slm_span *take_row(const struct parking *parking)
{
    unsigned slabs = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        slabs += parking->wanted[class] > 0 && !aside[parking->node][class];
    return slabs > 0 && !slm_span_scarce() ? slm_span_alloc(slm_area_for_slabs(parking->node), slabs, 1) : NULL;
}

/* Without memory for one, or in a small space of addresses, a top round stays. */
static slm_seldom void make_stand_ins(struct parking *parking)
{
    struct slm_span *row = take_row(parking);
    any_aside = true;
    aside_generation = slm_fork_generation;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const uint32_t n = (uint32_t)slm_min(parking->wanted[class], batch_most);
        struct slm_magazine *magazine = n > 0 && !slm_span_scarce() ? slm_magazine_make(n) : NULL;
        if (magazine) {
            struct slm_depot *depot = slm_cache_depot(slm_class_cache(class), parking->node);
            magazine->count = slm_depot_fill_clean(depot, &aside[parking->node][class], &row, magazine->rounds, n);
        }
        parking->stand_ins[class] = magazine;
    }
    if (row)
        slm_span_free(row);
}

static slm_seldom unsigned give_magazine(struct slm_magazine *magazine)
{
    const unsigned n = magazine ? magazine->count : 0;
    if (magazine)
        slm_depot_give(magazine->rounds, n, "free");
    slm_magazine_free(magazine);
    return n;
}

/* Slabs that are kept apart, and of which nothing is out. */
static __attribute__((noinline)) slm_seldom void give_vacant(void)
{
    any_aside = false;
    for (unsigned node = 0; node < slm_nodes; node++) {
        for (unsigned class = 0; class < SLM_CLASSES; class ++) {
            struct slm_slab **slab = &aside[node][class];
            if (*slab)
                slm_depot_fill_clean(slm_cache_depot(slm_class_cache(class), node), slab, NULL, NULL, 0);
            any_aside |= *slab != NULL;
        }
    }
}

/* -- taking ------------------------------------------------------------------------------------------------------ */

/* All but the top round. They leave the slot before they come to their slabs: a child of a fork in between finds them
 * in neither, but never in both. */
static slm_seldom void take_slot(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    struct slm_cache *cache = slm_cache_of(cache_id);
    struct slm_depot *depot = slm_cache_depot(cache, load_relaxed(&thread->node));
    struct slm_magazine *previous = slot->previous;
    void **const top = slm_shared_load(&slot->top), **const bottom = slot->bottom;
    slm_limit_carry(cache->shape.limit);
    slot->previous = NULL;
    add_relaxed(&depot->taken_back, give_magazine(previous));
    give_magazine(slm_remote_take(thread, cache_id));
    if (slot->loaded) /* from here on the round that was exchanged; itself: one may be */
        slot->loaded->next = top > bottom ? slot->loaded : NULL;
    if (top > bottom + 1) {
        slm_shared_store(&slot->bottom, top - 1);
        slm_depot_give(bottom, (unsigned)(top - 1 - bottom), "free");
        add_relaxed(&depot->taken_back, (unsigned)(top - 1 - bottom));
    }
    slm_limit_carried(cache->shape.limit);
}

static slm_seldom void take(struct slm_thread *thread, void *context)
{
    (void)context;
    slm_for_each_slot (cache_id, &thread->used)
        if (load_acquire(&slm_slot_of(thread, cache_id)->target) != 0) /* pairs with set_target: the cache exists */
            take_slot(thread, cache_id);
    slm_kept_release(&thread->kept);
    thread->was = slm_parked;
    thread->still = PARKED;
}

static slm_seldom void exchange(struct slm_thread *thread, void *context)
{
    struct parking *parking = context;
    slm_for_each_slot (cache_id, &thread->used) {
        if (cache_id >= SLM_CLASSES)
            break;
        struct slm_magazine *stand_ins = parking->stand_ins[cache_id];
        const struct slm_slot *slot = slm_slot_of(thread, cache_id);
        void **const bottom = slot->bottom;
        if (!slot->loaded || !slot->loaded->next)
            continue;
        slot->loaded->next = NULL;
        if (!stand_ins || stand_ins->count == 0 || slm_shared_load(&slot->top) <= bottom)
            continue;
        slot->loaded->next = *bottom;
        slm_shared_store(bottom, stand_ins->rounds[--stand_ins->count]);
    }
}

static slm_seldom void settle(struct slm_thread *thread, void *context)
{
    (void)context;
    slm_for_each_slot (cache_id, &thread->used) {
        if (cache_id >= SLM_CLASSES)
            break;
        const struct slm_slot *slot = slm_slot_of(thread, cache_id);
        void *round = slot->loaded ? slot->loaded->next : NULL;
        if (round && slm_shared_load(&slot->top) > slot->bottom)
            slm_depot_give(&round, 1, "free");
    }
}

/* Only x86 keeps two stores in order, that of a round and that of the top. */
#ifdef __x86_64__
static slm_seldom void take_and_exchange(struct slm_thread *thread, void *context)
{
    take(thread, context);
    exchange(thread, context);
}
static void (*const further[])(struct slm_thread *thread, void *context) = {settle, NULL};
#else
#define take_and_exchange take
static void (*const further[])(struct slm_thread *thread, void *context) = {exchange, settle, NULL};
#endif

static slm_seldom slm_unordered bool is_chosen(struct slm_thread *thread, void *nothing)
{
    (void)nothing;
    return thread->still == CHOSEN && thread->seen == thread->passes;
}

static __attribute__((noinline)) slm_seldom void park_chosen(struct parking *parking)
{
    const struct slm_take plan = {.wants = is_chosen, .work = take_and_exchange, .more = further, .context = parking};
    make_stand_ins(parking);
    slm_take_from_all(&plan);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        give_magazine(parking->stand_ins[class]);
}

/* In a child of fork they are held by nobody, and come back to their depots. */
static __attribute__((noinline)) slm_seldom void forget_aside(void)
{
    memset(aside, 0, slm_nodes * sizeof aside[0]);
    any_aside = false;
}

/* -- passes ------------------------------------------------------------------------------------------------------ */

/* Under the cache mutex. */
static __attribute__((noinline)) slm_cold slm_often void pass(struct parking *parking)
{
    if (slm_background_forbidden() || !load_relaxed(&slm_sys_has_membarrier))
        return;
    if (any_aside && aside_generation != slm_fork_generation)
        forget_aside();
    slm_thread_list_foreach(look, parking);
    parking->first = false;
    while (parking->chosen > 0) {
        park_chosen(parking);
        parking->changed = true;
        parking->chosen = 0;
        parking->missed = false;
        memset(parking->wanted, 0, sizeof parking->wanted);
        slm_thread_list_foreach(look, parking);
    }
    if (any_aside)
        give_vacant();
}

/* What threads held has not been needed for as long as what is purged: it goes back at once. */
bool slm_park_pass(uint64_t now_ms)
{
    static _Atomic uint64_t due_ms;
    if (now_ms < load_relaxed(&due_ms) || slm_thread_list_count() < 2)
        return false;
    if (!slm_cache_try_lock())
        return true;
    store_relaxed(&due_ms, now_ms + slm_max(slm_setting(purge_delay_ms) / 2, interval_least_ms));
    const uint64_t dirty_bytes = slm_span_dirty_bytes();
    struct parking parking = {.first = true};
    pass(&parking);
    slm_cache_unlock();
    if (parking.changed && slm_span_dirty_bytes() > dirty_bytes)
        slm_span_purge(dirty_bytes, SLM_PURGE_IDLE);
    return parking.changed;
}

static slm_seldom void take_from_all(struct parking *parking, bool wait)
{
    struct slm_thread *self = slm_thread_hide();
    if (wait)
        slm_cache_lock();
    if (wait || slm_cache_try_lock()) {
        parking->first = true;
        parking->missed = false;
        pass(parking);
        slm_cache_unlock();
    }
    slm_thread_unhide(self);
}

/* A slow path takes a moment, unless its thread has lost the CPU there, perhaps to the worker that it has woken. */
slm_seldom void slm_park_all(bool wait)
{
    struct parking parking = {.all = true};
    take_from_all(&parking, wait);
    for (unsigned pause_ms = 1; wait && parking.missed && pause_ms <= missed_wait_most_ms; pause_ms *= 2) {
        slm_sys_sleep_ms(pause_ms);
        take_from_all(&parking, true);
    }
}

slm_seldom void slm_park_forbid(void)
{
    slm_background_forbid();
    for (unsigned i = 0; i < attempts_most; i++) {
        const bool passes = !slm_cache_try_lock();
        if (!passes)
            slm_cache_unlock();
        if (!passes && !slm_background_busy())
            return;
        slm_sys_sleep_ms(1);
    }
}
