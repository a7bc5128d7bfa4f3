/* So many bytes inside a live per-CPU object of 64. */
#include <slabmalloc.h>

#include "misuse.h"

int main(int argc, char **argv)
{
    char *object = hidden(slab_percpu_alloc(64, 8)), *inside = object + (argc > 1 ? atoi(argv[1]) : 8);
    announce("slab_percpu_free", inside, "not the start of a per-CPU object");
    slab_percpu_free(hidden(inside));
    return 0;
}
