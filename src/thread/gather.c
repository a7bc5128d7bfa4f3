/* Gathering; see gather.h. */
#include "thread/gather.h"

#include <string.h>

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

/* Is the round below the top that was read there? A push may be under way. Only x86 keeps its two stores in order. */
static bool push_shows(void)
{
#ifdef __x86_64__
    return true;
#else
    return slm_sys_membarrier();
#endif
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
static bool has_rounds(struct slm_thread *thread, void *context)
{
    const struct slm_take_rounds *rounds = context;
    const unsigned cache_id = rounds->cache->id;
    const bool in_use = load_acquire(&slm_slot_of(thread, cache_id)->target) != 0;
    if (rounds->how == SLM_TAKE_EVERYTHING)
        return in_use || slm_reserve_knows(thread, rounds->cache);
    return in_use && may_have_rounds(thread, cache_id);
}

unsigned slm_take_rounds(struct slm_thread *self, struct slm_take_rounds *rounds)
{
    const struct slm_take take = {.wants = has_rounds,
                                  .work = take_slot,
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

unsigned slm_gather_from_threads(struct slm_cache *cache, enum slm_take_how how, uint64_t *gathered)
{
    struct slm_take_rounds rounds = {.cache = cache, .how = how};
    const uint64_t limit_rounds = how == SLM_TAKE_TO_STOCK ? slm_cache_stock_rounds(cache) : 0;
    slm_limit_carry(cache->shape.limit);
    struct slm_thread *self = slm_thread_hide();
    const unsigned missed = slm_take_rounds(self, &rounds);
    slm_thread_unhide(self);
    *gathered = 0;
    for (struct slm_magazine *magazine = rounds.taken, *next; magazine; magazine = next) {
        next = magazine->next;
        *gathered += magazine->count;
        slm_magazine_hand_on(cache, magazine, limit_rounds);
    }
    slm_limit_carried(cache->shape.limit);
    return missed + rounds.doubtful;
}

void slm_gather_from_depots(struct slm_cache *cache)
{
    slm_depot_relink_pending();
    for (unsigned turn = 0; turn < 2; turn++) /* what one shard has in stock makes another's slabs vacant */
        slm_for_each_depot (depot, cache)
            slm_depot_trim(depot, true);
}

/* How often objects have come to threads or into the stock. The locks order it with what the look finds: who has just
 * taken the last magazine has counted that when the lock is free. */
static uint64_t moves(struct slm_cache *cache)
{
    uint64_t moves = 0;
    slm_for_each_depot (depot, cache)
        moves += slm_depot_moves(depot);
    return moves;
}

/* Argument: a free object is in a thread's magazine, in a depot's stock, or with somebody who carries it. (One in a
 * slab is not charged.) The look goes to the threads first, then to the stock, then it asks for carriers. What it
 * does not find has gone to a thread or into the stock meanwhile, and that is counted. */
enum slm_look slm_gather_for_limit(struct slm_cache *cache)
{
    uint64_t gathered;
    bool stocked = false;
    const uint64_t before = moves(cache);
    const unsigned missed = slm_gather_from_threads(cache, SLM_TAKE_INSISTING, &gathered);
    slm_for_each_depot (depot, cache)
        stocked |= load_relaxed(&depot->stock_rounds) > 0;
    if (stocked)
        slm_gather_from_depots(cache);
    const bool busy = (missed > 0 && load_relaxed(&slm_sys_has_membarrier)) ||
                      atomic_load(&cache->shape.limit->hands) > 0; /* pairs with slm_limit_carry */
    if (busy)
        slm_sys_sleep_ms(1);
    if (gathered > 0 || stocked)
        return SLM_LOOK_GATHERED;
    if (busy)
        return SLM_LOOK_BUSY;
    return moves(cache) != before ? SLM_LOOK_MOVED : SLM_LOOK_NONE;
}
