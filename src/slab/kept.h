/* The large objects that a thread has freed last, kept for its next calls: at most one of each length up to four
 * granules, of five to eight, and of nine to 16. A program that replaces a buffer again and again gets it back
 * at the price of a small object's: no lock, no atomic operation, which would wait for the program's stores to
 * the buffer.
 *
 *     kind:   LARGE --put--> KEPT --take--> LARGE
 *                              `--release--> a free span
 *
 * They lie in the thread's block, and are its owner's between a claim and its end, or a taker's
 * (thread/ownership.h). Two threads that free one object at the same moment may both succeed, which is seen late;
 * later a second free is seen at once.
 *
 * A kept object is charged, and in use for page/demand.h. Those of a thread are a small share of what is in use.
 * They go when nobody has missed them for an interval, when the thread is still, at its end, and whenever memory
 * is wanted. */
#pragma once

#include "slab/large.h"

enum { SLM_KEPT = 6, SLM_KEPT_GRANULES_MOST = 16 };

struct slm_kept {
    struct slm_large *_Atomic objects[SLM_KEPT]; /* others read them for figures */
    _Atomic uint32_t granules;                   /* of all of them; the owner reads it outside of a claim, too */
    uint32_t puts;                               /* since they were last released */
    uint32_t retaken;                            /* granules that page/demand.h has not been told of */
};

/* Free it, and keep it. False: it is not kept, or not live, and nothing has changed. */
bool slm_kept_put(struct slm_kept *kept, struct slm_large *large);

/* n bytes, over SLM_SMALL_MAX, from that area, which are dirty; NULL: there are none. */
void *slm_kept_take(struct slm_kept *kept, size_t n, unsigned area);

/* Give back what is kept. */
void slm_kept_release(struct slm_kept *kept);

/* Usable bytes of the objects that are kept, of the nodes from `first` up to `end`. A figure that lags.
 * Any thread. */
uint64_t slm_kept_bytes(const struct slm_kept *kept, unsigned first, unsigned end);
