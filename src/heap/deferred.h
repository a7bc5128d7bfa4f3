/* The hot path of slab_free_deferred. It is that of free (heap/free.h), except that the object goes into the retired
 * magazine of its cache, which is open while top is below limit. Another node's objects go there too, by a longer
 * way: rounds are sorted by node when they are ripe. */
#pragma once

#include "deferred/retire.h"
#include "heap/slow.h"
#include "page/page_map.h"

/* The magazine is full or not open, or the pointer is another node's, large, NULL or not ours. `head`, if not NULL,
 * lies in the object and is the library's from now on; then the call does not wait. Keeps errno. */
void slm_defer_slow(void *pointer, struct slm_epoch_head *head);

/* False: the magazine is full, or not open. */
slm_inline bool slm_defer_push(struct slm_retired_slot *slot, void *pointer)
{
    void **top = slm_shared_load(&slot->top);
    if (unlikely(top >= slm_shared_load(&slot->limit)))
        return false;
    *top = pointer;
    /* pairs with take_slot (deferred/retire.c): who sees the new top sees the object, and that it is unreachable */
    __atomic_store_n(&slot->top, top + 1, __ATOMIC_RELEASE);
    return true;
}

slm_inline void slm_defer(void *pointer, struct slm_epoch_head *head)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, pointer);
    if (unlikely(!slm_area_granule_valid(granule))) {
        slm_defer_slow(pointer, head);
        return;
    }
    const size_t slot_offset = slm_page_map_offset(slm_key_area(key), granule);
    struct slm_slot *slot = slm_hot_slot(slot_offset);
    const uint64_t factor = slot->start_factor; /* see open_slot (deferred/retire.c) */
    if (unlikely(!slm_looks_live(pointer, factor, key)) ||
        unlikely(!slm_defer_push(slm_retired_slot_beside(slot), pointer)))
        slm_defer_slow(pointer, head);
}

/* As slab_epoch_poll, slab_epoch_barrier and slab_epoch_call. */
bool slm_deferred_poll(void);
void slm_deferred_barrier(void);
void slm_deferred_call(struct slm_epoch_head *head, void (*function)(struct slm_epoch_head *head));

/* The part of a barrier that is about objects: free everything that has been retired. Threads in the middle of a slow
 * path are tried again, `attempts` times at most. Not inside a section, nor with a lock held that a thread inside one
 * may want. */
void slm_deferred_free_all(unsigned attempts);
