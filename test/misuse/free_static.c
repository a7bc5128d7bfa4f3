/* A static variable. */
#include "misuse.h"

int main(void)
{
    static char variable[100];
    announce("free", variable, "not allocated by this library");
    free(hidden(variable));
    return 0;
}
