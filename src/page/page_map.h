/* The page map: for each granule of the heap the slot offset of the cache whose objects it has
 * (base/size_class.h), or 0 if hot paths must leave what lies there to their slow halves: large objects, and
 * those small ones of which slab/slab.h says so. SLM_MAP_HIDDEN means the same for a while: the slot that would
 * begin there is as full, as empty and as foreign as slot 0. Whatever hands an object to a thread orders its
 * entry before.
 *
 * Next to the map is a table by slot offset, in which each cache has two words: the factor that tells whether a
 * pointer is the start of an object, and the object size. Size classes have two more, for the requests that they
 * are for: the next smaller class's size, and the difference between the two. */
#pragma once

#include "page/area.h"

/* A slab's entries may change while others free its objects (slm_slab_hide): either value is right for them. A
 * plain access folds into x86's operands. */
#ifdef __SANITIZE_THREAD__
#define slm_map_load(pointer) __atomic_load_n((pointer), __ATOMIC_RELAXED)
#else
#define slm_map_load(pointer) (*(pointer))
#endif

enum { SLM_MAP_HIDDEN = 8 };

/* The entry of an area's granule, counted from the area's start. */
slm_inline uint32_t slm_page_map_offset(const char *area, size_t granule)
{
    return slm_map_load((const uint32_t *)(area + SLM_MAP_OFFSET) + granule);
}

/* A cache's words in that table. */
slm_inline const uint64_t *slm_page_map_words(size_t slot_offset)
{
    return (const uint64_t *)(const void *)(slm_range.heap + SLM_SIZES_OFFSET + slot_offset);
}

/* The object size of a slot offset's cache; 0 for slot offset 0. */
slm_inline uint64_t slm_page_map_size(size_t slot_offset)
{
    return slm_page_map_words(slot_offset)[1];
}

/* 2^64 over the object size, rounded up: then the product of an object's offset in its granule and this, modulo 2^64,
 * is at most 2^16, and that of any other offset at least this (Lemire, Kaser and Kurz, "Faster remainder by direct
 * computation", 2019). At least 2^49, and so above all addresses, for sizes up to SLM_SMALL_MAX. */
slm_inline uint64_t slm_start_factor(uint32_t object_size)
{
    return UINT64_MAX / object_size + 1;
}

slm_inline uint64_t slm_page_map_start_factor(size_t slot_offset)
{
    return slm_page_map_words(slot_offset)[0];
}

/* Is the class for requests of `last` + 1 bytes? False for slot offsets that are no class's. */
slm_inline bool slm_page_map_is_for(size_t slot_offset, size_t last)
{
    const uint64_t *words = slm_page_map_words(slot_offset);
    return last - words[2] < words[3];
}

/* The slot offset of the granule that the pointer lies in, in any area; 0 for NULL and other foreign pointers. */
size_t slm_page_map_slot_offset(const void *pointer);

/* Fill the table of sizes. Once, after slm_reservation_start. */
void slm_page_map_start(void);

/* Make the pages of the table read-only that have malloc's own caches only; none if pages are larger than 4 KiB. */
void slm_page_map_seal(void);

/* Set the two words of a cache. Before it has a slab. */
void slm_page_map_set_size(unsigned slot_offset, uint32_t size);

/* Set the slot offset of `count` granules from `first` on; 0: they have no small objects. */
void slm_page_map_set(size_t first, size_t count, unsigned slot_offset);
