/* The two magazines of a slot, and what they do without a depot. */
#pragma once

#include "thread/slots.h"

slm_inline bool slm_pair_is_long(const struct slm_cache *cache)
{
    return cache->shape.object_size > SLM_TABLE_MAX;
}

/* How many rounds a loaded magazine may have. */
slm_inline uint32_t slm_pair_loaded_rounds(const struct slm_slot *slot, const struct slm_cache *cache)
{
    const uint32_t target = load_relaxed(&slot->target);
    return slm_pair_is_long(cache) ? target * 2 : target;
}

/* Store the loaded magazine's count, and detach it from the cursors. */
slm_inline struct slm_magazine *slm_pair_unload(struct slm_slot *slot)
{
    struct slm_magazine *magazine = slot->loaded;
    if (likely(magazine != NULL))
        slm_slot_unload(slot);
    slm_slot_clear_cursors(slot);
    slot->loaded = NULL;
    return magazine;
}

/* `most`: slm_pair_loaded_rounds. */
slm_inline void slm_pair_load(struct slm_slot *slot, struct slm_magazine *magazine, uint32_t most)
{
    const uint32_t count = magazine->count;
    const uint32_t room = (uint32_t)slm_max(slm_min(magazine->capacity, most), count);
    magazine->count = room;
    magazine->rounds[room] = NULL;
    slot->loaded = magazine;
    slot->bottom = magazine->rounds;
    slm_shared_store(&slot->top, magazine->rounds + count);
}

/* The previous magazine takes the loaded one's place. */
void slm_pair_exchange(struct slm_slot *slot, const struct slm_cache *cache);

/* Half of the previous magazine's rounds come over. */
void slm_pair_share_out(struct slm_slot *slot, const struct slm_cache *cache);

/* The loaded magazine has no rounds, the previous one has. Where pushes have filled a magazine and pops empty
 * the next one, with no trip in between, half of the rounds come over: else what wavers there would exchange all
 * the time. */
slm_inline void slm_pair_take(struct slm_slot *slot, const struct slm_cache *cache)
{
    if (unlikely(slot->misses & SLM_SLOT_TURNED) && slot->loaded)
        slm_pair_share_out(slot, cache);
    else
        slm_pair_exchange(slot, cache);
}

/* Move the n oldest rounds of one behind those of another, which has room. */
void slm_pair_move_oldest(struct slm_magazine *from, struct slm_magazine *to, uint32_t n);

/* The previous magazine, which has room for so many rounds, gets the full one's oldest. False: the target has fallen,
 * and there is no room in the loaded one. */
bool slm_pair_fill_up(struct slm_slot *slot, const struct slm_cache *cache, uint32_t room);

/* The same, if the previous magazine has rounds and room. */
slm_inline bool slm_pair_fill(struct slm_slot *slot, const struct slm_cache *cache)
{
    const struct slm_magazine *previous = slot->previous;
    if (!previous || previous->count == 0 || !slot->loaded)
        return false;
    const uint32_t most = (uint32_t)slm_min(previous->capacity, load_relaxed(&slot->target));
    return unlikely(previous->count < most) && slm_pair_fill_up(slot, cache, most - previous->count);
}
