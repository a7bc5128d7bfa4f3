/* A pointer into the middle of a large object: seen at once. */
#include "misuse.h"

int main(void)
{
    char *object = hidden(malloc(1000000));
    announce("free", object + 500000, "no object, or one that is free already");
    free(hidden(object + 500000));
    return 0;
}
