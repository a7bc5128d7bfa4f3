/* Live bytes by samples: nothing reads them yet. */
#include "list.h"

bool list_live_bytes(struct target *target, uint64_t *bytes)
{
    (void)target;
    *bytes = 0;
    return false;
}
