/* The call, and its bounds; see populate.h. */
#include "page/populate.h"

#include "os/background.h"
#include "os/vm.h"
#include "page/area.h"
#include "page/charge.h"
#include "page/demand.h"
#include "page/huge.h"

enum { share = 32, metadata_share = 8 }; /* of what is in use */

_Atomic uint64_t slm_populate_ahead_bytes;
static _Atomic bool unknown; /* to the kernel */

static slm_for_few bool is_possible(void)
{
    return !load_relaxed(&unknown) && !slm_background_forbidden() && !slm_vm_locked();
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

slm_for_few void slm_populate(void *address, size_t bytes)
{
    if (slm_background_begin() && !slm_huge_expected(address) && !slm_vm_populate(address, bytes))
        store_relaxed(&unknown, true);
    slm_background_end();
}

/* The memory of each length that was last left to its faults, the *probe*: its first granule, and how many pages.
 * Once it has turned out to be written, how often that is trusted before there is a new one. */
enum { lengths = 32 + 64, granule_bits = 32, pages_bits = 24, trusted = 7, trust_shift = granule_bits + pages_bits };
static slm_sparse _Atomic uint64_t probes[lengths];

/* Of small objects each KiB of length has a place; large ones share some, and the last length has it. */
static slm_for_few _Atomic uint64_t *probe_of(size_t length, size_t pages)
{
    return &probes[length <= SLM_SMALL_MAX ? (length - 1) >> 10 : 32 + (pages ^ pages >> 6) % 64];
}

static slm_for_few bool is_resident(const char *start, size_t bytes)
{
    bool all = slm_background_begin();
    for (size_t at = 0, part; all && at < bytes; at += part) {
        part = slm_min(bytes - at, SLM_VM_HUGE_PAGE);
        all = slm_vm_resident(start + at, part) * slm_page_size == part;
    }
    slm_background_end();
    return all;
}

/* What lies at the probe's addresses by now may be something else: a guess, as all of it. */
slm_for_few bool slm_populate_expects_writes(size_t length, const void *start, size_t bytes)
{
    const uint64_t pages_most = ((uint64_t)1 << pages_bits) - 1, pages = slm_min(bytes / slm_page_size, pages_most);
    _Atomic uint64_t *probe = probe_of(length, pages);
    const uint64_t last = load_relaxed(probe), trust = last >> trust_shift;
    const bool same = (last >> granule_bits & pages_most) == pages;
    if (same && trust > 0) {
        store_relaxed(probe, last - ((uint64_t)1 << trust_shift));
        return true;
    }
    const bool written = same && is_resident(slm_granule_address((uint32_t)last), pages * slm_page_size);
    store_relaxed(probe,
                  (written ? (uint64_t)trusted << trust_shift : slm_granule_of(start)) | pages << granule_bits);
    return written;
}
