/* Pending slabs: vacant ones that cannot be released at once, because destructors have to run over their objects, or
 * because readers may still look at them (type-safe caches).
 *
 *     vacant --add--> waiting for a grace period --poll--> due --release--> gone
 *        `------add, where there is only a destructor-------^
 *
 * Slabs are added by slow paths, under their locks. The destructors are the user's code: they run where no lock is
 * held and the thread's block is not claimed. */
#pragma once

#include "slab/slab.h"

/* How many slabs are due: slow paths look at it at their end. */
extern slm_hidden _Atomic uint32_t slm_pending_slabs_due;

/* Add a slab without an owner that is in no list. `*released` counts it when it goes. Any thread. */
void slm_pending_slabs_add(struct slm_slab *slab, const struct slm_slab_shape *shape, _Atomic uint64_t *released);

/* Slabs whose grace period has passed become due. True while some wait; then it helps grace periods along. */
bool slm_pending_slabs_poll(void);

/* Is the calling thread inside a destructor? */
bool slm_pending_slabs_is_releasing(void);

/* Release the slabs that are due. Those with a destructor only if they are of this shape, or it is NULL: a call about
 * one type does not run another type's destructors, which may want a lock that the caller holds. No lock of ours is
 * held, and the thread's block is not claimed; within a destructor it does nothing. */
void slm_pending_slabs_release(const struct slm_slab_shape *shape);
