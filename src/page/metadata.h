/* Memory for the allocator itself: magazines, bitmaps, threads' blocks, depots. Sizes are rounded up to 64 bytes;
 * freed pieces wait in a list of their size. Pieces from 4 KiB up start on a multiple of 4 KiB and lie apart from
 * small ones, so that their unused pages are not resident. Objects that overflow do not reach it. */
#pragma once

#include "base/compiler.h"

#define SLM_METADATA_MAX ((size_t)1 << 20)

/* Once, before the first piece. */
void slm_metadata_start(void);

/* At most SLM_METADATA_MAX bytes, aligned to 64; NULL and ENOMEM. They are not cleared. (But if all users of a size
 * from 4 KiB up clear what they free, a piece is zero except for its first word.) Takes locks of rank METADATA. Free
 * with the same size. */
void *slm_metadata_alloc(size_t bytes);
void slm_metadata_free(void *pointer, size_t bytes);

/* Give the pages back to the kernel that have nothing but free small pieces. Memory that is freed meanwhile by others
 * may be left out. One thread at a time; others return at once. */
void slm_metadata_purge(void);
