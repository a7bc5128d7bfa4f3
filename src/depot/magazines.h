/* Magazines by themselves: making them, and handing on their rounds, each to the depot of the node where it lies, so
 * that a depot's stock is its node's. */
#pragma once

#include <string.h>

#include "depot/cache.h"

/* This many rounds are not worth a magazine in the stock. */
enum { SLM_MAGAZINE_SMALL = 5 };

/* An empty magazine for that many rounds; NULL and ENOMEM. Freeing NULL does nothing. */
struct slm_magazine *slm_magazine_make(uint32_t rounds);
void slm_magazine_free(struct slm_magazine *magazine);

/* A magazine is no longer used by cursors: move its rounds to the start of its array, and count them. */
slm_inline void slm_magazine_unload(struct slm_magazine *magazine, void *const *bottom, void *const *top)
{
    magazine->count = (uint32_t)(top - bottom);
    if (unlikely(bottom != magazine->rounds))
        memmove(magazine->rounds, bottom, magazine->count * sizeof(void *));
}

/* The node whose depot a round belongs to. The number of areas is a power of two, and nodes may be fewer: memory from
 * the extra areas is used when there is none elsewhere. */
slm_inline unsigned slm_magazine_home(const void *round)
{
    const unsigned node = slm_node_of(round);
    return node < slm_nodes ? node : 0;
}

/* Stop the process in the name of `call` unless each round is the start of an object of the cache, and none is there
 * twice. `node`: where most of them lie. Any thread. */
void slm_magazine_check(const struct slm_cache *cache, const struct slm_magazine *magazine, unsigned node,
                        const char *call);

/* Put a magazine with rounds, all of that node, into the stock of the node's depot if this then holds at most
 * `limit_rounds` (0: never), else its rounds into their slabs. *magazine becomes an empty one or NULL. Any thread. */
void slm_magazine_put(struct slm_cache *cache, unsigned node, struct slm_magazine **magazine, uint64_t limit_rounds);

/* The same for rounds of any nodes, sorted into a batch for each node; if there are several, small ones go into their
 * slabs. The magazine, or the empty one that it was exchanged for, is freed. Any thread. */
void slm_magazine_hand_on(struct slm_cache *cache, struct slm_magazine *magazine, uint64_t limit_rounds);
