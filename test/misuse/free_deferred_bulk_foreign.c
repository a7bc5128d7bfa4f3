/* A foreign pointer among others. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    char variable = 0;
    void *const pointers[] = {malloc(10), NULL, hidden(&variable), malloc(10)};
    announce("slab_free_deferred", &variable, "not allocated by this library");
    slab_free_deferred_bulk(4, pointers);
    return 0;
}
