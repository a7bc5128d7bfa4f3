/* Memory for the allocator itself: magazines, bitmaps, threads' blocks, depots. Sizes are rounded to 64 bytes, at
 * most SLM_METADATA_MAX; freed pieces wait in a list of their size. Those from 4 KiB up start on a multiple of 4 KiB
 * and lie among their like, so that what is not used of them is not resident. It all lies out of reach of the
 * objects' overflows. */
#pragma once

#include "base/compiler.h"

#define SLM_METADATA_MAX ((size_t)1 << 20)

/* Once, before the first piece. */
void slm_metadata_start(void);

/* Aligned to 64 bytes; NULL and ENOMEM. Not cleared; but a piece from 4 KiB up whose users all clear pieces of its
 * size before they free them is clear but for its first word. Takes the metadata lock, of the highest rank. */
void *slm_metadata_alloc(size_t bytes);

/* `bytes` as it was asked for. */
void slm_metadata_free(void *pointer, size_t bytes);
