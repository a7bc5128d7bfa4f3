/* A large object that is retired, resized while it waits. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(1000000));
    announce("realloc", object, "no object, or one that is free already");
    slab_epoch_enter();
    slab_free_deferred(object);
    free(realloc(hidden(object), 3000000));
    return 0;
}
