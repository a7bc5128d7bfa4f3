/* Mapping the range's parts. Nothing is mapped before it is needed (see os/vm.c): the heap as spans ask for it, and
 * its bookkeeping a section at a time, as many granules as two pages of the page map have entries for (128 MiB of
 * heap where pages are 4 KiB).
 *
 * On a machine with several nodes slabs' memory is bound to its node, unless the user has set a policy. Two pages at
 * an area's start, its anchor, are bound when the process starts. Later mappings are made like them by mremap(2), a
 * call that every process makes anyway. Large objects' memory is not bound: the first thread that writes a page
 * decides, as programs expect that fill an array in parallel, and the kernel may move it to its users' node. */
#pragma once

#include "page/area.h"

/* Find addresses and map what every process needs; false with a line on standard error when there are none. */
bool slm_reservation_start(void);

/* Cut the heap into areas for slm_nodes nodes (which becomes 1 where there is too little address space), and again
 * when there are more nodes. Before the first span, and before there are threads. */
void slm_reservation_cut(void);

/* Bind the area to its node if that should be; once, before its first span. True: its first granule is
 * the anchor's. */
bool slm_reservation_bind(unsigned area);

/* Have all these granules descriptors, and those on both sides, at which joining looks? `map_them`: map those that
 * are missing, and the page map; false with errno as below. */
bool slm_reservation_describe(size_t first, size_t count, bool map_them);

/* Map `count` granules from `first` on, which are the caller's alone, and all that describes them. False with errno:
 * EEXIST, a foreign mapping lies there; ENOMEM. Holds no lock that others could do without. */
bool slm_reservation_extend(size_t first, size_t count);

/* Give addresses of the heap or of per-CPU memory back to the kernel; false if it refuses (its limit of mappings). */
bool slm_reservation_unmap(void *address, size_t bytes);

/* Map pages of the heap that slm_reservation_unmap has given back, parts of granules; false with errno as above. */
bool slm_reservation_map_again(void *address, size_t bytes);

/* Is the granule valid, and its descriptor mapped? */
bool slm_reservation_described(size_t granule);

/* Zeroed memory for the allocator itself, a multiple of 64 KiB, from that node's part, never given back; NULL and
 * ENOMEM. And the node in whose part an address lies. */
void *slm_reservation_metadata(unsigned node, size_t bytes);
unsigned slm_reservation_metadata_node(const void *address);

/* Map a piece of the per-CPU memory, in small pages that read as zero, and charge it; false with errno as
 * slm_reservation_extend. Unmapping it takes that back. */
bool slm_reservation_percpu_map(void *address, size_t bytes);

/* Bytes mapped at the moment: of an area, of all areas, and of metadata and bookkeeping. */
uint64_t slm_reservation_area_bytes(unsigned area);
uint64_t slm_reservation_heap_bytes(void);
uint64_t slm_reservation_metadata_bytes(void);
