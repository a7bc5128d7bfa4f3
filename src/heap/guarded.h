/* Sampled objects with guards (slab/guard.h; option guard=1): what calls do with them. Each is asked where a
 * call would refuse its pointer, so that other objects cost nothing more. A misuse that is seen ends the
 * process. Any thread. */
#pragma once

#include "depot/cache.h"
#include "slab/guard.h"

/* A place for one of the cache's objects, `stand_in`, which stays out in its stead; n bytes were asked for. Or,
 * without a cache, for a large object, on a multiple of the alignment; *clean: it reads as zero. It is sampled.
 * NULL: there is none. The caller is busy (process/lifecycle.h). errno may change. */
void *slm_guarded_small(const struct slm_cache *cache, void *stand_in, size_t n, uint64_t mean);
void *slm_guarded_large(size_t n, size_t alignment, unsigned area, uint64_t mean, bool *clean);

/* Free what lies at the pointer; as a signal handler may. False: no place does. The first keeps errno. */
bool slm_guarded_free(void *pointer, const char *call);
bool slm_guarded_free_nolock(void *pointer, const char *call);

/* Retire it: it waits as a large object (deferred/defer_queue.c). NULL: no place lies there. Keeps errno. */
struct slm_large *slm_guarded_retire(void *pointer, const char *call);

/* The usable bytes of the live object at the pointer; 0: no place lies there. `what` is said of a free one. */
size_t slm_guarded_usable(const void *pointer, const char *call, const char *what);

/* Its cache; NULL: it is large, or no place lies there. */
struct slm_cache *slm_guarded_cache(const void *pointer, const char *call, const char *what);
