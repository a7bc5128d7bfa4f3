/* The one range of addresses that everything of ours lies in, so that arithmetic replaces lookups.
 *
 *     | descriptors | metadata | sizes | page map | heap: granule 0, granule 1, ...            | per-CPU memory |
 *                                                 ^ slm_heap_base
 *
 * A granule is 64 KiB. Each has a descriptor of 128 bytes and a two-byte entry of the page map; both are found from
 * its index alone. Nothing is mapped before it is needed (see os/vm.c), a section (as many granules as a page of
 * the page map has entries for: 128 MiB of heap where pages are 4 KiB) at a time for the bookkeeping, and as spans
 * ask for it for the heap itself. One area a NUMA node: the heap is cut into equal runs of sections, so an object's
 * node is address bits.
 *
 * slm_heap_limit is the index behind the last granule that was ever mapped; the page map is readable below it. It
 * only grows: whoever got an object from another thread sees a limit above it. */
#pragma once

#include "base/atomic.h"
#include "base/size_class.h"

#define SLM_GRANULE_SHIFT 16
#define SLM_GRANULE ((size_t)1 << SLM_GRANULE_SHIFT)
#define SLM_DESCRIPTOR_BYTES ((size_t)128)
#define SLM_GRANULES_MAX ((size_t)1 << 27) /* 8 TiB */

#define SLM_MAP_OFFSET (-(ptrdiff_t)(SLM_GRANULES_MAX * sizeof(uint16_t))) /* the page map, from the heap's base */
#define SLM_SIZES_OFFSET (SLM_MAP_OFFSET - (ptrdiff_t)SLM_GRANULE)         /* uint32_t by place: see page_map.h */

extern slm_hidden char *slm_heap_base;
extern slm_hidden size_t slm_heap_limit; /* written atomically */

/* Find addresses and map what every process needs; false with a line on standard error when there are none. */
bool slm_reservation_start(void);

/* Where there are several nodes: make the whole page map readable. */
void slm_reservation_cover_map(void);

/* Map `count` granules from `first` on, and their descriptors and map. False with errno: EEXIST, something else lies
 * there; ENOMEM. The caller holds the lock of the area. */
bool slm_reservation_extend(size_t first, size_t count);

/* Give the addresses back to the kernel; false if it refuses (its limit of mappings). */
bool slm_reservation_unmap(void *address, size_t bytes);

/* Zeroed memory for the allocator itself, a multiple of 64 KiB, never given back; NULL and ENOMEM. */
void *slm_reservation_metadata(size_t bytes);

/* The range for per-CPU memory, an eighth of the heap's size; nothing is mapped there but what is asked for. */
char *slm_reservation_percpu(void);
size_t slm_reservation_percpu_bytes(void);

/* Map a piece of it, in ordinary pages that read as zero; false with errno: EEXIST, something else lies there;
 * ENOMEM. And give it back, false if the kernel refuses. */
bool slm_reservation_percpu_map(void *address, size_t bytes);
bool slm_reservation_percpu_unmap(void *address, size_t bytes);

/* The areas: how many granules each has, and how many there are (the nodes). */
size_t slm_reservation_area(void);

/* Bytes mapped just now: for objects, and for bookkeeping. */
uint64_t slm_reservation_heap_bytes(void);
uint64_t slm_reservation_metadata_bytes(void);

slm_inline size_t slm_granule_of(const void *pointer)
{
    return ((uintptr_t)pointer - (uintptr_t)slm_heap_base) >> SLM_GRANULE_SHIFT;
}

slm_inline void *slm_granule_address(size_t granule)
{
    return slm_heap_base + (granule << SLM_GRANULE_SHIFT);
}

extern slm_hidden char *slm_descriptors;

slm_inline void *slm_descriptor(size_t granule)
{
    return slm_descriptors + granule * SLM_DESCRIPTOR_BYTES;
}

slm_inline bool slm_granule_valid(size_t granule)
{
#ifdef __SANITIZE_THREAD__
    return granule < __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED);
#else
    return granule < slm_heap_limit; /* an aligned word; an atomic load would not fold into the comparison */
#endif
}
