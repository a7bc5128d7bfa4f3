/* The one range of addresses that everything of ours lies in, so that arithmetic replaces lookups.
 *
 *     | descriptors | metadata | sizes | page map | heap: granule 0, granule 1, ...            | per-CPU memory |
 *                                                 ^ slm_heap_base
 *
 * A granule is 64 KiB. Each has a descriptor of 128 bytes and a two-byte entry of the page map; both are found from
 * its index alone. Nothing is mapped before it is needed (see os/vm.c), a section (as many granules as a page of
 * the page map has entries for: 128 MiB of heap where pages are 4 KiB) at a time for the bookkeeping, and as spans
 * ask for it for the heap itself.
 *
 * Areas. A machine with one NUMA node has one, the whole heap. With several the heap is cut into equal areas of a
 * power of two of granules, two a node, so that an object's node is address bits:
 *
 *     | slabs of node 0 | slabs of node 1 | ... | large objects of node 0 | large objects of node 1 | ...
 *
 * (as many nodes as the next power of two). Slabs' memory is bound to its node, where a user has no policy of his
 * own: two pages at the area's start are, once, at the start of the process, and what is mapped later is made like
 * them by mremap(2), a call that every process makes. Large objects' is not: who writes a page first decides, as
 * programs expect that fill an array in parallel, and the kernel may move it to who uses it. Each area has its part
 * of the page map at the same distance below its start, in the last granules of the area before: so whoever knows an
 * area's start finds the entry of what lies in it as easily as if it were the only one.
 *
 * slm_heap_limit is behind the last granule of an area that was ever mapped, in whichever area that is most; the
 * page map of all of them is readable below it. It only grows: whoever got an object from another thread sees a limit
 * above it. */
#pragma once

#include "base/atomic.h"
#include "base/size_class.h"
#include "os/topology.h"

#define SLM_GRANULE_SHIFT 16
#define SLM_GRANULE ((size_t)1 << SLM_GRANULE_SHIFT)
#define SLM_DESCRIPTOR_BYTES ((size_t)128)
#define SLM_GRANULES_MAX ((size_t)1 << 27) /* 8 TiB */
#define SLM_AREAS_MAX (2 * SLM_NODES_MAX)

#define SLM_MAP_OFFSET (-(ptrdiff_t)(SLM_GRANULES_MAX * sizeof(uint16_t))) /* the page map, from the heap's base */
#define SLM_SIZES_BYTES (4 * SLM_GRANULE)                                  /* uint32_t by slot word: see page_map.h */
#define SLM_SIZES_OFFSET (SLM_MAP_OFFSET - (ptrdiff_t)SLM_SIZES_BYTES)

extern slm_hidden char *slm_heap_base;
extern slm_hidden size_t slm_heap_limit;   /* written atomically */
extern slm_hidden unsigned slm_area_shift; /* an area has so many granules, as a power of two */
extern slm_hidden unsigned slm_node_mask;  /* nodes, rounded up to a power of two, less 1 */

/* Find addresses and map what every process needs; false with a line on standard error when there are none. */
bool slm_reservation_start(void);

/* Cut the heap into areas, as many as slm_nodes wants (it becomes 1 where there is too little address space); again
 * when there are more nodes. Before the first span, and before there are threads. */
void slm_reservation_cut(void);

/* If the area's memory is to be its node's, see to that; once, before its first span. True: its first granule is no
 * span's from now on. */
bool slm_reservation_bind(unsigned area);

/* Map `count` granules from `first` on, and their descriptors and map. False with errno: EEXIST, something else lies
 * there; ENOMEM. The caller holds the lock of the area. */
bool slm_reservation_extend(size_t first, size_t count);

/* Give the addresses back to the kernel; false if it refuses (its limit of mappings). */
bool slm_reservation_unmap(void *address, size_t bytes);

/* Zeroed memory for the allocator itself, a multiple of 64 KiB, from that node's part of it, never given back; NULL
 * and ENOMEM. And the node whose part an address lies in. */
void *slm_reservation_metadata(unsigned node, size_t bytes);
unsigned slm_reservation_metadata_node(const void *address);

/* The range for per-CPU memory, an eighth of the heap's size; nothing is mapped there but what is asked for. */
char *slm_reservation_percpu(void);
size_t slm_reservation_percpu_bytes(void);

/* Map a piece of it, in ordinary pages that read as zero; false with errno: EEXIST, something else lies there;
 * ENOMEM. And give it back, false if the kernel refuses. */
bool slm_reservation_percpu_map(void *address, size_t bytes);
bool slm_reservation_percpu_unmap(void *address, size_t bytes);

/* How many granules of an area spans may have, from its first one on. */
size_t slm_reservation_area(void);

/* Bytes of an area that are mapped just now. */
uint64_t slm_reservation_area_bytes(unsigned area);

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

/* Of any granule: is it known, and its descriptor there? */
bool slm_reservation_described(size_t granule);

extern slm_hidden char *slm_descriptors;

slm_inline void *slm_descriptor(size_t granule)
{
    return slm_descriptors + granule * SLM_DESCRIPTOR_BYTES;
}

/* The same, counted from an area's start; for what does not lie in that area, more than any limit. */
slm_inline size_t slm_area_granule(const char *area, const void *pointer)
{
    return ((uintptr_t)pointer - (uintptr_t)area) >> SLM_GRANULE_SHIFT;
}

/* Of a granule counted from an area's start: may it be looked up in that area's part of the page map? */
slm_inline bool slm_area_granule_valid(size_t granule)
{
#ifdef __SANITIZE_THREAD__
    return granule < __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED);
#else
    return granule < slm_heap_limit; /* an aligned word; an atomic load would not fold into the comparison */
#endif
}

/* How many areas there are. */
slm_inline unsigned slm_reservation_areas(void)
{
    return slm_node_mask == 0 ? 1 : 2 * (slm_node_mask + 1);
}

slm_inline unsigned slm_area_of_granule(size_t granule)
{
    return (unsigned)(granule >> slm_area_shift);
}

/* Counted from its area's start. */
slm_inline size_t slm_granule_in_area(size_t granule)
{
    return granule & (((size_t)1 << slm_area_shift) - 1);
}

slm_inline char *slm_area_start(unsigned area)
{
    return slm_granule_address((size_t)area << slm_area_shift);
}

/* The areas of a node. */
slm_inline unsigned slm_area_for_slabs(unsigned node)
{
    return node;
}

slm_inline unsigned slm_area_for_large(unsigned node)
{
    return slm_node_mask == 0 ? 0 : slm_node_mask + 1 + node;
}

/* The node whose memory, or whose threads' memory, lies in an area. */
slm_inline unsigned slm_node_of_area(unsigned area)
{
    return area & slm_node_mask;
}

slm_inline unsigned slm_node_of(const void *pointer)
{
    return slm_node_of_area(slm_area_of_granule(slm_granule_of(pointer)));
}

/* Of any granule: has it an entry in the page map? */
slm_inline bool slm_granule_valid(size_t granule)
{
    return slm_area_of_granule(granule) < slm_reservation_areas() &&
           slm_area_granule_valid(slm_granule_in_area(granule));
}
