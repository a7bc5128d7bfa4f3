/* The free objects of one cache, wherever they lie: in threads' magazines and in the depots of all nodes. Shrinking,
 * tuning and destroying a cache gather them, and an allocation that has met the cache's limit. */
#pragma once

#include "depot/magazines.h"
#include "thread/ownership.h"

enum slm_take_how {
    SLM_TAKE_SPARE,      /* all but the top rounds */
    SLM_TAKE_INSISTING,  /* the same, and missed threads are asked to pause */
    SLM_TAKE_EVERYTHING, /* nobody uses the cache: to the last round, and slots and reserves too; insisting */
};

/* Rounds of one cache. */
struct slm_take_rounds {
    struct slm_cache *cache;
    enum slm_take_how how;
    struct slm_magazine *taken; /* by their `next`: to be handed on */
    bool doubtful;              /* a pop of a limited cache was under way: it has a round, or has left one */
};

unsigned slm_take_rounds(struct slm_take_rounds *rounds, bool always);

/* The owner's part of it: take all there is of the cache out of the caller's own block. */
void slm_take_own(struct slm_thread *thread, struct slm_take_rounds *rounds);

/* What threads hold, the caller too: home to their slabs, or into the depots' stock. The caller is in no slow path. */
struct slm_gathering {
    enum slm_take_how how;
    bool to_stock;
    bool always; /* issue the barrier even where no thread has any */
};

/* How many threads were missed; *gathered: objects. */
unsigned slm_gather_from_threads(struct slm_cache *cache, const struct slm_gathering *gathering, uint64_t *gathered);

/* The depots' stock and vacant slabs. */
void slm_gather_from_depots(struct slm_cache *cache);

/* An allocation has met the limit. False: there was nothing to gather, and no call under way that may have some. */
bool slm_gather_for_limit(struct slm_cache *cache);

/* In the child of a fork, before slm_thread_list_fork_child: what other threads held of named caches is lost, and no
 * longer counted. */
void slm_gather_fork_child(void);
