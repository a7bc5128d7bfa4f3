/* Figures of one cache, the walk, the table; see cache_info.h. Figures are printed as %lu: uint64_t is unsigned long
 * on every machine that the library runs on. */
#include "figures/cache_info.h"

#include <errno.h>
#include <string.h>

#include "base/cancel.h"
#include "os/topology.h"
#include "os/vm.h"
#include "thread/reserve.h"

static int invalid(void)
{
    errno = EINVAL;
    return -1;
}

/* -- figures of one cache ---------------------------------------------------------------------------------------- */

/* The figures of a name in the table. */
struct row {
    struct slab_cache_stats stats;
    uint64_t vacant; /* slabs that are kept without a live object */
    uint64_t taken;  /* objects that were taken from slabs */
    uint64_t magazines;
    unsigned rounds, first_rounds;
    char alias[64]; /* the name that it is an alias of, or empty */
};

static void add_depot(struct slm_depot *depot, struct row *row)
{
    struct slab_cache_stats *stats = &row->stats;
    const uint64_t gets = load_relaxed(&depot->gets), taken = load_relaxed(&depot->rounds_taken);
    const uint64_t out = load_relaxed(&depot->objects_out);
    stats->active_objects += out; /* less those in stock and in magazines, in the end */
    stats->slabs += slm_depot_slabs(depot);
    stats->total_objects += load_relaxed(&depot->joined_out) - load_relaxed(&depot->lent);
    stats->depot_rounds += load_relaxed(&depot->stock_rounds);
    stats->allocations += load_relaxed(&depot->rounds_got) + taken;
    stats->frees += load_relaxed(&depot->rounds_put);
    row->taken += taken;
    stats->refills += gets + load_relaxed(&depot->fills);
    stats->drains += load_relaxed(&depot->exchanges) - gets + load_relaxed(&depot->drains_home);
    row->vacant += slm_depot_keeps_vacant(depot);
}

/* All but the tunables and the alias. Under the cache mutex. */
static void gather(const char *name, struct slm_cache *cache, struct row *row)
{
    struct slab_cache_stats *stats = &row->stats;
    *row = (struct row){.vacant = 0};
    stats->object_size = cache->shape.object_size;
    stats->objects_per_slab = cache->shape.objects;
    stats->bytes_per_slab = (size_t)cache->shape.granules << SLM_GRANULE_SHIFT;
    memcpy(stats->name, name, sizeof stats->name);
    slm_for_each_depot (depot, cache)
        add_depot(depot, row);
    stats->frees += row->taken > stats->active_objects ? row->taken - stats->active_objects : 0;
    stats->magazine_rounds = slm_reserve_held_by_all(cache);
    stats->total_objects += stats->slabs * cache->shape.objects;
    stats->active_objects -= slm_min(stats->active_objects, stats->magazine_rounds + stats->depot_rounds);
    stats->limit_bytes = cache->shape.limit ? cache->shape.limit->bytes : 0;
}

slm_seldom void slm_cache_info_gather(const char *name, struct slm_cache *cache, struct slab_cache_stats *out)
{
    struct row row;
    gather(name, cache, &row);
    *out = row.stats;
}

slm_seldom int slm_cache_info_stats(struct slab_cache *named, struct slab_cache_stats *out)
{
    struct row row;
    if (!named || !out)
        return invalid();
    slm_cache_lock();
    gather(named->name, slm_cache_name_cache(named, "slab_cache_get_stats"), &row);
    slm_cache_unlock();
    *out = row.stats;
    return 0;
}

/* -- the walk ---------------------------------------------------------------------------------------------------- */

static struct slab_cache *next_of(struct slab_cache *after)
{
    slm_cache_lock();
    struct slab_cache *next = slm_cache_name_next(after);
    slm_cache_unlock();
    return next;
}

slm_seldom int slm_cache_info_foreach(int (*visit)(struct slab_cache *named, void *context), void *context)
{
    int answer = 0;
    if (!visit)
        return invalid();
    struct slab_cache *named = next_of(NULL);
    while (named && (answer = visit(named, context)) == 0)
        named = next_of(named);
    if (named) {
        slm_cache_lock();
        slm_cache_name_unpin(named);
        slm_cache_unlock();
    }
    return answer;
}

/* -- the table --------------------------------------------------------------------------------------------------- */

/* White space would shift the columns. */
static slm_seldom void copy_name(char *to, const char *name)
{
    for (; *name; name++)
        *to++ = (unsigned char)*name <= ' ' || *name == 127 ? '_' : *name;
    *to = 0;
}

/* False: the name has been destroyed since the walk reached it. */
static bool read_row(struct slab_cache *named, struct row *row)
{
    slm_cache_lock();
    struct slm_cache *cache = load_relaxed(&named->cache);
    if (cache) {
        const struct slab_cache *first = cache->first_name;
        gather(named->name, cache, row);
        copy_name(row->stats.name, named->name);
        if (first && first != named)
            copy_name(row->alias, first->name);
        row->rounds = load_relaxed(&cache->most_rounds);
        row->first_rounds = load_relaxed(&cache->start_rounds);
        row->magazines = load_relaxed(&cache->depot_rounds) / slm_max(row->rounds, 1);
    }
    slm_cache_unlock();
    return cache != NULL;
}

/* Where a cache's objects lie, below its row. */
static slm_seldom void print_nodes(const struct slab_cache *named, const struct slab_cache_stats *all, FILE *out)
{
    for (unsigned node = 0; slm_nodes > 1 && node < slm_nodes; node++) {
        struct row row = {.vacant = 0};
        const struct slab_cache_stats *stats = &row.stats;
        slm_cache_lock();
        struct slm_cache *cache = load_relaxed(&named->cache);
        for (struct slm_depot *depot = cache ? &cache->first : NULL; depot;
             depot = slm_cache_depot_after(cache, depot))
            if (depot->node == node)
                add_depot(depot, &row);
        slm_cache_unlock();
        if (stats->slabs > 0)
            fprintf(out, "# node %u %-17s %6lu %6lu %6lu %6lu\n", node, all->name,
                    stats->active_objects - slm_min(stats->active_objects, stats->depot_rounds),
                    stats->total_objects + stats->slabs * all->objects_per_slab, stats->slabs, stats->depot_rounds);
    }
}

static slm_seldom int print_row(struct slab_cache *named, void *out)
{
    struct row row;
    if (!read_row(named, &row))
        return 0;
    const struct slab_cache_stats *stats = &row.stats;
    fprintf(out, "%-17s %6lu %6lu %6zu %4zu %4zu : tunables %4u %4u %4lu : slabdata %6lu %6lu %6lu%s%s\n",
            stats->name, stats->active_objects, stats->total_objects, stats->object_size, stats->objects_per_slab,
            stats->bytes_per_slab / slm_page_size, row.rounds, row.first_rounds, row.magazines,
            stats->slabs - slm_min(stats->slabs, row.vacant), stats->slabs, stats->depot_rounds,
            row.alias[0] ? " : alias " : "", row.alias);
    print_nodes(named, stats, out);
    return ferror(out) ? -1 : 0;
}

slm_seldom int slm_cache_info_print(FILE *out)
{
    if (!out)
        return invalid();
    slm_keep_from_cancel();
    fputs("slabinfo - version: 2.1\n"
          "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> "
          "<batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n",
          out);
    return slm_cache_info_foreach(print_row, out) != 0 || ferror(out) ? -1 : 0;
}
