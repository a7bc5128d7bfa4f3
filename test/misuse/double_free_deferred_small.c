/* An object retired twice: seen when both are to go back to their slab, after the grace period. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(64));
    announce_of_slab("trim", object, "double free of an object");
    slab_epoch_enter();
    slab_free_deferred(object);
    slab_free_deferred(hidden(object));
    slab_epoch_leave();
    slab_epoch_barrier();
    malloc_trim(0);
    return 0;
}
