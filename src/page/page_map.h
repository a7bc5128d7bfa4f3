/* The page map: for each granule of the heap the place of the magazine that its objects go to, or 0 when it holds
 * none (free, a large object, bookkeeping). Beside it the object sizes by place, so that malloc_usable_size needs no
 * further address. Readers of an object's entry are ordered by however they got the object. */
#pragma once

#include "page/area.h"

/* An area's part of the map, from the area's start. */
slm_inline const uint16_t *slm_page_map(const char *area)
{
    return (const uint16_t *)(area + SLM_MAP_OFFSET);
}

/* The object size of a place; 0 for place 0 and the closed one. */
slm_inline uint32_t slm_page_map_size(size_t place)
{
    return ((const uint32_t *)(slm_range.heap + SLM_SIZES_OFFSET))[place];
}

/* The place of the granule that the pointer lies in, in whatever area; 0 for pointers that are not ours, NULL
 * among them. */
size_t slm_page_map_place(const void *pointer);

/* Fill the table of sizes; once, after slm_reservation_start. */
void slm_page_map_start(void);

/* A named cache has this place from now on; before it has a slab. */
void slm_page_map_set_size(unsigned place, uint32_t size);

/* Give `count` granules from `first` on to a place, or to none with 0. */
void slm_page_map_set(size_t first, size_t count, unsigned place);
