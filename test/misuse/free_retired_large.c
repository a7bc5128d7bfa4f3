/* A large object that is retired, freed while it waits: seen at once. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(1000000));
    announce("free", object, "no object, or one that is free already");
    slab_epoch_enter();
    slab_free_deferred(object);
    free(hidden(object));
    return 0;
}
