/* Shards of a depot. Where threads meet in one, each CPU has a shard: a depot of its own, with its lock, its stock
 * and its partial slabs. So what a CPU frees it gets again while that is in its caches, objects of different CPUs do
 * not come to lie in one cache line, and threads seldom wait for one another. An object that goes back to its slab
 * goes to the shard that has the slab. A shard that has nothing takes from the others before it makes a slab.
 *
 * The node's depot is the first shard, and the only one until threads have taken turns at it: most processes and most
 * sizes need no more. The CPU is known by the kernel's concurrency id, which numbers the CPUs that a process uses at
 * a time, else by its number, else by the thread.
 *
 * Each shard counts what it did. A slab that another shard takes over takes no counts along: only the sums over a
 * depot's shards, modulo 2^64, say how many objects are out and how many slabs there are. */
#pragma once

#include "depot/partial.h"

enum {
    SLM_SHARDS_MOST = 16,
    SLM_SHARD_SAMPLED =
        SLM_SHARDS_MOST, /* in place of a shard's number: a depot of sampled objects (depot/cache.h) */
};

/* Made once, and there as long as the depot. Each shard knows it. */
struct slm_shards {
    _Atomic(struct slm_depot *) at[SLM_SHARDS_MOST]; /* the node's depot at 0; NULL: not made yet */
    _Atomic uint64_t share;                          /* the most rounds that a shard's stock may have */
    _Atomic uint32_t made;
};

/* Its address stands for the thread: `meetings` has some of its bits, above a count of SLM_MEETINGS_BITS. */
extern slm_hidden __thread char slm_shards_thread;
enum { SLM_MEETINGS_BITS = 8 };

/* The calling thread's shard of a node's depot; that itself while it is the only one, or without memory for more. */
struct slm_depot *slm_depot_here_slow(struct slm_depot *home);
slm_inline struct slm_depot *slm_depot_here(struct slm_depot *home)
{
    const uint32_t bits = (uint32_t)((uintptr_t)&slm_shards_thread >> 4);
    const bool alone =
        load_relaxed(&home->meetings) >> SLM_MEETINGS_BITS == bits << SLM_MEETINGS_BITS >> SLM_MEETINGS_BITS;
    return likely(alone) && likely(!load_relaxed(&home->shards)) ? home : slm_depot_here_slow(home);
}

slm_inline bool slm_depot_is_sampled(const struct slm_depot *depot)
{
    return depot->shard == SLM_SHARD_SAMPLED;
}

/* The shard behind this one, in the order in which a walk over all of the node's begins at its depot; NULL: none. */
struct slm_depot *slm_depot_shard_after(const struct slm_depot *depot);

/* Another shard of the node's, the next one in a circle; NULL: all have been. `at`: what the last call returned, at
 * first the shard itself. */
struct slm_depot *slm_depot_other_shard(const struct slm_depot *depot, const struct slm_depot *at);

/* The node's depot, of which this is a shard. */
slm_inline struct slm_depot *slm_depot_home(struct slm_depot *depot)
{
    const struct slm_shards *shards = load_acquire(&depot->shards); /* pairs with start() */
    return likely(!shards) ? depot : load_relaxed(&shards->at[0]);
}

/* What a shard's stock may have of a depot's bound; a figure that others look at, too. There are several. */
slm_inline uint64_t slm_depot_share(struct slm_depot *depot, uint64_t limit_rounds)
{
    struct slm_shards *shards = load_acquire(&depot->shards); /* pairs with start() */
    const uint64_t share = limit_rounds / load_relaxed(&shards->made);
    if (load_relaxed(&shards->share) != share)
        store_relaxed(&shards->share, share);
    return share;
}
