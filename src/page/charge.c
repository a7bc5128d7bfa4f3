/* The sum and its limits; see charge.h. */
#include "page/charge.h"

#include <errno.h>

#include "base/bits.h"

struct slm_charge slm_charge = {.stop = UINT64_MAX, .limit = UINT64_MAX, .soft = UINT64_MAX, .near = UINT64_MAX};

bool slm_charge_take(uint64_t bytes)
{
    const bool fits = add_relaxed(&slm_charge.bytes, bytes) + bytes <= load_relaxed(&slm_charge.stop);
    if (unlikely(!fits))
        slm_charge_sub(bytes);
    return fits;
}

/* A little stays, so that not each free is a system call. */
slm_seldom uint64_t slm_charge_dirty_most(uint64_t dirty)
{
    const uint64_t near = load_relaxed(&slm_charge.near), charged = load_relaxed(&slm_charge.bytes);
    const uint64_t used = charged > dirty ? charged - dirty : 0;
    return slm_max(near > used ? near - used : 0, slm_min(near / 64, (uint64_t)1 << 20));
}

slm_seldom void slm_charge_limit(uint64_t hard, uint64_t soft, uint64_t step)
{
    const uint64_t charged = load_relaxed(&slm_charge.bytes);
    soft = slm_min(soft, hard);
    store_relaxed(&slm_charge.stop, step < UINT64_MAX - charged ? slm_min(hard, charged + step) : hard);
    store_relaxed(&slm_charge.limit, hard);
    store_relaxed(&slm_charge.soft, soft);
    store_relaxed(&slm_charge.near, soft == UINT64_MAX ? soft : soft - soft / 8);
}

slm_seldom int slm_charge_refused(void)
{
    if (load_relaxed(&slm_charge.limit) != UINT64_MAX)
        add_relaxed(&slm_charge.refusals, 1);
    return ENOMEM;
}
