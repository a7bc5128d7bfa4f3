/* A variable on the stack. */
#include "misuse.h"

int main(void)
{
    char variable = 0;
    announce("free", &variable, "not allocated by this library");
    free(hidden(&variable));
    return 0;
}
