/* A large object retired twice, while it waits: seen at once. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(1000000));
    announce("slab_free_deferred", object, "no object, or one that is free already");
    slab_epoch_enter();
    slab_free_deferred(object);
    slab_free_deferred(hidden(object));
    return 0;
}
