/* The range; see reservation.h. */
#include "page/reservation.h"

#include <errno.h>

#include "base/panic.h"
#include "os/topology.h"
#include "os/vm.h"

char *slm_heap_base;
char *slm_descriptors;
size_t slm_heap_limit;

#define SECTION_LEAST ((size_t)2048) /* with pages of 4 KiB */

static size_t granules;               /* of the heap, a multiple of `section` */
static size_t section;                /* granules whose bookkeeping is mapped together: a page of the page map */
static bool held;                     /* the window is a mapping of ours */
static char *metadata_end;            /* where the next metadata go, up to ... */
static _Atomic(char *) metadata_next; /* ... the sizes; moved by compare-exchange */
static _Atomic uint64_t map_covered[SLM_GRANULES_MAX / SECTION_LEAST / 64]; /* sections, a bit each */
static _Atomic uint64_t descriptors_covered[SLM_GRANULES_MAX / SECTION_LEAST / 64];
static _Atomic uint64_t heap_bytes, bookkeeping_bytes;

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
    for (granules /= 8; granules >= section * slm_nodes; granules /= 2) {
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
        slm_reservation_cover_map();
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

static bool cover_section(size_t number)
{
    const size_t bytes = section * sizeof(uint16_t);
    return cover(map_covered, number, slm_heap_base + SLM_MAP_OFFSET + number * bytes, bytes) &&
           cover(descriptors_covered, number, slm_descriptor(number * section), section * SLM_DESCRIPTOR_BYTES);
}

/* Between the areas of several nodes the map must be readable too: misuse may point there. */
void slm_reservation_cover_map(void)
{
    if (slm_nodes == 1)
        return;
    const bool whole = map_bookkeeping(slm_heap_base + SLM_MAP_OFFSET, granules * sizeof(uint16_t));
    const size_t bytes = section * sizeof(uint16_t);
    for (size_t number = 0; number < granules / section; number++)
        if (whole)
            atomic_fetch_or(&map_covered[number / 64], (uint64_t)1 << number % 64);
        else /* a simulated machine that had one node before */
            cover(map_covered, number, slm_heap_base + SLM_MAP_OFFSET + number * bytes, bytes);
}

static void raise_limit(size_t limit)
{
    size_t old = __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED);
    while (old < limit &&
           !__atomic_compare_exchange_n(&slm_heap_limit, &old, limit, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

slm_seldom bool slm_reservation_extend(size_t first, size_t count)
{
    const size_t before = first > 0 ? first - 1 : 0; /* joining looks at the neighbour */
    for (size_t number = before / section; number <= (first + count - 1) / section; number++)
        if (!cover_section(number))
            return false;
    char *address = slm_granule_address(first);
    const size_t bytes = count << SLM_GRANULE_SHIFT;
    if (!slm_vm_map(address, bytes, held))
        return false;
    add_relaxed(&heap_bytes, bytes);
    if (first % slm_reservation_area() <
        small_pages_granules) /* by address: what is mapped again joins its neighbours */
        slm_vm_small_pages(address, bytes);
    if (slm_topology_binds())
        slm_vm_bind(address, bytes, (unsigned)(first / slm_reservation_area()));
    raise_limit(first + count);
    return true;
}

bool slm_reservation_unmap(void *address, size_t bytes)
{
    if (!slm_vm_unmap(address, bytes, held))
        return false;
    sub_relaxed(&heap_bytes, bytes);
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
    return granules / slm_nodes / section * section;
}

uint64_t slm_reservation_heap_bytes(void)
{
    return load_relaxed(&heap_bytes);
}

uint64_t slm_reservation_metadata_bytes(void)
{
    return load_relaxed(&bookkeeping_bytes);
}
