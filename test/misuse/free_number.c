/* A small number where a pointer should be. */
#include "misuse.h"

int main(void)
{
    announce("free", (void *)1, "not allocated by this library");
    free(hidden((void *)1));
    return 0;
}
