/* free's hot path: the granule's entry in the page map names the magazine, a push puts the object on top. NULL,
 * foreign pointers and other nodes' objects lie outside the area of the thread's node, and so outside its part of the
 * map; large objects have slot word 0, whose magazine is always full. */
#pragma once

#include "heap/slow.h"
#include "page/page_map.h"
#include "thread/slots.h"

/* The slot word of any pointer; objects of the thread's node are found soonest. */
slm_inline size_t slm_slot_word_at(const void *pointer)
{
    const char *area = slm_tls.area;
    const size_t granule = slm_area_granule(area, pointer);
    return likely(slm_area_granule_valid(granule)) ? slm_page_map(area)[granule] : slm_page_map_slot_word(pointer);
}

slm_inline void slm_free(void *pointer)
{
    const char *area = slm_tls.area;
    const size_t granule = slm_area_granule(area, pointer);
    if (unlikely(!slm_area_granule_valid(granule))) {
        slm_free_slow(pointer, "free");
        return;
    }
    size_t slot_word = slm_page_map(area)[granule];
    struct slm_thread *thread = slm_hot();
    void **top = slm_shared_load(&slm_slot_at(thread, slot_word)->top);
    slm_hide_value(slot_word);
    if (unlikely(top == slm_slot_at(thread, slot_word)->limit)) {
        slm_free_slow(pointer, "free");
        return;
    }
    slm_hide_value(slot_word);
    slm_slot_push(slm_slot_at(thread, slot_word), top, pointer);
}

/* Bytes that the object's owner may use. This does not look at the thread: objects in the first area, on most
 * machines all there are, are found at once. */
slm_inline size_t slm_usable(const void *pointer)
{
    const size_t granule = slm_granule_of(pointer);
    if (unlikely(!slm_area_granule_valid(granule)))
        return slm_usable_slow(pointer);
    size_t slot_word = slm_page_map(slm_range.heap)[granule];
    slm_hide_value(slot_word);
    const size_t size = slm_page_map_size(slot_word);
    return likely(size != 0) ? size : slm_usable_slow(pointer);
}
