/* Frees that say how many bytes were requested: C++'s sized delete, C23's free_sized. Their hot path is free's with
 * one comparison more: is the object's class the one for that size? Then its start has the alignment that was asked
 * for, too, as the class's size is a multiple of it. All else is for the slow halves in preload/, which ask here
 * whether the size is wrong. */
#pragma once

#include "heap/free.h"

/* A request for `last` + 1 bytes. False: the slow half decides. */
slm_inline bool slm_push_up_to(void *pointer, size_t last)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, pointer);
    if (unlikely(!slm_area_granule_valid(granule)))
        return false;
    size_t slot_offset = slm_page_map_offset(slm_key_area(key), granule);
    if (unlikely(!slm_page_map_is_for(slot_offset, last)))
        return false;
    slm_hide_value(slot_offset);
    return likely(slm_push_keyed(slot_offset, key, pointer));
}

/* Requests for nothing wrap, and are slow. */
slm_inline bool slm_push_sized(void *pointer, size_t n)
{
    return slm_push_up_to(pointer, n - 1);
}

/* That is n rounded up to a multiple of the alignment. */
slm_inline bool slm_push_sized_aligned(void *pointer, size_t n, size_t alignment)
{
    return slm_push_up_to(pointer, (n - 1) | (alignment - 1));
}

/* Is the live object at the pointer one that a request of n bytes gets? An object of a named cache may be larger.
 * True for pointers that free will refuse; some end the process here, in the name of `call`. Keeps errno. */
bool slm_sized_exactly(const void *pointer, size_t n, size_t alignment, const char *call);

/* The same, but the object may be larger, as after a realloc. */
bool slm_sized_within(const void *pointer, size_t n, size_t alignment, const char *call);

/* End the process: a size, or an alignment, that is not the object's. */
_Noreturn void slm_sized_refuse(const void *pointer, size_t n, size_t alignment, const char *call);
