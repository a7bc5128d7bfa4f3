/* Giving memory back: surplus magazines to slabs, vacant slabs to spans, free spans' RAM to the kernel. */
#pragma once

#include "thread/thread_cache.h"

/* On a thread's slow path, now and then: does what has become due; no more than a look at the clock otherwise. */
void slm_reclaim_tick(struct slm_thread *thread);

/* After a large object has gone: purge at once when too much is dirty. */
void slm_reclaim_after_free(void);

/* Everything that can go without the calling thread's own magazines; bytes purged. */
size_t slm_reclaim_all(void);
