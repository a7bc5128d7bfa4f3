/* Writing the page map; see page_map.h. */
#include "page/page_map.h"

#include "os/vm.h"

static uint64_t *words_of(unsigned slot_offset)
{
    return (uint64_t *)(void *)(slm_range.heap + SLM_SIZES_OFFSET + slot_offset);
}

void slm_page_map_start(void)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const uint32_t size = slm_class_size[class], smaller = class == 0 ? 0 : slm_class_size[class - 1];
        uint64_t *words = words_of(slm_slot_offset_of(class));
        slm_page_map_set_size(slm_slot_offset_of(class), size);
        words[2] = smaller;
        words[3] = size - smaller;
    }
}

void slm_page_map_seal(void)
{
    slm_vm_read_only(slm_range.heap + SLM_SIZES_OFFSET, slm_slot_offset_of(SLM_NAMED_FIRST));
}

void slm_page_map_set_size(unsigned slot_offset, uint32_t size)
{
    uint64_t *words = words_of(slot_offset);
    words[0] = slm_start_factor(size);
    words[1] = size;
}

void slm_page_map_set(size_t first, size_t count, unsigned slot_offset)
{
    uint32_t *map = (uint32_t *)(void *)(slm_area_start(slm_area_of_granule(first)) + SLM_MAP_OFFSET);
    const size_t inside = slm_granule_in_area(first);
    for (size_t granule = inside; granule < inside + count; granule++)
        __atomic_store_n(&map[granule], slot_offset, __ATOMIC_RELAXED);
}

size_t slm_page_map_slot_offset(const void *pointer)
{
    const size_t granule = slm_granule_of(pointer);
    if (unlikely(!slm_granule_valid(granule)))
        return 0;
    return slm_page_map_offset(slm_area_start(slm_area_of_granule(granule)), slm_granule_in_area(granule));
}
