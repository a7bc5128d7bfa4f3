/* A large object freed twice: seen at once. */
#include "misuse.h"

int main(void)
{
    void *object = hidden(malloc(1000000));
    announce("free", object, "no object, or one that is free already");
    free(object);
    free(hidden(object));
    return 0;
}
