/* An object given to another cache than the one that it came from: seen at once. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.flags = SLAB_NO_MERGE};
    slab_cache *apples = slab_cache_create("apples", 64, &attr), *pears = slab_cache_create("pears", 64, &attr);
    void *apple = hidden(slab_cache_alloc(apples));
    announce_of_cache("slab_cache_free", apple, "an object", "apples given to cache pears");
    slab_cache_free(pears, apple);
    return 0;
}
