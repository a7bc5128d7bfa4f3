/* An object freed twice: seen by frees alone, when a full magazine has to make room and the depot's stock is full. */
#include "misuse.h"

int main(void)
{
    enum { MANY = 100000 };
    static void *others[MANY];
    void *object = hidden(malloc(64));
    for (unsigned i = 0; i < MANY; i++)
        others[i] = malloc(64);
    announce_of_slab("free", object, "double free of an object");
    for (unsigned i = 0; i < MANY; i++) {
        if (i == 50000 || i == 60000)
            free(hidden(object));
        free(others[i]);
    }
    return 0;
}
