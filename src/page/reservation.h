/* Mapping the range's parts. Nothing is mapped before it is needed (see os/vm.c): the heap as spans ask for it, and
 * its bookkeeping a section at a time, as many granules as a page of the page map has entries for (128 MiB of heap
 * where pages are 4 KiB).
 *
 * On a machine with several nodes slabs' memory is bound to its node, unless a policy of the user's own stands in the
 * way. Two pages at an area's start are bound, once, at the start of the process. What is mapped later is made like
 * them by mremap(2), a call that every process makes anyway. Large objects' memory is not bound: who writes a page
 * first decides where it lies, as programs expect that fill an array in parallel, and the kernel may move it to who
 * uses it. */
#pragma once

#include "page/area.h"

/* Find addresses and map what every process needs; false with a line on standard error when there are none. */
bool slm_reservation_start(void);

/* Cut the heap into areas for slm_nodes nodes (which becomes 1 where there is too little address space), and again
 * when there are more nodes. Before the first span, and before there are threads. */
void slm_reservation_cut(void);

/* Bind the area's memory to its node if it is to be bound; once, before its first span. True: its first granule is no
 * span's from now on. */
bool slm_reservation_bind(unsigned area);

/* Map `count` granules from `first` on, and their descriptors and map. False with errno: EEXIST, something else lies
 * there; ENOMEM. The caller holds the lock of the area. */
bool slm_reservation_extend(size_t first, size_t count);

/* Give addresses of the heap or of per-CPU memory back to the kernel; false if it refuses (its limit of mappings). */
bool slm_reservation_unmap(void *address, size_t bytes);

/* Is the granule known, and its descriptor there? */
bool slm_reservation_described(size_t granule);

/* Zeroed memory for the allocator itself, a multiple of 64 KiB, from that node's part of it, never given back; NULL
 * and ENOMEM. One thread at a time for each node. And the node whose part an address lies in. */
void *slm_reservation_metadata(unsigned node, size_t bytes);
unsigned slm_reservation_metadata_node(const void *address);

/* Map a piece of the per-CPU memory, in ordinary pages that read as zero; false with errno: EEXIST, something else
 * lies there; ENOMEM. */
bool slm_reservation_percpu_map(void *address, size_t bytes);

/* Bytes mapped just now: of an area, for objects in all areas, and for bookkeeping. */
uint64_t slm_reservation_area_bytes(unsigned area);
uint64_t slm_reservation_heap_bytes(void);
uint64_t slm_reservation_metadata_bytes(void);
