/* A variable on the stack, in the form with a head. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    slab_epoch_head variable;
    announce("slab_free_deferred", &variable, "not allocated by this library");
    slab_free_deferred_head(hidden(&variable), &variable);
    return 0;
}
