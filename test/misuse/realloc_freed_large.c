/* A large object is to grow that has been freed. */
#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(1000000));
    announce("realloc", object, "no object, or one that is free already");
    free(object);
    void *volatile grown = realloc(hidden(object), 2000000);
    return grown != NULL;
}
