/* Joining; see join.h.
 *
 * Who lends. Smaller classes of which so many objects, 64 at most, are less than a class step too long; the largest
 * first, as that takes the fewest pieces. Their slabs are held a few at a time, as by a refill, by one depot's lock
 * at a time. The emptiest have the longest runs. What was looked at in vain keeps that in mind until enough objects
 * have come back to relink it: span.short_runs is a length of run that it did not have (taken as if the alignment
 * asked for were a longer run), so that a search goes on where the last one stopped.
 *
 * When. A search in vain is not repeated until slabs of smaller classes have been relinked, twice as often each
 * time, which is looked at before every fifth slab. So what only grows does not search, and what has little free
 * seldom does. */
#include "depot/join.h"

#include "depot/shards.h"
#include "os/topology.h"

enum { slabs_most = 4, turns_most = 16, step_most = 64, skip_most = 4 };

/* Most machines have one node: its depots lie where others write, too. */
static struct slm_depot *_Atomic first_node[SLM_CLASSES];
static slm_sparse struct slm_depot *_Atomic other_nodes[SLM_NODES_MAX][SLM_CLASSES];

static struct slm_depot *_Atomic *place_of(unsigned node, unsigned class)
{
    return node == 0 ? &first_node[class] : &other_nodes[node][class];
}

slm_cold slm_often void slm_join_register(struct slm_depot *depot, unsigned class)
{
    store_release(place_of(depot->node, class), depot); /* pairs with depot_of */
}

static slm_seldom struct slm_depot *depot_of(unsigned node, unsigned class)
{
    return load_acquire(place_of(node, class)); /* pairs with slm_join_register */
}

/* The first size that would be another class's. */
static slm_seldom size_t end_of(unsigned class)
{
    return class + 1 < SLM_CLASSES ? slm_class_size[class + 1] : SLM_SMALL_MAX + SLM_SMALL_MAX / 8;
}

/* How long a run of free objects has what is wanted, wherever it begins. */
static slm_seldom uint8_t run_for(size_t piece, unsigned pieces, size_t alignment)
{
    return (uint8_t)slm_min(pieces - 1 + slm_max(alignment / (piece & -piece), 1), UINT8_MAX);
}

/* From a held slab. If it was swept before it still is: no page has become free. */
static slm_seldom unsigned take_from_slab(struct slm_slab *slab, unsigned pieces, size_t alignment, unsigned n,
                                          void **rounds)
{
    const bool swept = slm_partial_is_swept(slab, (uint32_t)load_relaxed(&slab->free));
    const unsigned taken = slm_joined_take(slab, pieces, alignment, n, rounds);
    if (taken > 0) {
        slab->span.some_joined = true;
        slab->span.swept = swept ? (uint16_t)(slab->span.swept - taken * pieces) : 0;
    }
    if (taken < n)
        slab->span.short_runs = run_for(slab->object_size, pieces, alignment);
    return taken;
}

static slm_seldom unsigned borrow(struct slm_depot *lender, unsigned pieces, size_t alignment, unsigned n,
                                  void **rounds)
{
    struct slm_slab *slabs[SLM_PARTIAL_MOST];
    const unsigned run = run_for(lender->shape->object_size, pieces, alignment);
    unsigned taken = 0;
    for (unsigned turn = 0; turn < turns_most && taken < n; turn++) {
        const unsigned number = slm_partial_hold_sparse(lender, slabs, slabs_most, run);
        if (number == 0)
            break;
        for (unsigned i = 0; i < number && taken < n; i++)
            taken += take_from_slab(slabs[i], pieces, alignment, n - taken, rounds + taken);
        slm_partial_put(lender, slabs, number, 0);
    }
    add_relaxed(&lender->lent, (uint64_t)taken * pieces);
    return taken;
}

/* The smallest class of which 64 have the size. */
static slm_seldom unsigned first_lender(unsigned class)
{
    return slm_class_of_size(slm_class_size[class] / SLM_JOINED_MOST);
}

/* Does it lend? Waste is less than the step to the next class. */
static slm_seldom unsigned pieces_of(unsigned lender, unsigned class)
{
    const uint32_t piece = slm_class_size[lender], pieces = (slm_class_size[class] + piece - 1) / piece;
    return (size_t)pieces * piece < end_of(class) ? pieces : 0;
}

static slm_seldom unsigned search(const struct slm_depot *depot, unsigned class, void **rounds, unsigned n)
{
    const size_t size = slm_class_size[class];
    const unsigned first = first_lender(class);
    unsigned taken = 0;
    for (unsigned lender = class; lender-- > first && taken < n;) {
        const unsigned pieces = pieces_of(lender, class);
        struct slm_depot *of = pieces > 0 ? depot_of(depot->node, lender) : NULL;
        for (; of && taken < n; of = slm_depot_shard_after(of))
            taken += slm_depot_falls(of) ? borrow(of, pieces, size & -size, n - taken, rounds + taken) : 0;
    }
    return taken;
}

/* How often slabs of smaller classes have been relinked, whether these lend or not: a division for each would cost as
 * much as a search. */
static slm_seldom uint32_t count_relinked(const struct slm_depot *depot, unsigned class)
{
    const unsigned first = first_lender(class);
    uint32_t relinked = 0;
    for (unsigned lender = class; lender-- > first;) {
        for (const struct slm_depot *of = depot_of(depot->node, lender); of; of = slm_depot_shard_after(of))
            relinked += load_relaxed(&of->relinked);
    }
    return relinked;
}

slm_seldom unsigned slm_join_take(struct slm_depot *depot, void **rounds, unsigned n)
{
    const unsigned class = slm_cache_id_of(depot->shape->slot_offset);
    if (class >= SLM_CLASSES || depot_of(depot->node, class) != slm_depot_home(depot))
        return 0;
    const unsigned skip = load_relaxed(&depot->join_skip), step = load_relaxed(&depot->join_step);
    store_relaxed(&depot->join_skip, (uint8_t)(skip > 0 ? skip - 1 : skip_most));
    if (skip > 0)
        return 0;
    const uint32_t relinked = count_relinked(depot, class);
    if ((int32_t)(relinked - load_relaxed(&depot->join_due)) < 0)
        return 0;
    const unsigned taken = search(depot, class, rounds, n);
    store_relaxed(&depot->join_step, (uint8_t)(taken > 0 ? 0 : slm_min(step * 2 + 1, step_most)));
    store_relaxed(&depot->join_skip, (uint8_t)(taken > 0 ? 0 : skip_most));
    store_relaxed(&depot->join_due, taken > 0 ? relinked : relinked + 1 + step);
    add_relaxed(&depot->objects_out, taken);
    add_relaxed(&depot->joined_out, taken);
    return taken;
}

slm_seldom void slm_join_give(struct slm_slab *slab, struct slm_depot *depot, void *object, const char *call,
                              bool pend)
{
    const unsigned pieces = slm_joined_give(slab, object, call, depot->cache_name);
    if (pieces > 1) {
        struct slm_depot *of = depot_of(depot->node, slm_joined_class(slab, pieces));
        sub_relaxed(&of->objects_out, 1);
        sub_relaxed(&of->joined_out, 1);
        sub_relaxed(&depot->lent, pieces);
    } else {
        sub_relaxed(&depot->objects_out, 1);
    }
    if (!slm_partial_count(slab, pieces))
        return;
    if (pend)
        slm_partial_pend(slab);
    else
        slm_partial_relink(slab);
}
