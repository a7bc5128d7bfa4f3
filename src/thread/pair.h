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
struct slm_magazine *slm_pair_unload(struct slm_slot *slot);

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

/* The loaded magazine has no rounds, the previous one has. Where pushes have filled a magazine and pops empty the next
 * one, with no trip in between, half of the rounds come over: else what wavers there would exchange all the time. */
void slm_pair_take(struct slm_slot *slot, const struct slm_cache *cache);

/* Move the n oldest rounds of one behind those of another, which has room. */
void slm_pair_move_oldest(struct slm_magazine *from, struct slm_magazine *to, uint32_t n);

/* The previous magazine, which has rounds, gets the full one's oldest. False: there is no room in it. */
bool slm_pair_fill(struct slm_slot *slot, const struct slm_cache *cache);
