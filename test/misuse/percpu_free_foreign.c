/* What slab_percpu_alloc has never given: a variable, an object of malloc's, numbers, memory beside a per-CPU object
 * that nobody was given, and addresses around all that is mapped. */
#include <slabmalloc.h>

#include "misuse.h"

static void *foreign(const char *what, char *object)
{
    static long variable;
    if (strcmp(what, "variable") == 0)
        return &variable;
    if (strcmp(what, "malloced") == 0)
        return malloc(64);
    if (strcmp(what, "number") == 0)
        return (void *)(uintptr_t)16;
    if (strcmp(what, "beside") == 0)
        return object + 32768;
    if (strcmp(what, "far") == 0)
        return object + ((uintptr_t)1 << 32);
    return (void *)(UINTPTR_MAX - 7); /* the last one */
}

int main(int argc, char **argv)
{
    void *object = hidden(slab_percpu_alloc(64, 8));
    void *pointer = foreign(argc > 1 ? argv[1] : "", object);
    announce("slab_percpu_free", pointer, "no per-CPU object, or one that is free already");
    slab_percpu_free(hidden(pointer));
    return 0;
}
