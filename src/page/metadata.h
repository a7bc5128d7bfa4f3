/* Memory for the allocator itself: magazines, bitmaps, threads' blocks, depots. Sizes are rounded to 64 bytes, at
 * most SLM_METADATA_MAX; freed pieces wait in a list of their size. It lies out of reach of the objects' overflows.
 */
#pragma once

#include "base/compiler.h"

#define SLM_METADATA_MAX ((size_t)8192)

/* Aligned to 64 bytes, not cleared; NULL and ENOMEM. Takes the metadata lock, of the highest rank. */
void *slm_metadata_alloc(size_t bytes);

/* `bytes` as it was asked for. */
void slm_metadata_free(void *pointer, size_t bytes);
