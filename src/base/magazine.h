/* A magazine: a fixed array of object pointers, its rounds (Bonwick and Adams, "Magazines and Vmem", 2001).
 *
 *     next | count | capacity | cache | rounds[0] ... rounds[count - 1] ... rounds[capacity - 1] | one word more
 *
 * It carries its own count and capacity, so any thread can load any magazine. While it is loaded the thread's cursors
 * say how many rounds it has, and `count` says how many it may have; elsewhere `count` is that of its rounds. The
 * capacities 5, 13, 29, 61, 125 and 253 make the whole a power of two from 64 to 2048 bytes.
 *
 * A push into a loaded magazine compares with the word that it is going to overwrite (heap/free.h). So that word is
 * 0 where the magazine is full, and never 0 below: it is SLM_NO_ROUND, or a round that was popped. SLM_NO_ROUND is
 * above all addresses, and not above the least factor of page/page_map.h: what tells starts from other pointers. */
#pragma once

#include "base/bits.h"

struct slm_magazine {
    struct slm_magazine *next; /* in a depot's stock, or on a deferred-free queue */
    uint32_t count;
    uint16_t capacity;
    uint16_t cache_id; /* of the cache whose retired objects it last held, or a value below */
    void *rounds[];
};

#define SLM_MAGAZINE_ROUNDS_MAX 253
#define SLM_NO_ROUND ((void *)((uintptr_t)1 << 49))

/* Instead of a cache's id: ordinary rounds; and retired objects of several caches. */
enum { SLM_NOT_RETIRED = 0xffff, SLM_RETIRED_MIXED = 0xfffe };

static_assert(sizeof(struct slm_magazine) == 16, "two words before the rounds");

slm_inline size_t slm_magazine_bytes(uint32_t capacity)
{
    return sizeof(struct slm_magazine) + (capacity + 1) * sizeof(void *);
}

/* The least of the capacities above that is at least `rounds`, or the greatest. */
slm_inline uint32_t slm_magazine_capacity(uint32_t rounds)
{
    const uint32_t bytes = ((uint32_t)slm_min(rounds, SLM_MAGAZINE_ROUNDS_MAX) + 3) * 8;
    return bytes <= 64 ? 5 : (2u << slm_log2(bytes - 1)) / 8 - 3;
}
