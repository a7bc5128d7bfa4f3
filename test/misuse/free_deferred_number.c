/* A small number where a pointer should be. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    announce("slab_free_deferred", (void *)1, "not allocated by this library");
    slab_free_deferred(hidden((void *)1));
    return 0;
}
