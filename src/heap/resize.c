/* Zeroed, aligned and resized objects; see resize.h. */
#include "heap/resize.h"

#include <string.h>

#include "base/errno.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap/guarded.h"
#include "page/charge.h"
#include "page/free_spans.h"
#include "process/give_back.h"
#include "process/worker.h"
#include "slab/large.h"
#include "thread/freed.h"

static slm_slow void *zeroed_large(size_t n)
{
    bool clean;
    void *object = slm_alloc_large_slow(n, 1, -1, &clean);
    if (!object || clean)
        return object;
    return likely(slm_large_of(object) != NULL) ? slm_large_clear(object) : memset(object, 0, n);
}

/* What the thread's magazines of the table's sizes do not have, or what is `due` to be sampled. */
static __attribute__((noinline)) void *zeroed_slow(size_t n, bool due)
{
    void *object;
    if (n > SLM_SMALL_MAX)
        return zeroed_large(n);
    if (due)
        object = slm_alloc_due_slow(n);
    else
        object = n > SLM_TABLE_MAX ? slm_alloc_medium(n) : slm_alloc_slow(n);
    const struct slm_cache *cache = likely(object != NULL) ? slm_cache_of_object(object) : NULL;
    return likely(object != NULL) ? memset(object, 0, cache ? cache->shape.object_size : slm_usable_slow(object))
                                  : NULL;
}

/* All that malloc_usable_size grants is zero: programs grow into it. */
void *slm_zeroed_alloc(size_t count, size_t size)
{
    size_t n;
    if (unlikely(__builtin_mul_overflow(count, size, &n)))
        n = SIZE_MAX; /* too large in any case */
    if (likely(n <= SLM_TABLE_MAX)) {
        if (slm_sample_due(n))
            return zeroed_slow(n, true);
        const size_t slot_offset = slm_size_slot_offset[n];
        void *object = slm_pop_keyed(slot_offset);
        if (likely(object != NULL))
            return memset(object, 0, slm_page_map_size(slot_offset));
    }
    return zeroed_slow(n, false);
}

void *slm_aligned_alloc(size_t alignment, size_t n)
{
    if (unlikely(n > (size_t)PTRDIFF_MAX)) {
        errno = ENOMEM;
        return NULL;
    }
    const size_t rounded = slm_size_of_aligned(n, alignment);
    if (rounded > SLM_SMALL_MAX)
        return slm_alloc_large_slow(n, alignment, -1, NULL);
    void *object = slm_alloc(rounded);
    if (object && unlikely(slm_map_offset_at(object) == 0))
        slm_sampled_resize(object, n); /* which is what was asked for */
    return object;
}

/* Where there is no memory for a smaller copy, the object stays: shrinking does not fail. */
static void *resize_by_copy(void *pointer, size_t old, size_t n)
{
    const int kept = errno;
    void *moved = slm_alloc(n);
    if (unlikely(!moved) && n > old)
        return NULL;
    if (unlikely(!moved)) {
        errno = kept;
        return pointer;
    }
    memcpy(moved, pointer, slm_min(old, n));
    slm_free(pointer);
    struct slm_large *large = n > SLM_SMALL_MAX ? slm_large_of(moved) : NULL;
    if (large)
        large->grown = n > old;
    return moved;
}

/* Where there is no room for a copy below the limit, there may be for the growth. */
static __attribute__((noinline)) slm_seldom void *grow_below_limit(struct slm_large *large, size_t n)
{
    return slm_charge_has_limit() && n <= (size_t)PTRDIFF_MAX && slm_give_back_for(n - large->usable)
               ? slm_large_resize(large, n)
               : NULL;
}

/* With another size it needs another place. */
static slm_for_few __attribute__((noinline)) void *resize_guarded(void *pointer, size_t n)
{
    const size_t usable = slm_guarded_usable(pointer, "realloc", slm_use_after_free);
    if (usable == 0)
        slm_refuse(pointer, "realloc");
    return n == usable ? pointer : resize_by_copy(pointer, usable, n);
}

static slm_for_few __attribute__((noinline)) void *resize_large(void *pointer, size_t n)
{
    struct slm_large *large = slm_large_of(pointer);
    if (!large)
        return resize_guarded(pointer, n);
    if (slm_large_is_retired(large))
        slm_refuse(pointer, "realloc");
    const int kept = errno;
    void *resized = NULL;
    slm_fork_check();
    if (n > SLM_SMALL_MAX && n <= (size_t)PTRDIFF_MAX)
        resized = slm_large_resize(large, n);
    if (!resized)
        resized = resize_by_copy(pointer, large->usable, n);
    if (unlikely(!resized))
        resized = grow_below_limit(large, n);
    if (resized == pointer && n <= SLM_SMALL_MAX) /* no memory for a small copy: give back the rest */
        slm_large_resize(large, n);
    if (resized) {
        if (slm_large_of(resized))
            slm_sampled_resize_large(resized, n);
        slm_worker_note_slabs(); /* the pages that a smaller one no longer needs */
        errno = kept;
    }
    return resized;
}

/* What grows to just over its size is likely to grow in small steps: it skips classes. */
slm_inline size_t with_headroom(size_t old, size_t n)
{
    if (n <= old || n - old > old / 16 || slm_span_scarce())
        return n;
    return n + (n / 4);
}

static __attribute__((noinline)) void *resize_with_headroom(void *pointer, size_t old, size_t n, size_t roomy)
{
    void *moved = resize_by_copy(pointer, old, roomy);
    if (moved && slm_map_offset_at(moved) == 0)
        slm_sampled_resize(moved, n);
    return moved;
}

/* A small object stays where it is while at least half of it is used. */
slm_inline bool stays(size_t size, size_t n)
{
    return n <= size && (n > size / 2 || size <= 64);
}

/* What is not in the page map may be sampled. */
static slm_sampling __attribute__((noinline)) void *resize_unmapped(void *pointer, size_t size, size_t n)
{
    const size_t own = slm_sampled_size(pointer, size);
    if (stays(own, n))
        slm_sampled_resize(pointer, n);
    else if (n == size) /* what its owner was told is not to move it */
        slm_sampled_stay(pointer, n);
    else
        return resize_with_headroom(pointer, size, n, with_headroom(own, n));
    return pointer;
}

void *slm_resize(void *pointer, size_t n)
{
    if (unlikely(!pointer))
        return slm_alloc(n);
    if (unlikely(n == 0)) {
        slm_free_slow(pointer, "realloc");
        return NULL;
    }
    const size_t word = slm_map_offset_at(pointer);
    const size_t slot_offset = slm_freed_check_word(pointer, word, "realloc", slm_use_after_free);
    if (unlikely(slot_offset == 0))
        return resize_large(pointer, n);
    const size_t size = slm_page_map_size(slot_offset);
    if (unlikely(word == 0))
        return resize_unmapped(pointer, size, n);
    if (stays(size, n))
        return pointer;
    const size_t roomy = with_headroom(size, n);
    return likely(roomy == n) ? resize_by_copy(pointer, size, n) : resize_with_headroom(pointer, size, n, roomy);
}
