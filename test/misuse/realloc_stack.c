/* A variable on the stack is to grow. */
#include "misuse.h"

int main(void)
{
    char variable[32] = "";
    announce("realloc", variable, "not allocated by this library");
    void *volatile grown = realloc(hidden(variable), 100);
    return grown != NULL;
}
