/* A pointer into the middle of a large object: seen at once. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    char *object = hidden(malloc(1000000));
    announce("slab_free_deferred", object + 500000, "no object, or one that is free already");
    slab_free_deferred(hidden(object + 500000));
    return 0;
}
