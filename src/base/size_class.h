/* Size classes: every 16 bytes up to 256, then eight for each doubling, up to 32 KiB. So above 128 bytes rounding
 * loses at most an eighth. Three more are where programs ask for very many objects (docs/bench.md): *
 *
 *     16 32 48 ... 256 | 272* 288 320 ... 384 400* 416 ... 512 | 576 608* 640 ... 1024 | ... | 18432 20480 ... 32768
 *
 * A cache has an id; a size class's is its class, named caches (depot/cache.h) have higher ones. An id has a
 * slot offset: where the cache's slot begins in a thread's block (thread/slots.h), in bytes. The tables that the hot
 * paths read hold slot offsets.
 *
 *     slot     0    | 1 ... 75     | 76 ... 85             | 86 ... 10921
 *              none | size classes | the thread's own part | named caches
 *
 * Slot 0 belongs to no cache: its magazine is always both empty and full. The page map has its offset, 0, for
 * everything that is not a small object, so that each call there takes the slow path. */
#pragma once

#include "base/bits.h"

enum {
    SLM_CLASSES = 75,
    SLM_CLASSES_IN_TABLE = 35,     /* of requests that the table has */
    SLM_SMALL_MAX = 32768,         /* larger requests get spans of their own */
    SLM_TABLE_MAX = 1024,          /* up to here one load finds the slot offset */
    SLM_SLOT_SIZE = 48,            /* bytes */
    SLM_SLOTS = 10922,             /* 512 KiB of them */
    SLM_CACHE_IDS = SLM_SLOTS - 1, /* ids are less */
    SLM_NAMED_FIRST = 85,          /* the lowest id of a named cache */
};

extern slm_hidden const uint16_t slm_size_slot_offset[SLM_TABLE_MAX + 1];
extern slm_hidden const uint16_t slm_class_size[SLM_CLASSES]; /* in bytes */

slm_inline unsigned slm_cache_id_of(size_t slot_offset)
{
    return (unsigned)slot_offset / SLM_SLOT_SIZE - 1;
}

slm_inline unsigned slm_slot_offset_of(unsigned cache_id)
{
    return (cache_id + 1) * SLM_SLOT_SIZE;
}

/* The class of a request of n bytes, n above SLM_TABLE_MAX and at most SLM_SMALL_MAX. */
slm_inline unsigned slm_class_above_table(size_t n)
{
    const unsigned doubling = slm_log2(n - 1); /* 10 for 1025 to 2048 */
    return SLM_CLASSES_IN_TABLE + (doubling - 10) * 8 + (unsigned)((n - 1) >> (doubling - 3)) - 8;
}

/* The class of a request of n bytes, n at most SLM_SMALL_MAX; 0 bytes count as 1. */
slm_inline unsigned slm_class_of_size(size_t n)
{
    return n > SLM_TABLE_MAX ? slm_class_above_table(n) : slm_cache_id_of(slm_size_slot_offset[n]);
}

/* The size that may stand in for a class's, as long as that is young (heap/slow.c): the next power of two up to 2048.
 * It divides a page, so its objects are aligned as those of the class. */
slm_inline uint32_t slm_class_larger(uint32_t size)
{
    return size <= 32 || size > 2048 ? size : 2u << slm_log2(size - 1);
}

/* The size to request so that objects of n bytes (at most PTRDIFF_MAX), cut from a slab's start, are aligned to
 * `align` (a power of two): n rounded up to a multiple of it. The size of its class is a multiple too: sizes are
 * multiples of the step that leads to them, a power of two. (The three more are half a step, and the next size is the
 * end of it.) If `align` divides the step, it divides the size; else the step divides `align`, and the rounded n is a
 * size itself. */
slm_inline size_t slm_size_of_aligned(size_t n, size_t align)
{
    return slm_align_up(slm_max(n, 1), align);
}
