/* Waiting for a grace period that the caller itself holds up: inside a section of its own, or (a barrier) inside a
 * function that it would have to wait for. */
#include <slabmalloc.h>

#include "misuse.h"

static void wait_in_function(slab_epoch_head *head)
{
    (void)head;
    slab_epoch_barrier();
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    static slab_epoch_head head;
    if (strcmp(how, "function") == 0) {
        announce("slab_epoch_barrier", NULL, "inside a function of slab_epoch_call");
        slab_epoch_call(&head, wait_in_function);
        slab_epoch_barrier();
        return 0;
    }
    announce(how, NULL, "inside a section of the caller's own");
    slab_epoch_enter();
    if (strcmp(how, "slab_epoch_barrier") == 0)
        slab_epoch_barrier();
    else
        slab_epoch_synchronize();
    return 0;
}
