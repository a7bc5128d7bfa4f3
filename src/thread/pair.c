/* Exchanging and sharing out; see pair.h. */
#include "thread/pair.h"

#include <string.h>

struct slm_magazine *slm_pair_unload(struct slm_slot *slot)
{
    struct slm_magazine *magazine = slot->loaded;
    if (magazine)
        slm_slot_unload(slot);
    slm_slot_clear_cursors(slot);
    slot->loaded = NULL;
    return magazine;
}

void slm_pair_exchange(struct slm_slot *slot, const struct slm_cache *cache)
{
    struct slm_magazine *other = slot->previous;
    slot->previous = slm_pair_unload(slot);
    slm_pair_load(slot, other, slm_pair_loaded_rounds(slot, cache));
}

void slm_pair_take(struct slm_slot *slot, const struct slm_cache *cache)
{
    struct slm_magazine *previous = slot->previous, *empty = slot->loaded;
    const uint32_t half = previous->count / 2;
    const bool turned = (slot->misses & SLM_SLOT_TURNED) && empty && half > 0 && half <= empty->capacity;
    slot->misses &= (uint16_t)~SLM_SLOT_TURNED;
    if (likely(!turned)) {
        slm_pair_exchange(slot, cache);
        return;
    }
    slm_pair_unload(slot);
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

bool slm_pair_fill(struct slm_slot *slot, const struct slm_cache *cache)
{
    struct slm_magazine *previous = slot->previous;
    const uint32_t most = previous ? (uint32_t)slm_min(previous->capacity, load_relaxed(&slot->target)) : 0;
    if (!slot->loaded || !previous || previous->count == 0 || previous->count >= most)
        return false;
    struct slm_magazine *full = slm_pair_unload(slot);
    slm_pair_move_oldest(full, previous, (uint32_t)slm_min(most - previous->count, full->count));
    slm_pair_load(slot, full, slm_pair_loaded_rounds(slot, cache));
    return slm_slot_room(slot) > 0; /* the target may have fallen */
}
