/* The range; see reservation.h. */
#include "page/reservation.h"

#include <errno.h>

#include "base/bits.h"
#include "base/panic.h"
#include "os/vm.h"

char *slm_heap_base;
char *slm_descriptors;
size_t slm_heap_limit;
unsigned slm_area_shift;
unsigned slm_node_mask;

#define SECTION_LEAST ((size_t)2048) /* with pages of 4 KiB */

/* At the end of an area, the next one's part of the page map. */
#define AREA_TAIL ((size_t)-SLM_MAP_OFFSET >> SLM_GRANULE_SHIFT)

static size_t granules;               /* of the heap, a multiple of `section` */
static size_t section;                /* granules whose bookkeeping is mapped together: a page of the page map */
static bool held;                     /* the window is a mapping of ours */
static char *metadata_end;            /* where the next metadata go, up to ... */
static _Atomic(char *) metadata_next; /* ... the sizes; moved by compare-exchange */
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
    metadata_end = slm_heap_base + SLM_SIZES_OFFSET;
    store_relaxed(&metadata_next, metadata_end - metadata_room());
    return map_bookkeeping(slm_heap_base + SLM_SIZES_OFFSET, SLM_GRANULE);
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

/* Map a part of the bookkeeping if it has not been; false with EEXIST where something else lies. */
static bool cover(_Atomic uint64_t *done, size_t number, void *address, size_t bytes)
{
    const uint64_t bit = (uint64_t)1 << number % 64;
    if (load_acquire(&done[number / 64]) & bit)
        return true;
    if (!map_bookkeeping(address, bytes))
        return false;
    atomic_fetch_or_explicit(&done[number / 64], bit, memory_order_release);
    return true;
}

/* A section of one area's part of the map. */
static bool cover_map(unsigned area, size_t number)
{
    const size_t bytes = section * sizeof(uint16_t), before = ((size_t)area << slm_area_shift) / section;
    return cover(map_covered, before + number, slm_area_start(area) + SLM_MAP_OFFSET + number * bytes, bytes);
}

/* The section that the granule lies in, and the same one of all areas' maps, as the limit is that of all. */
static bool cover_section(size_t granule)
{
    const size_t number = slm_granule_in_area(granule) / section, first = granule / section * section;
    for (unsigned area = 0; area < slm_reservation_areas(); area++)
        if (!cover_map(area, number))
            return false;
    return cover(descriptors_covered, first / section, slm_descriptor(first), section * SLM_DESCRIPTOR_BYTES);
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

/* Is the area's memory bound to a node? */
static bool is_bound(unsigned area)
{
    return slm_topology_binds() && area <= slm_node_mask;
}

/* Memory of a bound area continues what lies before it. Where nothing does (other mappings were in the way, or it has
 * been unmapped) first touch has to do. */
static bool map_granules(size_t first, size_t bytes)
{
    char *address = slm_granule_address(first);
    if (is_bound(slm_area_of_granule(first)) && slm_granule_in_area(first) > 0 && slm_vm_grow(address, bytes))
        return true;
    return slm_vm_map(address, bytes, held);
}

/* By address: what is mapped again joins its neighbours. Of a bound area all but the last granule, which would hand
 * the advice on to whatever continues it. */
static void advise_granules(size_t first, size_t count)
{
    const size_t inside = slm_granule_in_area(first);
    if (inside >= small_pages_granules)
        return;
    if (is_bound(slm_area_of_granule(first))) {
        first -= inside > 0;
        count -= inside == 0;
    }
    slm_vm_small_pages(slm_granule_address(first), count << SLM_GRANULE_SHIFT);
}

slm_seldom bool slm_reservation_extend(size_t first, size_t count)
{
    const size_t before = first - (slm_granule_in_area(first) > 0); /* joining looks at the neighbour */
    for (size_t granule = before; granule < first + count; granule = (granule / section + 1) * section)
        if (!cover_section(granule))
            return false;
    const size_t bytes = count << SLM_GRANULE_SHIFT;
    if (!map_granules(first, bytes))
        return false;
    add_relaxed(&heap_bytes, bytes);
    add_relaxed(&area_bytes[slm_area_of_granule(first)], bytes);
    advise_granules(first, count);
    raise_limit(slm_granule_in_area(first) + count);
    return true;
}

slm_seldom bool slm_reservation_bind(unsigned area)
{
    const size_t first = (size_t)area << slm_area_shift;
    if (!is_bound(area) || slm_node_of_area(area) >= slm_nodes || !slm_reservation_extend(first, 1))
        return false;
    slm_vm_bind(slm_granule_address(first), SLM_GRANULE, slm_node_of_area(area));
    return true;
}

bool slm_reservation_unmap(void *address, size_t bytes)
{
    if (!slm_vm_unmap(address, bytes, held))
        return false;
    sub_relaxed(&heap_bytes, bytes);
    sub_relaxed(&area_bytes[slm_area_of_granule(slm_granule_of(address))], bytes);
    return true;
}

void *slm_reservation_metadata(size_t bytes)
{
    for (unsigned attempt = 0; attempt < 64; attempt++) {
        char *at = load_relaxed(&metadata_next);
        if ((size_t)(metadata_end - at) < bytes)
            break;
        /* Claimed before it is mapped: a child of fork that finds the claim without the mapping loses addresses. */
        if (!atomic_compare_exchange_strong(&metadata_next, &at, at + bytes))
            continue;
        if (map_bookkeeping(at, bytes))
            return at;
        if (errno == EEXIST)
            continue;
        char *claimed = at + bytes; /* no memory: the addresses are for later, unless somebody has claimed more */
        atomic_compare_exchange_strong(&metadata_next, &claimed, at);
        break;
    }
    errno = ENOMEM;
    return NULL;
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
