/* Figures; see figures.h. */
#include "figures/figures.h"

#include "epoch/retire.h"
#include "os/sys.h"
#include "os/topology.h"
#include "percpu/percpu.h"
#include "slab/large.h"
#include "sync/epoch.h"
#include "thread/reserve.h"

/* Of threads that have ended; and remote frees of those that have left a node, too. */
static _Atomic uint64_t retired_refills, retired_drains, retired_taken, retired_remote[SLM_NODES_MAX];

/* What threads and depots of the nodes from `first` on, up to `end`, add up to. */
struct sums {
    unsigned first, end;
    uint64_t threads, refills, drains, taken, cached_bytes, remote_frees;
    struct slm_retired_sums retired;
    uint64_t caches, out_bytes, stock_bytes;
    struct slm_depot_counts counts;
};

static void add_thread(struct slm_thread *thread, void *context)
{
    struct sums *sums = context;
    const unsigned node = load_relaxed(&thread->node);
    const bool here = node >= sums->first && node < sums->end;
    for (unsigned n = slm_slot_next(thread, 0); n < SLM_NUMBERS; n = slm_slot_next(thread, n + 1)) {
        const struct slm_cache *cache = slm_cache_of(n);
        const uint64_t local = here ? slm_thread_rounds(thread, n) : 0;
        if (cache)
            sums->cached_bytes +=
                (local + slm_remote_rounds(thread, n, sums->first, sums->end)) * cache->shape.object_size;
    }
    if (!here)
        return;
    sums->threads += !thread->helper;
    sums->refills += load_relaxed(&thread->refills);
    sums->drains += load_relaxed(&thread->drains);
    sums->taken += load_relaxed(&thread->objects_taken);
    sums->remote_frees += load_relaxed(&thread->remote_frees);
    sums->cached_bytes += slm_reserve_bytes(thread);
    slm_retire_count(thread, &sums->retired);
}

static void add_threads(struct sums *sums)
{
    sums->refills = load_relaxed(&retired_refills);
    sums->drains = load_relaxed(&retired_drains);
    sums->taken = load_relaxed(&retired_taken);
    for (unsigned node = sums->first; node < sums->end; node++)
        sums->remote_frees += load_relaxed(&retired_remote[node]);
    slm_thread_list_foreach(add_thread, sums);
}

void slm_figures_thread_moves(struct slm_thread *thread)
{
    add_relaxed(&retired_remote[load_relaxed(&thread->node)], load_relaxed(&thread->remote_frees));
    store_relaxed(&thread->remote_frees, 0);
}

void slm_figures_thread_ends(struct slm_thread *thread)
{
    add_relaxed(&retired_refills, load_relaxed(&thread->refills));
    add_relaxed(&retired_drains, load_relaxed(&thread->drains));
    add_relaxed(&retired_taken, load_relaxed(&thread->objects_taken));
    slm_figures_thread_moves(thread);
}

void slm_figures_count_remote(unsigned node)
{
    add_relaxed(&retired_remote[node], 1);
}

static void add_cache(struct slm_cache *cache, void *context)
{
    struct sums *sums = context;
    sums->caches++;
    for (unsigned node = sums->first; node < sums->end; node++) {
        struct slm_depot *depot = slm_cache_depot_made(cache, node);
        if (!depot)
            continue;
        sums->out_bytes += load_relaxed(&depot->objects_out) * cache->shape.object_size;
        sums->stock_bytes += load_relaxed(&depot->stock_rounds) * cache->shape.object_size;
        slm_depot_add_counts(depot, &sums->counts);
    }
}

static void add_gone(const struct slm_depot_counts *gone, struct slm_depot_counts *sums)
{
    sums->locks += gone->locks;
    sums->contended += gone->contended;
    sums->made += gone->made;
    sums->released += gone->released;
}

static struct sums sum_nodes(unsigned first, unsigned end)
{
    struct sums sums = {.first = first, .end = end};
    slm_fork_check();
    slm_cache_lock();
    add_threads(&sums);
    slm_cache_each(add_cache, &sums);
    for (unsigned node = first; node < end; node++)
        add_gone(&slm_cache_gone[node], &sums.counts);
    slm_cache_unlock();
    return sums;
}

static uint64_t cached_bytes(const struct sums *sums)
{
    return sums->stock_bytes + sums->cached_bytes;
}

static uint64_t live_small_bytes(const struct sums *sums)
{
    const uint64_t cached = cached_bytes(sums);
    return sums->out_bytes > cached ? sums->out_bytes - cached : 0;
}

slm_seldom void slm_figures_gather(struct slab_stats *out)
{
    struct slm_span_figures spans = {0};
    struct slm_percpu_figures percpu;
    const struct sums sums = sum_nodes(0, slm_nodes);
    for (unsigned area = 0; area < slm_reservation_areas(); area++)
        slm_span_add_figures(area, &spans);
    slm_percpu_count(&percpu);
    *out = (struct slab_stats){
        .live_bytes = live_small_bytes(&sums) + slm_large_live_bytes(),
        .cached_bytes = cached_bytes(&sums),
        .dirty_bytes = spans.dirty_bytes,
        .purged_bytes = spans.purged_bytes,
        .reserved_bytes = slm_reservation_heap_bytes(),
        .deferred_bytes = load_relaxed(&slm_ring_bytes) + sums.retired.bytes,
        .deferred_objects = load_relaxed(&slm_ring_objects) + sums.retired.objects,
        .deferred_waits = load_relaxed(&slm_ring_waits),
        .deferred_excesses = load_relaxed(&slm_ring_excesses),
        .deferred_unfreed = load_relaxed(&slm_ring_unfreed),
        .epoch_stalls = load_relaxed(&slm_epoch_stalls),
        .grace_periods = slm_epoch_grace_periods(),
        .membarriers = load_relaxed(&slm_sys_membarriers),
        .metadata_bytes = slm_reservation_metadata_bytes(),
        .refills = sums.refills,
        .drains = sums.drains,
        .depot_locks = sums.counts.locks,
        .depot_contended = sums.counts.contended,
        .slabs_made = sums.counts.made,
        .slabs_released = sums.counts.released,
        .purges = spans.purges,
        .threads = slm_thread_list_count(),
        .nodes = slm_nodes,
        .caches = sums.caches,
        .percpu_objects = percpu.objects,
        .percpu_bytes = percpu.units * SLM_PERCPU_UNIT,
        .percpu_mapped_bytes = percpu.mapped_bytes,
        .percpu_metadata_bytes = percpu.metadata_bytes,
        .remote_frees = sums.remote_frees,
    };
}

/* As slm_magazine_home. */
static unsigned home_of_area(unsigned area)
{
    const unsigned node = slm_node_of_area(area);
    return node < slm_nodes ? node : 0;
}

slm_seldom bool slm_figures_gather_node(int node, struct slab_node_stats *out)
{
    struct slm_span_figures spans = {0};
    if (node < 0 || (unsigned)node >= slm_nodes)
        return false;
    const struct sums sums = sum_nodes((unsigned)node, (unsigned)node + 1);
    uint64_t large_bytes = 0;
    for (unsigned area = 0; area < slm_reservation_areas(); area++) {
        if (home_of_area(area) != (unsigned)node)
            continue;
        slm_span_add_figures(area, &spans);
        large_bytes += slm_large_area_bytes(area);
    }
    *out = (struct slab_node_stats){
        .live_bytes = live_small_bytes(&sums) + large_bytes,
        .cached_bytes = cached_bytes(&sums),
        .dirty_bytes = spans.dirty_bytes,
        .purged_bytes = spans.purged_bytes,
        .reserved_bytes = spans.mapped_bytes,
        .slabs_made = sums.counts.made,
        .slabs_released = sums.counts.released,
        .purges = spans.purges,
        .depot_locks = sums.counts.locks,
        .depot_contended = sums.counts.contended,
        .remote_frees = sums.remote_frees,
        .threads = sums.threads,
    };
    return true;
}

uint64_t slm_figures_objects_taken(void)
{
    struct sums sums = {.end = slm_nodes};
    add_threads(&sums);
    return sums.taken + slm_large_made();
}
