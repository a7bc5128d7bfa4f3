/* An object's address with something in the bits that no address has. */
#include "misuse.h"

int main(void)
{
    void *object = malloc(64), *tagged = (void *)((uintptr_t)object | (uintptr_t)0xab << 56);
    announce("free", tagged, "not allocated by this library");
    free(hidden(tagged));
    return 0;
}
