/* Huge pages for memory that is dense and stays so. Whatever is mapped has small pages, but for what a large heap
 * grows by for the sake of slabs: that is filled from one end to the other, and has huge pages from its first write
 * on. Large objects may not write all of theirs, and have none there; nor has a heap with many of them. Those that
 * populate.h expects to write all have huge pages of their own, in heaps of any size. In a large heap the ranges of
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

/* Granules that have just been mapped, and belong to nobody but the caller, are about to become slabs. */
void slm_huge_expect(size_t first, size_t count);

/* A large object that has just been made, on clean memory, is going to be written from its start to its end. */
void slm_huge_expect_object(void *object, size_t bytes);

bool slm_huge_expected_slow(const void *address);

/* Does its first write make a huge page there? */
slm_inline bool slm_huge_expected(const void *address)
{
    return unlikely(load_relaxed(&slm_huge_any)) && slm_huge_expected_slow(address);
}

void slm_huge_break_slow(void *address, size_t bytes, bool unused);

/* Before these pages of the heap are purged, unmapped or moved. No lock is held. */
slm_inline void slm_huge_break(void *address, size_t bytes)
{
    if (unlikely(load_relaxed(&slm_huge_any)))
        slm_huge_break_slow(address, bytes, false);
}

/* These clean pages of the heap may stay unused: no huge page where there is none yet. */
slm_inline void slm_huge_break_unused(void *address, size_t bytes)
{
    if (unlikely(load_relaxed(&slm_huge_any)))
        slm_huge_break_slow(address, bytes, true);
}

/* Break, and purge as slm_vm_purge. */
bool slm_huge_purge(void *address, size_t bytes);
