/* Where everything lies: one range of addresses, so that arithmetic replaces lookups.
 *
 *     | descriptors | metadata | sizes | page map | heap: granule 0, granule 1, ...           | per-CPU memory |
 *     ^ slm_range.descriptors                     ^ slm_range.heap                            ^ slm_range.percpu
 *
 * A granule is 64 KiB of heap. Its index leads to its descriptor of 128 bytes (page/span.h) and to its entry of four
 * bytes in the page map (page/page_map.h). Metadata is the allocator's own memory (page/metadata.h).
 *
 * Areas. A machine with one NUMA node has one area, the whole heap. With several nodes (rounded up to a power of
 * two) the heap is cut into equal areas, each a power of two of granules, two for each node. So bits of an address
 * are its node:
 *
 *     | slabs of node 0 | slabs of node 1 | ... | large objects of node 0 | large objects of node 1 | ...
 *
 * Each area has its own part of the page map, at the same distance below its start: in the last granules of the area
 * before. So with an area's start the entry of an object in it is found as if that area were the only one.
 *
 * slm_heap_limit is the highest end, counted from an area's start, of what was ever mapped in any area. Below it the
 * page maps of all areas can be read. It only grows: a thread that got an object from another sees a limit above. */
#pragma once

#include "base/atomic.h"
#include "base/size_class.h"
#include "os/topology.h"

#define SLM_GRANULE_SHIFT 16
#define SLM_GRANULE ((size_t)1 << SLM_GRANULE_SHIFT)
#define SLM_DESCRIPTOR_BYTES ((size_t)128)
#define SLM_GRANULES_MAX ((size_t)1 << 27) /* 8 TiB */
#define SLM_AREAS_MAX (2 * SLM_NODES_MAX)

#define SLM_MAP_OFFSET (-(ptrdiff_t)(SLM_GRANULES_MAX * sizeof(uint32_t))) /* the page map, from an area's start */
#define SLM_SIZES_BYTES (8 * SLM_GRANULE)                                  /* words by slot offset, see page_map.h */
#define SLM_SIZES_OFFSET (SLM_MAP_OFFSET - (ptrdiff_t)SLM_SIZES_BYTES)     /* the sizes, from the heap's */

/* At the end of an area, the next one's part of the page map. */
#define SLM_AREA_TAIL ((size_t)-SLM_MAP_OFFSET >> SLM_GRANULE_SHIFT)

/* Written at the start of the process, then only read. */
struct slm_range {
    char *descriptors, *heap, *percpu;
    char *metadata;       /* a part for each node, of equal size */
    size_t granules;      /* of the heap */
    size_t metadata_part; /* bytes of a node's part */
    size_t percpu_bytes;
    size_t section;            /* granules whose bookkeeping is mapped together: those of two pages of the page map */
    unsigned area_shift;       /* binary logarithm of an area's granules */
    unsigned node_mask;        /* nodes, rounded up to a power of two, less 1 */
    bool reserved;             /* an inaccessible mapping of ours holds the range's addresses */
    bool bound[SLM_AREAS_MAX]; /* areas whose memory is bound to their node */
};

extern slm_hidden struct slm_range slm_range;
extern slm_hidden size_t slm_heap_limit; /* written atomically */

slm_inline size_t slm_granule_of(const void *pointer)
{
    return ((uintptr_t)pointer - (uintptr_t)slm_range.heap) >> SLM_GRANULE_SHIFT;
}

slm_inline void *slm_granule_address(size_t granule)
{
    return slm_range.heap + (granule << SLM_GRANULE_SHIFT);
}

slm_inline void *slm_descriptor(size_t granule)
{
    return slm_range.descriptors + granule * SLM_DESCRIPTOR_BYTES;
}

/* The granule of a pointer, counted from an area's start; above any limit if it does not lie in that area. */
slm_inline size_t slm_area_granule(const char *area, const void *pointer)
{
    return ((uintptr_t)pointer - (uintptr_t)area) >> SLM_GRANULE_SHIFT;
}

/* May a granule, counted from an area's start, be looked up in that area's part of the page map? */
slm_inline bool slm_area_granule_valid(size_t granule)
{
#ifdef __SANITIZE_THREAD__
    return granule < __atomic_load_n(&slm_heap_limit, __ATOMIC_RELAXED);
#else
    return granule < slm_heap_limit; /* an aligned word; an atomic load would not fold into the comparison */
#endif
}

slm_inline unsigned slm_area_count(void)
{
    return slm_range.node_mask == 0 ? 1 : 2 * (slm_range.node_mask + 1);
}

/* How many granules of an area spans may use, from its first one on. */
slm_inline size_t slm_area_granules(void)
{
    return ((size_t)1 << slm_range.area_shift) - (slm_range.node_mask == 0 ? 0 : SLM_AREA_TAIL);
}

slm_inline unsigned slm_area_of_granule(size_t granule)
{
    return (unsigned)(granule >> slm_range.area_shift);
}

/* Counted from its area's start. */
slm_inline size_t slm_granule_in_area(size_t granule)
{
    return granule & (((size_t)1 << slm_range.area_shift) - 1);
}

slm_inline char *slm_area_start(unsigned area)
{
    return slm_granule_address((size_t)area << slm_range.area_shift);
}

/* The areas of a node. */
slm_inline unsigned slm_area_for_slabs(unsigned node)
{
    return node;
}

slm_inline unsigned slm_area_for_large(unsigned node)
{
    return slm_range.node_mask == 0 ? 0 : slm_range.node_mask + 1 + node;
}

/* The node that an area belongs to. */
slm_inline unsigned slm_node_of_area(unsigned area)
{
    return area & slm_range.node_mask;
}

slm_inline unsigned slm_node_of(const void *pointer)
{
    return slm_node_of_area(slm_area_of_granule(slm_granule_of(pointer)));
}

/* Does any granule number have an entry in the page map? */
slm_inline bool slm_granule_valid(size_t granule)
{
    return slm_area_of_granule(granule) < slm_area_count() && slm_area_granule_valid(slm_granule_in_area(granule));
}
