/* The size of what is no pointer at all. */
#include "misuse.h"

int main(void)
{
    void *garbage = (void *)(uintptr_t)0x5a5a5a5a5a5a5a5a;
    announce("malloc_usable_size", garbage, "not allocated by this library");
    return malloc_usable_size(hidden(garbage)) != 0;
}
