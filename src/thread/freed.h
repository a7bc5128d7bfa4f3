/* Is a pointer that a call was given the start of an object, and is the object live? The key of a free object
 * (slab/key.h) is the reason to look. The proof is where the object is found: in its slab, in the magazines or the
 * reserve of a thread, or in a depot's stock. Nothing is accused without it, whatever the object contains.
 *
 * Argument. The caller holds a pointer to an object that it says is live. If it is, then the pop that handed it out
 * came before the call, and nobody has pushed it since: no magazine shows it from then on. (Where stores of others
 * may be seen in another order than they were made, a second look follows a membarrier(2).) If it is free, and was
 * freed before the call, then it is found, unless it changes hands at that very moment: a thread in a slow path is a
 * reason to look again, a few times. So an alarm is never false; one may be missed in a race. */
#pragma once

#include "depot/cache.h"

/* What is said of a free object, given to a call that frees it, or to one that uses it. */
extern const char slm_double_free[], slm_use_after_free[];

/* The cache of the small object at the pointer, which is live; NULL: no slab lies there. A pointer that is not the
 * start of an object ends the process, and so does a free object: `what` is said of it. Takes the locks of the list
 * of threads and of depots, if the key is there. Any thread, in a slow path or not. */
struct slm_cache *slm_freed_check(const void *pointer, const char *call, const char *what);

/* The same, without a lock: what the calling thread has and slabs have is found, what others have is not. True:
 * the key is there, and nothing was found: the object may be free in another thread or depot. */
bool slm_freed_check_nolock(const struct slm_slab *slab, const void *object, const char *call);

/* A retired object has outlived its grace period: check, and set its key. */
void slm_freed_ripen(void *object);
