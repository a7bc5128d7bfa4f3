/* Joining: before a class of malloc's makes a slab it looks for room in sparse slabs of smaller classes, for adjacent
 * free objects that together are one of its own (slab/joined.h). So memory that one range of sizes has left serves
 * another, and no object carries a header.
 *
 * A joined object is an object of its class in all but where it lies. It counts as out of its class's depot
 * (joined_out), and its pieces as lent by the slab's; all lies on one node. In a magazine it is a round as others
 * are; it comes apart when it goes home. Named caches neither lend nor borrow. */
#pragma once

#include "depot/partial.h"
#include "slab/joined.h"

/* A class's depot, from here on, so that others find it. Any order, any thread. */
void slm_join_register(struct slm_depot *depot, unsigned class);

/* Up to n joined objects of the depot's class, in any order; 0: there are none, or it was not worth a look. No lock
 * is held. */
unsigned slm_join_take(struct slm_depot *depot, void **rounds, unsigned n);

/* Put an object of a slab that may have joined ones back. `pend`: leave the relinking to others (depot/partial.h). */
void slm_join_give(struct slm_slab *slab, struct slm_depot *depot, void *object, const char *call, bool pend);
