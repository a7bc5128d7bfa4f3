/* The call that the argument names, on the handle of a destroyed cache; "alias": the name of a merged cache that
 * lives on by another name. */
#include <slabmalloc.h>

#include "misuse.h"

static slab_cache *destroyed;
static void *object; /* of a cache that lives */

static void call(const char *name)
{
    slab_cache_stats stats;
    void *objects[] = {object};
    if (strcmp(name, "slab_cache_alloc") == 0)
        slab_cache_alloc(destroyed);
    else if (strcmp(name, "slab_cache_alloc_node") == 0)
        slab_cache_alloc_node(destroyed, 0);
    else if (strcmp(name, "slab_cache_alloc_nolock") == 0)
        slab_cache_alloc_nolock(destroyed);
    else if (strcmp(name, "slab_cache_alloc_bulk") == 0)
        slab_cache_alloc_bulk(destroyed, 1, objects);
    else if (strcmp(name, "slab_cache_free") == 0)
        slab_cache_free(destroyed, object);
    else if (strcmp(name, "slab_cache_free_bulk") == 0)
        slab_cache_free_bulk(destroyed, 1, objects);
    else if (strcmp(name, "slab_cache_shrink") == 0)
        slab_cache_shrink(destroyed);
    else if (strcmp(name, "slab_cache_tune") == 0)
        slab_cache_tune(destroyed, 10, 0);
    else if (strcmp(name, "slab_cache_get_stats") == 0)
        slab_cache_get_stats(destroyed, &stats);
    else if (strcmp(name, "slab_cache_destroy") == 0)
        slab_cache_destroy(destroyed);
}

int main(int argc, char **argv)
{
    const slab_cache_attr alone = {.flags = SLAB_NO_MERGE};
    const slab_cache_attr *attr = argc > 2 && strcmp(argv[2], "alias") == 0 ? NULL : &alone;
    destroyed = slab_cache_create("apples", 72, attr);
    object = slab_cache_alloc(slab_cache_create("pears", 72, attr));
    slab_cache_free(destroyed, slab_cache_alloc(destroyed));
    slab_cache_destroy(destroyed);
    announce(argv[1], destroyed, "a destroyed cache");
    call(argv[1]);
    return 0;
}
