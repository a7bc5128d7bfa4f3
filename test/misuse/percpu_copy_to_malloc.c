/* A copy, or the per-CPU object itself, for the calls that take what malloc gives. */
#include <slabmalloc.h>

#include "misuse.h"

static void give(const char *call, void *pointer)
{
    if (strcmp(call, "free") == 0)
        free(pointer);
    else if (strcmp(call, "realloc") == 0)
        pointer = realloc(pointer, 1000);
    else if (strcmp(call, "malloc_usable_size") == 0)
        printf("%zu\n", malloc_usable_size(pointer));
    else if (strcmp(call, "slab_free_bulk") == 0)
        slab_free_bulk(1, &pointer);
    else if (strcmp(call, "slab_free_nolock") == 0)
        slab_free_nolock(pointer);
    else if (strcmp(call, "slab_free_deferred") == 0)
        slab_free_deferred(pointer);
    else if (strcmp(call, "slab_cache_free") == 0)
        slab_cache_free(slab_cache_create("apples", 64, NULL), pointer);
}

int main(int argc, char **argv)
{
    const char *call = argc > 1 ? argv[1] : "free";
    slab_percpu object = slab_percpu_alloc(64, 8);
    void *pointer = argc > 2 && strcmp(argv[2], "object") == 0 ? hidden(object) : slab_percpu_ptr(object, 0);
    announce(strcmp(call, "slab_free_bulk") == 0 ? "free" : call, pointer,
             "per-CPU memory, which slab_percpu_free frees");
    give(call, hidden(pointer));
    return 0;
}
