/* Pending slabs: vacant ones that must not simply go, because destructors have to run over their objects, or because
 * readers may still look at them (type-safe caches).
 *
 *     vacant --add--> waiting for a grace period --poll--> due --release--> gone
 *        `------add, where there is only a destructor-------^
 *
 * A slab gets here from under the locks of slow paths. The destructors are the user's code: they run where no lock is
 * held and no thread's block is being worked on. */
#pragma once

#include "slab/slab.h"

/* How many slabs are due: slow paths look at their end. */
extern slm_hidden _Atomic uint32_t slm_pending_slabs_due;

/* Nobody owns or lists the slab any more. `*released` counts it when it goes. Any thread; takes its own lock. */
void slm_pending_slabs_add(struct slm_slab *slab, const struct slm_slab_shape *shape, _Atomic uint64_t *released);

/* Slabs whose grace period has passed become due. While some wait it helps grace periods along, and is true. */
bool slm_pending_slabs_poll(void);

/* Is the calling thread inside a destructor? */
bool slm_pending_slabs_is_releasing(void);

/* Give back the slabs that are due and have no destructor; those that have one too, when they are of this shape or it
 * is NULL: a call about one type does not run another type's destructors, which may want a lock that the caller
 * holds. No lock of ours is held, and the calling thread works on no block; within a destructor it does nothing. */
void slm_pending_slabs_release(const struct slm_slab_shape *shape);
