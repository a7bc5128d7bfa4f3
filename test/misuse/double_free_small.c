/* An object freed twice in a row: it is in a magazine twice, and seen when the magazine goes back to the slab. */
#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(64));
    announce_of_slab("free", object, "double free of an object");
    free(object);
    free(hidden(object));
    malloc_trim(0);
    return 0;
}
