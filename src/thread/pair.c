/* Exchanging and sharing out; see pair.h. */
#include "thread/pair.h"

#include <string.h>

void slm_pair_exchange(struct slm_slot *slot, const struct slm_cache *cache)
{
    struct slm_magazine *other = slot->previous;
    slot->previous = slm_pair_unload(slot);
    slm_pair_load(slot, other, slm_pair_loaded_rounds(slot, cache));
}

void slm_pair_share_out(struct slm_slot *slot, const struct slm_cache *cache)
{
    struct slm_magazine *previous = slot->previous, *empty = slm_pair_unload(slot);
    const uint32_t half = (uint32_t)slm_min(slm_max(previous->count / 2, 1), empty->capacity);
    slot->misses &= (uint16_t)~SLM_SLOT_TURNED;
    previous->count -= half;
    memcpy(empty->rounds, previous->rounds + previous->count, half * sizeof(void *));
    empty->count = half;
    slm_pair_load(slot, empty, slm_pair_loaded_rounds(slot, cache));
}

void slm_pair_move_oldest(struct slm_magazine *from, struct slm_magazine *to, uint32_t n)
{
    memcpy(to->rounds + to->count, from->rounds, n * sizeof(void *));
    to->count += n;
    from->count -= n;
    memmove(from->rounds, from->rounds + n, from->count * sizeof(void *));
}

bool slm_pair_fill_up(struct slm_slot *slot, const struct slm_cache *cache, uint32_t room)
{
    struct slm_magazine *full = slm_pair_unload(slot);
    slm_pair_move_oldest(full, slot->previous, (uint32_t)slm_min(room, full->count));
    slm_pair_load(slot, full, slm_pair_loaded_rounds(slot, cache));
    return slm_slot_room(slot) > 0;
}
