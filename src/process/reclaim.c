/* What goes back, and when; see reclaim.h.
 *
 * Depots keep their working set: magazines that were not missed for an interval are surplus (Bonwick and Adams). So
 * are spans that stayed dirty for `purge_delay_ms`, and four times as long where falls of use repeat. Where nobody
 * may look again a fall leaves little more dirty than a share of what is in use. Where address space is scarce, the
 * bound is a sixteenth of the heap and holds for all memory that becomes free: the program's own mappings and
 * threads' stacks cannot wait for a delay. */
#include "process/reclaim.h"

#include "base/options.h"
#include "depot/cache_name.h"
#include "depot/pending_slabs.h"
#include "depot/sweep.h"
#include "os/sys.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "page/reservation.h"
#include "percpu/percpu.h"
#include "slab/large.h"
#include "thread/ownership.h"

enum { scarce_dirty_least = 4 << 20, repeating_delays = 4 };

struct trimming {
    bool all, found;
    enum slm_purge_reason reason;
    size_t purged;
};

static void trim_depot(struct slm_depot *depot, struct trimming *trimming)
{
    trimming->found |= slm_depot_trim(depot, trimming->all);
    const size_t bytes = slm_depot_sweep(depot, trimming->all);
    if (bytes > 0)
        slm_purge_count(slm_area_for_slabs(depot->node), bytes, trimming->reason);
    trimming->purged += bytes;
}

static void trim_cache(struct slm_cache *cache, void *trimming)
{
    slm_for_each_depot (depot, cache)
        if (slm_depot_slabs(depot) > 0 || load_relaxed(&depot->stock_rounds) > 0) /* perhaps of another's slabs */
            trim_depot(depot, trimming);
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

/* Nobody may look again: what will not be wanted goes, `all` of it or down to a share of what is in use. */
static void leave(uint64_t now_ms, bool all, enum slm_purge_reason reason)
{
    struct trimming trimming = {.all = true, .reason = reason};
    const bool repeats = slm_demand_repeats(now_ms, true);
    if (!repeats)
        trim_depots(&trimming, false);
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
    uint64_t in_slabs, in_stock; /* bytes of free objects */
    size_t most, purged;
    unsigned bucket;
};

/* No class is ever unmade: this takes no mutex. */
static slm_seldom void each_class_depot(void (*visit)(struct slm_depot *depot, struct growth *growth),
                                        struct growth *growth)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_cache *cache = load_acquire(&slm_class_caches[class]); /* pairs with slm_class_cache_make */
        if (cache)
            slm_for_each_depot (depot, cache)
                visit(depot, growth);
    }
}

static slm_for_few void add_free(struct slm_depot *depot, struct growth *growth)
{
    const uint64_t out = load_relaxed(&depot->objects_out), all = slm_depot_slabs(depot) * depot->shape->objects;
    growth->in_slabs += (all - slm_min(all, out)) * depot->shape->object_size;
    growth->in_stock += load_relaxed(&depot->stock_rounds) * depot->shape->object_size;
}

static slm_for_few void trim_idle(struct slm_depot *depot, struct growth *growth)
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

/* What a look leaves in slabs is among live objects. Only what has become free since then is worth another one: so a
 * program that just grows, whatever it has free, pays next to nothing. */
slm_seldom void slm_reclaim_grown(void)
{
    static _Atomic uint64_t left;
    const uint64_t grown = slm_demand_take_growth();
    if (grown == 0)
        return;
    struct growth now = {.most = (size_t)grown * 2}, after = {0};
    each_class_depot(add_free, &now);
    if (now.in_slabs < load_relaxed(&left))
        store_relaxed(&left, now.in_slabs);
    if (now.in_slabs + now.in_stock - slm_min(load_relaxed(&left), now.in_slabs) < grown / 4)
        return;
    if (load_relaxed(&slm_depot_pending))
        slm_depot_relink_pending();
    each_class_depot(trim_idle, NULL);
    for (now.bucket = SLM_DEPOT_BUCKETS; now.bucket-- > 0;) /* the sparsest slabs first */
        each_class_depot(sweep_bucket, &now);
    each_class_depot(add_free, &after);
    store_relaxed(&left, now.purged < now.most ? after.in_slabs : 0);
}

/* A small process is small whatever it keeps, and threads that come and go pay nothing in it. */
slm_cold void slm_reclaim_alone(void)
{
    if (slm_demand_used() + slm_span_dirty_bytes() >= slm_options.dirty_bytes)
        leave(slm_sys_now_ms(), true, SLM_PURGE_IDLE);
}

bool slm_reclaim_due(uint64_t now_ms, bool helped)
{
    static _Atomic uint64_t purge_due, trim_due;
    struct trimming trimming = {.all = false, .reason = SLM_PURGE_IDLE};
    bool done = false;
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    if (slm_reclaim_claim(&trim_due, now_ms, SLM_RECLAIM_INTERVAL_MS)) {
        done |= !trim_depots(&trimming, false) || trimming.found;
        done |= slm_percpu_trim(false);
    }
    const uint64_t delay_ms = slm_options.purge_delay_ms * (slm_demand_repeats(now_ms, false) ? repeating_delays : 1);
    if (slm_span_dirty_bytes() > 0 && slm_reclaim_claim(&purge_due, now_ms, delay_ms))
        done |= slm_span_purge_surplus(helped) > 0;
    slm_reclaim_excess();
    return done;
}

size_t slm_reclaim_all(bool wait, enum slm_purge_reason reason)
{
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    struct trimming trimming = {.all = true, .reason = reason};
    trim_depots(&trimming, wait);
    slm_percpu_trim(true);
    return trimming.purged + (slm_span_scarce() ? slm_span_unmap_free(reason) : slm_span_purge(0, reason));
}
