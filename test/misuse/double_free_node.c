/* An object of the last node freed twice, where there are several by a thread on the first: seen when the thread's
 * magazine goes back to the slabs. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    void *object = hidden(slab_alloc_node(64, (int)stats.nodes - 1));
    announce_of_slab("free", object, "double free of an object");
    free(object);
    free(hidden(object));
    malloc_trim(0);
    return 0;
}
