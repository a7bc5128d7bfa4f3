/* What goes back, and when; see reclaim.h.
 *
 * Depots keep their working set: magazines that were not missed for an interval are surplus (Bonwick and Adams). So
 * are spans that stayed dirty for `purge_delay_ms`, and four times as long where falls of use repeat. A depot that is
 * still for two delays keeps nothing, and the slabs that it makes vacant do not wait as dirty spans again. Where
 * nobody may look again a fall leaves little more dirty than a share of what is in use. Where address space is
 * scarce, the bound is a sixteenth of the heap and holds for all memory that becomes free: the program's own mappings
 * and threads' stacks cannot wait for a delay. */
#include "process/reclaim.h"

#include "base/options.h"
#include "depot/cache_name.h"
#include "depot/pending_slabs.h"
#include "depot/sweep.h"
#include "os/sys.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/huge.h"
#include "page/reservation.h"
#include "page/span_alloc.h"
#include "percpu/percpu.h"
#include "process/legacy.h"
#include "slab/large.h"
#include "thread/gather.h"
#include "thread/ownership.h"
#include "thread/thread_cache.h"

enum {
    scarce_dirty_least = 4 << 20,
    repeating_delays = 4,
    look_least_ms = 20,
    growth_dirty_share = 6,
    sweep_least = 4 << 20
};

struct trimming {
    bool all, surplus; /* else only of depots that are still */
    bool look;         /* a next one, whether they are */
    bool found;
    enum slm_purge_reason reason;
    size_t purged;
};

static void trim_depot(struct slm_cache *cache, struct slm_depot *depot, bool all, struct trimming *trimming)
{
    const uint64_t stock = load_relaxed(&depot->stock_rounds);
    trimming->found |= slm_depot_trim(depot, all);
    if (all)
        slm_cache_forget_stock(cache);
    else if (load_relaxed(&depot->stock_rounds) < stock)
        slm_cache_narrow_stock(cache);
    const size_t bytes = slm_depot_sweep(depot, all);
    if (bytes > 0)
        slm_purge_count(slm_area_for_slabs(depot->node), bytes, trimming->reason);
    trimming->purged += bytes;
}

static void trim_cache(struct slm_cache *cache, void *context)
{
    struct trimming *trimming = context;
    if (trimming->all && slm_cache_has_shards(cache))
        slm_gather_from_depots(cache);
    slm_for_each_depot (depot, cache) {
        const bool all = slm_depot_is_still(depot, trimming->look) || trimming->all;
        if ((all || trimming->surplus) &&
            (slm_depot_slabs(depot) > 0 || load_relaxed(&depot->stock_rounds) > 0)) /* perhaps of another's slabs */
            trim_depot(cache, depot, all, trimming);
    }
}

/* False: it should be tried again, as the mutex is held and the caller does not `wait`. */
static bool trim_depots(struct trimming *trimming, bool wait)
{
    if (load_relaxed(&slm_depot_pending))
        slm_depot_relink_pending();
    if (wait)
        slm_cache_lock();
    else if (!slm_cache_try_lock())
        return false;
    slm_cache_each(trim_cache, trimming);
    if (slm_cache_name_some_leave())
        slm_cache_name_sweep(slm_take_recalled());
    slm_cache_unlock();
    trimming->found |= slm_pending_slabs_poll() || trimming->purged > 0;
    return true;
}

void slm_reclaim_excess(void)
{
    const uint64_t most = slm_max(scarce_dirty_least, slm_reservation_heap_bytes() / 16);
    if (slm_span_scarce() && slm_span_dirty_bytes() > most)
        slm_span_purge(most / 2, SLM_PURGE_BOUND);
}

/* Call that on the calling thread's block, if it has one and it is free. */
static void with_own_block(void (*work)(struct slm_thread *self))
{
    if (load_relaxed(&slm_tls.busy)) /* in a handler, whose thread is in a slow path */
        return;
    struct slm_thread *self = slm_thread_hide();
    if (self)
        work(self);
    slm_thread_unhide(self);
}

static void release_kept(struct slm_thread *self)
{
    slm_kept_release(&self->kept);
}

/* Nobody may look again: what will not be wanted goes, `all` of it or down to a share of what is in use. */
static void leave(uint64_t now_ms, bool all, enum slm_purge_reason reason)
{
    struct trimming trimming = {.all = true, .reason = reason};
    const bool repeats = slm_demand_repeats(now_ms, true);
    with_own_block(release_kept);
    if (!repeats) {
        slm_legacy_bury(true);
        trim_depots(&trimming, false);
    }
    const uint64_t keep = all && !repeats ? 0 : slm_demand_keep(now_ms);
    if (slm_span_dirty_bytes() > keep)
        slm_span_purge(keep, reason);
}

void slm_reclaim_fallen(bool helped)
{
    const uint64_t now = slm_sys_now_ms();
    slm_demand_look(now);
    if (!helped)
        leave(now, false, SLM_PURGE_BOUND);
}

struct growth {
    int64_t in_slabs; /* bytes of free objects */
    size_t most, purged;
    unsigned bucket;
};

/* No class is ever unmade: this takes no mutex. */
static void each_class_depot(void (*visit)(struct slm_depot *depot, struct growth *growth), struct growth *growth)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_cache *cache = load_acquire(&slm_class_caches[class]); /* pairs with slm_class_cache_make */
        if (cache)
            slm_for_each_depot (depot, cache)
                visit(depot, growth);
    }
}

static void add_free(struct slm_depot *depot, struct growth *growth)
{
    const uint64_t all = slm_depot_slabs(depot) * depot->shape->objects;
    growth->in_slabs += (int64_t)((all - slm_depot_taken(depot)) * depot->shape->object_size);
}

/* Of a single shard it may be less than none. */
static uint64_t free_in_slabs(void)
{
    struct growth sum = {0};
    each_class_depot(add_free, &sum);
    return sum.in_slabs > 0 ? (uint64_t)sum.in_slabs : 0;
}

static void trim_idle(struct slm_depot *depot, struct growth *growth)
{
    (void)growth;
    slm_depot_trim_idle(depot);
}

static slm_for_few void sweep_bucket(struct slm_depot *depot, struct growth *growth)
{
    if (growth->purged >= growth->most)
        return;
    const size_t bytes = slm_depot_sweep_bucket(depot, growth->bucket, growth->most - growth->purged);
    if (bytes > 0)
        slm_purge_count(slm_area_for_slabs(depot->node), bytes, SLM_PURGE_GROWTH);
    growth->purged += bytes;
}

/* Dirty spans make up for so many bytes taken elsewhere, oldest first. `most`: so many stay. */
static slm_for_few __attribute__((noinline)) size_t purge_in_exchange(uint64_t bytes, uint64_t most)
{
    const uint64_t dirty = slm_span_dirty_bytes(), keep = slm_max(most, dirty - slm_min(dirty, bytes));
    return dirty > keep ? slm_span_purge(keep, SLM_PURGE_GROWTH) : 0;
}

static _Atomic uint64_t left, unswept;

static slm_seldom void sweep_classes(struct growth *now)
{
    if (load_relaxed(&slm_depot_pending))
        slm_depot_relink_pending();
    for (now->bucket = SLM_DEPOT_BUCKETS; now->bucket-- > 0;) /* the sparsest slabs first */
        each_class_depot(sweep_bucket, now);
    store_relaxed(&left, now->purged < now->most ? free_in_slabs() : 0);
}

/* What a sweep leaves in slabs is among live objects. Only what has become free since then is worth another one: so a
 * program that just grows, whatever it has free, pays next to nothing. */
static void sweep_for(uint64_t grown)
{
    struct growth now = {.most = (size_t)grown * 2};
    const uint64_t in_slabs = free_in_slabs();
    if (in_slabs < load_relaxed(&left))
        store_relaxed(&left, in_slabs);
    if (in_slabs - load_relaxed(&left) >= grown / 4)
        sweep_classes(&now);
}

slm_for_few void slm_reclaim_replaced(uint64_t bytes)
{
    purge_in_exchange(bytes, 0);
}

/* Sweeping comes last, and seldom: frees into swept slabs are slow. */
void slm_reclaim_grown(void)
{
    const uint64_t grown = slm_demand_take_growth(), most = slm_demand_used() / growth_dirty_share;
    if (grown == 0)
        return;
    const uint64_t unfit = atomic_exchange(&slm_span_unfit_bytes, 0);
    const size_t purged = unfit > 0 && slm_span_dirty_bytes() > most ? purge_in_exchange(unfit, most) : 0;
    with_own_block(slm_thread_cool);
    slm_legacy_bury(false);
    each_class_depot(trim_idle, NULL);
    const uint64_t more = grown - slm_min(grown, purged);
    if (add_relaxed(&unswept, more) + more >= sweep_least)
        sweep_for(atomic_exchange(&unswept, 0));
}

/* A small process is small whatever it keeps, and threads that come and go pay nothing in it. */
slm_cold void slm_reclaim_alone(void)
{
    if (slm_demand_used() + slm_span_dirty_bytes() >= slm_setting(dirty_bytes))
        leave(slm_sys_now_ms(), true, SLM_PURGE_IDLE);
}

/* Slabs that nobody has needed for two delays do not wait again. */
static bool trim_surplus(struct trimming *trimming, uint64_t delay_ms)
{
    const uint64_t dirty_bytes = slm_span_dirty_bytes();
    const bool done = !trim_depots(trimming, false) || trimming->found;
    if (slm_span_dirty_bytes() > dirty_bytes && (!trimming->surplus || 2 * delay_ms <= SLM_RECLAIM_INTERVAL_MS))
        slm_span_purge(dirty_bytes, SLM_PURGE_IDLE);
    return done;
}

bool slm_reclaim_due(uint64_t now_ms, bool helped, bool parked)
{
    static _Atomic uint64_t purge_due, trim_due, look_due;
    const uint64_t delay_ms =
        slm_setting(purge_delay_ms) * (slm_demand_repeats(now_ms, false) ? repeating_delays : 1);
    struct trimming trimming = {.reason = SLM_PURGE_IDLE};
    bool done = false;
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    trimming.surplus = slm_reclaim_claim(&trim_due, now_ms, SLM_RECLAIM_INTERVAL_MS);
    trimming.look = slm_reclaim_claim(&look_due, now_ms, slm_max(delay_ms, look_least_ms));
    if (trimming.look)
        slm_legacy_bury(false);
    if (trimming.surplus || trimming.look || parked)
        done = trim_surplus(&trimming, delay_ms);
    if (trimming.surplus) {
        done |= slm_percpu_trim(false);
        done |= slm_demand_used() >= slm_huge_least && slm_huge_pass(now_ms, helped);
    }
    if (slm_span_dirty_bytes() > 0 && slm_reclaim_claim(&purge_due, now_ms, delay_ms))
        done |= slm_span_purge_surplus(helped) > 0;
    slm_reclaim_excess();
    return done;
}

slm_seldom size_t slm_reclaim_all(bool wait, enum slm_purge_reason reason)
{
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    struct trimming trimming = {.all = true, .reason = reason};
    trim_depots(&trimming, wait);
    slm_percpu_trim(true);
    return trimming.purged + (slm_span_scarce() ? slm_span_unmap_free(reason) : slm_span_purge(0, reason));
}
