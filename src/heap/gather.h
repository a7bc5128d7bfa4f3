/* The free objects of one cache, wherever they lie: in threads' magazines and in the depots of all nodes. Shrinking,
 * tuning and destroying a cache gather them, and an allocation that has met the cache's limit. */
#pragma once

#include "thread/take.h"

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
