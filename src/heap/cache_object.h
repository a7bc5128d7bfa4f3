/* The hot paths of named caches: malloc's and free's (heap/alloc.h, heap/free.h), but that the place stands in the
 * name and need not be looked up, and that free compares it with the object's. */
#pragma once

#include "depot/cache_name.h"
#include "heap/slow.h"
#include "page/page_map.h"

/* The thread's magazine is empty, or the name is one of zeroed objects. */
void *slm_cache_object_alloc_slow(struct slab_cache *named);

/* The object is not known to be of this cache. */
void slm_cache_object_free_slow(struct slab_cache *named, void *object);

/* The magazine is full. */
void slm_cache_object_free_full_slow(struct slab_cache *named, void *object);

/* A pop with a mark that tells a taker of it; false: the magazine is empty. Limited caches need it: without the mark a
 * taker could not tell a thread that stands still in the middle of a pop from one that merely holds a free object, and
 * would have to leave that: a call would be refused at the limit too early (thread/ownership.h). */
slm_inline bool slm_pop_marked(size_t slot_word, void **round)
{
    store_relaxed(&slm_tls.popping, 1);
    signal_fence(); /* pairs with the barrier of slm_take_from_all */
    struct slm_thread *thread = slm_hot();
    void **top = slm_shared_load(&slm_slot_at(thread, slot_word)->top);
    slm_hide_value(slot_word);
    const bool any = top != slm_shared_load(&slm_slot_at(thread, slot_word)->bottom);
    if (likely(any)) {
        slm_hide_value(slot_word);
        *round = slm_slot_pop(slm_slot_at(thread, slot_word), top);
    }
    store_release(&slm_tls.popping, 0); /* pairs with take_loaded (thread/gather.c) */
    return any;
}

slm_inline void *slm_cache_object_alloc(struct slab_cache *named)
{
    void *round;
    size_t slot_word = named->alloc_slot_word;
    struct slm_thread *thread = slm_hot();
    void **top = slm_shared_load(&slm_slot_at(thread, slot_word)->top);
    slm_hide_value(slot_word);
    if (unlikely(top == slm_shared_load(&slm_slot_at(thread, slot_word)->bottom)))
        return slm_pop_marked(named->marked_slot_word, &round) ? round : slm_cache_object_alloc_slow(named);
    slm_hide_value(slot_word);
    return slm_slot_pop(slm_slot_at(thread, slot_word), top);
}

slm_inline void slm_cache_object_free(struct slab_cache *named, void *object)
{
    const char *area = slm_tls.area;
    const size_t granule = slm_area_granule(area, object);
    if (unlikely(!slm_area_granule_valid(granule))) {
        slm_cache_object_free_slow(named, object);
        return;
    }
    size_t slot_word = slm_page_map(area)[granule];
    if (unlikely(slot_word != named->free_slot_word)) {
        slm_cache_object_free_slow(named, object);
        return;
    }
    struct slm_thread *thread = slm_hot();
    void **top = slm_shared_load(&slm_slot_at(thread, slot_word)->top);
    slm_hide_value(slot_word);
    if (unlikely(top == slm_slot_at(thread, slot_word)->limit)) {
        slm_cache_object_free_full_slow(named, object);
        return;
    }
    slm_hide_value(slot_word);
    slm_slot_push(slm_slot_at(thread, slot_word), top, object);
}

/* As slab_alloc_node, slab_cache_alloc_node, _alloc_nolock, _alloc_bulk, _free_bulk; but errno may change. */
void *slm_alloc_node(size_t n, int node);
void *slm_cache_object_alloc_node(struct slab_cache *named, int node);
void *slm_cache_object_alloc_nolock(struct slab_cache *named);
size_t slm_cache_object_alloc_bulk(struct slab_cache *named, size_t n, void **out);
void slm_cache_object_free_bulk(struct slab_cache *named, size_t n, void *const *objects);
