/* No head, or no function, for slab_epoch_call. */
#include <slabmalloc.h>

#include "misuse.h"

static void nothing(slab_epoch_head *head)
{
    (void)head;
}

int main(int argc, char **argv)
{
    static slab_epoch_head head;
    slab_epoch_head *given = argc > 1 && strcmp(argv[1], "function") == 0 ? &head : NULL;
    announce("slab_epoch_call", given, "no head, or no function");
    slab_epoch_call(given, given == NULL ? nothing : NULL);
    return 0;
}
