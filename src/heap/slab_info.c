/* Figures, the walk, the table; see slab_info.h. A visitor and stdio run with nothing locked: the walk pins the name
 * that it stands at. */
#include "heap/slab_info.h"

#include <errno.h>
#include <string.h>

#include "heap/lifecycle.h"
#include "os/topology.h"
#include "os/vm.h"
#include "thread/reserve.h"

/* -- figures ------------------------------------------------------------------------------------------------------
 */

/* What a depot adds; `out` counts objects out of slabs, and `vacant` the slabs kept without any. */
struct depot_sums {
    uint64_t out, vacant;
};

static void add_depot(struct slm_depot *depot, struct slab_cache_stats *stats, struct depot_sums *sums)
{
    const uint64_t gets = load_relaxed(&depot->gets), taken = load_relaxed(&depot->rounds_taken);
    const uint64_t out = load_relaxed(&depot->objects_out);
    stats->slabs += slm_depot_slabs(depot);
    stats->depot_rounds += load_relaxed(&depot->stock_rounds);
    stats->allocations += load_relaxed(&depot->rounds_got) + taken;
    stats->frees += load_relaxed(&depot->rounds_put) + (taken > out ? taken - out : 0);
    stats->refills += gets + load_relaxed(&depot->fills);
    stats->drains += load_relaxed(&depot->exchanges) - gets + load_relaxed(&depot->drains_home);
    sums->out += out;
    sums->vacant += slm_depot_keeps_vacant(depot);
}

/* Under the cache mutex. */
static void gather(struct slab_cache *named, struct slm_cache *cache, struct slab_cache_stats *stats,
                   struct depot_sums *sums)
{
    *sums = (struct depot_sums){0, 0};
    *stats = (struct slab_cache_stats){
        .object_size = cache->shape.object_size,
        .objects_per_slab = cache->shape.objects,
        .bytes_per_slab = (size_t)cache->shape.granules << SLM_GRANULE_SHIFT,
    };
    memcpy(stats->name, named->name, sizeof stats->name);
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct slm_depot *depot = slm_cache_depot_made(cache, node);
        if (depot)
            add_depot(depot, stats, sums);
    }
    stats->magazine_rounds = slm_reserve_held_by_all(cache);
    const uint64_t cached = stats->magazine_rounds + stats->depot_rounds;
    stats->total_objects = stats->slabs * cache->shape.objects;
    stats->active_objects = sums->out > cached ? sums->out - cached : 0;
    stats->limit_bytes = cache->limit.bytes;
}

slm_seldom int slm_info_stats(struct slab_cache *named, struct slab_cache_stats *out)
{
    struct depot_sums sums;
    if (!named || !out) {
        errno = EINVAL;
        return -1;
    }
    slm_fork_check();
    slm_cache_lock();
    gather(named, slm_named_cache(named, "slab_cache_get_stats"), out, &sums);
    slm_cache_unlock();
    return 0;
}

/* -- the walk -----------------------------------------------------------------------------------------------------
 */

static struct slab_cache *next_of(struct slab_cache *after)
{
    slm_cache_lock();
    struct slab_cache *next = slm_named_next(after);
    slm_cache_unlock();
    return next;
}

slm_seldom int slm_info_foreach(int (*visit)(struct slab_cache *named, void *context), void *context)
{
    if (!visit) {
        errno = EINVAL;
        return -1;
    }
    if (!slm_process_started())
        return 0;
    for (struct slab_cache *named = next_of(NULL); named; named = next_of(named)) {
        const int answer = visit(named, context);
        if (answer != 0) {
            slm_cache_lock();
            slm_named_unpin(named);
            slm_cache_unlock();
            return answer;
        }
    }
    return 0;
}

/* -- the table ----------------------------------------------------------------------------------------------------
 */

struct row {
    struct slab_cache_stats stats;
    uint64_t active_slabs, magazines;
    unsigned rounds, first_rounds;
    char alias[64]; /* of what; empty: of nothing */
};

/* Where a cache's objects lie, below its row. */
static slm_seldom void print_nodes(const struct slab_cache *named, const struct row *row, FILE *out)
{
    for (unsigned node = 0; slm_nodes > 1 && node < slm_nodes; node++) {
        uint64_t objects_out = 0, slabs = 0, rounds = 0;
        slm_cache_lock();
        struct slm_cache *cache = load_relaxed(&named->cache);
        const struct slm_depot *depot = cache ? slm_cache_depot_made(cache, node) : NULL;
        if (depot) {
            objects_out = load_relaxed(&depot->objects_out);
            slabs = slm_depot_slabs(depot);
            rounds = load_relaxed(&depot->stock_rounds);
        }
        slm_cache_unlock();
        if (slabs > 0)
            fprintf(out, "# node %u %-17s %6llu %6llu %6llu %6llu\n", node, row->stats.name,
                    (unsigned long long)(objects_out > rounds ? objects_out - rounds : 0),
                    (unsigned long long)slabs * row->stats.objects_per_slab, (unsigned long long)slabs,
                    (unsigned long long)rounds);
    }
}

/* White space would shift the columns. */
static void copy_name(char *to, const char *name)
{
    for (; *name; name++)
        *to++ = (unsigned char)*name <= ' ' || *name == 127 ? '_' : *name;
    *to = 0;
}

/* False: the name has been destroyed since the walk came by. */
static bool read_row(struct slab_cache *named, struct row *row)
{
    struct depot_sums sums;
    slm_cache_lock();
    struct slm_cache *cache = load_relaxed(&named->cache);
    if (cache) {
        const struct slab_cache *first = cache->first_name;
        gather(named, cache, &row->stats, &sums);
        copy_name(row->stats.name, named->name);
        row->alias[0] = 0;
        if (first && first != named)
            copy_name(row->alias, first->name);
        row->active_slabs = row->stats.slabs > sums.vacant ? row->stats.slabs - sums.vacant : 0;
        row->rounds = load_relaxed(&cache->most_rounds);
        row->first_rounds = load_relaxed(&cache->start_rounds);
        row->magazines = load_relaxed(&cache->depot_rounds) / slm_max(row->rounds, 1);
    }
    slm_cache_unlock();
    return cache != NULL;
}

static slm_seldom int print_row(struct slab_cache *named, void *out)
{
    struct row row;
    if (!read_row(named, &row))
        return 0;
    const struct slab_cache_stats *stats = &row.stats;
    fprintf(out, "%-17s %6llu %6llu %6zu %4zu %4zu", stats->name, (unsigned long long)stats->active_objects,
            (unsigned long long)stats->total_objects, stats->object_size, stats->objects_per_slab,
            stats->bytes_per_slab / slm_page_size);
    fprintf(out, " : tunables %4u %4u %4llu : slabdata %6llu %6llu %6llu", row.rounds, row.first_rounds,
            (unsigned long long)row.magazines, (unsigned long long)row.active_slabs, (unsigned long long)stats->slabs,
            (unsigned long long)stats->depot_rounds);
    if (row.alias[0])
        fprintf(out, " : alias %s", row.alias);
    fputc('\n', out);
    print_nodes(named, &row, out);
    return ferror(out) ? -1 : 0;
}

slm_seldom int slm_info_print(FILE *out)
{
    if (!out) {
        errno = EINVAL;
        return -1;
    }
    fputs("slabinfo - version: 2.1\n"
          "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> "
          "<batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n",
          out);
    return slm_info_foreach(print_row, out) != 0 || ferror(out) ? -1 : 0;
}
