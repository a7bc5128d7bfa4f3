/* C++'s operator delete of a foreign pointer. */
#include "misuse.h"

extern void _ZdlPv(void *pointer); /* operator delete(void *) */

int main(void)
{
    char variable = 0;
    announce("free", &variable, "not allocated by this library");
    _ZdlPv(hidden(&variable));
    return 0;
}
