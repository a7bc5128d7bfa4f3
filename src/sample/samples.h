/* Records of live objects that were sampled (struct slm_sample, base/inspect.h). An object's slab or span has the
 * record's index; 0 is none.
 *
 *     chunks: | 8 records | 16 | 32 | ...   they stay; those that are not in use form a list by index
 *                                   `-> top: records above it are as new
 *
 * Any thread, signal handlers too: nothing here takes a lock, but for the metadata of a new chunk. The list's head
 * has a count of its changes, so that one that was taken and put back meanwhile is not mistaken for the one that was
 * seen. A child of fork keeps all records, those of threads that it does not have among them; one that was being
 * written at that moment is lost, and those that are free, if they were just being purged. */
#pragma once

#include "sample/stacks.h"

/* What the caller knows of a new sample. */
struct slm_sample_of {
    const void *object;
    uint64_t asked, given, mean; /* see struct slm_sample */
    uint32_t stack;              /* see sample/stacks.h */
    uint16_t cache;              /* an id, or SLM_SAMPLE_LARGE */
};

/* Record one; 0: there is no memory for it. The caller may not hold a lock of rank METADATA. */
uint32_t slm_samples_add(const struct slm_sample_of *of);

/* The object was freed, or is no longer to be counted. The caller alone has the index; 0 is none. */
void slm_samples_end(uint32_t index);

/* It is this object from now on (NULL: the same), and its owner asked for so many bytes. */
void slm_samples_change(uint32_t index, const void *object, uint64_t asked, uint64_t given);

/* It stays where it is, and counts as a new object of `of`: one that is sampled, or, if the mean is 0, one that is
 * not, and stands for nothing. The index is not 0. */
void slm_samples_redraw(uint32_t index, const struct slm_sample_of *of);

/* Its record; the index is not 0. */
struct slm_sample *slm_samples_at(uint32_t index);

/* Copy a record that was in use at some time (slm_sample_counts.top), as it was at one moment. False: it is being
 * changed all the time, perhaps by the thread that the caller's signal handler has interrupted. */
bool slm_samples_copy(uint32_t index, struct slm_sample *copy);

/* What is live by all of them: how many samples, and what they stand for. */
struct slm_samples_sum {
    uint64_t samples, bytes;
};
struct slm_samples_sum slm_samples_live(void);

/* Give the pages back that have nothing but free records, above the last one in use. Any number of threads. */
void slm_samples_purge(void);

/* For tools (base/inspect.h). */
extern slm_hidden struct slm_sample *_Atomic slm_samples_chunks[SLM_SAMPLE_CHUNKS];
