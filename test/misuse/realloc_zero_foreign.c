/* realloc to nothing frees: a foreign pointer. */
#include "misuse.h"

int main(void)
{
    static char variable;
    announce("realloc", &variable, "not allocated by this library");
    void *volatile nothing = realloc(hidden(&variable), 0);
    return nothing != NULL;
}
