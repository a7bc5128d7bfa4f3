/* Partial slabs; see partial.h.
 *
 * Taking from a slab. A slab is out (no free objects, in no list), listed (partial, in a bucket), shared (in no
 * list, and nobody takes from it), or held: one thread has taken it out of its bucket, or has just made it, and
 * alone takes objects from it. `where` changes under the depot's lock only. Giving needs no lock: bits, then the
 * count (slab.h). A thread that sees the count leave 0, reach the total, or change its bucket asks for relinking
 * under the lock, which looks again at everything:
 *
 *   held           the holder will look at the count when it brings the slab back, under the same lock
 *   shared         it stays so until few of its objects are out (slm_partial_share)
 *   free == all    vacant: one may be kept, listed (may_keep); others are unlinked, their owner cleared, and released
 *                  to the spans after unlocking
 *   else           into the bucket of its count
 *
 * When a giving thread has the lock, the slab may have been released and its memory recut, even for this same
 * depot. `owner` tells: it is set by the maker before any other thread knows the slab, and cleared under the lock
 * of the depot that it names. So under our lock `owner == depot` is stable, and then `where` and the count can be
 * relied on, whatever happened to the slab in between. Descriptors are never unmapped.
 *
 * A shard that takes a listed slab over changes its owner, under the lock of the one that it is taken from, and
 * holds it. So a giving thread whose lock turns out to be another's tries again with the owner that it finds then,
 * until the lock is the owner's or there is none.
 *
 * Giving without a lock (slm_partial_pend) leaves the relinking to others: the slab goes onto a stack of pending
 * ones by a compare-exchange, and the next thread that fills a magazine takes the whole stack and relinks. The
 * link outlives the slab: one that has been released or recut meanwhile is relinked to no effect.
 *
 * Slabs whose objects have a destructor or keep their type become pending on release (depot/pending_slabs.h).
 *
 * Fork. A child that finds the lock held by a thread that it does not have empties the lists. A slab that is
 * marked as listed in an older generation of the lists, or held in an older generation of the process, is out. */
#include "depot/partial.h"

#include <string.h>

#include "depot/pending_slabs.h"
#include "slab/joined.h"

/* Everything but the lock, which a late look at a destroyed cache's depot may hold. */
void slm_depot_init(struct slm_depot *depot, const struct slm_slab_shape *shape, const char *cache_name,
                    unsigned node)
{
    struct slm_shards *shards = load_relaxed(&depot->shards);
    const uint8_t shard = depot->shard;
    memset((char *)depot + sizeof depot->lock, 0, sizeof *depot - sizeof depot->lock);
    store_relaxed(&depot->shards, shards);
    depot->shard = shard;
    depot->locks_before = load_relaxed(&depot->lock.acquired);
    depot->contended_before = load_relaxed(&depot->lock.contended);
    if (depot->lock.rank != SLM_RANK_DEPOT) /* it may be read meanwhile */
        depot->lock.rank = SLM_RANK_DEPOT;
    depot->generation = slm_fork_generation;
    depot->shape = shape;
    depot->cache_name = cache_name;
    depot->node = (uint16_t)node;
}

void slm_depot_lose(struct slm_depot *depot, uint64_t n)
{
    sub_relaxed(&depot->objects_out, n);
    slm_limit_return(depot->shape->limit, n);
}

void slm_depot_note_out(struct slm_depot *depot)
{
    const uint32_t out = (uint32_t)slm_min(load_relaxed(&depot->objects_out), INT32_MAX);
    const uint32_t step = (uint32_t)slm_max(out / 8, depot->shape->objects / 4u);
    const uint32_t trend = load_relaxed(&depot->trend), edge = trend / 2;
    const bool falls = trend & 1;
    if (falls ? out < edge : out > edge)
        store_relaxed(&depot->trend, out * 2 + falls);
    else if (falls ? out - edge >= step : edge - out >= step)
        store_relaxed(&depot->trend, out * 2 + !falls);
}

static const uint32_t worked_least = 1024, worked_objects = 2;

static void restart(struct slm_depot *depot)
{
    slm_depot_lose(depot, load_relaxed(&depot->stock_rounds));
    store_relaxed(&depot->stock_rounds, 0);
    depot->full = depot->empty = NULL;
    depot->full_count = depot->full_low = depot->occupied = 0;
    depot->vacant = NULL;
    depot->generation = slm_fork_generation;
}

void slm_depot_lock(struct slm_depot *depot)
{
    if (unlikely(slm_lock_acquire(&depot->lock)))
        restart(depot);
}

enum { shared_part = 16, shared_most = 32 };

static unsigned bucket_of(int32_t free, unsigned objects)
{
    return free <= 0 ? 0 : (unsigned)slm_min((unsigned)free * SLM_DEPOT_BUCKETS / objects, SLM_DEPOT_BUCKETS - 1);
}

void slm_partial_set(struct slm_slab *slab, enum slm_slab_where where)
{
    store_relaxed(&slab->where, (uint8_t)where);
    slab->where_generation = slm_fork_generation;
}

static void list_slab(struct slm_depot *depot, struct slm_slab *slab, int32_t free)
{
    const unsigned bucket = bucket_of(free, slab->objects);
    if (!(depot->occupied >> bucket & 1)) {
        slm_list_init(&depot->buckets[bucket]);
        depot->occupied |= 1u << bucket;
    }
    if (bucket < SLM_DEPOT_SPARSE)
        slab->span.swept &= (uint16_t)~SLM_SLAB_FRESH;
    if (slm_partial_is_swept(slab, (uint32_t)free))
        slm_list_insert_before(&depot->buckets[bucket], &slab->span.link);
    else
        slm_list_insert_after(&depot->buckets[bucket], &slab->span.link);
    slab->bucket = (uint8_t)bucket;
    if (free == slab->objects)
        depot->vacant = slab;
    slm_partial_set(slab, SLM_SLAB_LISTED);
}

void slm_partial_unlist(struct slm_depot *depot, struct slm_slab *slab, enum slm_slab_where where)
{
    slm_list_remove(&slab->span.link);
    if (slm_list_empty(&depot->buckets[slab->bucket]))
        depot->occupied &= ~(1u << slab->bucket);
    if (depot->vacant == slab) {
        depot->vacant = NULL;
        depot->vacant_seen = false;
    }
    slm_partial_set(slab, where);
}

/* One vacant slab is kept. Where a class has made none since it first released one it will hardly need it: most of
 * malloc's sizes are wanted in one phase of a program only. */
static bool may_keep(const struct slm_depot *depot)
{
    return !depot->vacant && (depot->cache_name || load_relaxed(&depot->missed_vacant));
}

/* All joined objects have come back, and left keys: hot paths may free what is left. */
static __attribute__((noinline)) slm_seldom void end_joined(const struct slm_depot *depot, struct slm_slab *slab)
{
    slab->span.some_joined = slm_joined_any(slab);
    slm_slab_show(slab, depot->shape);
}

/* Few of the objects are out that were when threads began to share it. */
static slm_for_few __attribute__((noinline)) bool end_shared(struct slm_depot *depot, struct slm_slab *slab,
                                                             int32_t free)
{
    if (slab->objects - free > slab->bucket)
        return false;
    slm_partial_set(slab, SLM_SLAB_OUT);
    slm_slab_show(slab, depot->shape);
    return true;
}

/* Under the lock: put a slab that is neither held nor listed where its count says. True: it is vacant, and the caller
 * alone releases it, after unlocking. */
static bool file_slab(struct slm_depot *depot, struct slm_slab *slab)
{
    const int32_t free = load_acquire(&slab->free); /* pairs with slm_slab_count */
    if (unlikely(slm_partial_is_shared(slab)) && !end_shared(depot, slab, free))
        return false;
    if (free == slab->objects && !may_keep(depot)) {
        slm_partial_set(slab, SLM_SLAB_OUT);
        store_relaxed(&slab->owner, NULL);
        return true;
    }
    if (unlikely(slab->span.some_joined))
        end_joined(depot, slab);
    if (free > 0) {
        list_slab(depot, slab, free);
    } else {
        if (unlikely(slab->span.some_purged))
            slm_pages_all_out(slab, depot->shape);
        slab->span.swept = 0;
        slm_partial_set(slab, SLM_SLAB_OUT);
    }
    return false;
}

void slm_partial_release(struct slm_depot *depot, struct slm_slab *slab)
{
    const struct slm_object_hooks *hooks = depot->shape->hooks;
    if (!slm_slab_recount_vacant(slab)) {
        store_release(&slab->owner, depot); /* pairs with slm_partial_relink */
        slm_partial_relink(slab);
        return;
    }
    if (hooks && (hooks->destructor || hooks->typesafe)) {
        slm_pending_slabs_add(slab, depot->shape, &depot->slabs_released);
    } else {
        slm_slab_release(slab);
        atomic_fetch_add_explicit(&depot->slabs_released, 1, memory_order_release); /* pairs with slm_depot_slabs */
    }
}

/* False: it is not the depot's. */
static bool relink(struct slm_depot *depot, struct slm_slab *slab)
{
    bool vacant = false;
    slm_depot_lock(depot);
    const bool ours = load_acquire(&slab->owner) == depot; /* pairs with the release in grow() */
    if (ours && !(load_relaxed(&slab->where) == SLM_SLAB_HELD && slab->where_generation == slm_fork_generation)) {
        if (load_relaxed(&slab->where) == SLM_SLAB_LISTED && slab->where_generation >= depot->generation)
            slm_partial_unlist(depot, slab, SLM_SLAB_OUT);
        vacant = file_slab(depot, slab);
        slab->span.short_runs = UINT8_MAX;
        store_relaxed(&depot->relinked, load_relaxed(&depot->relinked) + 1);
    }
    slm_lock_release(&depot->lock);
    if (vacant)
        slm_partial_release(depot, slab);
    return ours;
}

void slm_partial_relink(struct slm_slab *slab)
{
    struct slm_depot *depot;
    do
        depot = load_acquire(&slab->owner); /* pairs with slm_partial_hold */
    while (depot && !relink(depot, slab));
}

static bool may_share(const struct slm_depot *depot)
{
    return depot->shared_before < shared_most && !depot->cache_name && depot->shape->object_size < SLM_LINE_BYTES;
}

/* Under the lock nobody takes a slab that is not held. */
slm_cold bool slm_partial_share(struct slm_slab *slab)
{
    struct slm_depot *depot = load_acquire(&slab->owner); /* pairs with slm_partial_hold */
    if (!depot)
        return false;
    slm_depot_lock(depot);
    const bool ours = load_relaxed(&slab->owner) == depot; /* else another shard has taken it over */
    const unsigned where = load_relaxed(&slab->where);
    const bool listed = ours && where == SLM_SLAB_LISTED && slab->where_generation >= depot->generation;
    if (ours && (listed || where == SLM_SLAB_OUT) && may_share(depot) && !slab->span.some_purged &&
        !slab->span.some_joined) {
        if (listed)
            slm_partial_unlist(depot, slab, SLM_SLAB_OUT);
        slab->bucket = (uint8_t)slm_min((slab->objects - load_relaxed(&slab->free)) / shared_part, UINT8_MAX);
        slm_partial_set(slab, SLM_SLAB_SHARED);
        slm_slab_hide(slab);
        depot->shared_before++;
    }
    slm_lock_release(&depot->lock);
    return slm_partial_is_shared(slab);
}

/* Under the lock, and so it is the depot's still: should it be held to be shown again? */
static slm_for_few bool has_worked(const struct slm_depot *depot, struct slm_slab *slab, uint32_t frees)
{
    const uint32_t worked = load_relaxed(&slab->span.worked) + frees;
    store_relaxed(&slab->span.worked, worked);
    return worked >= worked_least + worked_objects * slab->objects && load_relaxed(&slab->where) == SLM_SLAB_LISTED &&
           slab->where_generation >= depot->generation && slab->span.some_purged; /* a holder's, if it is held */
}

slm_for_few void slm_partial_note_worked(struct slm_slab *slab, uint32_t frees)
{
    struct slm_depot *depot = load_acquire(&slab->owner); /* pairs with slm_partial_hold */
    if (!depot)
        return;
    slm_depot_lock(depot);
    const bool worked = load_relaxed(&slab->owner) == depot && has_worked(depot, slab, frees);
    if (worked)
        slm_partial_unlist(depot, slab, SLM_SLAB_HELD);
    slm_lock_release(&depot->lock);
    if (!worked)
        return;
    slm_pages_touch_all(slab, depot->shape);
    slab->span.swept = 0;
    slm_partial_put(depot, &slab, 1, 0);
}

void slm_partial_put(struct slm_depot *depot, struct slm_slab *const *slabs, unsigned number, unsigned taken)
{
    bool vacant[SLM_PARTIAL_MOST];
    slm_depot_lock(depot);
    for (unsigned i = 0; i < number; i++)
        vacant[i] = file_slab(depot, slabs[i]);
    slm_count(&depot->fills, taken > 0);
    slm_count(&depot->rounds_taken, taken);
    slm_lock_release(&depot->lock);
    for (unsigned i = 0; i < number; i++)
        if (vacant[i])
            slm_partial_release(depot, slabs[i]);
}

unsigned slm_partial_hold(struct slm_depot *depot, struct slm_depot *from, struct slm_slab **slabs, unsigned n)
{
    unsigned number = 0, objects = 0;
    slm_depot_lock(from);
    while (from->occupied != 0 && number < SLM_PARTIAL_MOST && objects < n) {
        const unsigned fullest = (unsigned)__builtin_ctz(from->occupied);
        struct slm_list *bucket = &from->buckets[likely(from == depot) ? fullest : slm_log2(from->occupied)];
        struct slm_slab *slab = slm_container(bucket->next, struct slm_slab, span.link);
        slm_partial_unlist(from, slab, SLM_SLAB_HELD);
        if (unlikely(from != depot))
            store_release(&slab->owner, depot); /* pairs with slm_partial_relink, which sees then that it is held */
        slab->span.swept &= SLM_SLAB_FRESH;
        objects += (unsigned)load_relaxed(&slab->free);
        slabs[number++] = slab;
    }
    slm_lock_release(&from->lock);
    return number;
}

slm_unordered bool slm_partial_any(const struct slm_depot *depot)
{
    return depot->occupied != 0;
}

/* A look for sparse slabs whose longest run is not known to be as short as that. */
enum { sparse_looks_most = 256 };
struct sparse {
    struct slm_slab **slabs;
    unsigned number, most, short_runs, looks;
};

/* Under the lock. Those that are swept are at the end of their bucket. */
static slm_seldom void look_for_sparse(struct slm_depot *depot, struct sparse *sparse, bool swept)
{
    for (unsigned bucket = SLM_DEPOT_BUCKETS; bucket-- > SLM_DEPOT_SPARSE / 2;) {
        struct slm_list *first = &depot->buckets[bucket];
        struct slm_list *at = !(depot->occupied >> bucket & 1) ? first : swept ? first->prev : first->next;
        for (; at != first && sparse->number < sparse->most && sparse->looks > 0; at = swept ? at->prev : at->next) {
            struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
            if (((slab->span.swept & SLM_SLAB_SWEPT) != 0) != swept)
                break;
            sparse->looks--;
            if (!(slab->span.swept & SLM_SLAB_FRESH) && slab != depot->vacant &&
                slab->span.short_runs > sparse->short_runs)
                sparse->slabs[sparse->number++] = slab;
        }
    }
}

slm_seldom unsigned slm_partial_hold_sparse(struct slm_depot *depot, struct slm_slab **slabs, unsigned n,
                                            unsigned short_runs)
{
    struct sparse sparse = {.slabs = slabs, .most = n, .short_runs = short_runs, .looks = sparse_looks_most};
    slm_depot_lock(depot);
    look_for_sparse(depot, &sparse, false);
    look_for_sparse(depot, &sparse, true);
    if (sparse.looks == sparse_looks_most - 1) /* there is only one */
        sparse.number = 0;
    for (unsigned i = 0; i < sparse.number; i++)
        slm_partial_unlist(depot, slabs[i], SLM_SLAB_HELD);
    slm_lock_release(&depot->lock);
    return sparse.number;
}

bool slm_partial_count(struct slm_slab *slab, unsigned given)
{
    const unsigned objects = slab->objects; /* read first: once it is counted another thread may release the slab */
    const int32_t before = slm_slab_count(slab, given), after = before + (int32_t)given;
    return before == 0 || after == (int32_t)objects || bucket_of(before, objects) != bucket_of(after, objects);
}

struct slm_slab *_Atomic slm_depot_pending;

/* The end of the stack; a slab whose link is NULL is not in it. */
static struct slm_slab last_pending;

/* A thread that finds the slab on the stack already has counted before: the thread that takes it off clears the link,
 * and then looks at the count. Both sides are sequentially consistent, so that one sees the other. */
void slm_partial_pend(struct slm_slab *slab)
{
    struct slm_slab *none = NULL, *first = load_relaxed(&slm_depot_pending);
    slm_fence(); /* pairs with the exchange in slm_depot_relink_pending */
    if (!atomic_compare_exchange_strong(&slab->pending, &none, &last_pending))
        return;
    do
        store_relaxed(&slab->pending, first ? first : &last_pending);
    while (!atomic_compare_exchange_weak(&slm_depot_pending, &first, slab));
}

void slm_depot_relink_pending(void)
{
    struct slm_slab *slab = atomic_exchange(&slm_depot_pending, NULL), *next;
    for (; slab && slab != &last_pending; slab = next) {
        next = atomic_exchange(&slab->pending, NULL); /* before the look at the count: see pend */
        slm_partial_relink(slab);
    }
}

struct slm_slab *slm_partial_take_vacant(struct slm_depot *depot, bool all, bool *waiting)
{
    slm_depot_lock(depot);
    struct slm_slab *found = all || depot->vacant_seen ? depot->vacant : NULL;
    if (found) {
        store_relaxed(&depot->missed_vacant, false);
        slm_partial_unlist(depot, found, SLM_SLAB_OUT);
        store_relaxed(&found->owner, NULL);
    }
    *waiting = depot->vacant_seen = depot->vacant != NULL;
    slm_lock_release(&depot->lock);
    return found;
}

slm_unordered bool slm_depot_keeps_vacant(const struct slm_depot *depot)
{
    return depot->vacant != NULL;
}
