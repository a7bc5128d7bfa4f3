/* Use, falls, repetition; see demand.h. */
#include "page/demand.h"

#include "base/bits.h"
#include "base/options.h"
#include "os/vm.h"

enum { falls_known = 8, chance_bytes = 8 << 20 };

/* The most that an alternation keeps in a process that may not call again. */
static const uint64_t kept_most = (uint64_t)128 << 20;

_Atomic bool slm_demand_watched;

struct slm_demand_sums slm_demand_sums;

static _Atomic uint64_t highest;       /* use; it forgets as many bytes as are taken */
static _Atomic uint64_t taken_at_fall; /* when the latest of the falls below began */

/* Of the latest falls between which much was taken, the last first: when they began, and the lowest and the highest
 * use from each to the next. */
static _Atomic uint64_t falls_ms[falls_known], lows[falls_known], peaks[falls_known];

/* Where threads race a drop may be seen before its rise. */
static uint64_t difference(uint64_t all_taken, uint64_t all_dropped)
{
    return (int64_t)(all_taken - all_dropped) > 0 ? all_taken - all_dropped : 0;
}

uint64_t slm_demand_used(void)
{
    const uint64_t before = load_relaxed(&slm_demand_sums.dropped);
    return difference(load_relaxed(&slm_demand_sums.taken), before);
}

static _Atomic uint64_t most; /* that was ever in use */

/* The last large block that raised it, and how far, until one is freed. */
static _Atomic uint64_t raiser, raised;
static _Atomic uint64_t replaced; /* freed in exchange for a larger one, and not looked at */
static const uint64_t replaced_least = (uint64_t)128 << 10;

static void rise_to_most(uint64_t now, size_t bytes)
{
    if (bytes >= replaced_least) {
        store_relaxed(&raiser, bytes);
        store_relaxed(&raised, slm_min(now - load_relaxed(&most), bytes));
    }
    store_relaxed(&most, now);
}

static void drop_in_exchange(size_t bytes)
{
    if (bytes >= replaced_least && load_relaxed(&raiser) != 0 && atomic_exchange(&raiser, 0) > bytes)
        add_relaxed(&replaced, slm_min(load_relaxed(&raised), bytes));
}

bool slm_demand_replaces(size_t bytes)
{
    return bytes >= replaced_least && load_relaxed(&raiser) > bytes;
}

bool slm_demand_is_replaced(void)
{
    return load_relaxed(&replaced) != 0;
}

uint64_t slm_demand_take_replaced(void)
{
    return unlikely(slm_demand_is_replaced()) ? atomic_exchange(&replaced, 0) : 0;
}

/* `now`: what is in use. */
static void forget(uint64_t now, size_t bytes)
{
    const uint64_t before = load_relaxed(&highest);
    store_relaxed(&highest, before > now + bytes ? before - bytes : now);
}

void slm_demand_retake(size_t bytes)
{
    forget(slm_demand_used(), bytes);
}

void slm_demand_rise(size_t bytes)
{
    const uint64_t now =
        difference(add_relaxed(&slm_demand_sums.taken, bytes) + bytes, load_relaxed(&slm_demand_sums.dropped));
    forget(now, bytes);
    if (now > load_relaxed(&peaks[0]))
        store_relaxed(&peaks[0], now);
    if (now > load_relaxed(&most))
        rise_to_most(now, bytes);
}

static _Atomic uint64_t grown; /* since the last look */
static const uint64_t growth_least = (uint64_t)256 << 10, growth_from = (uint64_t)2 << 20;
enum { growth_share = 32 };

static uint64_t growth_due(void)
{
    const uint64_t now = slm_demand_used();
    return now < growth_from ? UINT64_MAX : slm_max(growth_least, now / growth_share);
}

bool slm_demand_grow(size_t bytes)
{
    return add_relaxed(&grown, bytes) + bytes >= growth_due();
}

uint64_t slm_demand_take_growth(void)
{
    return load_relaxed(&grown) >= growth_due() ? atomic_exchange(&grown, 0) : 0;
}

/* Under mlockall memory is dear: none is kept dirty beside the shares. */
static uint64_t dirty_bytes(void)
{
    return unlikely(slm_vm_locked()) ? 0 : slm_setting(dirty_bytes);
}

/* Large blocks that replace each other, a few at a time, come to a quarter of a large heap by chance. */
static bool is_fall(uint64_t now, uint64_t before)
{
    if (likely(now >= before || before - now <= now / 4))
        return false;
    return before - now > slm_max(dirty_bytes(), now / 2 - slm_min(now / 2, chance_bytes));
}

void slm_demand_drop(size_t bytes)
{
    const uint64_t now =
        difference(load_relaxed(&slm_demand_sums.taken), add_relaxed(&slm_demand_sums.dropped, bytes) + bytes);
    if (now < load_relaxed(&lows[0]))
        store_relaxed(&lows[0], now);
    drop_in_exchange(bytes);
}

bool slm_demand_fell(void)
{
    return is_fall(slm_demand_used(), load_relaxed(&highest));
}

bool slm_demand_repeats(uint64_t now_ms, bool last)
{
    const uint64_t span_ms = slm_setting(purge_delay_ms) * (last ? 2 : 3);
    const uint64_t latest = load_relaxed(&falls_ms[0]), before = load_relaxed(&falls_ms[last ? 2 : 1]);
    if (before == 0 || latest - before >= span_ms || now_ms - latest >= span_ms)
        return false;
    const uint64_t now = slm_demand_used(), as_low = now + slm_max(slm_setting(dirty_bytes), now / 4);
    for (unsigned i = 1; i < (last ? 3 : 2);
         i++) /* give or take an eighth of the peak: threads seldom rest together */
        if (as_low + load_relaxed(&peaks[i]) / 8 < load_relaxed(&lows[i]))
            return false;
    return true;
}

/* A tear-down is several falls, between which little is taken: they are one. */
static void note_fall(uint64_t now_ms, uint64_t bytes, uint64_t low)
{
    const uint64_t all_taken = load_relaxed(&slm_demand_sums.taken);
    if (all_taken - load_relaxed(&taken_at_fall) < bytes / 2)
        return;
    store_relaxed(&taken_at_fall, all_taken);
    for (unsigned i = falls_known - 1; i > 0; i--) {
        store_relaxed(&falls_ms[i], load_relaxed(&falls_ms[i - 1]));
        store_relaxed(&lows[i], load_relaxed(&lows[i - 1]));
        store_relaxed(&peaks[i], load_relaxed(&peaks[i - 1]));
    }
    store_relaxed(&falls_ms[0], now_ms);
    store_relaxed(&lows[0], low);
    store_relaxed(&peaks[0], low);
}

void slm_demand_look(uint64_t now_ms)
{
    const uint64_t now = slm_demand_used(), before = load_relaxed(&highest);
    if (!is_fall(now, before))
        return;
    store_relaxed(&highest, now);
    note_fall(now_ms, before - now, now);
}

/* As much as would bring use to its highest of late. */
uint64_t slm_demand_keep(uint64_t now_ms)
{
    const uint64_t now = slm_demand_used(), least = slm_max(dirty_bytes() / 2, now / 8);
    uint64_t highest_use = now;
    for (unsigned i = 0; i < falls_known && now_ms - load_relaxed(&falls_ms[i]) < 2 * slm_setting(purge_delay_ms);
         i++)
        highest_use = slm_max(highest_use, load_relaxed(&peaks[i]));
    return slm_demand_repeats(now_ms, true) ? slm_max(least, slm_min(highest_use - now, kept_most)) : least;
}
