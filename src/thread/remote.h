/* Remote frees: of objects that lie on another node than the one whose depots the thread uses.
 *
 * A thread's magazines hold rounds of its own node only, so that what it allocates is local whatever it has freed
 * before. free's hot path looks an object up in the area of the thread's node (slm_tls.area). Another node's object
 * lies outside, and comes here, into a remote magazine: one for each cache, filled and never popped from. When it is
 * full its rounds are sorted, and each node's batch goes to that node's depot (depot/magazines.h). That happens also
 * once a second, when the thread moves to another node or ends, and when the cache is shrunk, tuned or purged. (The
 * kernel's sheaves, Babka 2025, leave out remote objects, too; there each goes to its slab by itself.)
 *
 * A cache's remote magazine hangs on its slot in the second half of the thread's block. The owner uses it in slow
 * paths, a taker while it has the block (thread/ownership.h); hot paths never do. A cache that has a remote magazine
 * has a slot in use, so a walk over a thread's slots finds it. */
#pragma once

#include "depot/magazines.h"
#include "thread/slots.h"

/* Does it lie on another node than the thread's? */
slm_inline bool slm_is_remote(const struct slm_thread *thread, const void *object)
{
    return slm_magazine_home(object) != load_relaxed(&thread->node);
}

/* The remote magazine of a cache; NULL if there is none. */
slm_inline struct slm_magazine *slm_remote_of(const struct slm_thread *thread, unsigned cache_id)
{
    return likely(slm_nodes == 1) ? NULL : slm_shared_load(&slm_retired_slot_of(thread, cache_id)->remote);
}

/* The same, and take it off the slot. */
struct slm_magazine *slm_remote_take(struct slm_thread *thread, unsigned cache_id);

/* Rounds in it that lie on the nodes from `first` on, below `end`; from other threads, a figure that may lag. */
uint32_t slm_remote_rounds(const struct slm_thread *thread, unsigned cache_id, unsigned first, unsigned end);

/* The owner, in a slow path; the cache's slot is in use. */
void slm_remote_push(struct slm_thread *thread, struct slm_cache *cache, void *object);
