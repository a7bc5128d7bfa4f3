/* A variable on the stack, given to a cache. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    char variable = 0;
    slab_cache *cache = slab_cache_create("apples", 64, NULL);
    announce("slab_cache_free", &variable, "not allocated by this library");
    slab_cache_free(cache, hidden(&variable));
    return 0;
}
