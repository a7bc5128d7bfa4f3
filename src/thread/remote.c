/* Remote magazines; see remote.h. */
#include "thread/remote.h"

#include "base/options.h"

/* Rounds of a first remote magazine, and bytes of any: threads should hold little for others. */
enum { first_rounds = 13, most_bytes = 16384 };

struct slm_magazine *slm_remote_take(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_magazine *magazine = slm_remote_of(thread, cache_id);
    if (magazine)
        slm_shared_store(&slm_retired_slot_of(thread, cache_id)->remote, NULL);
    return magazine;
}

static uint32_t most_rounds(const struct slm_cache *cache)
{
    const size_t bytes = slm_min(slm_setting(thread_bytes), most_bytes);
    return (uint32_t)slm_min(slm_max(bytes / cache->shape.object_size, 1), load_relaxed(&cache->most_rounds));
}

slm_for_few void slm_remote_push(struct slm_thread *thread, struct slm_cache *cache, void *object)
{
    struct slm_magazine *magazine = slm_remote_of(thread, cache->id);
    const uint32_t before = magazine ? magazine->capacity : 0, most = most_rounds(cache);
    if (!magazine || magazine->count >= slm_min(before, most)) {
        if (magazine) /* it is on the slot meanwhile: a call that has met the limit sees it */
            slm_magazine_hand_on(cache, magazine, slm_cache_stock_rounds(cache));
        magazine = slm_magazine_make((uint32_t)slm_min(slm_max(before * 2, first_rounds), most));
        slm_slot_use(&slm_retired_half(thread)->used, cache->id);
        slm_shared_store(&slm_retired_slot_of(thread, cache->id)->remote, magazine);
    }
    if (magazine)
        magazine->rounds[magazine->count++] = object;
    else
        slm_depot_give(&object, 1, "free");
}

/* A round that the owner is writing may be missing, or an old one: an address of the heap all the same. */
slm_unordered uint32_t slm_remote_rounds(const struct slm_thread *thread, unsigned cache_id, unsigned first,
                                         unsigned end)
{
    const struct slm_magazine *magazine = slm_remote_of(thread, cache_id);
    uint32_t rounds = 0;
    for (uint32_t i = 0; magazine && i < slm_min(magazine->count, SLM_MAGAZINE_ROUNDS_MAX); i++) {
        const unsigned node = slm_magazine_home(magazine->rounds[i]);
        rounds += node >= first && node < end;
    }
    return rounds;
}
