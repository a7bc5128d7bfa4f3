/* What malloc gave, given to a cache of the same size that shares with none. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.flags = SLAB_NO_MERGE};
    slab_cache *pears = slab_cache_create("pears", 64, &attr);
    void *object = hidden(malloc(64));
    announce_of_cache("slab_cache_free", object, "an object", "size-64 given to cache pears");
    slab_cache_free(pears, object);
    return 0;
}
