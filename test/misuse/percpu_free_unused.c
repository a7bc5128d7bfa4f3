/* A per-CPU object in a process that has never allocated one. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    void *pointer = malloc(64);
    announce("slab_percpu_free", pointer, "no per-CPU object, or one that is free already");
    slab_percpu_free(hidden(pointer));
    return 0;
}
