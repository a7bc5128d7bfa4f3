/* A copy, of the first CPU or the last, for the per-CPU object. */
#include <slabmalloc.h>

#include "misuse.h"

int main(int argc, char **argv)
{
    slab_percpu object = slab_percpu_alloc(64, 8);
    const int cpu = argc > 1 && strcmp(argv[1], "last") == 0 ? slab_percpu_cpus() - 1 : 0;
    void *copy = slab_percpu_ptr(object, cpu);
    announce("slab_percpu_free", copy, "a copy, not the per-CPU object");
    slab_percpu_free(hidden(copy));
    return 0;
}
