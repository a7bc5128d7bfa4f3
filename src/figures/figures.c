/* Figures; see figures.h. */
#include "figures/figures.h"

#include "deferred/retire.h"
#include "os/sys.h"
#include "os/topology.h"
#include "page/charge.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "percpu/percpu.h"
#include "slab/large.h"
#include "slab/pages.h"
#include "sync/epoch.h"
#include "thread/reserve.h"

/* Sums over the nodes from `first` to before `end`. */
struct sums {
    unsigned first, end;
    uint64_t threads, refills, drains, taken, remote_frees, caches;
    uint64_t out_bytes, cached_bytes; /* of small objects: out of slabs; of these, in magazines and stock */
    uint64_t large_bytes, kept_bytes; /* of large objects; of these, kept by threads */
    struct slm_retired_sums retired;
    struct slm_depot_counts depots;
    struct slm_span_figures spans;
};

/* The one table: NODE(name, value) is a figure of the process and of each node, PROCESS(name, value) of the process
 * alone. A figure is a field in the header, a row here, and the code that counts. */
#define FIGURES(PROCESS, NODE)                                                                                       \
    NODE(live_bytes, sums.out_bytes - slm_min(sums.out_bytes, sums.cached_bytes) + sums.large_bytes -                \
                         slm_min(sums.large_bytes, sums.kept_bytes))                                                 \
    NODE(cached_bytes, sums.cached_bytes + sums.kept_bytes)                                                          \
    NODE(dirty_bytes, sums.spans.dirty_bytes)                                                                        \
    NODE(purged_bytes, sums.spans.purged_bytes)                                                                      \
    NODE(reserved_bytes, sums.spans.mapped_bytes)                                                                    \
    PROCESS(metadata_bytes, slm_reservation_metadata_bytes())                                                        \
    PROCESS(refills, sums.refills)                                                                                   \
    PROCESS(drains, sums.drains)                                                                                     \
    NODE(depot_locks, sums.depots.locks)                                                                             \
    NODE(depot_contended, sums.depots.contended)                                                                     \
    NODE(slabs_made, sums.depots.made)                                                                               \
    NODE(slabs_released, sums.depots.released)                                                                       \
    NODE(purges, sums.spans.purges)                                                                                  \
    NODE(threads, sums.threads)                                                                                      \
    PROCESS(nodes, slm_nodes)                                                                                        \
    PROCESS(caches, sums.caches)                                                                                     \
    PROCESS(membarriers, load_relaxed(&slm_sys_membarriers))                                                         \
    PROCESS(grace_periods, slm_epoch_grace_periods())                                                                \
    PROCESS(deferred_bytes, load_relaxed(&slm_defer_queue_bytes) + sums.retired.bytes)                               \
    PROCESS(deferred_objects, load_relaxed(&slm_defer_queue_objects) + sums.retired.objects)                         \
    PROCESS(deferred_waits, load_relaxed(&slm_defer_queue_waits))                                                    \
    PROCESS(deferred_excesses, load_relaxed(&slm_defer_queue_excesses))                                              \
    PROCESS(deferred_unfreed, load_relaxed(&slm_defer_queue_unfreed))                                                \
    PROCESS(epoch_stalls, load_relaxed(&slm_epoch_stalls))                                                           \
    PROCESS(percpu_objects, percpu.objects)                                                                          \
    PROCESS(percpu_bytes, (percpu.units * SLM_PERCPU_UNIT))                                                          \
    PROCESS(percpu_mapped_bytes, percpu.mapped_bytes)                                                                \
    PROCESS(percpu_metadata_bytes, percpu.metadata_bytes)                                                            \
    NODE(remote_frees, sums.remote_frees)                                                                            \
    PROCESS(purged_idle_bytes, load_relaxed(&slm_purged_bytes[SLM_PURGE_IDLE]))                                      \
    PROCESS(purged_bound_bytes, load_relaxed(&slm_purged_bytes[SLM_PURGE_BOUND]))                                    \
    PROCESS(purged_pressure_bytes, load_relaxed(&slm_purged_bytes[SLM_PURGE_PRESSURE]))                              \
    PROCESS(purged_trim_bytes, load_relaxed(&slm_purged_bytes[SLM_PURGE_TRIM]))                                      \
    PROCESS(purged_limit_bytes, load_relaxed(&slm_purged_bytes[SLM_PURGE_LIMIT]))                                    \
    PROCESS(charged_bytes, load_relaxed(&slm_charge.bytes))                                                          \
    PROCESS(limit_bytes, limit_or_0(&slm_charge.limit))                                                              \
    PROCESS(soft_limit_bytes, limit_or_0(&slm_charge.soft))                                                          \
    PROCESS(limit_refusals, load_relaxed(&slm_charge.refusals))                                                      \
    PROCESS(purged_growth_bytes, load_relaxed(&slm_purged_bytes[SLM_PURGE_GROWTH]))                                  \
    PROCESS(metadata_charged_bytes, load_relaxed(&slm_charge.metadata))                                              \
    PROCESS(touched_again_bytes, load_relaxed(&slm_pages_touched_bytes))

#define WORD(struct_name, name) (offsetof(struct struct_name, name) / sizeof(uint64_t))
#define PROCESS_ROW(name, value) {WORD(slab_stats, name), SLM_FIGURE_OF_PROCESS, #name},
#define NODE_ROW(name, value) {WORD(slab_stats, name), WORD(slab_node_stats, name), #name},
#define NOTHING(name, value)
#define FIELD(name, value) .name = (value),
#define DECLARED(name, value) uint64_t name;

const struct slm_figure slm_figures[] = {FIGURES(PROCESS_ROW, NODE_ROW)};

struct of_nodes {
    FIGURES(NOTHING, DECLARED)
};
static_assert(sizeof(struct of_nodes) == sizeof(struct slab_node_stats), "a row for each field");

/* The counts of threads that have ended. Remote frees are by node, and include those of threads that have left it. */
static _Atomic uint64_t gone_refills, gone_drains, gone_taken;
static slm_sparse _Atomic uint64_t gone_remote[SLM_NODES_MAX];

void slm_figures_count_remote(unsigned node)
{
    add_relaxed(&gone_remote[node], 1);
}

void slm_figures_count_direct(void)
{
    add_relaxed(&gone_taken, 1);
}

void slm_figures_thread_moves(struct slm_thread *thread)
{
    add_relaxed(&gone_remote[load_relaxed(&thread->node)], load_relaxed(&thread->remote_frees));
    store_relaxed(&thread->remote_frees, 0);
}

void slm_figures_thread_ends(struct slm_thread *thread)
{
    add_relaxed(&gone_refills, load_relaxed(&thread->refills));
    add_relaxed(&gone_drains, load_relaxed(&thread->drains));
    add_relaxed(&gone_taken, load_relaxed(&thread->objects_taken));
    slm_figures_thread_moves(thread);
}

static bool has(const struct sums *sums, unsigned node)
{
    return node >= sums->first && node < sums->end;
}

static slm_seldom void add_thread(struct slm_thread *thread, void *context)
{
    struct sums *sums = context;
    const bool here = has(sums, load_relaxed(&thread->node));
    sums->kept_bytes += slm_kept_bytes(&thread->kept, sums->first, sums->end);
    slm_for_each_slot (n, &thread->used) {
        const struct slm_cache *cache = slm_cache_of(n);
        const uint64_t local = here ? slm_thread_rounds(thread, n) : 0;
        if (cache)
            sums->cached_bytes +=
                (local + slm_remote_rounds(thread, n, sums->first, sums->end)) * cache->shape.object_size;
    }
    if (!here)
        return;
    sums->threads += !thread->helper && slm_thread_tls(thread) != &slm_gone_tls;
    sums->refills += load_relaxed(&thread->refills);
    sums->drains += load_relaxed(&thread->drains);
    sums->taken += load_relaxed(&thread->objects_taken);
    sums->remote_frees += load_relaxed(&thread->remote_frees);
    sums->cached_bytes += slm_reserve_bytes(thread);
    slm_retire_count(thread, &sums->retired);
}

static slm_seldom void add_cache(struct slm_cache *cache, void *context)
{
    struct sums *sums = context;
    sums->caches += !slm_cache_is_class(cache);
    slm_for_each_depot (depot, cache) {
        if (!has(sums, depot->node))
            continue;
        sums->out_bytes += load_relaxed(&depot->objects_out) * cache->shape.object_size;
        sums->cached_bytes += load_relaxed(&depot->stock_rounds) * cache->shape.object_size;
        slm_depot_add_counts(depot, &sums->depots);
    }
}

/* The counts of threads that have ended, and of destroyed caches. */
static slm_seldom void add_gone(struct sums *sums)
{
    sums->refills = load_relaxed(&gone_refills);
    sums->drains = load_relaxed(&gone_drains);
    sums->taken = load_relaxed(&gone_taken);
    for (unsigned node = sums->first; node < sums->end; node++) {
        sums->remote_frees += load_relaxed(&gone_remote[node]);
        sums->depots.locks += slm_cache_gone[node].locks;
        sums->depots.contended += slm_cache_gone[node].contended;
        sums->depots.made += slm_cache_gone[node].made;
        sums->depots.released += slm_cache_gone[node].released;
    }
}

static slm_seldom uint64_t limit_or_0(const _Atomic uint64_t *limit)
{
    return load_relaxed(limit) == UINT64_MAX ? 0 : load_relaxed(limit);
}

static slm_seldom struct sums sum_nodes(unsigned first, unsigned end)
{
    struct sums sums = {.first = first, .end = end, .caches = SLM_CLASSES};
    slm_cache_lock();
    add_gone(&sums);
    slm_thread_list_foreach(add_thread, &sums);
    slm_cache_each(add_cache, &sums);
    slm_cache_unlock();
    for (unsigned area = 0; area < slm_area_count(); area++) {
        const unsigned node = slm_node_of_area(area);
        if (has(&sums, node < slm_nodes ? node : 0)) { /* as slm_magazine_home */
            slm_span_add_figures(area, &sums.spans);
            sums.large_bytes += slm_large_area_bytes(area);
        }
    }
    return sums;
}

slm_seldom void slm_figures_gather(struct slab_stats *out)
{
    const struct sums sums = sum_nodes(0, slm_nodes);
    struct slm_percpu_figures percpu;
    slm_percpu_count(&percpu);
    *out = (struct slab_stats){FIGURES(FIELD, FIELD)};
}

slm_seldom bool slm_figures_gather_node(int node, struct slab_node_stats *out)
{
    if (node < 0 || (unsigned)node >= slm_nodes)
        return false;
    const struct sums sums = sum_nodes((unsigned)node, (unsigned)node + 1);
    *out = (struct slab_node_stats){FIGURES(NOTHING, FIELD)};
    return true;
}

slm_seldom uint64_t slm_figures_objects_taken(void)
{
    return sum_nodes(0, slm_nodes).taken;
}
