/* Gathering; see gather.h. */
#include "heap/gather.h"

#include "os/sys.h"
#include "os/topology.h"

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
    return slm_thread_rounds((struct slm_thread *)thread, cache->number) > 0 ||
           slm_remote_of(thread, cache->number) != NULL;
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
