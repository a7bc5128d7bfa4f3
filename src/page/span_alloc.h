/* Taking spans out of the areas, and giving them back. Any thread. */
#pragma once

#include "page/span.h"

/* A span of that many granules, on a boundary of `alignment` granules (a power of two), from that area, or from
 * another if there is no memory; its kind is NONE, and its state says what its memory may hold. NULL and ENOMEM. */
struct slm_span *slm_span_alloc(unsigned area, size_t granules, size_t alignment);

/* Give a span back whose kind the caller has set to NONE throughout. */
void slm_span_free(struct slm_span *span);

/* Give back all but the first granules. */
void slm_span_trim(struct slm_span *span, size_t granules);

/* Make it longer in place, out of the free span or untouched memory behind it; false when there is none. The new
 * part is cleared if and only if `*clean` comes back true. */
bool slm_span_extend(struct slm_span *span, size_t granules, bool *clean);
