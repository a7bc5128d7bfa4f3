/* Gathering; see gather.h. */
#include "thread/gather.h"

#include <string.h>

#include "os/background.h"
#include "os/sys.h"
#include "os/topology.h"
#include "thread/remote.h"
#include "thread/reserve.h"

/* -- taking ------------------------------------------------------------------------------------------------------ */

static void keep(struct slm_take_rounds *rounds, struct slm_magazine *magazine)
{
    if (!magazine)
        return;
    magazine->next = rounds->taken;
    rounds->taken = magazine;
}

/* Does one thread see another's stores in their order? */
#ifdef __x86_64__
enum { stores_in_order = true };
#else
enum { stores_in_order = false };
#endif

static bool is_look(enum slm_take_how how)
{
    return how == SLM_TAKE_LOOKING || how == SLM_TAKE_AT_ONCE;
}

/* Is the round below the top that was read there? A push may be under way. */
static bool push_shows(void)
{
    return stores_in_order || slm_sys_membarrier();
}

/* All but a top round that a pop under way may have (the argument is in ownership.h). Without memory they stay. */
static void take_loaded(struct slm_thread *thread, struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    const bool marked = rounds->cache->shape.limit != NULL;
    bool left = (!marked && thread->tls != &slm_gone_tls) ||
                load_acquire(&thread->tls->popping); /* pairs with slm_pop_marked; before the top */
    void **const top = slm_shared_load(&slot->top);
    left = left || !push_shows();
    const uint32_t count = (uint32_t)(top - slot->bottom) - (left && top > slot->bottom);
    struct slm_magazine *magazine = count > 0 ? slm_magazine_make(count) : NULL;
    rounds->doubtful |= marked && left;
    if (!magazine)
        return;
    memcpy(magazine->rounds, slot->bottom, count * sizeof(void *));
    magazine->count = count;
    slm_shared_store(&slot->bottom, slot->bottom + count);
    keep(rounds, magazine);
}

/* No hot path uses the slot: it becomes as if it had never been used. */
static void dismantle(struct slm_thread *thread, struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    if (slot->loaded)
        slm_slot_unload(slot);
    keep(rounds, slot->loaded);
    keep(rounds, slot->previous);
    thread->target_bytes -= (size_t)load_relaxed(&slot->target) * rounds->cache->shape.object_size * 2;
    memset(slot, 0, sizeof *slot);
    slm_slot_clear_cursors(slot);
}

static void take_slot(struct slm_thread *thread, void *context)
{
    struct slm_take_rounds *rounds = context;
    struct slm_slot *slot = slm_slot_of(thread, rounds->cache->id);
    keep(rounds, slm_remote_take(thread, rounds->cache->id));
    if (rounds->how == SLM_TAKE_EVERYTHING)
        slm_reserve_forget(thread, rounds->cache);
    if (rounds->how == SLM_TAKE_EVERYTHING || thread->tls == &slm_tls) { /* its own hot path is at rest */
        dismantle(thread, slot, rounds);
        return;
    }
    if (slot->previous && slot->previous->count > 0) {
        keep(rounds, slot->previous);
        slot->previous = NULL;
    }
    take_loaded(thread, slot, rounds);
}

/* A slot whose owner holds its rounds in a slow path has no loaded magazine. */
static slm_unordered bool may_have_rounds(struct slm_thread *thread, unsigned cache_id)
{
    return !slm_slot_of(thread, cache_id)->loaded || slm_thread_rounds(thread, cache_id) > 0 ||
           slm_remote_of(thread, cache_id);
}

/* Acquire: a slot without a target is not in use, and its thread is done with the cache (set_target in
 * thread/thread_cache.c), which may be destroyed. */
static bool uses(struct slm_thread *thread, const struct slm_cache *cache)
{
    return load_acquire(&slm_slot_of(thread, cache->id)->target) != 0;
}

/* Has it none, and none in its hands? While it is in one slow path, what it has freed comes to its slot last. */
static slm_unordered bool is_without(struct slm_thread *thread, unsigned cache_id)
{
    return thread->at_work != slm_slot_of(thread, cache_id) && !may_have_rounds(thread, cache_id);
}

/* A first look at a thread; `was_without` is the second. */
static slm_seldom slm_unordered void note_without(struct slm_thread *thread, unsigned cache_id)
{
    thread->without.passes = __atomic_load_n(&thread->passes, __ATOMIC_ACQUIRE);
    thread->without.marked_pops = __atomic_load_n(&thread->marked_pops, __ATOMIC_ACQUIRE);
    thread->without.passes -= !is_without(thread, cache_id); /* is not what it will be */
}

static slm_seldom slm_unordered bool was_without(struct slm_thread *thread, unsigned cache_id)
{
    const bool without = is_without(thread, cache_id);
    slm_fence(); /* what it has, before the counts */
    return without && __atomic_load_n(&thread->passes, __ATOMIC_RELAXED) == thread->without.passes &&
           __atomic_load_n(&thread->marked_pops, __ATOMIC_RELAXED) == thread->without.marked_pops;
}

/* That is in its TLS. Whether it is there a system call says, which a sandbox need not know. */
static slm_seldom bool wants(struct slm_thread *thread, const struct slm_cache *cache)
{
    const bool may = slm_background_begin();
    if (may && slm_thread_tls(thread) != &slm_tls)
        slm_thread_look_if_gone(thread);
    slm_background_end();
    return slm_reserve_knows(thread, cache);
}

static bool has_rounds(struct slm_thread *thread, void *context)
{
    const struct slm_take_rounds *rounds = context;
    const unsigned cache_id = rounds->cache->id;
    const bool in_use = uses(thread, rounds->cache);
    if (rounds->how == SLM_TAKE_EVERYTHING)
        return in_use || wants(thread, rounds->cache);
    if (is_look(rounds->how))
        note_without(thread, cache_id);
    return in_use && (rounds->how == SLM_TAKE_AT_ONCE || may_have_rounds(thread, cache_id));
}

static slm_seldom void see_without(struct slm_thread *thread, void *context)
{
    struct slm_take_rounds *rounds = context;
    if (slm_thread_tls(thread) != &slm_tls && !slm_take_has(thread) && uses(thread, rounds->cache))
        rounds->unsure |= !was_without(thread, rounds->cache->id);
}

static bool is_stocked(struct slm_cache *cache)
{
    bool stocked = false;
    slm_for_each_depot (depot, cache)
        stocked |= load_acquire(&depot->stock_rounds) > 0;
    return stocked;
}

/* What could be taken is. Was the limit met at a moment when no object was free elsewhere? The argument is below. */
static slm_seldom void look(void *context)
{
    struct slm_take_rounds *rounds = context;
    struct slm_limit *limit = rounds->cache->shape.limit;
    const uint64_t hands = atomic_load(&limit->hands); /* here and below: pairs with slm_limit_carry; one is ours */
    const bool met = load_acquire(&limit->charged) >= limit->objects;
    const bool stocked = is_stocked(rounds->cache);
    slm_fence(); /* who has taken from the stock says that it uses the cache */
    slm_thread_list_each(see_without, rounds);
    rounds->unsure |= slm_limit_hands(hands) > 1 || atomic_load(&limit->hands) != hands;
    rounds->met = met && !stocked && (stores_in_order || rounds->how == SLM_TAKE_AT_ONCE);
}

unsigned slm_take_rounds(struct slm_thread *self, struct slm_take_rounds *rounds)
{
    const struct slm_take take = {.wants = has_rounds,
                                  .work = take_slot,
                                  .still = is_look(rounds->how) ? look : NULL,
                                  .context = rounds,
                                  .always = rounds->how == SLM_TAKE_TO_STOCK,
                                  .insist = rounds->how >= SLM_TAKE_INSISTING};
    if (self && has_rounds(self, rounds)) {
        slm_thread_works(self,
                         slm_slot_of(self, rounds->cache->id)); /* the list's lock says so of other threads' slots */
        take_slot(self, rounds);
    }
    return slm_take_from_all(&take);
}

/* -- gathering --------------------------------------------------------------------------------------------------- */

/* Returns how many threads were missed, or were in the middle of a pop; *gathered: objects. */
static unsigned gather(struct slm_take_rounds *rounds, uint64_t *gathered)
{
    struct slm_cache *cache = rounds->cache;
    const uint64_t limit_rounds = rounds->how == SLM_TAKE_TO_STOCK ? slm_cache_stock_rounds(cache) : 0;
    slm_limit_carry(cache->shape.limit);
    struct slm_thread *self = slm_thread_hide();
    const unsigned missed = slm_take_rounds(self, rounds);
    slm_thread_unhide(self);
    *gathered = 0;
    for (struct slm_magazine *magazine = rounds->taken, *next; magazine; magazine = next) {
        next = magazine->next;
        *gathered += magazine->count;
        slm_magazine_hand_on(cache, magazine, limit_rounds);
    }
    slm_limit_carried(cache->shape.limit);
    return missed + rounds->doubtful;
}

unsigned slm_gather_from_threads(struct slm_cache *cache, enum slm_take_how how, uint64_t *gathered)
{
    struct slm_take_rounds rounds = {.cache = cache, .how = how};
    return gather(&rounds, gathered);
}

void slm_gather_from_depots(struct slm_cache *cache)
{
    slm_depot_relink_pending();
    for (unsigned turn = 0; turn < 2; turn++) /* what one shard has in stock makes another's slabs vacant */
        slm_for_each_depot (depot, cache)
            slm_depot_trim(depot, true);
}

/* Argument. An object that is charged is the program's, or it is free in a thread's slot, in a depot's stock, or in
 * somebody's hands. Who passes from place to place may always be where it is not: one thread frees an object when the
 * look is past, and another one pops its own before the look comes. So a call is refused only if there was a moment,
 * that at which `look` reads the limit as met, at which none was free:
 *
 *   - A thread that is taken neither pops nor pushes at that moment. What it has is gathered afterwards, as nobody
 *     else can take it; of a pop or push under way thread/ownership.h speaks.
 *   - Any other thread had none before and has none after. It has popped none in between (marked_pops), and not ended
 *     a slow path (passes): so it had none at that moment. Else, or if it has come to use the cache in between, the
 *     look is unsure. A thread says that it uses a cache before it charges or takes from the stock (grow_on_miss in
 *     thread/thread_cache.c).
 *   - Nobody has carried any in between, by the count of hands; so what was in the stock is there, or with a thread.
 *
 * The first look takes from threads that may have some, and needs no barrier if there are none; without one only x86
 * keeps the count and the top in order. A look at once takes from all that use the cache, as threads that are busy
 * with it would leave each look unsure. Without membarrier threads keep none. (test/model has a model of the first
 * look at threads that are not taken.) */
enum slm_look slm_gather_for_limit(struct slm_cache *cache, bool at_once)
{
    struct slm_take_rounds rounds = {.cache = cache, .how = at_once ? SLM_TAKE_AT_ONCE : SLM_TAKE_LOOKING};
    uint64_t gathered;
    const unsigned missed = gather(&rounds, &gathered);
    const bool stocked = is_stocked(cache), threads_keep = load_relaxed(&slm_sys_has_membarrier);
    if (stocked)
        slm_gather_from_depots(cache);
    const bool waits = rounds.doubtful || (at_once ? rounds.unsure : missed > 0);
    const bool busy = (waits && threads_keep) || slm_limit_hands(atomic_load(&cache->shape.limit->hands)) > 0;
    if (busy)
        slm_sys_sleep_ms(1);
    if (gathered > 0 || stocked)
        return SLM_LOOK_GATHERED;
    if (busy)
        return SLM_LOOK_BUSY;
    return (rounds.met && !rounds.unsure) || !threads_keep ? SLM_LOOK_NONE : SLM_LOOK_UNSURE;
}
