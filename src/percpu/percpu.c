/* Objects: handing out, zeroing, taking back; see percpu.h.
 *
 * One lock guards the blocks. Per-CPU objects are made at a server's start, and rarely later, so no thread waits for
 * it. Memory is mapped under the lock and zeroed outside, when only the caller has it. Memory that was never handed
 * out is zero. Otherwise each CPU's copy is read, and written only if it is not zero, so that copies that no CPU has
 * used continue to take no memory (reading takes some for page tables at most).
 *
 * One vacant block is kept, so that a single object that comes and goes costs no system call. A second vacant block
 * goes back at once; the kept one goes if it is still vacant at the second call of slm_percpu_trim. In a child of
 * fork that finds the lock held the rows are made from the maps; see percpu/map.h. */
#include "percpu/percpu.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/options.h"
#include "base/panic.h"
#include "os/topology.h"
#include "os/vm.h"
#include "page/reservation.h"
#include "percpu/here.h"
#include "sync/lock.h"

enum { SIZE_MOST = SLM_PERCPU_PIECE / 2 };

static struct slm_lock lock = {.rank = SLM_RANK_PERCPU};
_Atomic unsigned slm_percpu_found;
static bool vacant_seen; /* the last slm_percpu_trim found a vacant block, and none has become vacant since */

static void take_lock(void)
{
    if (unlikely(slm_lock_acquire(&lock)))
        slm_percpu_blocks_recover();
}

/* Under the lock. If it fails the next call tries again. */
static slm_seldom void start(void)
{
    const unsigned found = slm_topology_cpus();
    if (found == 0)
        return;
    const bool by_cpu = slm_here_start(found, slm_options.percpu_cid);
    if (slm_percpu_blocks_start(found, by_cpu))
        store_release(&slm_percpu_found, found); /* pairs with slm_percpu_cpus */
}

unsigned slm_percpu_cpus(void)
{
    const unsigned found = load_acquire(&slm_percpu_found);
    if (likely(found != 0))
        return found;
    take_lock();
    if (load_relaxed(&slm_percpu_found) == 0)
        start();
    slm_lock_release(&lock);
    return load_relaxed(&slm_percpu_found);
}

static void zero_copies(slab_percpu object, size_t bytes)
{
    const unsigned copies = bytes > 0 ? load_relaxed(&slm_percpu_found) : 0;
    for (unsigned cpu = 0; cpu < copies; cpu++) {
        char *copy = slm_here_copy_of(object, cpu);
        const uint32_t *word = (const uint32_t *)copy, *end = word + bytes / SLM_PERCPU_UNIT;
        while (word < end && *word == 0)
            word++;
        if (word < end)
            memset(copy, 0, bytes);
    }
}

slab_percpu slm_percpu_alloc(size_t size, size_t align)
{
    if (size == 0 || size > SIZE_MOST || !slm_is_power_of_two(align) || align > slm_page_size) {
        errno = EINVAL;
        return NULL;
    }
    const unsigned units = (unsigned)(slm_align_up(size, SLM_PERCPU_UNIT) / SLM_PERCPU_UNIT);
    const unsigned align_units = (unsigned)slm_max(align / SLM_PERCPU_UNIT, 1);
    struct slm_percpu_place place;
    unsigned touched;
    bool done = slm_percpu_cpus() != 0;
    take_lock();
    done = done && slm_percpu_blocks_take(units, align_units, &place, &touched);
    if (done && slm_checked)
        slm_percpu_blocks_check(place.block);
    slm_lock_release(&lock);
    if (!done) {
        errno = ENOMEM;
        return NULL;
    }
    slab_percpu object = (slab_percpu)(place.pieces + (size_t)place.at * SLM_PERCPU_UNIT);
    zero_copies(object, (size_t)touched * SLM_PERCPU_UNIT);
    return object;
}

/* What is wrong with the pointer; NULL: it is an object, and *place says where. */
static const char *find_object(const void *object, struct slm_percpu_place *place)
{
    unsigned piece = 0;
    const bool found = slm_percpu_blocks_at(object, place, &piece);
    if (found && piece != 0)
        return "a copy, not the per-CPU object";
    if (!found || !slm_percpu_map_bit(place->block->map->used, place->at))
        return "no per-CPU object, or one that is free already";
    if (!slm_percpu_map_bit(place->block->map->first, place->at) || (uintptr_t)object % SLM_PERCPU_UNIT != 0)
        return "not the start of a per-CPU object";
    return NULL;
}

/* Free the units of an object. At most one vacant block is kept. */
static void put(const struct slm_percpu_place *place)
{
    const unsigned units = slm_percpu_map_object(place->block->map, place->at);
    struct slm_percpu_place vacant;
    if (place->block->free_units + units == SLM_PERCPU_UNITS) {
        if (slm_percpu_blocks_vacant(&vacant))
            slm_percpu_blocks_drop(&vacant);
        vacant_seen = false;
    }
    slm_percpu_blocks_put(place, units);
}

void slm_percpu_free(slab_percpu object)
{
    struct slm_percpu_place place;
    if (!object)
        return;
    take_lock();
    const char *wrong = find_object((const void *)object, &place);
    if (!wrong) {
        put(&place);
        if (slm_checked)
            slm_percpu_blocks_check(place.block);
    }
    slm_lock_release(&lock);
    if (wrong)
        slm_panic("slab_percpu_free", (const void *)object, wrong, NULL, 0);
}

bool slm_percpu_owns(const void *address)
{
    return (uintptr_t)address - (uintptr_t)slm_range.percpu < slm_range.percpu_bytes;
}

bool slm_percpu_trim_started(bool all)
{
    struct slm_percpu_place vacant;
    if (!all && slm_lock_is_held(&lock)) /* it can wait */
        return true;
    take_lock();
    const bool found = slm_percpu_blocks_vacant(&vacant);
    if (all)
        while (slm_percpu_blocks_vacant(&vacant) && slm_percpu_blocks_drop(&vacant))
            ;
    else if (found && vacant_seen)
        slm_percpu_blocks_drop(&vacant);
    vacant_seen = found;
    slm_lock_release(&lock);
    return found;
}

void slm_percpu_count(struct slm_percpu_figures *figures)
{
    take_lock();
    slm_percpu_blocks_count(figures);
    slm_lock_release(&lock);
}
