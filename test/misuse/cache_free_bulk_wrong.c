/* An object of another cache among those that belong there. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.flags = SLAB_ACCOUNT};
    slab_cache *apples = slab_cache_create("apples", 64, &attr), *pears = slab_cache_create("pears", 64, &attr);
    void *fruit[] = {slab_cache_alloc(pears), NULL, slab_cache_alloc(apples), slab_cache_alloc(pears)};
    announce_of_cache("slab_cache_free_bulk", fruit[2], "an object", "apples given to cache pears");
    slab_cache_free_bulk(pears, 4, fruit);
    return 0;
}
