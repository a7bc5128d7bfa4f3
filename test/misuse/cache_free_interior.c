/* A pointer between two objects of a cache. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.flags = SLAB_NO_MERGE};
    slab_cache *cache = slab_cache_create("apples", 64, &attr);
    char *object = hidden(slab_cache_alloc(cache));
    announce_of_cache("free", object + 16, "not the start of an object", "apples");
    slab_cache_free(cache, hidden(object + 16));
    malloc_trim(0);
    return 0;
}
