/* An object freed again after its cache has been destroyed. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.flags = SLAB_NO_MERGE};
    slab_cache *cache = slab_cache_create("apples", 64, &attr);
    void *object = hidden(slab_cache_alloc(cache));
    announce("free", object, "no object, or one that is free already");
    slab_cache_free(cache, object);
    slab_cache_destroy(cache);
    free(hidden(object));
    return 0;
}
