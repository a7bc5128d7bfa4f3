/* The page map: for each granule of the heap the slot word of the cache whose objects it has (base/size_class.h), or
 * 0 if it has no small objects. Next to it is a table of the object sizes by slot word, so that malloc_usable_size
 * needs no other address. Whatever hands an object to a thread orders its entry before. */
#pragma once

#include "page/area.h"

/* An area's part of the map, from the area's start. */
slm_inline const uint16_t *slm_page_map(const char *area)
{
    return (const uint16_t *)(area + SLM_MAP_OFFSET);
}

/* The object size of a slot word's cache; 0 for slot word 0. */
slm_inline uint32_t slm_page_map_size(size_t slot_word)
{
    return ((const uint32_t *)(slm_range.heap + SLM_SIZES_OFFSET))[slot_word];
}

/* The slot word of the granule that the pointer lies in, in any area; 0 for NULL and other foreign pointers. */
size_t slm_page_map_slot_word(const void *pointer);

/* Fill the table of sizes. Once, after slm_reservation_start. */
void slm_page_map_start(void);

/* Set the object size of a named cache's slot word. Before the cache has a slab. */
void slm_page_map_set_size(unsigned slot_word, uint32_t size);

/* Set the slot word of `count` granules from `first` on; 0: they have no small objects. */
void slm_page_map_set(size_t first, size_t count, unsigned slot_word);
