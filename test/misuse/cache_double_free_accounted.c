/* An object of an accounted cache freed twice. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.flags = SLAB_ACCOUNT};
    slab_cache *cache = slab_cache_create("apples", 64, &attr);
    void *object = hidden(slab_cache_alloc(cache));
    slab_cache_alloc(cache); /* lives */
    announce_of_cache("free", object, "double free of an object", "apples");
    free(object);
    free(hidden(object));
    malloc_trim(0);
    return 0;
}
