/* A per-CPU object freed twice: its neighbour is alive, none is, or all such memory has been given back meanwhile. */
#include <slabmalloc.h>

#include "misuse.h"

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    slab_percpu object = slab_percpu_alloc(64, 8), neighbour = slab_percpu_alloc(64, 8);
    announce("slab_percpu_free", hidden(object), "no per-CPU object, or one that is free already");
    slab_percpu_free(object);
    if (strcmp(how, "neighbour") != 0)
        slab_percpu_free(neighbour);
    if (strcmp(how, "purged") == 0)
        slab_purge();
    slab_percpu_free(hidden(object));
    return 0;
}
