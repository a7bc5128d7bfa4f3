/* The size of a large object that has been freed. */
#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(1000000));
    announce("malloc_usable_size", object, "no object, or one that is free already");
    free(object);
    return malloc_usable_size(hidden(object)) != 0;
}
