/* An object freed by two threads, which end; seen when its slab gets it for the second time. */
#include "misuse.h"

static void *object;

static void *free_it(void *nothing)
{
    free(hidden(object));
    return nothing;
}

int main(void)
{
    object = malloc(64);
    announce_of_slab("free", object, "double free of an object");
    for (unsigned i = 0; i < 2; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, free_it, NULL);
        pthread_join(thread, NULL);
    }
    return 0;
}
