/* Fresh pages: those of a slab to which nobody has written. Objects are handed out the lowest address first, so in
 * a slab on clean memory they are its last pages. Where a cache grows, the pages of the rounds that were just taken
 * are populated by one call (page/populate.h), in steps:
 *
 *     | handed out before | these rounds | rest of the step | fresh: to be populated |
 *                         |------------- ahead -------------|
 *
 * `span.fresh` is 1 more than the first fresh page; 0 once all objects have been out, and in slabs on dirty memory.
 * A cache's first slabs have none: of most sizes a program needs few objects. Objects longer than a page may be
 * written in part, and have some only if slm_populate_expects_writes says so. Whoever holds the slab calls these, as
 * depot/partial.h has it. */
#pragma once

#include "page/populate.h"
#include "slab/slab.h"

void slm_fresh_start_slow(struct slm_slab *slab);

enum { SLM_FRESH_SLABS_BEFORE = 4 };

/* A slab was just made, when its cache had made so many. */
slm_inline void slm_fresh_start(struct slm_slab *slab, uint64_t slabs_before)
{
    if (slabs_before >= SLM_FRESH_SLABS_BEFORE && slab->span.state == SLM_SPAN_CLEAN)
        slm_fresh_start_slow(slab);
}

/* As slm_slab_take, from a slab that has fresh pages. */
unsigned slm_fresh_take(struct slm_slab *slab, unsigned n, void **rounds);

/* Free pages are about to be purged. */
void slm_fresh_end(struct slm_slab *slab);
