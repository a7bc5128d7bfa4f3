/* Magazines by themselves: making them, and handing on what is in them: each round to the depot of the node that it
 * lies on, so that a depot's stock is its node's. */
#pragma once

#include "depot/cache.h"

/* So few rounds are not worth a magazine in the stock. */
enum { SLM_MAGAZINE_SMALL = 6 };

/* An empty magazine for so many rounds at least; NULL and ENOMEM. NULL is nothing to free. */
struct slm_magazine *slm_magazine_make(uint32_t rounds);
void slm_magazine_free(struct slm_magazine *magazine);

/* The node whose depot a round belongs to. Areas are a power of two, and nodes may be fewer: memory from beyond is
 * taken where there is none elsewhere. */
slm_inline unsigned slm_magazine_home(const void *round)
{
    const unsigned node = slm_node_of(round);
    return node < slm_nodes ? node : 0;
}

/* Put a magazine with rounds, all of that node, into the stock of the node's depot while that holds no more than
 * `limit_rounds` (0: not at all), else its rounds into their slabs; *slot is an empty one or NULL then. Any thread.
 */
void slm_magazine_put(struct slm_cache *cache, unsigned node, struct slm_magazine **slot, uint64_t limit_rounds);

/* The same for rounds of any nodes: sorted, a batch a node, small ones of several into their slabs; and the magazine
 * freed, or an empty one that came back for it. Any thread. */
void slm_magazine_hand_on(struct slm_cache *cache, struct slm_magazine *magazine, uint64_t limit_rounds);
