/* Giving free spans' memory back to the kernel: the RAM alone, or the addresses too where address space is scarce,
 * so that the program's own mappings find room. What is too short to be unmapped becomes clean, and goes when it has
 * joined to something longer, or when what lies beside it is unmapped. No lock is held during system calls. */
#pragma once

#include "base/compiler.h"

/* Purge dirty spans, oldest first, until at most `keep_bytes` are dirty. Bytes given back. */
size_t slm_span_purge(uint64_t keep_bytes);

/* Purge the surplus: as much as has stayed dirty ever since the last call, so that nobody needed it. */
size_t slm_span_purge_surplus(void);

/* From now on address space is scarce: unmap what is free. Bytes unmapped. */
size_t slm_span_unmap_free(void);
