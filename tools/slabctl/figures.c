/* slab_stats: a line for each field that is there, by its name in slabmalloc.h; and the table of caches. */
#include "figures.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <slabmalloc.h>

#include "amount.h"
#include "message.h"

#define ROW(field)                                                                                                   \
    {                                                                                                                \
#field, offsetof(slab_stats, field)                                                                          \
    }

static const struct {
    const char *name;
    size_t offset;
} rows[] = {
    ROW(live_bytes),
    ROW(cached_bytes),
    ROW(dirty_bytes),
    ROW(purged_bytes),
    ROW(reserved_bytes),
    ROW(metadata_bytes),
    ROW(deferred_bytes),
    ROW(deferred_objects),
    ROW(grace_periods),
    ROW(membarriers),
    ROW(refills),
    ROW(drains),
    ROW(depot_locks),
    ROW(depot_contended),
    ROW(slabs_made),
    ROW(slabs_released),
    ROW(purges),
    ROW(threads),
    ROW(nodes),
    ROW(caches),
    ROW(deferred_waits),
    ROW(deferred_excesses),
    ROW(deferred_unfreed),
    ROW(epoch_stalls),
    ROW(percpu_objects),
    ROW(percpu_bytes),
    ROW(percpu_mapped_bytes),
    ROW(percpu_metadata_bytes),
    ROW(remote_frees),
    ROW(purged_idle_bytes),
    ROW(purged_bound_bytes),
    ROW(purged_pressure_bytes),
    ROW(purged_trim_bytes),
    ROW(purged_limit_bytes),
    ROW(charged_bytes),
    ROW(limit_bytes),
    ROW(soft_limit_bytes),
    ROW(limit_refusals),
    ROW(purged_growth_bytes),
    ROW(metadata_charged_bytes),
    ROW(touched_again_bytes),
};

static_assert(sizeof rows / sizeof *rows == sizeof(slab_stats) / sizeof(uint64_t), "a row for each field");

/* Of bytes the name says so; a person is shown an amount with its unit, and needs no "_bytes". */
static void row_print(const char *name, uint64_t number)
{
    size_t length = strlen(name), suffix = strlen("_bytes");
    bool bytes = length > suffix && strcmp(name + length - suffix, "_bytes") == 0;
    if (bytes && !amount_exact)
        printf("%-24.*s %12s\n", (int)(length - suffix), name, amount_of(number).text);
    else
        printf("%-24s %12" PRIu64 "\n", name, number);
}

void figures_print(const void *stats, size_t bytes)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t number;
        if (rows[i].offset + sizeof number > bytes)
            return;
        memcpy(&number, (const char *)stats + rows[i].offset, sizeof number);
        row_print(rows[i].name, number);
    }
}

/* -- caches --------------------------------------------------------------------------------------------------- */

static uint64_t slab_bytes(const struct slm_command_cache *cache)
{
    return cache->stats.slabs * cache->stats.bytes_per_slab;
}

/* Names of the same cache stand together, in the order in which they came. */
static int cache_compare(const void *a, const void *b)
{
    const struct slm_command_cache *x = a, *y = b;
    uint64_t of_x = slab_bytes(x), of_y = slab_bytes(y);
    if (of_x != of_y)
        return of_x > of_y ? -1 : 1;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return (x->unused > y->unused) - (x->unused < y->unused);
}

static void cache_print(const struct slm_command_cache *cache)
{
    const slab_cache_stats *stats = &cache->stats;
    printf("%-24s %10s %10" PRIu64 " %11s %11s %10" PRIu64 " %10" PRIu64 " %11s\n", stats->name,
           amount_of(stats->object_size).text, stats->active_objects,
           amount_of(stats->active_objects * stats->object_size).text, amount_of(slab_bytes(cache)).text,
           stats->magazine_rounds, stats->depot_rounds,
           stats->limit_bytes ? amount_of(stats->limit_bytes).text : "-");
}

void caches_print(struct slm_command_cache *caches, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        caches[i].unused = (uint32_t)i;
        caches[i].stats.name[sizeof caches[i].stats.name - 1] = '\0';
        printable(caches[i].stats.name);
    }
    qsort(caches, count, sizeof *caches, cache_compare);
    printf("%-24s %10s %10s %11s %11s %10s %10s %11s\n", "CACHE", "OBJECT", "LIVE", "BYTES", "SLABS", "MAGAZINES",
           "DEPOTS", "LIMIT");
    const struct slm_command_cache *first = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!caches[i].stats.name[0])
            continue;
        if (first && first->id == caches[i].id) {
            printf("%-24s : another name of %s\n", caches[i].stats.name, first->stats.name);
            continue;
        }
        first = &caches[i];
        cache_print(first);
    }
}
