/* A cache destroyed twice, with the lives of other caches in between, which do not get its handle so soon. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.flags = SLAB_NO_MERGE};
    slab_cache *cache = slab_cache_create("apples", 64, &attr);
    slab_cache_free(cache, slab_cache_alloc(cache));
    slab_cache_destroy(cache);
    for (unsigned i = 0; i < 200; i++)
        slab_cache_destroy(slab_cache_create("pears", 64, &attr));
    announce("slab_cache_destroy", cache, "a destroyed cache");
    slab_cache_destroy(cache);
    return 0;
}
