/* Huge pages for memory that is dense and stays so. Whatever is mapped has small pages. In a large heap the ranges of
 * 2 MiB are looked at, about once a second: where nearly all pages were resident at several looks, so many a second
 * are made huge, by the worker if there is one. Before a part of such a range is given back, its huge page is split,
 * and it has small pages for a minute at least: the kernel would fill what is missing.
 *
 * So the heap has next to no page more than it would have without huge pages, whatever the system's policy is. Ranges
 * whose neighbours are different are mappings of their own: there are not too many of them.
 *
 * A child of fork makes no huge pages, if its parent had come so far: its memory is shared with the parent's. */
#pragma once

#include "base/atomic.h"

extern slm_hidden uint64_t slm_huge_least;   /* bytes in use from which on it is done; UINT64_MAX: never */
extern slm_hidden _Atomic bool slm_huge_any; /* some ranges are huge, or were */

/* Set what the option says; once, at the start. */
void slm_huge_start(void);

/* Look at the heap, and make ranges huge. `helped`: by the worker. True: it should be called again in a second, even
 * if nothing happens till then. One thread at a time; others return at once. No lock is held. */
bool slm_huge_pass(uint64_t now_ms, bool helped);

void slm_huge_break_slow(void *address, size_t bytes);

/* Before these pages of the heap are purged, unmapped or moved. No lock is held. */
slm_inline void slm_huge_break(void *address, size_t bytes)
{
    if (unlikely(load_relaxed(&slm_huge_any)))
        slm_huge_break_slow(address, bytes);
}

/* Break, and purge as slm_vm_purge. */
bool slm_huge_purge(void *address, size_t bytes);
