/* The loops of object caches whose instructions are counted: instructions_caches WORKLOAD; see instructions.h.
 *
 * Objects have 64 bytes. An operation is one object: its alloc, its free, or both. Calls in bulk are of
 * 64 objects. */
#include "instructions.h"
#include "still_clock.h"

#include <slabmalloc.h>

enum { OBJECTS = 1000, BULKS = 16, BULK = 64, OBJECT_BYTES = 64, FAR_LIMIT = 1 << 30 };

static slab_cache *plain, *zeroed, *accounted, *limited;
static void *objects[OBJECTS], *bulks[BULKS][BULK];

static void loop_pair(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_cache_free(plain, slab_cache_alloc(plain));
}

static void loop_pair_freed_by_free(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        free(slab_cache_alloc(plain));
}

static void loop_zeroed(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_cache_free(zeroed, slab_cache_alloc(zeroed));
}

static void loop_accounted(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_cache_free(accounted, slab_cache_alloc(accounted));
}

static void loop_accounted_freed_by_free(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        free(slab_cache_alloc(accounted));
}

static void loop_limited(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_cache_free(limited, slab_cache_alloc(limited));
}

static void loop_fifo(void)
{
    for (unsigned i = 0; i < OBJECTS; i++)
        objects[i] = slab_cache_alloc(plain);
    for (unsigned i = 0; i < OBJECTS; i++)
        slab_cache_free(plain, objects[i]);
}

static void loop_alloc_bulk(void)
{
    for (unsigned i = 0; i < BULKS; i++)
        slab_cache_alloc_bulk(plain, BULK, bulks[i]);
}

static void loop_free_bulk(void)
{
    for (unsigned i = 0; i < BULKS; i++)
        slab_cache_free_bulk(plain, BULK, bulks[i]);
}

static void loop_bulk(void)
{
    for (unsigned i = 0; i < BULKS; i++) {
        slab_cache_alloc_bulk(plain, BULK, bulks[0]);
        slab_cache_free_bulk(plain, BULK, bulks[0]);
    }
}

static const struct workload workloads[] = {
    {"cache_pair", nothing, loop_pair, nothing, OBJECTS},
    {"cache_pair_free", nothing, loop_pair_freed_by_free, nothing, OBJECTS},
    {"cache_fifo", nothing, loop_fifo, nothing, OBJECTS},
    {"cache_bulk", nothing, loop_bulk, nothing, BULKS *BULK},
    {"cache_alloc_bulk", nothing, loop_alloc_bulk, loop_free_bulk, BULKS *BULK},
    {"cache_free_bulk", loop_alloc_bulk, loop_free_bulk, nothing, BULKS *BULK},
    {"cache_zeroed", nothing, loop_zeroed, nothing, OBJECTS},
    {"cache_accounted", nothing, loop_accounted, nothing, OBJECTS},
    {"cache_accounted_free", nothing, loop_accounted_freed_by_free, nothing, OBJECTS},
    {"cache_limited", nothing, loop_limited, nothing, OBJECTS},
};

static slab_cache *open_cache(const char *name, slab_cache_attr attributes)
{
    return bench_check(slab_cache_create(name, OBJECT_BYTES, &attributes));
}

int main(int count, char **words)
{
    if (count != 2)
        bench_die("usage: %s WORKLOAD", words[0]);
    plain = open_cache("plain", (slab_cache_attr){0});
    zeroed = open_cache("zeroed", (slab_cache_attr){.flags = SLAB_ZERO});
    accounted = open_cache("accounted", (slab_cache_attr){.flags = SLAB_ACCOUNT});
    limited = open_cache("limited", (slab_cache_attr){.limit_bytes = FAR_LIMIT});
    run_named(words[1], workloads, sizeof workloads / sizeof workloads[0]);
    return 0;
}
