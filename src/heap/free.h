/* free's hot path: the granule's entry in the page map names the magazine, a push puts the object on top. NULL,
 * foreign pointers and other nodes' objects lie outside the area of the thread's node, and so outside its part of the
 * map; large objects have slot offset 0, whose magazine is always full.
 *
 * One comparison sees both a full magazine and a pointer that is not the start of an object: the product with the
 * cache's factor (page/page_map.h) is small for an object's start, else above all addresses, and the word that a push
 * overwrites is an address, or 0 where the magazine is full. Another sees an object that is free (slab/key.h). */
#pragma once

#include "heap/slow.h"

/* False: the slow half decides. */
slm_inline bool slm_push_keyed(size_t slot_offset, uintptr_t key, void *pointer)
{
    struct slm_slot *slot = slm_hot_slot(slot_offset);
    const uint64_t product = slot->start_factor * (uint16_t)(uintptr_t)pointer;
    void **const top = slm_shared_load(&slot->top);
    if (unlikely(product >= (uintptr_t)*top) || unlikely(slm_key_is_set(pointer, key)))
        return false;
    slm_key_set(pointer, key);
    slm_slot_push(slot, top, pointer);
    return true;
}

/* `call` is the name for a misuse's report. */
slm_inline void slm_free_as(void *pointer, const char *call)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, pointer);
    if (unlikely(!slm_area_granule_valid(granule)) ||
        unlikely(!slm_push_keyed(slm_page_map_offset(slm_key_area(key), granule), key, pointer)))
        slm_free_slow(pointer, call);
}

slm_inline void slm_free(void *pointer)
{
    slm_free_as(pointer, "free");
}

/* Bytes that the object's owner may use. This does not look at the thread: objects in the first area, on most
 * machines all there are, are found at once. */
slm_inline size_t slm_usable(const void *pointer)
{
    const size_t granule = slm_granule_of(pointer);
    if (unlikely(!slm_area_granule_valid(granule)))
        return slm_usable_slow(pointer);
    size_t slot_offset = slm_page_map_offset(slm_range.heap, granule);
    slm_hide_value(slot_offset);
    const uint64_t factor = slm_page_map_start_factor(slot_offset);
    if (unlikely(!slm_looks_live(pointer, factor, slm_key_of_area(slm_range.heap))))
        return slm_usable_slow(pointer);
    const size_t size = slm_page_map_size(slot_offset);
    return likely((uint16_t)(uintptr_t)pointer + size <= SLM_GRANULE) ? size : slm_usable_slow(pointer);
}
