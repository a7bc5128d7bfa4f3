/* The page map: for each granule of the heap the place of the magazine that its objects go to (base/size_class.h),
 * or 0 when it holds no small objects. Beside it lies a table of the objects' sizes by place, so that
 * malloc_usable_size needs no further address. Whoever has an object sees its entry: the way by which it got the
 * object orders that. */
#pragma once

#include "page/area.h"

/* An area's part of the map, from the area's start. */
slm_inline const uint16_t *slm_page_map(const char *area)
{
    return (const uint16_t *)(area + SLM_MAP_OFFSET);
}

/* The object size of a place; 0 for place 0 and the closed one. */
slm_inline uint32_t slm_page_map_size(size_t slot_word)
{
    return ((const uint32_t *)(slm_range.heap + SLM_SIZES_OFFSET))[slot_word];
}

/* The place of the granule that the pointer lies in, in any area; 0 for NULL and other pointers that are not ours. */
size_t slm_page_map_slot_word(const void *pointer);

/* Fill the table of sizes. Once, after slm_reservation_start. */
void slm_page_map_start(void);

/* From now on a named cache has this place. Before it has a slab. */
void slm_page_map_set_size(unsigned slot_word, uint32_t size);

/* Give `count` granules from `first` on to a place, or to none with 0. */
void slm_page_map_set(size_t first, size_t count, unsigned slot_word);
