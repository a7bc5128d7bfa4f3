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

/* All but a top round that a pop under way may have: see the argument. Where there is no memory they stay. */
static void take_loaded(const struct slm_thread *thread, struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    const bool marked = rounds->cache->shape.limit != NULL;
    bool left = !marked || load_acquire(&thread->tls->popping); /* pairs with slm_pop_marked; before the top */
    void **top = slm_shared_load(&slot->top);
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

static void take_remote(struct slm_thread *thread, struct slm_take_rounds *rounds)
{
    struct slm_magazine *remote = slm_remote_take(thread, rounds->cache->id);
    if (remote)
        keep(rounds, remote);
}

static void take_previous(struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    if (!slot->previous || slot->previous->count == 0)
        return;
    keep(rounds, slot->previous);
    slot->previous = NULL;
}

/* Nobody uses the cache: the slot becomes as if it had never been used. */
static void dismantle(struct slm_thread *thread, struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    struct slm_cache *cache = rounds->cache;
    if (slot->loaded) {
        slot->loaded->count = (uint32_t)(slot->top - slot->bottom);
        memmove(slot->loaded->rounds, slot->bottom, slot->loaded->count * sizeof(void *));
        keep(rounds, slot->loaded);
    }
    if (slot->previous)
        keep(rounds, slot->previous);
    thread->target_bytes -= (size_t)load_relaxed(&slot->target) * cache->shape.object_size * 2;
    memset(slot, 0, sizeof *slot);
}

static void take_slot(struct slm_thread *thread, void *context)
{
    struct slm_take_rounds *rounds = context;
    struct slm_slot *slot = slm_slot_of(thread, rounds->cache->id);
    take_remote(thread, rounds);
    if (rounds->how == SLM_TAKE_EVERYTHING) {
        dismantle(thread, slot, rounds);
        slm_reserve_forget(thread, rounds->cache);
    } else {
        take_previous(slot, rounds);
        take_loaded(thread, slot, rounds);
    }
}

/* A slot that is not in use has no target: see thread/thread_cache.c, set_target. One whose owner has its rounds in
 * hand has no loaded magazine. */
static slm_unordered bool has_rounds(struct slm_thread *thread, void *context)
{
    struct slm_take_rounds *rounds = context;
    const unsigned cache_id = rounds->cache->id;
    const struct slm_slot *slot = slm_slot_of(thread, cache_id);
    const bool in_use = load_acquire(&slot->target) != 0;
    if (rounds->how == SLM_TAKE_EVERYTHING)
        return in_use || slm_reserve_knows(thread, rounds->cache);
    return in_use && (!slot->loaded || slm_thread_rounds(thread, cache_id) > 0 || slm_remote_of(thread, cache_id));
}

unsigned slm_take_rounds(struct slm_take_rounds *rounds, bool always)
{
    const struct slm_take take = {has_rounds, take_slot, rounds, always, rounds->how != SLM_TAKE_SPARE};
    return slm_take_from_all(&take);
}

void slm_take_own(struct slm_thread *thread, struct slm_take_rounds *rounds)
{
    take_remote(thread, rounds);
    dismantle(thread, slm_slot_of(thread, rounds->cache->id), rounds); /* the owner's own hot path is at rest */
    if (rounds->how == SLM_TAKE_EVERYTHING)
        slm_reserve_forget(thread, rounds->cache);
}

/* -- gathering --------------------------------------------------------------------------------------------------- */

/* How many rounds there were. */
static uint64_t hand_on_all(struct slm_cache *cache, struct slm_magazine *magazines, bool to_stock)
{
    uint64_t rounds = 0;
    for (struct slm_magazine *next; magazines; magazines = next) {
        next = magazines->next;
        rounds += magazines->count;
        slm_magazine_hand_on(cache, magazines, to_stock ? load_relaxed(&cache->depot_rounds) : 0);
    }
    return rounds;
}

static bool has_any(const struct slm_thread *thread, const struct slm_cache *cache)
{
    return slm_thread_rounds((struct slm_thread *)thread, cache->id) > 0 ||
           slm_remote_of(thread, cache->id) != NULL;
}

unsigned slm_gather_from_threads(struct slm_cache *cache, const struct slm_gathering *gathering, uint64_t *gathered)
{
    struct slm_take_rounds rounds = {.cache = cache, .how = gathering->how};
    slm_limit_carry(cache->shape.limit);
    struct slm_thread *self = slm_thread_hide();
    if (self && (gathering->how == SLM_TAKE_EVERYTHING || has_any(self, cache)))
        slm_take_own(self, &rounds);
    const unsigned missed = slm_take_rounds(&rounds, gathering->always);
    slm_thread_unhide(self);
    *gathered = hand_on_all(cache, rounds.taken, gathering->to_stock);
    slm_limit_carried(cache->shape.limit);
    return missed + rounds.doubtful;
}

void slm_gather_from_depots(struct slm_cache *cache)
{
    slm_depot_relink_pending();
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct slm_depot *depot = slm_cache_depot_made(cache, node);
        if (depot)
            slm_depot_trim(depot, true);
    }
}

static bool is_stocked(struct slm_cache *cache)
{
    bool stocked = false;
    for (unsigned node = 0; node < slm_nodes; node++) {
        const struct slm_depot *depot = slm_cache_depot_made(cache, node);
        stocked |= depot && load_relaxed(&depot->stock_rounds) > 0;
    }
    return stocked;
}

bool slm_gather_for_limit(struct slm_cache *cache)
{
    static const struct slm_gathering insisting = {.how = SLM_TAKE_INSISTING};
    uint64_t gathered;
    const unsigned missed = slm_gather_from_threads(cache, &insisting, &gathered);
    const bool stocked = is_stocked(cache);
    if (stocked)
        slm_gather_from_depots(cache);
    const bool look_again = (missed > 0 && load_relaxed(&slm_sys_has_membarrier)) ||
                            atomic_load(&cache->limit.hands) > 0; /* pairs with slm_limit_carry */
    if (look_again)
        slm_sys_sleep_ms(1);
    return gathered > 0 || stocked || look_again;
}

/* -- fork -------------------------------------------------------------------------------------------------------- */

/* Retired objects in magazines that are not full. Of a thread that was taken they may be on the queue already. */
static void lose_retired(struct slm_thread *thread)
{
    const struct slm_slot_groups *used = &slm_retired_half(thread)->used;
    if (slm_shared_load(&thread->tls->hot) == slm_taken)
        return;
    for (unsigned n = slm_slot_next_in(used, SLM_NAMED_FIRST); n < SLM_CACHE_IDS; n = slm_slot_next_in(used, n + 1)) {
        const struct slm_retired_slot *slot = slm_retired_slot_of(thread, n);
        for (void **round = slot->bottom; slm_cache_of(n) && round < slot->top; round++)
            slm_depot_lose(slm_cache_depot(slm_cache_of(n), slm_magazine_home(*round)), 1);
    }
}

/* A thread in a slow path may have been caught in the middle of anything: what it held stays counted. */
static void lose(struct slm_thread *thread, void *nothing)
{
    (void)nothing;
    slm_thread_look_if_gone(thread);
    if (thread->tls == &slm_tls || load_relaxed(&thread->tls->busy))
        return;
    const unsigned own = load_relaxed(&thread->node);
    for (unsigned n = slm_slot_next(thread, SLM_NAMED_FIRST); n < SLM_CACHE_IDS; n = slm_slot_next(thread, n + 1)) {
        struct slm_cache *cache = slm_cache_of(n);
        if (!cache || load_relaxed(&slm_slot_of(thread, n)->target) == 0)
            continue;
        for (unsigned node = 0; node < slm_nodes; node++) {
            const uint64_t local = node == own ? slm_thread_rounds(thread, n) : 0;
            const uint64_t rounds = local + slm_remote_rounds(thread, n, node, node + 1);
            if (rounds > 0)
                slm_depot_lose(slm_cache_depot(cache, node), rounds);
        }
    }
    lose_retired(thread);
    slm_reserve_lose(thread);
}

void slm_gather_fork_child(void)
{
    if (slm_thread_list_is_whole())
        slm_thread_list_each(lose, NULL);
}
