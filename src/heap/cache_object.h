/* The hot paths of named caches: malloc's and free's (heap/alloc.h, heap/free.h), but that the place stands in the
 * name and need not be looked up, and that free compares it with the object's. */
#pragma once

#include "depot/cache_name.h"
#include "heap/heap.h"
#include "page/page_map.h"

/* The thread's magazine is empty, or the name has none of its own: that of a limited cache, or of zeroed objects. */
void *slm_object_alloc_slow(struct slab_cache *named);

/* The object is not known to be of this cache. */
void slm_object_free_slow(struct slab_cache *named, void *object);

slm_inline void *slm_object_alloc(struct slab_cache *named)
{
    size_t place = named->alloc_place;
    struct slm_thread *thread = slm_hot();
    void **top = slm_shared_load(&slm_slot_at(thread, place)->top);
    slm_forget(place);
    if (unlikely(top == slm_shared_load(&slm_slot_at(thread, place)->bottom)))
        return slm_object_alloc_slow(named);
    slm_forget(place);
    return slm_slot_pop(slm_slot_at(thread, place), top);
}

slm_inline void slm_object_free(struct slab_cache *named, void *object)
{
    const char *area = slm_tls.area;
    const size_t granule = slm_area_granule(area, object);
    if (unlikely(!slm_area_granule_valid(granule))) {
        slm_object_free_slow(named, object);
        return;
    }
    size_t place = slm_page_map(area)[granule];
    if (unlikely(place != named->free_place)) {
        slm_object_free_slow(named, object);
        return;
    }
    struct slm_thread *thread = slm_hot();
    void **top = slm_shared_load(&slm_slot_at(thread, place)->top);
    slm_forget(place);
    if (unlikely(top == slm_slot_at(thread, place)->limit)) {
        slm_free_slow(object, "slab_cache_free");
        return;
    }
    slm_forget(place);
    slm_slot_push(slm_slot_at(thread, place), top, object);
}

/* As slab_alloc_node, slab_cache_alloc_node, _alloc_nolock, _alloc_bulk, _free_bulk; but errno may change. */
void *slm_alloc_node(size_t n, int node);
void *slm_object_alloc_node(struct slab_cache *named, int node);
void *slm_object_alloc_nolock(struct slab_cache *named);
size_t slm_object_alloc_bulk(struct slab_cache *named, size_t n, void **out);
void slm_object_free_bulk(struct slab_cache *named, size_t n, void *const *objects);
