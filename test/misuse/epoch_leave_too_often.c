/* A section left twice: seen at the thread's next entry. */
#include <slabmalloc.h>

#include "misuse.h"

int main(void)
{
    announce("slab_epoch_enter", NULL, "sections nest too deep, or one was left more often than entered");
    slab_epoch_enter();
    slab_epoch_leave();
    slab_epoch_leave();
    slab_epoch_enter();
    return 0;
}
