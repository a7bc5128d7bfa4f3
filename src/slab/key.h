/* The key: what a free object has in its second word, so that a second free sees it at once (the idea is that of
 * glibc's tcache). The key is the start of the area that the object lies in, less 1. It costs the hot paths no load,
 * as they have it already; it differs from process to process; and no pointer to an object has its value. A live
 * object may have it by accident or by design, so that a match is only a reason to look (thread/freed.h).
 *
 * Allocation clears it before the object is handed out. An object in a magazine or in its slab has it if it was freed
 * there. One that was never handed out has it if its page is in use and it is in a magazine, or the next to come into
 * one; so has the rest of a slab behind its last object: what a program meets with that counts one too far. */
#pragma once

#include "page/area.h"

struct slm_freed_object {
    uintptr_t first, key;
} __attribute__((may_alias));

slm_inline uintptr_t slm_key_of_area(const char *area)
{
    return (uintptr_t)area - 1;
}

/* Any object of the heap. */
slm_inline uintptr_t slm_key_of(const void *object)
{
    return slm_key_of_area(slm_area_start(slm_area_of_granule(slm_granule_of(object))));
}

slm_inline bool slm_key_is_set(const void *object, uintptr_t key)
{
    return ((const struct slm_freed_object *)object)->key == key;
}

slm_inline void slm_key_set(void *object, uintptr_t key)
{
    ((struct slm_freed_object *)object)->key = key;
}

slm_inline void slm_key_clear(void *object)
{
    ((struct slm_freed_object *)object)->key = 0;
}

/* Copy n pointers to free objects, and clear the keys of these. */
slm_inline void slm_key_take(void **to, void *const *objects, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
#pragma GCC unroll 8
        for (size_t j = i; j < i + 8; j++)
            slm_key_clear(to[j] = objects[j]);
    for (; i < n; i++)
        slm_key_clear(to[i] = objects[i]);
}

/* The granule of a pointer, counted from the start of the key's area; above any limit if it does not lie there. (That
 * of its last byte is the next one. No object starts there.) */
slm_inline size_t slm_key_granule(uintptr_t key, const void *pointer)
{
    return ((uintptr_t)pointer - key) >> SLM_GRANULE_SHIFT;
}

/* The area's part of the page map. */
slm_inline const char *slm_key_area(uintptr_t key)
{
    return (const char *)(key + 1);
}
