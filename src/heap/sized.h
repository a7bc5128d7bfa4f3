/* Frees that say how many bytes were requested: C++'s sized delete, C23's free_sized. Their hot path is free's with
 * one comparison more: the granule's slot word with that of the size, which malloc has just loaded from its table.
 * The object's start has the alignment that was asked for then, as the class's size is a multiple of it. All else is
 * for the slow halves in preload/, which ask here whether the size is wrong. */
#pragma once

#include "heap/free.h"

/* False: the slow half decides. */
slm_inline bool slm_push_sized(void *pointer, size_t n)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, pointer);
    if (unlikely(n > SLM_TABLE_MAX) || unlikely(!slm_area_granule_valid(granule)))
        return false;
    const size_t slot_word = slm_page_map(slm_key_area(key))[granule];
    return likely(slot_word == slm_size_slot_word[n]) && likely(slm_push_keyed(slot_word, key, pointer));
}

/* Rounded up to a multiple of the alignment, the request ends with the byte `last`. Nothing wraps. */
slm_inline bool slm_push_sized_aligned(void *pointer, size_t n, size_t alignment)
{
    const size_t last = (n - 1) | (alignment - 1);
    return likely(last < SLM_TABLE_MAX) && slm_push_sized(pointer, last + 1);
}

/* Is the live object at the pointer one that a request of n bytes gets? An object of a named cache may be larger.
 * True for pointers that free will refuse; some end the process here, in the name of `call`. Keeps errno. */
bool slm_sized_exactly(const void *pointer, size_t n, size_t alignment, const char *call);

/* The same, but the object may be larger, as after a realloc. */
bool slm_sized_within(const void *pointer, size_t n, size_t alignment, const char *call);

/* End the process: a size, or an alignment, that is not the object's. */
_Noreturn void slm_sized_refuse(const void *pointer, size_t n, size_t alignment, const char *call);
