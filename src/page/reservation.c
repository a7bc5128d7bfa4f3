/* Mapping; see reservation.h. */
#include "page/reservation.h"

#include <errno.h>

#include "base/panic.h"
#include "os/vm.h"
#include "sync/lock.h"

#define SECTION_LEAST ((size_t)2048) /* with pages of 4 KiB */

/* For each granule. */
#define METADATA_BYTES (SLM_GRANULE / 128)
#define PERCPU_BYTES (SLM_GRANULE / 8)

static struct slm_lock covering = {.rank = SLM_RANK_METADATA};
static size_t metadata_used[SLM_NODES_MAX];                                 /* bytes of each node's part */
static _Atomic uint64_t map_covered[SLM_GRANULES_MAX / SECTION_LEAST / 64]; /* sections, a bit each */
static _Atomic uint64_t descriptors_covered[SLM_GRANULES_MAX / SECTION_LEAST / 64];
static _Atomic uint64_t bookkeeping_bytes, area_bytes[SLM_AREAS_MAX];

/* Above this size of an area's heap the system's policy decides the page size. */
static const size_t small_pages_granules = ((size_t)256 << 20) / SLM_GRANULE;

static bool map_small_pages(void *address, size_t size)
{
    const bool done = slm_vm_map(address, size, slm_range.reserved);
    if (done)
        slm_vm_small_pages(address, size);
    return done;
}

static bool map_bookkeeping(void *address, size_t size)
{
    const bool done = map_small_pages(address, size);
    if (done)
        add_relaxed(&bookkeeping_bytes, size);
    return done;
}

static size_t range_bytes(size_t granules)
{
    const size_t each = SLM_DESCRIPTOR_BYTES + METADATA_BYTES + SLM_GRANULE + PERCPU_BYTES;
    return (size_t)-SLM_SIZES_OFFSET + granules * each;
}

/* Set the range's parts. The page of sizes is mapped first: that shows that the range is usable. */
static bool try_range(char *start, size_t granules)
{
    if (!start)
        return false;
    slm_range.granules = granules;
    slm_range.descriptors = start;
    slm_range.metadata = slm_range.descriptors + granules * SLM_DESCRIPTOR_BYTES;
    slm_range.heap = slm_range.metadata + granules * METADATA_BYTES - SLM_SIZES_OFFSET;
    slm_range.percpu = slm_range.heap + granules * SLM_GRANULE;
    slm_range.percpu_bytes = granules * PERCPU_BYTES;
    return map_bookkeeping(slm_range.heap + SLM_SIZES_OFFSET, SLM_SIZES_BYTES);
}

static bool find_range(void)
{
    const size_t most = range_bytes(SLM_GRANULES_MAX);
    for (unsigned attempt = 0; attempt < 4; attempt++) /* a random range may be taken */
        if (try_range(slm_vm_pick_range(most, attempt), SLM_GRANULES_MAX))
            return true;
    slm_range.reserved = true;
    for (size_t granules = SLM_GRANULES_MAX / 8; granules >= slm_range.section; granules /= 2)
        if (try_range(slm_vm_reserve_range(range_bytes(granules)), granules))
            return true;
    return false;
}

slm_cold bool slm_reservation_start(void)
{
    slm_vm_start();
    slm_range.section = slm_max(slm_page_size / sizeof(uint16_t), SECTION_LEAST);
    if (find_range()) {
        slm_reservation_cut();
        return true;
    }
    slm_warn("no address range can be reserved: every allocation will fail", NULL);
    return false;
}

/* Map a part of the bookkeeping unless that is done; false with EEXIST if a foreign mapping lies there. Takes a lock,
 * as areas that grow at the same time cover the same maps. */
static bool cover(_Atomic uint64_t *done, size_t number, void *address, size_t bytes)
{
    const uint64_t bit = (uint64_t)1 << number % 64;
    if (load_acquire(&done[number / 64]) & bit)
        return true;
    slm_lock_acquire(&covering);
    const bool covered = (load_relaxed(&done[number / 64]) & bit) != 0 || map_bookkeeping(address, bytes);
    if (covered)
        atomic_fetch_or_explicit(&done[number / 64], bit, memory_order_release);
    slm_lock_release(&covering);
    return covered;
}

static size_t section_of(size_t granule)
{
    return granule / slm_range.section;
}

/* A section of one area's part of the map. */
static bool cover_map(unsigned area, size_t number)
{
    const size_t bytes = slm_range.section * sizeof(uint16_t);
    const size_t before = section_of((size_t)area << slm_range.area_shift);
    return cover(map_covered, before + number, slm_area_start(area) + SLM_MAP_OFFSET + number * bytes, bytes);
}

static slm_cold void cut(unsigned nodes)
{
    slm_range.node_mask = nodes == 1 ? 0 : (2u << slm_log2(nodes - 1)) - 1;
    slm_range.area_shift = slm_log2(slm_range.granules / slm_area_count());
    slm_range.metadata_part = slm_range.granules * METADATA_BYTES / (slm_range.node_mask + 1);
}

slm_cold void slm_reservation_cut(void)
{
    cut(slm_nodes);
    if (((size_t)1 << slm_range.area_shift) < 2 * slm_max(slm_range.section, SLM_AREA_TAIL))
        cut(slm_nodes = 1);
    for (size_t number = 0; number * slm_range.section < slm_heap_limit;
         number++) /* the areas that there were not before */
        for (unsigned area = 1; area < slm_area_count(); area++)
            cover_map(area, number);
}

static void raise_limit(size_t limit)
{
    size_t old = __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED);
    while (old < limit &&
           !__atomic_compare_exchange_n(&slm_heap_limit, &old, limit, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

/* Cover the maps of all areas up to here, so that stepping over a foreign mapping leaves no hole below the limit. */
static bool cover_maps(size_t limit)
{
    const size_t first = section_of(__atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED));
    for (size_t number = first; number * slm_range.section < limit; number++)
        for (unsigned area = 0; area < slm_area_count(); area++)
            if (!cover_map(area, number))
                return false;
    return true;
}

/* Memory of a bound area is made like its anchor: programs may have locked or protected the memory before it. */
slm_cold bool slm_reservation_extend(size_t first, size_t count)
{
    const size_t inside = slm_granule_in_area(first), bytes = count << SLM_GRANULE_SHIFT;
    const size_t section_bytes = slm_range.section * SLM_DESCRIPTOR_BYTES;
    const unsigned area = slm_area_of_granule(first);
    char *address = slm_granule_address(first);
    size_t number = section_of(first - (inside > 0)); /* joining looks at the neighbour */
    for (; number <= section_of(first + count - 1); number++)
        if (!cover(descriptors_covered, number, slm_range.descriptors + number * section_bytes, section_bytes))
            return false;
    if (!cover_maps(inside + count))
        return false;
    if (slm_range.bound[area] ? !slm_vm_map_as(slm_area_start(area), address, bytes)
                              : !slm_vm_map(address, bytes, slm_range.reserved))
        return false;
    add_relaxed(&area_bytes[area], bytes);
    if (inside < small_pages_granules) /* by address: what is mapped again joins its neighbours */
        slm_vm_small_pages(address, bytes);
    raise_limit(inside + count);
    return true;
}

slm_cold bool slm_reservation_bind(unsigned area)
{
    char *anchor = slm_area_start(area);
    const unsigned node = slm_node_of_area(area);
    if (slm_range.reserved || area > slm_range.node_mask || !slm_topology_binds() || !slm_topology_is_online(node) ||
        !slm_vm_map(anchor, 2 * slm_page_size, false))
        return false;
    slm_range.bound[area] = slm_vm_bind(anchor, 2 * slm_page_size, node);
    if (!slm_range.bound[area]) /* the node has no memory, or none for us */
        slm_vm_unmap(anchor, 2 * slm_page_size, false);
    return slm_range.bound[area];
}

bool slm_reservation_described(size_t granule)
{
    const size_t number = section_of(granule);
    return slm_granule_valid(granule) && (load_acquire(&descriptors_covered[number / 64]) >> number % 64 & 1);
}

bool slm_reservation_unmap(void *address, size_t bytes)
{
    const size_t granule = slm_granule_of(address);
    if (!slm_vm_unmap(address, bytes, slm_range.reserved))
        return false;
    if (granule < slm_range.granules) /* above lies per-CPU memory, which is not counted here */
        sub_relaxed(&area_bytes[slm_area_of_granule(granule)], bytes);
    return true;
}

void *slm_reservation_metadata(unsigned node, size_t bytes)
{
    char *part = slm_range.metadata + node * slm_range.metadata_part;
    for (unsigned attempt = 0; attempt < 64; attempt++) {
        const size_t at = metadata_used[node];
        if (slm_range.metadata_part - at < bytes)
            break;
        metadata_used[node] = at + bytes; /* first: what a fork interrupts here is lost to the child */
        signal_fence();
        if (map_bookkeeping(part + at, bytes))
            return part + at;
        if (errno != EEXIST) {
            metadata_used[node] = at;
            break;
        }
    }
    errno = ENOMEM;
    return NULL;
}

unsigned slm_reservation_metadata_node(const void *address)
{
    return (unsigned)((size_t)((const char *)address - slm_range.metadata) / slm_range.metadata_part);
}

bool slm_reservation_percpu_map(void *address, size_t bytes)
{
    return map_small_pages(address,
                           bytes); /* a huge page would lie on one node, with copies of several nodes' CPUs */
}

uint64_t slm_reservation_area_bytes(unsigned area)
{
    return load_relaxed(&area_bytes[area]);
}

uint64_t slm_reservation_heap_bytes(void)
{
    uint64_t bytes = 0;
    for (unsigned area = 0; area < slm_area_count(); area++)
        bytes += slm_reservation_area_bytes(area);
    return bytes;
}

uint64_t slm_reservation_metadata_bytes(void)
{
    return load_relaxed(&bookkeeping_bytes);
}
