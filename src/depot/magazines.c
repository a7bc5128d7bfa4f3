/* Making, sorting, handing on; see magazines.h. */
#include "depot/magazines.h"

#include "os/topology.h"
#include "page/metadata.h"

struct slm_magazine *slm_magazine_make(uint32_t rounds)
{
    const uint32_t capacity = slm_magazine_capacity(rounds);
    struct slm_magazine *magazine = slm_metadata_alloc(slm_magazine_bytes(capacity));
    if (magazine) {
        magazine->capacity = (uint16_t)capacity;
        magazine->cache_id = SLM_NOT_RETIRED;
        magazine->count = 0;
        for (uint32_t i = 0; i <= capacity; i++)
            magazine->rounds[i] = SLM_NO_ROUND;
    }
    return magazine;
}

void slm_magazine_free(struct slm_magazine *magazine)
{
    if (magazine)
        slm_metadata_free(magazine, slm_magazine_bytes(magazine->capacity));
}

static void put_into_slabs(struct slm_cache *cache, unsigned node, void *const *rounds, uint32_t n)
{
    slm_depot_give(rounds, n, "free");
    add_relaxed(&slm_cache_depot(cache, node)->drains_home, 1);
}

void slm_magazine_put(struct slm_cache *cache, unsigned node, struct slm_magazine **magazine, uint64_t limit_rounds)
{
    if (limit_rounds > 0 && slm_depot_put(slm_cache_depot(cache, node), magazine, limit_rounds))
        return;
    put_into_slabs(cache, node, (*magazine)->rounds, (*magazine)->count);
    (*magazine)->count = 0;
}

/* Move the rounds of the node to the end; returns how many others there are. */
static uint32_t part(void **rounds, uint32_t n, unsigned node)
{
    uint32_t others = 0;
    for (uint32_t i = 0; i < n; i++) {
        void *round = rounds[i];
        if (slm_magazine_home(round) == node)
            continue;
        rounds[i] = rounds[others];
        rounds[others++] = round;
    }
    return others;
}

/* A batch that is not worth a magazine goes into its slabs. */
static uint64_t limit_for(uint32_t rounds, uint64_t limit_rounds)
{
    return rounds > SLM_MAGAZINE_SMALL ? limit_rounds : 0;
}

static void send(struct slm_cache *cache, unsigned node, void *const *rounds, uint32_t n, uint64_t limit_rounds)
{
    struct slm_magazine *batch = limit_for(n, limit_rounds) > 0 ? slm_magazine_make(n) : NULL;
    if (batch) {
        memcpy(batch->rounds, rounds, n * sizeof *rounds);
        batch->count = n;
        slm_magazine_put(cache, node, &batch, limit_rounds);
        slm_magazine_free(batch);
    } else {
        put_into_slabs(cache, node, rounds, n);
    }
}

void slm_magazine_hand_on(struct slm_cache *cache, struct slm_magazine *magazine, uint64_t limit_rounds)
{
    bool sorted = false; /* then the remainder is a batch like the others */
    while (magazine->count > 0) {
        const unsigned node = slm_magazine_home(magazine->rounds[0]);
        const uint32_t others = likely(slm_nodes == 1) ? 0 : part(magazine->rounds, magazine->count, node);
        if (others == 0) {
            slm_magazine_put(cache, node, &magazine,
                             sorted ? limit_for(magazine->count, limit_rounds) : limit_rounds);
            break;
        }
        send(cache, node, magazine->rounds + others, magazine->count - others, limit_rounds);
        magazine->count = others;
        sorted = true;
    }
    slm_magazine_free(magazine);
}
