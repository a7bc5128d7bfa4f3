/* Figures; see stats.h. */
#include "heap/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"
#include "os/topology.h"
#include "slab/large.h"
#include "epoch/retire.h"
#include "percpu/percpu.h"
#include "sync/epoch.h"
#include "thread/reserve.h"
#include "thread/thread_list.h"

static _Atomic uint64_t retired_refills, retired_drains, retired_taken;

struct thread_sums {
    uint64_t refills, drains, taken, cached_bytes;
    struct slm_retired_sums retired;
};

static void add_thread(struct slm_thread *thread, void *context)
{
    struct thread_sums *sums = context;
    sums->refills += load_relaxed(&thread->refills);
    sums->drains += load_relaxed(&thread->drains);
    sums->taken += load_relaxed(&thread->objects_taken);
    sums->cached_bytes += slm_reserve_bytes(thread);
    slm_retire_count(thread, &sums->retired);
    for (unsigned n = slm_slot_next(thread, 0); n < SLM_NUMBERS; n = slm_slot_next(thread, n + 1)) {
        const struct slm_cache *cache = slm_cache_of(n);
        if (cache)
            sums->cached_bytes += slm_thread_rounds(thread, n) * cache->shape.object_size;
    }
}

static struct thread_sums sum_threads(void)
{
    struct thread_sums sums = {
        load_relaxed(&retired_refills), load_relaxed(&retired_drains), load_relaxed(&retired_taken), 0, {0, 0}};
    slm_thread_list_foreach(add_thread, &sums);
    return sums;
}

void slm_stats_retire(const struct slm_thread *thread)
{
    add_relaxed(&retired_refills, load_relaxed(&thread->refills));
    add_relaxed(&retired_drains, load_relaxed(&thread->drains));
    add_relaxed(&retired_taken, load_relaxed(&thread->objects_taken));
}

struct depot_sums {
    uint64_t caches, out_bytes, stock_bytes, exchanges, made, released;
};

static void add_cache(struct slm_cache *cache, void *context)
{
    struct depot_sums *sums = context;
    sums->caches++;
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct slm_depot *depot = slm_cache_depot_made(cache, node);
        if (!depot)
            continue;
        sums->out_bytes += load_relaxed(&depot->objects_out) * cache->shape.object_size;
        sums->stock_bytes += load_relaxed(&depot->stock_rounds) * cache->shape.object_size;
        sums->exchanges += load_relaxed(&depot->exchanges);
        sums->made += load_relaxed(&depot->slabs_made);
        sums->released += load_relaxed(&depot->slabs_released);
    }
}

slm_seldom void slm_stats_gather(struct slab_stats *out)
{
    struct depot_sums depots = {0};
    struct slm_span_figures spans;
    struct slm_percpu_figures percpu;
    slm_fork_check();
    slm_cache_lock();
    const struct thread_sums threads = sum_threads();
    slm_cache_each(add_cache, &depots);
    slm_cache_unlock();
    slm_span_get_figures(&spans);
    slm_percpu_count(&percpu);
    const uint64_t cached = depots.stock_bytes + threads.cached_bytes;
    *out = (struct slab_stats){
        .live_bytes = (depots.out_bytes > cached ? depots.out_bytes - cached : 0) + slm_large_live_bytes(),
        .cached_bytes = cached,
        .dirty_bytes = spans.dirty_bytes,
        .purged_bytes = spans.purged_bytes,
        .reserved_bytes = slm_reservation_heap_bytes(),
        .deferred_bytes = load_relaxed(&slm_ring_bytes) + threads.retired.bytes,
        .deferred_objects = load_relaxed(&slm_ring_objects) + threads.retired.objects,
        .deferred_waits = load_relaxed(&slm_ring_waits),
        .deferred_excesses = load_relaxed(&slm_ring_excesses),
        .deferred_unfreed = load_relaxed(&slm_ring_unfreed),
        .epoch_stalls = load_relaxed(&slm_epoch_stalls),
        .grace_periods = slm_epoch_grace_periods(),
        .membarriers = load_relaxed(&slm_sys_membarriers),
        .metadata_bytes = slm_reservation_metadata_bytes(),
        .refills = threads.refills,
        .drains = threads.drains,
        .depot_locks = depots.exchanges,
        .depot_contended = load_relaxed(&slm_lock_contended),
        .slabs_made = depots.made,
        .slabs_released = depots.released,
        .purges = spans.purges,
        .threads = slm_thread_list_count(),
        .nodes = slm_nodes,
        .caches = depots.caches,
        .percpu_objects = percpu.objects,
        .percpu_bytes = percpu.units * SLM_PERCPU_UNIT,
        .percpu_mapped_bytes = percpu.mapped_bytes,
        .percpu_metadata_bytes = percpu.metadata_bytes,
    };
}

uint64_t slm_stats_objects_taken(void)
{
    return sum_threads().taken + slm_large_made();
}

static const struct figure {
    const char *name;
    size_t offset;
} figures[] = {
#define FIGURE(field)                                                                                                \
    {                                                                                                                \
#field, offsetof(struct slab_stats, field)                                                                   \
    }
    FIGURE(live_bytes),
    FIGURE(cached_bytes),
    FIGURE(dirty_bytes),
    FIGURE(purged_bytes),
    FIGURE(reserved_bytes),
    FIGURE(metadata_bytes),
    FIGURE(refills),
    FIGURE(drains),
    FIGURE(depot_locks),
    FIGURE(depot_contended),
    FIGURE(slabs_made),
    FIGURE(slabs_released),
    FIGURE(purges),
    FIGURE(threads),
    FIGURE(nodes),
    FIGURE(caches),
    FIGURE(membarriers),
    FIGURE(grace_periods),
    FIGURE(deferred_bytes),
    FIGURE(deferred_objects),
    FIGURE(deferred_waits),
    FIGURE(deferred_excesses),
    FIGURE(deferred_unfreed),
    FIGURE(epoch_stalls),
    FIGURE(percpu_objects),
    FIGURE(percpu_bytes),
    FIGURE(percpu_mapped_bytes),
    FIGURE(percpu_metadata_bytes),
};

enum { figures_count = sizeof figures / sizeof figures[0] };

static uint64_t figure_of(const struct slab_stats *stats, size_t i)
{
    return *(const uint64_t *)((const char *)stats + figures[i].offset);
}

static slm_seldom void report_text(const struct slab_stats *stats)
{
    for (size_t i = 0; i < figures_count; i++) {
        struct slm_line line = {0};
        slm_line_text(&line, "slabmalloc: ");
        slm_line_text(&line, figures[i].name);
        slm_line_text(&line, " ");
        slm_line_number(&line, figure_of(stats, i));
        slm_line_write(&line, STDERR_FILENO);
    }
}

/* One line in one write, so that the processes of a server may share the file. */
static slm_seldom void report_json(const struct slab_stats *stats)
{
    int kept = errno, file = open(slm_options.stats_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) {
        errno = kept;
        return;
    }
    char program[32] = "?";
    if (slm_sys_read_file("/proc/self/comm", program, sizeof program))
        for (char *c = program; *c; c++)
            *c = *c == '\n' ? 0 : (*c == '"' || *c == '\\') ? '?' : *c;
    struct slm_line line = {0};
    slm_line_text(&line, "{\"pid\": ");
    slm_line_number(&line, (uint64_t)getpid());
    slm_line_text(&line, ", \"program\": \"");
    slm_line_text(&line, program);
    slm_line_text(&line, "\", \"objects_taken\": ");
    slm_line_number(&line, slm_stats_objects_taken());
    for (size_t i = 0; i < figures_count; i++) {
        slm_line_text(&line, ", \"");
        slm_line_text(&line, figures[i].name);
        slm_line_text(&line, "\": ");
        slm_line_number(&line, figure_of(stats, i));
    }
    slm_line_text(&line, "}");
    slm_line_write(&line, file);
    close(file);
    errno = kept;
}

slm_seldom void slm_stats_report(void)
{
    struct slab_stats stats;
    if (!slm_options.stats && !slm_options.stats_file[0])
        return;
    slm_stats_gather(&stats);
    if (slm_options.stats)
        report_text(&stats);
    if (slm_options.stats_file[0])
        report_json(&stats);
}
