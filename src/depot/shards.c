/* Making and finding shards; see shards.h. A child of fork finds each shard made or not: it is published last. */
#include "depot/shards.h"

#include <string.h>

#include "os/topology.h"
#include "page/metadata.h"

/* How often another thread than the last one comes before a depot is worth shards. While it has none, `meetings` is
 * that count and some bits by which the last thread is known. */
enum { meetings_most = 250 };

__thread char slm_shards_thread;

static slm_for_few __attribute__((noinline)) struct slm_shards *start(struct slm_depot *home)
{
    struct slm_shards *none = NULL, *shards = slm_metadata_alloc(sizeof *shards);
    if (!shards)
        return NULL;
    slm_topology_find_here();
    memset(shards, 0, sizeof *shards);
    store_relaxed(&shards->at[0], home);
    store_relaxed(&shards->made, 1);
    /* release: pairs with shards_of and slm_depot_shards */
    if (atomic_compare_exchange_strong_explicit(&home->shards, &none, shards, memory_order_acq_rel,
                                                memory_order_acquire))
        return shards;
    slm_metadata_free(shards, sizeof *shards);
    return none;
}

/* NULL: the depot is the only shard. */
static struct slm_shards *shards_of(struct slm_depot *home)
{
    struct slm_shards *shards = load_acquire(&home->shards); /* pairs with start() */
    if (shards || slm_depot_is_sampled(home))
        return shards;
    const uint32_t count = (load_relaxed(&home->meetings) & ((1u << SLM_MEETINGS_BITS) - 1)) + 1;
    const uint32_t bits = (uint32_t)((uintptr_t)&slm_shards_thread >> 4) << SLM_MEETINGS_BITS;
    store_relaxed(&home->meetings, bits + count % (1u << SLM_MEETINGS_BITS));
    return unlikely(count >= meetings_most) ? start(home) : NULL;
}

static slm_for_few __attribute__((noinline)) struct slm_depot *make(struct slm_depot *home, struct slm_shards *shards,
                                                                    unsigned at)
{
    struct slm_depot *none = NULL, *made = slm_metadata_alloc(sizeof *made);
    if (!made)
        return home;
    memset(made, 0, sizeof *made);
    store_relaxed(&made->shards, shards);
    made->shard = (uint8_t)at;
    slm_depot_init(made, home->shape, home->cache_name, home->node);
    /* release: pairs with the loads in slm_depot_here and next() */
    if (atomic_compare_exchange_strong_explicit(&shards->at[at], &none, made, memory_order_acq_rel,
                                                memory_order_acquire)) {
        add_relaxed(&shards->made, 1);
        return made;
    }
    slm_metadata_free(made, sizeof *made);
    return none;
}

struct slm_depot *slm_depot_here_slow(struct slm_depot *home)
{
    struct slm_shards *shards = shards_of(home);
    if (!shards)
        return home;
    const unsigned at = slm_topology_here((uintptr_t)&slm_shards_thread) % SLM_SHARDS_MOST;
    struct slm_depot *depot = load_acquire(&shards->at[at]); /* pairs with make() */
    return likely(depot != NULL) ? depot : make(home, shards, at);
}

/* The first that is made from number `at` on, below `end`. */
static struct slm_depot *next(const struct slm_shards *shards, unsigned at, unsigned end)
{
    struct slm_depot *depot = NULL;
    for (; at < end && !depot; at++)
        depot = load_acquire(&shards->at[at]); /* pairs with make() */
    return depot;
}

struct slm_depot *slm_depot_shard_after(const struct slm_depot *depot)
{
    const struct slm_shards *shards = load_acquire(&depot->shards); /* pairs with start() */
    return likely(!shards) ? NULL : next(shards, depot->shard + 1u, SLM_SHARDS_MOST);
}

slm_for_few struct slm_depot *slm_depot_other_shard(const struct slm_depot *depot, const struct slm_depot *at)
{
    const struct slm_shards *shards = load_acquire(&depot->shards); /* pairs with start() */
    if (likely(!shards))
        return NULL;
    struct slm_depot *other = at->shard >= depot->shard ? next(shards, at->shard + 1u, SLM_SHARDS_MOST) : NULL;
    return other ? other : next(shards, at->shard >= depot->shard ? 0 : at->shard + 1u, depot->shard);
}
