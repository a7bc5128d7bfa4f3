/* An object freed twice among many by a thread that ends: whole magazines go to the depot's stock, and what is wrong
 * with them is seen when the stock is trimmed. */
#include "misuse.h"

enum { MANY = 1000 };

static void *objects[MANY];

static void *free_all(void *nothing)
{
    for (unsigned i = 0; i < MANY; i++)
        free(hidden(objects[i]));
    free(hidden(objects[MANY - 9])); /* far enough from both ends of its magazine */
    return nothing;
}

int main(void)
{
    pthread_t thread;
    for (unsigned i = 0; i < MANY; i++)
        objects[i] = malloc(64);
    announce_of_slab("trim", objects[MANY - 9], "double free of an object");
    pthread_create(&thread, NULL, free_all, NULL);
    pthread_join(thread, NULL);
    malloc_trim(0);
    return 0;
}
