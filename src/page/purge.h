/* Giving free spans' memory back to the kernel: only the RAM, or the addresses too where address space is scarce, so
 * that the program's own mappings find room. A span too short for that becomes clean, and is unmapped once it has
 * joined to something longer, or its neighbour is unmapped. Any thread; no lock is held during system calls. */
#pragma once

#include "base/compiler.h"

/* Purge dirty spans, oldest first, until at most `keep_bytes` are dirty. Returns the bytes given back. */
size_t slm_span_purge(uint64_t keep_bytes);

/* Purge the surplus: as many bytes as have stayed dirty, so unneeded, since the last call. */
size_t slm_span_purge_surplus(void);

/* From now on address space is scarce: unmap free spans. Returns the bytes given back. */
size_t slm_span_unmap_free(void);
