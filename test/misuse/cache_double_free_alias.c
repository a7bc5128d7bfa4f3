/* An object of merged caches freed twice: the message has the name of the first of them. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    const slab_cache_attr attr = {.align = 64};
    slab_cache_create("apples", 64, &attr);
    slab_cache *alias = slab_cache_create("pears", 64, &attr);
    void *object = hidden(slab_cache_alloc(alias));
    announce_of_cache("free", object, "double free of an object", "apples");
    free(object);
    free(hidden(object));
    malloc_trim(0);
    return 0;
}
