/* Named caches: their objects, and their handles after they have been destroyed. */
#include <malloc.h>
#include <slabmalloc.h>

#include "misuse.h"

static const slab_cache_attr alone = {.flags = SLAB_NO_MERGE}; /* shares with no other cache */

/* Seen when the magazine goes to the slab. Kinds: the cache is alone; accounted, with a living object beside; or the
 * second name of one, which messages call by its first. */
static void cache_double_free(const struct misuse_case *row)
{
    static const slab_cache_attr accounted = {.flags = SLAB_ACCOUNT}, aligned = {.align = 64};
    const bool alias = is_kind(row, "alias");
    const slab_cache_attr *attr = alias ? &aligned : is_kind(row, "accounted") ? &accounted : &alone;
    slab_cache *cache = slab_cache_create("apples", 64, attr);
    if (alias)
        cache = slab_cache_create("pears", 64, attr);
    void *object = hidden(slab_cache_alloc(cache));
    if (is_kind(row, "accounted"))
        slab_cache_alloc(cache);
    announce_of_cache("free", object, "double free of an object", "apples");
    free(object);
    free(hidden(object));
    malloc_trim(0);
}

/* Freed again when its cache is no more. */
static void free_after_destroy(const struct misuse_case *row)
{
    (void)row;
    slab_cache *cache = slab_cache_create("apples", 64, &alone);
    void *object = hidden(slab_cache_alloc(cache));
    announce("free", object, "no object, or one that is free already");
    slab_cache_free(cache, object);
    slab_cache_destroy(cache);
    free(hidden(object));
}

/* Into an object: seen at once. */
static void cache_free_interior(const struct misuse_case *row)
{
    (void)row;
    slab_cache *cache = slab_cache_create("apples", 64, &alone);
    char *object = hidden(slab_cache_alloc(cache));
    announce_of_cache("slab_cache_free", object + 16, "not the start of an object", "apples");
    slab_cache_free(cache, hidden(object + 16));
}

/* -- another cache's: seen at once ------------------------------------------------------------------------------- */

static void cache_free_wrong(const struct misuse_case *row)
{
    (void)row;
    slab_cache *apples = slab_cache_create("apples", 64, &alone), *pears = slab_cache_create("pears", 64, &alone);
    void *apple = hidden(slab_cache_alloc(apples));
    announce_of_cache("slab_cache_free", apple, "an object", "apples given to cache pears");
    slab_cache_free(pears, apple);
}

static void cache_free_malloced(const struct misuse_case *row)
{
    (void)row;
    slab_cache *pears = slab_cache_create("pears", 64, &alone);
    void *object = hidden(malloc(64));
    announce("slab_cache_free", object, "an object of 64 bytes given to cache pears");
    slab_cache_free(pears, object);
}

/* One among those that belong there. */
static void cache_free_bulk_wrong(const struct misuse_case *row)
{
    static const slab_cache_attr attr = {.flags = SLAB_ACCOUNT};
    (void)row;
    slab_cache *apples = slab_cache_create("apples", 64, &attr), *pears = slab_cache_create("pears", 64, &attr);
    void *fruit[] = {slab_cache_alloc(pears), NULL, slab_cache_alloc(apples), slab_cache_alloc(pears)};
    announce_of_cache("slab_cache_free_bulk", fruit[2], "an object", "apples given to cache pears");
    slab_cache_free_bulk(pears, 4, fruit);
}

/* -- handles of destroyed caches --------------------------------------------------------------------------------- */

/* The lives of other caches in between do not get the handle so soon. */
static void cache_destroy_twice(const struct misuse_case *row)
{
    (void)row;
    slab_cache *cache = slab_cache_create("apples", 64, &alone);
    slab_cache_free(cache, slab_cache_alloc(cache));
    slab_cache_destroy(cache);
    for (unsigned i = 0; i < 200; i++)
        slab_cache_destroy(slab_cache_create("pears", 64, &alone));
    announce("slab_cache_destroy", cache, "a destroyed cache");
    slab_cache_destroy(cache);
}

/* `object`: of a cache that lives. */
static void use(const struct misuse_case *row, slab_cache *destroyed, void *object)
{
    slab_cache_stats stats;
    void *objects[] = {object};
    if (is_call(row, "slab_cache_alloc"))
        slab_cache_alloc(destroyed);
    else if (is_call(row, "slab_cache_alloc_node"))
        slab_cache_alloc_node(destroyed, 0);
    else if (is_call(row, "slab_cache_alloc_nolock"))
        slab_cache_alloc_nolock(destroyed);
    else if (is_call(row, "slab_cache_alloc_bulk"))
        slab_cache_alloc_bulk(destroyed, 1, objects);
    else if (is_call(row, "slab_cache_free"))
        slab_cache_free(destroyed, object);
    else if (is_call(row, "slab_cache_free_bulk"))
        slab_cache_free_bulk(destroyed, 1, objects);
    else if (is_call(row, "slab_cache_shrink"))
        slab_cache_shrink(destroyed);
    else if (is_call(row, "slab_cache_tune"))
        slab_cache_tune(destroyed, 10, 0);
    else if (is_call(row, "slab_cache_get_stats"))
        slab_cache_get_stats(destroyed, &stats);
    else if (is_call(row, "slab_cache_destroy"))
        slab_cache_destroy(destroyed);
}

/* Kinds: the cache was alone, or is an alias: it lives on by another name. */
static void use_destroyed(const struct misuse_case *row)
{
    const slab_cache_attr *attr = is_kind(row, "alias") ? NULL : &alone;
    slab_cache *destroyed = slab_cache_create("apples", 72, attr);
    void *object = slab_cache_alloc(slab_cache_create("pears", 72, attr));
    slab_cache_free(destroyed, slab_cache_alloc(destroyed));
    slab_cache_destroy(destroyed);
    announce(row->call, destroyed, "a destroyed cache");
    use(row, destroyed, object);
}

/* -- NULL in the place of a handle ------------------------------------------------------------------------------- */

/* Not of slab_cache_alloc, nor slab_cache_free of an object: they read the handle before anything else. */
static void use_null(const struct misuse_case *row)
{
    announce(row->call, NULL, "NULL is no cache");
    use(row, hidden(NULL), NULL);
}

const struct misuse_case misuse_of_caches[] = {
    {"cache_double_free", cache_double_free, .kind = "alone"},
    {"cache_double_free_accounted", cache_double_free, .kind = "accounted"},
    {"cache_double_free_alias", cache_double_free, .kind = "alias"},
    {"cache_free_after_destroy", .commit = free_after_destroy},
    {"cache_free_interior", .commit = cache_free_interior},
    {"cache_free_wrong", .commit = cache_free_wrong},
    {"cache_free_malloced", .commit = cache_free_malloced},
    {"cache_free_bulk_wrong", .commit = cache_free_bulk_wrong},
    {"cache_destroy_twice", .commit = cache_destroy_twice},
    {"cache_destroyed-alloc-alone", use_destroyed, .call = "slab_cache_alloc", .kind = "alone"},
    {"cache_destroyed-alloc-alias", use_destroyed, .call = "slab_cache_alloc", .kind = "alias"},
    {"cache_destroyed-alloc_node-alone", use_destroyed, .call = "slab_cache_alloc_node", .kind = "alone"},
    {"cache_destroyed-alloc_node-alias", use_destroyed, .call = "slab_cache_alloc_node", .kind = "alias"},
    {"cache_destroyed-alloc_nolock-alone", use_destroyed, .call = "slab_cache_alloc_nolock", .kind = "alone"},
    {"cache_destroyed-alloc_nolock-alias", use_destroyed, .call = "slab_cache_alloc_nolock", .kind = "alias"},
    {"cache_destroyed-alloc_bulk-alone", use_destroyed, .call = "slab_cache_alloc_bulk", .kind = "alone"},
    {"cache_destroyed-alloc_bulk-alias", use_destroyed, .call = "slab_cache_alloc_bulk", .kind = "alias"},
    {"cache_destroyed-free-alone", use_destroyed, .call = "slab_cache_free", .kind = "alone"},
    {"cache_destroyed-free-alias", use_destroyed, .call = "slab_cache_free", .kind = "alias"},
    {"cache_destroyed-free_bulk-alone", use_destroyed, .call = "slab_cache_free_bulk", .kind = "alone"},
    {"cache_destroyed-free_bulk-alias", use_destroyed, .call = "slab_cache_free_bulk", .kind = "alias"},
    {"cache_destroyed-shrink-alone", use_destroyed, .call = "slab_cache_shrink", .kind = "alone"},
    {"cache_destroyed-shrink-alias", use_destroyed, .call = "slab_cache_shrink", .kind = "alias"},
    {"cache_destroyed-tune-alone", use_destroyed, .call = "slab_cache_tune", .kind = "alone"},
    {"cache_destroyed-tune-alias", use_destroyed, .call = "slab_cache_tune", .kind = "alias"},
    {"cache_destroyed-get_stats-alone", use_destroyed, .call = "slab_cache_get_stats", .kind = "alone"},
    {"cache_destroyed-get_stats-alias", use_destroyed, .call = "slab_cache_get_stats", .kind = "alias"},
    {"cache_destroyed-destroy-alone", use_destroyed, .call = "slab_cache_destroy", .kind = "alone"},
    {"cache_null-alloc_node", use_null, .call = "slab_cache_alloc_node"},
    {"cache_null-alloc_nolock", use_null, .call = "slab_cache_alloc_nolock"},
    {"cache_null-alloc_bulk", use_null, .call = "slab_cache_alloc_bulk"},
    {"cache_null-free", use_null, .call = "slab_cache_free"},
    {"cache_null-free_bulk", use_null, .call = "slab_cache_free_bulk"},
    {"cache_destroyed-destroy-alias", use_destroyed, .call = "slab_cache_destroy", .kind = "alias"},
    {0},
};
