/* The call, and its bounds; see populate.h. */
#include "page/populate.h"

#include "os/background.h"
#include "os/vm.h"
#include "page/charge.h"
#include "page/demand.h"
#include "page/huge.h"

enum { share = 32, metadata_share = 8 }; /* of what is in use */

_Atomic uint64_t slm_populate_ahead_bytes;
static _Atomic uint32_t busy; /* threads in the call */
static _Atomic bool unknown;  /* to the kernel */

static slm_for_few bool is_possible(void)
{
    return !load_relaxed(&unknown) && !slm_background_forbidden() && !slm_vm_locked() && !load_relaxed(&slm_huge_any);
}

/* Where many threads share little each has rounds that it may never use: then metadata, their blocks and magazines,
 * is a large part of the heap. */
slm_for_few uint64_t slm_populate_room(void)
{
    const uint64_t used = slm_demand_used(), ahead = load_relaxed(&slm_populate_ahead_bytes);
    const bool many_threads = load_relaxed(&slm_charge.metadata) > used / metadata_share;
    const uint64_t most = is_possible() && !many_threads ? used / share : 0;
    return most > ahead ? most - ahead : 0;
}

/* Once others can see that the call may follow, the thread looks whether a sandbox was announced. */
slm_for_few void slm_populate(void *address, size_t bytes)
{
    atomic_fetch_add(&busy, 1); /* pairs with slm_populate_busy */
    if (!slm_background_forbidden() && !slm_vm_populate(address, bytes))
        store_relaxed(&unknown, true);
    atomic_fetch_sub(&busy, 1);
}

slm_seldom bool slm_populate_busy(void)
{
    slm_fence(); /* pairs with slm_populate: the announcement came before */
    return atomic_load(&busy) != 0;
}
