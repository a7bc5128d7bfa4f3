/* A small object freed again after its slab has gone back. */
#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(3000));
    announce("free", object, "no object, or one that is free already");
    free(object);
    malloc_trim(0);
    free(hidden(object));
    return 0;
}
