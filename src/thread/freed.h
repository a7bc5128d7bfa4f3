/* Is a pointer that a call was given the start of an object, and is the object live? The key of a free object
 * (slab/key.h) is the reason to look. The proof is where the object is found: in its slab, in the magazines or the
 * reserve of a thread, or in a depot's stock. Nothing is accused without it, whatever the object contains.
 *
 * Argument. The caller holds a pointer to an object that it says is live. If it is, then the pop that handed it out
 * came before the call, and nobody has pushed it since: no magazine shows it from then on. (Where stores of others
 * may be seen in another order than they were made, what was found is read again after a membarrier(2).) If it is
 * free, and was freed before the call, then it is found, unless it changes hands at that very moment: a thread in a
 * slow path is a reason to look again, a few times. So an alarm is never false; one may be missed in a race. */
#pragma once

#include "page/page_map.h"
#include "slab/key.h"
#include "thread/slots.h"

/* What is said of a free object, given to a call that frees it, or to one that uses it. */
extern const char slm_double_free[], slm_use_after_free[];

/* The cache of the small object at the pointer, which is live; NULL: no slab lies there. A pointer that is not the
 * start of an object ends the process, and so does a free object: `what` is said of it. Takes the locks of the list
 * of threads and of depots, if the key is there. Any thread, in a slow path or not. */
struct slm_cache *slm_freed_check(const void *pointer, const char *call, const char *what);

/* The page map's word for any pointer; objects of the thread's node are found soonest. */
slm_inline size_t slm_map_offset_at(const void *pointer)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, pointer);
    return likely(slm_area_granule_valid(granule)) ? slm_page_map_offset(slm_key_area(key), granule)
                                                   : slm_page_map_slot_offset(pointer);
}

/* Can be seen, without a look at its slab, that the pointer is a live object's? `factor`: of its cache, 0 if there is
 * none; `key`: of its area. */
slm_inline bool slm_looks_live(const void *pointer, uint64_t factor, uintptr_t key)
{
    return likely(factor * (uint16_t)(uintptr_t)pointer < factor) && likely(!slm_key_is_set(pointer, key));
}

/* The slot offset of the live object, or 0, where slm_freed_check gives its cache, or NULL. `word`: the
 * page map's. */
slm_inline size_t slm_freed_check_word(const void *pointer, size_t word, const char *call, const char *what)
{
    if (slm_looks_live(pointer, slm_page_map_start_factor(word), slm_key_of(pointer)) &&
        likely((uint16_t)(uintptr_t)pointer + slm_page_map_size(word) <= SLM_GRANULE))
        return word;
    const struct slm_cache *cache = slm_freed_check(pointer, call, what);
    return cache ? cache->shape.slot_offset : 0;
}

slm_inline size_t slm_freed_check_offset(const void *pointer, const char *call, const char *what)
{
    return slm_freed_check_word(pointer, slm_map_offset_at(pointer), call, what);
}

/* The same, without a lock: what the calling thread has and slabs have is found, what others have is not. True:
 * the key is there, and nothing was found: the object may be free in another thread or depot. */
bool slm_freed_check_nolock(const struct slm_slab *slab, const void *object, const char *call);

/* For objects without a key, which are looked for among those that the thread has freed last. */
enum { SLM_FREED_LAST = 4 };

/* Is it in its slab, or was it freed into the slot as one of the last? A taker may raise `bottom` meanwhile: what the
 * caller holds is not among the rounds that it takes. */
slm_inline bool slm_freed_is_last(const struct slm_slab *slab, const struct slm_slot *slot, const void *object)
{
    void *const *const top = slm_shared_load(&slot->top);
    const size_t rounds = (size_t)(top - slm_shared_load(&slot->bottom));
    const size_t n = rounds <= SLM_MAGAZINE_ROUNDS_MAX ? slm_min(rounds, SLM_FREED_LAST) : 0;
    for (size_t i = 1; i <= n; i++)
        if (top[-(ptrdiff_t)i] == object)
            return true;
    return slm_slab_has(slab, object);
}

/* The same in the previous magazine: a loaded one with few rounds may just have been exchanged for it. It may be
 * taken meanwhile, and what is found says little then. */
bool slm_freed_is_in_previous(const struct slm_slot *slot, const void *object);

/* Both. */
slm_inline bool slm_freed_seems_free(const struct slm_slab *slab, const struct slm_slot *slot, const void *object)
{
    const ptrdiff_t loaded = slm_shared_load(&slot->top) - slm_shared_load(&slot->bottom);
    return slm_freed_is_last(slab, slot, object) ||
           (loaded < SLM_FREED_LAST && slm_freed_is_in_previous(slot, object));
}

/* Retired objects of one cache have outlived their grace period: check them, and set their keys. */
void slm_freed_ripen(struct slm_cache *cache, void *const *objects, size_t n);
