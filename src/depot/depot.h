/* Depots: a NUMA node's stock of one cache. Full magazines change hands whole, by one lock and one pointer each;
 * below them are the partial slabs. The fullest is used first, so that sparse ones can become vacant. */
#pragma once

#include "depot/partial.h"

/* Granules of which depots have made slabs, all together, modulo 2^32. */
extern slm_hidden _Atomic uint32_t slm_depot_granules_made;

/* Is the object in a magazine of the stock? */
bool slm_depot_stock_has(struct slm_depot *depot, const void *object);

/* Exchange an empty magazine (or NULL) for one with rounds. False: the stock is empty, and *magazine is unchanged. */
bool slm_depot_get(struct slm_depot *depot, struct slm_magazine **magazine);

/* Exchange a magazine with rounds for an empty one (or NULL). `depot` is the calling thread's shard (depot/shards.h);
 * other calls find that themselves. False: the stock would exceed `limit_rounds`, or its share of it where there are
 * several, and *magazine is unchanged. */
bool slm_depot_put(struct slm_depot *depot, struct slm_magazine **magazine, uint64_t limit_rounds);

/* Take up to n objects from partial slabs, else from a new one: the lowest address last, as a stack hands it out
 * first. Returns how many; 0 and ENOMEM when the kernel has no more, EDQUOT when the cache's limit is met. If objects
 * have a constructor no slab is made: 0 and EAGAIN ask for slm_depot_grow. No lock is held while slabs are read. */
unsigned slm_depot_fill(struct slm_depot *depot, void **rounds, unsigned n);

/* Take n objects whose pages are clean, out of a slab that is kept apart for that: *aside, NULL at first. It is made
 * of the row's next span (slm_span_next_of_row), if there is one. Fewer without memory. No key is set. n = 0 puts it
 * back if it is vacant. One caller at a time; malloc's caches only. In a child of fork *aside is no longer apart, and
 * must be NULL. */
unsigned slm_depot_fill_clean(struct slm_depot *depot, struct slm_slab **aside, struct slm_span **row, void **rounds,
                              unsigned n);

/* Put objects back into their slabs, whatever their node and cache. A pointer that is no object ends the process in
 * the name of `call`. */
void slm_depot_give(void *const *rounds, unsigned n, const char *call);

/* Make a slab, construct its objects, and list it; false: there is no memory (ENOMEM), or the caller is a constructor
 * of this very cache's objects (EDEADLK). No lock is held, and the thread's block is not claimed: the constructor may
 * call anything. */
bool slm_depot_grow(struct slm_depot *depot);

/* Is the calling thread inside a constructor of the cache's objects? */
bool slm_depot_is_constructing(const struct slm_depot *depot);

/* Put one object back into its slab without a lock, also in signal handlers; false: it is no small object.
 * The slab may be left pending (depot/partial.h). */
bool slm_depot_give_nolock(void *object, const char *call);

/* Has nothing come or gone between the last three looks, nor since? `next`: this is the last of them. What comes to
 * slabs out of the stock and of parked threads does not count. Under the cache mutex. */
bool slm_depot_is_still(struct slm_depot *depot, bool next);

/* Give the rounds of surplus magazines (those not needed since the last trim, or all) back to their slabs, all empty
 * magazines back to metadata, and a vacant slab that was there at the last trim too (or any) to the spans. True if
 * there was anything to trim. */
bool slm_depot_trim(struct slm_depot *depot, bool all);

/* All of that, unless a magazine of the stock or objects of slabs were wanted since the last call. */
void slm_depot_trim_idle(struct slm_depot *depot);
