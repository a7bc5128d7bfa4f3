/* The hot paths of named caches. They are those of malloc and free (heap/alloc.h, heap/free.h), except that the slot
 * word is in the name and need not be looked up, and that free compares it with the object's. */
#pragma once

#include "depot/cache_name.h"
#include "heap/free.h"

/* The thread's magazine is empty, or objects are to be zeroed. Keeps errno, except that NULL comes with ENOMEM, or
 * with EDEADLK inside a constructor of the cache's own. */
void *slm_cache_object_alloc_slow(struct slab_cache *named);

/* The same, after slm_sample_due has said yes. */
void *slm_cache_object_alloc_due_slow(struct slab_cache *named);

/* The magazine is full, or the object is not known to be of this cache. Keeps errno. */
void slm_cache_object_free_slow(struct slab_cache *named, void *object);

/* A marked pop, for limited caches; false: the magazine is empty. The mark tells takers that a pop is under way.
 * Without it a taker would have to leave a free object to each thread, which might be in the middle of popping it,
 * and a call would be refused at the limit too early (thread/ownership.h). The count tells whoever finds the magazine
 * empty twice that no round was in it in between (thread/gather.c). */
slm_inline bool slm_pop_marked(size_t slot_offset, void **round)
{
    store_relaxed(&slm_tls.popping, 1);
    signal_fence(); /* pairs with the barrier of slm_take_from_all */
    struct slm_thread *thread = slm_hot();
    struct slm_slot *slot = slm_slot_at(thread, slot_offset);
    void **top = slm_shared_load(&slot->top);
    const bool any = top != slm_shared_load(&slot->bottom);
    if (likely(any)) {
        thread->marked_pops++;
        signal_fence(); /* the count, then the top */
        *round = slm_slot_pop(slot, top);
    }
    store_release(&slm_tls.popping, 0); /* pairs with take_loaded (thread/gather.c) */
    return any;
}

/* Of a cache with a limit, or whose objects are not keyed: they are left as they were freed. */
slm_inline void *slm_cache_object_alloc_marked(struct slab_cache *named)
{
    void *object;
    if (unlikely(!slm_pop_marked(named->marked_slot_offset, &object)))
        return slm_cache_object_alloc_slow(named);
    if (named->keyed)
        slm_key_clear(object);
    return object;
}

slm_inline void *slm_cache_object_alloc(struct slab_cache *named)
{
    if (slm_sample_due(named->size))
        return slm_cache_object_alloc_due_slow(named);
    void *object = slm_pop_keyed(named->alloc_slot_offset);
    return likely(object != NULL) ? object : slm_cache_object_alloc_marked(named);
}

slm_inline void slm_cache_object_free(struct slab_cache *named, void *object)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, object);
    if (likely(slm_area_granule_valid(granule))) {
        const size_t slot_offset = slm_page_map_offset(slm_key_area(key), granule);
        if (likely(slot_offset == named->free_slot_offset) && likely(slm_push_keyed(slot_offset, key, object)))
            return;
    }
    slm_hide_value(named); /* else it is moved away and back, at an instruction */
    slm_cache_object_free_slow(named, object);
}

/* As slab_alloc_node, slab_cache_alloc_node, _alloc_nolock, _alloc_bulk, and _free_bulk, which may change errno. */
void *slm_alloc_node(size_t n, int node);
void *slm_cache_object_alloc_node(struct slab_cache *named, int node);
void *slm_cache_object_alloc_nolock(struct slab_cache *named);
size_t slm_cache_object_alloc_bulk(struct slab_cache *named, size_t n, void **out);
void slm_cache_object_free_bulk(struct slab_cache *named, size_t n, void *const *objects);
