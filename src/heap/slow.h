/* The slow halves of malloc and free, to which the hot paths in alloc.h and free.h fall back. They keep errno, except
 * that NULL comes with ENOMEM. Any thread. */
#pragma once

#include "heap/sampled.h"
#include "thread/freed.h"
#include "thread/thread_cache.h"

/* n bytes, at most SLM_SMALL_MAX: their class's magazine is empty, or the thread has none. */
slm_slow void *slm_alloc_slow(size_t n);

/* As slm_alloc of n bytes, at most SLM_SMALL_MAX, after slm_sample_due has said yes. */
slm_slow void *slm_alloc_due_slow(size_t n);

/* Over SLM_TABLE_MAX bytes: a size class up to SLM_SMALL_MAX, else a span. */
void *slm_alloc_medium(size_t n);

/* Was the object, which is of a larger class, lent to a request of that class? Not a second time. */
bool slm_take_back_lent(const void *object, unsigned class);

/* What a magazine of n's class had, or NULL. If it reaches beyond its granule, then a hot free has taken what lies
 * behind a slab's last object for one more: that ends the process. */
slm_slow void *slm_alloc_check_slow(void *object);
slm_inline void *slm_alloc_check(void *object, size_t n)
{
    return likely((uint16_t)(uintptr_t)object + n <= SLM_GRANULE) ? object : slm_alloc_check_slow(object);
}

/* A span of its own on a multiple of `alignment`, on that node (-1: where its pages are touched first). `*clean` (it
 * may be NULL): the object reads as zero. */
slm_slow void *slm_alloc_large_slow(size_t n, size_t alignment, int node, bool *clean);

/* The magazine is full, or the object is one of those that hot paths leave alone, or free already, or the pointer is
 * NULL or no object's; `call` is the name for a misuse's report. */
slm_slow void slm_free_slow(void *pointer, const char *call);

/* The size of any object, 0 for NULL; other pointers end the process. */
size_t slm_usable_slow(const void *pointer);

/* As slab_free_nolock. */
void slm_free_nolock(void *pointer);

/* An object for a thread that has no block to work on; NULL and errno as slm_depot_fill. Or free a small one. errno
 * may change. */
void *slm_alloc_direct(struct slm_cache *cache);
void slm_free_direct(void *object, const char *call);

/* End the process: `call` cannot be meant for this pointer. */
_Noreturn void slm_refuse(const void *pointer, const char *call);

/* An object from the magazine that begins at that slot offset; NULL: it is empty. */
slm_inline void *slm_pop_keyed(size_t slot_offset)
{
    struct slm_slot *slot = slm_hot_slot(slot_offset);
    void **top = slm_shared_load(&slot->top);
    if (unlikely(top == slm_shared_load(&slot->bottom)))
        return NULL;
    void *object = slm_slot_pop(slot, top);
    slm_key_clear(object);
    return object;
}
