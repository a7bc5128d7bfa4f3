/* Figures; see stats.h. */
#include "heap/stats.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"
#include "os/topology.h"
#include "slab/large.h"
#include "deferred/retire.h"
#include "percpu/percpu.h"
#include "sync/epoch.h"
#include "thread/reserve.h"
#include "thread/thread_list.h"

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

void slm_stats_move(struct slm_thread *thread)
{
    add_relaxed(&retired_remote[load_relaxed(&thread->node)], load_relaxed(&thread->remote_frees));
    store_relaxed(&thread->remote_frees, 0);
}

void slm_stats_retire(struct slm_thread *thread)
{
    add_relaxed(&retired_refills, load_relaxed(&thread->refills));
    add_relaxed(&retired_drains, load_relaxed(&thread->drains));
    add_relaxed(&retired_taken, load_relaxed(&thread->objects_taken));
    slm_stats_move(thread);
}

void slm_stats_count_remote(unsigned node)
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

slm_seldom void slm_stats_gather(struct slab_stats *out)
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
        .deferred_bytes = load_relaxed(&slm_defer_queue_bytes) + sums.retired.bytes,
        .deferred_objects = load_relaxed(&slm_defer_queue_objects) + sums.retired.objects,
        .deferred_waits = load_relaxed(&slm_defer_queue_waits),
        .deferred_excesses = load_relaxed(&slm_defer_queue_excesses),
        .deferred_unfreed = load_relaxed(&slm_defer_queue_unfreed),
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

slm_seldom bool slm_stats_gather_node(int node, struct slab_node_stats *out)
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

uint64_t slm_stats_objects_taken(void)
{
    struct sums sums = {.end = slm_nodes};
    add_threads(&sums);
    return sums.taken + slm_large_made();
}

struct figure {
    uint16_t offset;
    char name[22];
};

/* No pointers, so that these lie with the messages: only who reports reads them. */
static const struct figure figures[] = {
#define FIGURE(field)                                                                                                \
    {                                                                                                                \
        offsetof(struct slab_stats, field), #field                                                                   \
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
    FIGURE(remote_frees),
};

static const struct figure node_figures[] = {
#define NODE_FIGURE(field)                                                                                           \
    {                                                                                                                \
        offsetof(struct slab_node_stats, field), #field                                                              \
    }
    NODE_FIGURE(live_bytes),     NODE_FIGURE(cached_bytes),    NODE_FIGURE(dirty_bytes),    NODE_FIGURE(purged_bytes),
    NODE_FIGURE(reserved_bytes), NODE_FIGURE(slabs_made),      NODE_FIGURE(slabs_released), NODE_FIGURE(purges),
    NODE_FIGURE(depot_locks),    NODE_FIGURE(depot_contended), NODE_FIGURE(remote_frees),   NODE_FIGURE(threads),
};

enum {
    figures_count = sizeof figures / sizeof figures[0],
    node_figures_count = sizeof node_figures / sizeof node_figures[0]
};

static uint64_t figure_of(const void *stats, const struct figure *figure)
{
    return *(const uint64_t *)((const char *)stats + figure->offset);
}

/* What is written at once: whole lines, which no other process's come between on a pipe, nor on a file that is shared
 * or appended to. Without node figures a report is one block, whatever its numbers are. */
struct block {
    size_t length;
    char text[PIPE_BUF];
};

/* `line` whole, or not at all. */
static slm_seldom bool add_to_block(struct block *block, const struct slm_line *line)
{
    if (line->length > sizeof block->text - block->length)
        return false;
    memcpy(block->text + block->length, line->text, line->length);
    block->length += line->length;
    return true;
}

/* The kernel's name of the main thread, in letters that a terminal and JSON take. */
struct program {
    char name[16];
};

static slm_seldom struct program program_of_process(void)
{
    struct program program = {"?"};
    if (!slm_sys_read_file("/proc/self/comm", program.name, sizeof program.name))
        prctl(PR_GET_NAME, program.name); /* there is no /proc here: the calling thread's */
    char *c = program.name;
    for (; *c && *c != '\n'; c++)
        *c = *c < ' ' || *c > '~' || *c == '"' || *c == '\\' ? '?' : *c;
    *c = 0;
    return program;
}

/* A duplicate of standard error as it was at start, which many programs close before they exit. */
static int kept_stderr = -1;

/* -1 where nothing is open any more on what was standard error. */
static slm_seldom int descriptor_of_report(void)
{
    return slm_stderr_is(kept_stderr) ? kept_stderr : slm_stderr_is(STDERR_FILENO) ? STDERR_FILENO : -1;
}

struct report {
    int descriptor;
    struct program program;
    struct block block;
};

static slm_seldom void flush_report(struct report *report)
{
    slm_sys_write(report->descriptor, report->block.text, report->block.length);
    report->block.length = 0;
}

static slm_seldom void report_line(struct report *report, int node, const struct figure *figure, const void *stats)
{
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: ");
    slm_line_text(&line, report->program.name);
    slm_line_text(&line, "[");
    slm_line_number(&line, (uint64_t)getpid());
    slm_line_text(&line, "]: ");
    if (node >= 0) {
        slm_line_text(&line, "node ");
        slm_line_number(&line, (uint64_t)node);
        slm_line_text(&line, " ");
    }
    slm_line_text(&line, figure->name);
    slm_line_text(&line, " ");
    slm_line_number(&line, figure_of(stats, figure));
    slm_line_text(&line, "\n");
    if (add_to_block(&report->block, &line))
        return;
    flush_report(report);
    add_to_block(&report->block, &line);
}

static slm_seldom void report_text(const struct slab_stats *stats)
{
    struct slab_node_stats here;
    struct report report;
    report.descriptor = descriptor_of_report();
    report.program = program_of_process();
    report.block.length = 0;
    for (size_t i = 0; i < figures_count; i++)
        report_line(&report, -1, &figures[i], stats);
    for (int node = 0; slm_nodes > 1 && slm_stats_gather_node(node, &here); node++)
        for (size_t i = 0; i < node_figures_count; i++)
            report_line(&report, node, &node_figures[i], &here);
    flush_report(&report);
    slm_lock_report();
}

static slm_seldom void add_json(struct block *block, const struct figure *figure, const void *stats)
{
    struct slm_line line = {0};
    slm_line_text(&line, ", \"");
    slm_line_text(&line, figure->name);
    slm_line_text(&line, "\": ");
    slm_line_number(&line, figure_of(stats, figure));
    add_to_block(block, &line);
}

/* One line in one write, so that the processes of a server may share the file. */
static slm_seldom void report_json(const struct slab_stats *stats)
{
    const int file = slm_sys_open_to_append(slm_options.stats_file, true);
    if (file < 0)
        return;
    const struct program program = program_of_process();
    struct block block = {.length = 0};
    struct slm_line line = {0};
    slm_line_text(&line, "{\"pid\": ");
    slm_line_number(&line, (uint64_t)getpid());
    slm_line_text(&line, ", \"program\": \"");
    slm_line_text(&line, program.name);
    slm_line_text(&line, "\", \"objects_taken\": ");
    slm_line_number(&line, slm_stats_objects_taken());
    add_to_block(&block, &line);
    for (size_t i = 0; i < figures_count; i++)
        add_json(&block, &figures[i], stats);
    add_to_block(&block, &(struct slm_line){2, "}\n"});
    slm_sys_write(file, block.text, block.length);
    slm_sys_close(file);
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

static slm_seldom const char *reason_of(int error)
{
    switch (error) {
    case EACCES:
    case EPERM:
        return "permission denied";
    case EISDIR:
        return "it is a folder";
    case ENOENT:
        return "there is no such folder";
    case ENOTDIR:
        return "a part of the path is no folder";
    case EROFS:
        return "the file system is read-only";
    default:
        return "it cannot be opened";
    }
}

/* Why no file can be made in the folder of a path that does not exist; 0: it can. */
static slm_seldom int folder_error(const char *path)
{
    char folder[sizeof slm_options.stats_file + 1] = ".";
    const char *slash = strrchr(path, '/');
    if (slash) /* with the slash, which the root's name consists of */
        memcpy(folder, path, (size_t)(slash - path) + 1);
    return slm_sys_access_to_make(folder);
}

/* Nothing is created: who starts a process is not always who ends it. */
static slm_seldom void check_file(const char *path)
{
    const int file = slm_sys_open_to_append(path, false);
    int error = file < 0 ? -file : 0;
    if (file >= 0)
        slm_sys_close(file);
    if (error == ENOENT)
        error = folder_error(path);
    if (error == 0 || error == ENXIO) /* a pipe that nobody reads yet */
        return;
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: option stats_file=");
    slm_line_text(&line, path);
    slm_line_text(&line, ": ");
    slm_line_text(&line, reason_of(error));
    slm_line_text(&line, "; no figures will be written to it");
    slm_line_write(&line, STDERR_FILENO);
}

slm_seldom void slm_stats_start(void)
{
    if (slm_options.stats)
        kept_stderr = slm_sys_duplicate(STDERR_FILENO);
    if (slm_options.stats_file[0])
        check_file(slm_options.stats_file);
}
