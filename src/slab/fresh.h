/* Fresh pages: those of a slab to which nobody has written. Objects are handed out the lowest address first, so in
 * a slab on clean memory they are its last pages. Where the heap grows, the pages of the rounds that were just taken
 * are populated by one call (page/populate.h), in steps:
 *
 *     | handed out before | these rounds | rest of the step | fresh: to be populated |
 *                         |------------- ahead -------------|
 *
 * `span.fresh` is 1 more than the first fresh page; 0 once all objects have been out, and in slabs on dirty memory.
 * A cache's first slab has none in its first step: most sizes need few objects. Nor have objects longer than a page
 * any, as they may be written in part. Whoever holds the slab calls these, as depot/partial.h has it. */
#pragma once

#include "page/demand.h"
#include "page/populate.h"
#include "slab/slab.h"

void slm_fresh_start_slow(struct slm_slab *slab, uint64_t slabs_before);

/* A slab was just made, the first of its cache but for so many. */
slm_inline void slm_fresh_start(struct slm_slab *slab, uint64_t slabs_before)
{
    if (slab->span.state == SLM_SPAN_CLEAN && slm_demand_used() >= slm_populate_from)
        slm_fresh_start_slow(slab, slabs_before);
}

/* As slm_slab_take, from a slab that has fresh pages. */
unsigned slm_fresh_take(struct slm_slab *slab, unsigned n, void **rounds);

/* Free pages are about to be purged. */
void slm_fresh_end(struct slm_slab *slab);
