/* Taking spans out of the areas, and giving them back. Any thread. */
#pragma once

#include "page/span.h"

/* A span of that many granules, on a multiple of `alignment` granules (a power of two), from that area, or from
 * another if there is no memory; its kind is NONE, and its state says whether its memory is zero. NULL and ENOMEM. */
struct slm_span *slm_span_alloc(unsigned area, size_t granules, size_t alignment);

/* Free a span; the caller has set the kind of all its granules to NONE. Or free all but its first granules, which
 * are dirty or clean. */
void slm_span_free(struct slm_span *span);
void slm_span_trim(struct slm_span *span, size_t granules, uint8_t state);

/* Free a span that has been purged, and that is no longer charged. */
void slm_span_free_clean(struct slm_span *span);

/* Free a span whose memory has been unmapped; `lost`: not all of it, or a foreign mapping is there, and nobody can
 * use it again. */
void slm_span_free_unmapped(struct slm_span *span, bool lost);

/* Since this was last cleared something was freed, and use has fallen, addresses are scarce or a limit near; or use
 * has grown by clean memory (page/demand.h). */
extern slm_hidden _Atomic bool slm_span_look_due;

/* So much clean memory was taken since this was last cleared, though as much was dirty, in spans too short. */
extern slm_hidden _Atomic uint64_t slm_span_unfit_bytes;

/* So many bytes will become resident that were clean, in a span or in a part of one. */
void slm_span_note_growth(size_t bytes);

/* Make it longer in place, out of the free memory after it, up to `most` granules if that is clean; false if there is
 * not enough for `granules`. *clean: the new part is zero. */
bool slm_span_extend(struct slm_span *span, size_t granules, size_t most, bool *clean);
