/* Live bytes by samples, for the list of processes. */
#include "list.h"
#include "samples.h"

bool list_live_bytes(struct target *target, uint64_t *bytes)
{
    double live = samples_live_bytes(target);
    *bytes = live > 0 ? (uint64_t)live : 0;
    return live >= 0;
}
