/* Free pages inside slabs go back. */
#pragma once

#include "depot/partial.h"

/* Purge free pages inside slabs of a bucket, whatever their count was, until it is about `most` bytes; the bytes. Of
 * slabs that are less than half free only those whose objects have whole pages. */
size_t slm_depot_sweep_bucket(struct slm_depot *depot, unsigned bucket, size_t most);

/* Purge free pages inside sparse slabs whose count has not changed since the last call, or of `all`; the bytes. */
size_t slm_depot_sweep(struct slm_depot *depot, bool all);
