/* A large object that is free already: seen at once. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(1000000));
    announce("slab_free_deferred", object, "no object, or one that is free already");
    free(object);
    slab_free_deferred(hidden(object));
    return 0;
}
