/* The free objects of one cache, wherever they lie: in threads' magazines and in the depots of all nodes. Shrinking,
 * tuning and destroying a cache gather them, and so does an allocation that has met the cache's limit. */
#pragma once

#include "depot/magazines.h"
#include "thread/ownership.h"

enum slm_take_how {
    SLM_TAKE_SPARE,      /* all but the top rounds */
    SLM_TAKE_TO_STOCK,   /* the same, into depots' stock, and with a barrier even where no thread has any */
    SLM_TAKE_INSISTING,  /* as SPARE, and missed threads are asked to pause */
    SLM_TAKE_LOOKING,    /* as INSISTING, at the limit: was any free? */
    SLM_TAKE_AT_ONCE,    /* the same, from all threads that use the cache */
    SLM_TAKE_EVERYTHING, /* nobody uses the cache: all rounds, slots and reserves; insisting */
};

struct slm_take_rounds {
    struct slm_cache *cache;
    enum slm_take_how how;
    struct slm_magazine *taken; /* linked by their `next`: the caller hands them on */
    bool doubtful;              /* a pop of a limited cache was under way: it has a round, or has left one */
    bool met, unsure;           /* of a look: the limit was met, the stock empty; somebody may have had one */
};

/* Take rounds of a cache from all threads. `self` is the caller's block, on which it is in a slow path, and of which
 * all magazines are taken; NULL: none. Returns how many threads were missed. */
unsigned slm_take_rounds(struct slm_thread *self, struct slm_take_rounds *rounds);

/* Take what threads hold, the caller too, and hand it on: home to the slabs, or to the depots' stock. The caller is
 * in no slow path. Returns how many threads were missed; *gathered: objects. */
unsigned slm_gather_from_threads(struct slm_cache *cache, enum slm_take_how how, uint64_t *gathered);

/* The depots' stock and vacant slabs. */
void slm_gather_from_depots(struct slm_cache *cache);

/* What a look for free objects at the limit has come to. */
enum slm_look {
    SLM_LOOK_GATHERED, /* some were gathered */
    SLM_LOOK_BUSY,     /* none, but a call under way may have some; a millisecond has passed */
    SLM_LOOK_UNSURE,   /* none, but some may have been where the look was not */
    SLM_LOOK_NONE,     /* none was free at a moment of the call at which the limit was met */
};

/* An allocation has met the limit: gather the free objects that others hold. At once: all threads that use the cache
 * pause for it; for a call that is unsure otherwise. */
enum slm_look slm_gather_for_limit(struct slm_cache *cache, bool at_once);
