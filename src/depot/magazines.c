/* Making, sorting, handing on; see magazines.h. */
#include "depot/magazines.h"

#include "base/panic.h"
#include "depot/shards.h"
#include "os/topology.h"
#include "page/metadata.h"
#include "page/page_map.h"

struct slm_magazine *slm_magazine_make(uint32_t rounds)
{
    const uint32_t capacity = slm_magazine_capacity(rounds);
    struct slm_magazine *magazine = slm_metadata_alloc(slm_magazine_bytes(capacity));
    if (magazine) {
        magazine->capacity = (uint16_t)capacity;
        magazine->cache_id = SLM_NOT_RETIRED;
        magazine->count = 0;
        void *none = SLM_NO_ROUND;
        slm_hide_value(none);                      /* a constant of two words would lie where nobody reads yet */
        for (uint32_t i = 0; i < capacity; i += 2) /* capacities are odd, and there is one word more */
            magazine->rounds[i] = magazine->rounds[i + 1] = none;
    }
    return magazine;
}

void slm_magazine_free(struct slm_magazine *magazine)
{
    if (magazine)
        slm_metadata_free(magazine, slm_magazine_bytes(magazine->capacity));
}

/* By which its rounds came, as far as that is known: in messages. */
static const char *call_of(const struct slm_magazine *magazine)
{
    return likely(magazine->cache_id == SLM_NOT_RETIRED) ? "free" : "slab_free_deferred";
}

static void put_into_slabs(struct slm_cache *cache, unsigned node, void *const *rounds, uint32_t n, const char *call)
{
    slm_depot_give(rounds, n, call);
    add_relaxed(&slm_cache_depot(cache, node)->drains_home, 1);
}

static _Noreturn slm_slow void refuse(const struct slm_cache *cache, const void *round, const char *call,
                                      const char *what)
{
    slm_panic(call, round, what, cache->first.cache_name, cache->shape.object_size);
}

/* False: only its slab can tell. */
slm_inline bool is_start(const struct slm_cache *cache, const void *round, const char *area, uint64_t factor)
{
    const size_t granule = slm_area_granule(area, round);
    return likely(slm_area_granule_valid(granule)) &&
           likely(slm_page_map_offset(area, granule) == slm_slab_map_offset(&cache->shape)) &&
           likely(factor * (uint16_t)(uintptr_t)round < factor);
}

/* Objects without a key are all looked up in their slabs: there those are seen that a call has given to the slab
 * while they were in a magazine, as slab_free_nolock does. */
static void check_with_slab(const struct slm_cache *cache, const void *round, const char *call)
{
    const struct slm_slab *slab = slm_slab_of(round);
    if (unlikely(slm_cache_of_slab(slab, round) != cache) || unlikely(!slm_slab_is_object(slab, round)))
        refuse(cache, round, call, "not the start of an object");
    if (unlikely(slm_slab_has(slab, round)))
        refuse(cache, round, call, "double free of an object");
}

/* Nearly all rounds have a bit of their own among those seen. */
void slm_magazine_check(const struct slm_cache *cache, const struct slm_magazine *magazine, unsigned node,
                        const char *call)
{
    const uint64_t factor =
        slm_page_map_start_factor(slm_slab_map_offset(&cache->shape)); /* 0: no round is known by it */
    const char *const area = slm_area_start(slm_area_for_slabs(node));
    uint64_t seen[4096 / 64] = {0};
    for (uint32_t i = 0; i < magazine->count; i++) {
        const void *round = magazine->rounds[i];
        const unsigned hash = (uint32_t)((uintptr_t)round >> 4) * 2654435769u >> 20;
        if (unlikely(!is_start(cache, round, area, factor)))
            check_with_slab(cache, round, call);
        if (unlikely(seen[hash / 64] >> hash % 64 & 1))
            for (uint32_t j = 0; j < i; j++)
                if (magazine->rounds[j] == round)
                    refuse(cache, round, call, "double free of an object");
        seen[hash / 64] |= (uint64_t)1 << hash % 64;
    }
}

/* A magazine of objects that have no key is always checked: nobody has seen a second free yet. Of keyed ones each
 * push was checked, and only a write after the free can have hidden a second one. So that they cost next to nothing,
 * one in 256 is checked, of those that go to the stock and of those for which it has no room. An exchange is one that
 * comes or one that goes: where they take turns the count is always even here, or always odd. */
static bool is_to_be_checked(const struct slm_cache *cache, const struct slm_depot *depot)
{
    const uint64_t magazines = load_relaxed(&depot->exchanges) / 2 + load_relaxed(&depot->drains_home);
    return unlikely(!cache->shape.keyed) || unlikely(magazines % 256 == 0);
}

void slm_magazine_put(struct slm_cache *cache, unsigned node, struct slm_magazine **magazine, uint64_t limit_rounds)
{
    struct slm_depot *depot = slm_depot_here(slm_cache_depot(cache, node));
    if (limit_rounds > 0 && is_to_be_checked(cache, depot))
        slm_magazine_check(cache, *magazine, node, call_of(*magazine));
    if (limit_rounds > 0 && slm_depot_put(depot, magazine, limit_rounds))
        return;
    if (limit_rounds > 0)
        slm_cache_note_sent_home(cache, (*magazine)->count);
    put_into_slabs(cache, node, (*magazine)->rounds, (*magazine)->count, call_of(*magazine));
    (*magazine)->count = 0;
}

/* Move the rounds of the node to the end; returns how many others there are. */
static slm_for_few __attribute__((noinline)) uint32_t part(void **rounds, uint32_t n, unsigned node)
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

/* The rounds from `first` on. */
static slm_for_few __attribute__((noinline)) void send(struct slm_cache *cache, unsigned node,
                                                       const struct slm_magazine *magazine, uint32_t first,
                                                       uint64_t limit_rounds)
{
    void *const *rounds = magazine->rounds + first;
    const uint32_t n = magazine->count - first;
    struct slm_magazine *batch = limit_for(n, limit_rounds) > 0 ? slm_magazine_make(n) : NULL;
    if (batch) {
        memcpy(batch->rounds, rounds, n * sizeof *rounds);
        batch->count = n;
        batch->cache_id = magazine->cache_id;
        slm_magazine_put(cache, node, &batch, limit_rounds);
        slm_magazine_free(batch);
    } else {
        put_into_slabs(cache, node, rounds, n, call_of(magazine));
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
        send(cache, node, magazine, others, limit_rounds);
        magazine->count = others;
        sorted = true;
    }
    slm_magazine_free(magazine);
}
