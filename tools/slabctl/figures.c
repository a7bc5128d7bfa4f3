/* Prints slab_stats: a line for each field that is there, by its name in slabmalloc.h. */
#include "figures.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <slabmalloc.h>

#include "amount.h"

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
