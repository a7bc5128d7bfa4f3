/* A pointer into the middle of a small object: seen when the magazine goes back to the slab. */
#include "misuse.h"

int main(void)
{
    char *object = hidden(malloc(64));
    announce_of_slab("free", object + 16, "not the start of an object");
    free(hidden(object + 16));
    malloc_trim(0);
    return 0;
}
