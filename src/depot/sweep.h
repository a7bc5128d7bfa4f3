/* Free pages inside slabs go back. */
#pragma once

#include "depot/partial.h"

/* Purge free pages inside sparse slabs whose count has not changed since the last call, or of `all`; the bytes. */
size_t slm_depot_sweep(struct slm_depot *depot, bool all);
