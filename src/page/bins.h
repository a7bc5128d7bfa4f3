/* Free spans of one state in bins by length: one bin for each length up to 32 granules, then four for each doubling;
 * the last bin takes all longer ones. A bit for each bin says whether it has any span; an empty bin's list is not
 * initialised, so clearing the bits forgets all spans. Guarded by the area's lock. */
#pragma once

#include "page/span.h"

enum { SLM_BINS_EXACT = 32, SLM_BINS = 64 };

struct slm_bins {
    uint64_t occupied;
    struct slm_list bin[SLM_BINS];
};

void slm_bins_add(struct slm_bins *bins, struct slm_span *span);
void slm_bins_remove(struct slm_bins *bins, struct slm_span *span);

/* A span of at least that many granules: the shortest that a bounded search finds, and the lowest of those, so that
 * spans at high addresses stay free and can be purged. NULL if there is none. */
struct slm_span *slm_bins_find(const struct slm_bins *bins, size_t granules);

/* The longest span that a bounded search finds and for which `visit` returns true; it has `least` granules or more.
 * NULL if there is none. */
struct slm_span *slm_bins_find_longest(const struct slm_bins *bins, size_t least,
                                       bool (*visit)(struct slm_span *span, void *context), void *context);

/* The first span for which `visit` returns true; NULL: none. A span in the wrong bin stops the process. */
struct slm_span *slm_bins_foreach(const struct slm_bins *bins, bool (*visit)(struct slm_span *span, void *context),
                                  void *context);
