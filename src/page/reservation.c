/* The range; see reservation.h. */
#include "page/reservation.h"

#include <errno.h>

#include "base/bits.h"
#include "base/panic.h"
#include "os/vm.h"
#include "sync/lock.h"

char *slm_heap_base;
char *slm_descriptors;
size_t slm_heap_limit;
unsigned slm_area_shift;
unsigned slm_node_mask;

#define SECTION_LEAST ((size_t)2048) /* with pages of 4 KiB */

/* At the end of an area, the next one's part of the page map. */
#define AREA_TAIL ((size_t)-SLM_MAP_OFFSET >> SLM_GRANULE_SHIFT)

static size_t granules;           /* of the heap, a multiple of `section` */
static size_t section;            /* granules whose bookkeeping is mapped together: a page of the page map */
static bool held;                 /* the window is a mapping of ours */
static bool bound[SLM_AREAS_MAX]; /* areas whose memory is their node's */
static struct slm_lock covering = {.rank = SLM_RANK_METADATA};
static char *metadata_start;                        /* a part a node, of equal size; in each ... */
static _Atomic size_t metadata_used[SLM_NODES_MAX]; /* ... so many bytes, moved by compare-exchange */
static _Atomic uint64_t map_covered[SLM_GRANULES_MAX / SECTION_LEAST / 64]; /* sections, a bit each */
static _Atomic uint64_t descriptors_covered[SLM_GRANULES_MAX / SECTION_LEAST / 64];
static _Atomic uint64_t heap_bytes, bookkeeping_bytes, area_bytes[SLM_AREAS_MAX];

/* Heaps that grow beyond this leave the size of their further pages to the system's policy. */
static const size_t small_pages_granules = ((size_t)256 << 20) / SLM_GRANULE;

static size_t metadata_room(void)
{
    return (granules << SLM_GRANULE_SHIFT) / 128;
}

static size_t below_heap(void)
{
    return (size_t)-SLM_SIZES_OFFSET + metadata_room() + granules * SLM_DESCRIPTOR_BYTES;
}

static bool map_bookkeeping(void *address, size_t size)
{
    if (!slm_vm_map(address, size, held))
        return false;
    slm_vm_small_pages(address, size);
    add_relaxed(&bookkeeping_bytes, size);
    return true;
}

/* Everything: the heap, what lies below it, and the per-CPU memory above it. */
static size_t window_bytes(void)
{
    return below_heap() + (granules << SLM_GRANULE_SHIFT) + slm_reservation_percpu_bytes();
}

/* The window's parts, once its start is known. The sizes' page is the first mapping: it proves the window. */
static bool settle(char *window)
{
    slm_heap_base = window + below_heap();
    slm_descriptors = window;
    metadata_start = slm_heap_base + SLM_SIZES_OFFSET - metadata_room();
    return map_bookkeeping(slm_heap_base + SLM_SIZES_OFFSET, SLM_SIZES_BYTES);
}

static bool find_window(void)
{
    granules = SLM_GRANULES_MAX;
    for (unsigned attempt = 0; attempt < 4; attempt++) { /* a random place may be taken */
        char *window = slm_vm_pick_window(window_bytes(), attempt);
        if (window && settle(window))
            return true;
    }
    held = true;
    for (granules /= 8; granules >= section; granules /= 2) {
        char *window = slm_vm_hold_window(window_bytes());
        if (window && settle(window))
            return true;
    }
    return false;
}

slm_seldom bool slm_reservation_start(void)
{
    slm_vm_start();
    section = slm_max(slm_page_size / sizeof(uint16_t), SECTION_LEAST);
    if (find_window()) {
        slm_reservation_cut();
        return true;
    }
    slm_warn("no address range can be reserved: every allocation will fail", NULL);
    return false;
}

/* Map a part of the bookkeeping if it has not been; false with EEXIST where something else lies. Areas that grow at
 * the same time cover the same maps. */
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

/* A section of one area's part of the map. */
static bool cover_map(unsigned area, size_t number)
{
    const size_t bytes = section * sizeof(uint16_t), before = ((size_t)area << slm_area_shift) / section;
    return cover(map_covered, before + number, slm_area_start(area) + SLM_MAP_OFFSET + number * bytes, bytes);
}

static void set_areas(unsigned nodes)
{
    slm_node_mask = nodes == 1 ? 0 : (2u << slm_log2(nodes - 1)) - 1;
    slm_area_shift = slm_log2(granules / slm_reservation_areas());
}

slm_seldom void slm_reservation_cut(void)
{
    set_areas(slm_nodes);
    if (((size_t)1 << slm_area_shift) < 2 * slm_max(section, AREA_TAIL))
        set_areas(slm_nodes = 1);
    for (size_t number = 0; number * section < slm_heap_limit; number++) /* what was one area before */
        for (unsigned area = 1; area < slm_reservation_areas(); area++)
            cover_map(area, number);
}

static void raise_limit(size_t limit)
{
    size_t old = __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED);
    while (old < limit &&
           !__atomic_compare_exchange_n(&slm_heap_limit, &old, limit, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

/* Memory of a bound area is made like its anchor, the two pages at its start, which no span gets: not like what lies
 * before it, which programs may have locked, protected, or bound elsewhere. */
static bool map_granules(size_t first, size_t bytes)
{
    char *address = slm_granule_address(first);
    const unsigned area = slm_area_of_granule(first);
    return bound[area] ? slm_vm_map_as(slm_area_start(area), address, bytes) : slm_vm_map(address, bytes, held);
}

/* The maps of all areas up to here: who steps over a foreign mapping leaves no hole below the limit. */
static bool cover_maps(size_t limit)
{
    const size_t first = __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED) / section;
    for (size_t number = first; number * section < limit; number++)
        for (unsigned area = 0; area < slm_reservation_areas(); area++)
            if (!cover_map(area, number))
                return false;
    return true;
}

slm_seldom bool slm_reservation_extend(size_t first, size_t count)
{
    const size_t before = first - (slm_granule_in_area(first) > 0); /* joining looks at the neighbour */
    for (size_t number = before / section; number <= (first + count - 1) / section; number++)
        if (!cover(descriptors_covered, number, slm_descriptor(number * section), section * SLM_DESCRIPTOR_BYTES))
            return false;
    const size_t bytes = count << SLM_GRANULE_SHIFT;
    if (!cover_maps(slm_granule_in_area(first) + count) || !map_granules(first, bytes))
        return false;
    add_relaxed(&heap_bytes, bytes);
    add_relaxed(&area_bytes[slm_area_of_granule(first)], bytes);
    if (slm_granule_in_area(first) < small_pages_granules) /* by address: what is mapped again joins its neighbours */
        slm_vm_small_pages(slm_granule_address(first), bytes);
    raise_limit(slm_granule_in_area(first) + count);
    return true;
}

slm_seldom bool slm_reservation_bind(unsigned area)
{
    char *anchor = slm_area_start(area);
    const unsigned node = slm_node_of_area(area);
    if (held || area > slm_node_mask || !slm_topology_binds() || !slm_topology_is_online(node) ||
        !slm_vm_map(anchor, 2 * slm_page_size, held))
        return false;
    bound[area] = slm_vm_bind(anchor, 2 * slm_page_size, node);
    if (!bound[area]) /* the node has no memory, or none for us */
        slm_vm_unmap(anchor, 2 * slm_page_size, held);
    return bound[area];
}

bool slm_reservation_described(size_t granule)
{
    return slm_granule_valid(granule) &&
           load_acquire(&descriptors_covered[granule / section / 64]) >> granule / section % 64 & 1;
}

bool slm_reservation_unmap(void *address, size_t bytes)
{
    if (!slm_vm_unmap(address, bytes, held))
        return false;
    sub_relaxed(&heap_bytes, bytes);
    sub_relaxed(&area_bytes[slm_area_of_granule(slm_granule_of(address))], bytes);
    return true;
}

static size_t metadata_part(void)
{
    return metadata_room() / (slm_node_mask + 1);
}

void *slm_reservation_metadata(unsigned node, size_t bytes)
{
    _Atomic size_t *used = &metadata_used[node];
    for (unsigned attempt = 0; attempt < 64; attempt++) {
        size_t at = load_relaxed(used);
        if (metadata_part() - at < bytes)
            break;
        /* Claimed before it is mapped: a child of fork that finds the claim without the mapping loses addresses. */
        if (!atomic_compare_exchange_strong(used, &at, at + bytes))
            continue;
        char *address = metadata_start + node * metadata_part() + at;
        if (map_bookkeeping(address, bytes))
            return address;
        if (errno == EEXIST)
            continue;
        size_t claimed = at + bytes; /* no memory: the addresses are for later, unless somebody has claimed more */
        atomic_compare_exchange_strong(used, &claimed, at);
        break;
    }
    errno = ENOMEM;
    return NULL;
}

unsigned slm_reservation_metadata_node(const void *address)
{
    return slm_node_mask == 0 ? 0 : (unsigned)((size_t)((const char *)address - metadata_start) / metadata_part());
}

char *slm_reservation_percpu(void)
{
    return slm_heap_base + (granules << SLM_GRANULE_SHIFT);
}

size_t slm_reservation_percpu_bytes(void)
{
    return granules << SLM_GRANULE_SHIFT >> 3;
}

bool slm_reservation_percpu_map(void *address, size_t bytes)
{
    if (!slm_vm_map(address, bytes, held))
        return false;
    slm_vm_small_pages(address, bytes); /* a huge one would lie on one node, and be of several CPUs' copies */
    return true;
}

bool slm_reservation_percpu_unmap(void *address, size_t bytes)
{
    return slm_vm_unmap(address, bytes, held);
}

size_t slm_reservation_area(void)
{
    return ((size_t)1 << slm_area_shift) - (slm_node_mask == 0 ? 0 : AREA_TAIL);
}

uint64_t slm_reservation_area_bytes(unsigned area)
{
    return load_relaxed(&area_bytes[area]);
}

uint64_t slm_reservation_heap_bytes(void)
{
    return load_relaxed(&heap_bytes);
}

uint64_t slm_reservation_metadata_bytes(void)
{
    return load_relaxed(&bookkeeping_bytes);
}
