/* The pages of a slab on which no object is out go back to the kernel, each remembered by a bit.
 *
 * A page is *purged* if it has been given back, and no object that lies on it has been taken from the slab since. So
 * all objects that touch it are free in the slab, and nobody writes to it: it is not resident. (What was never
 * touched is not known to be so, and counts as resident; so does a page whose objects were taken, and lie in a
 * magazine.) The 16 bits of a granule are in its descriptor; with pages of 64 KiB it is one.
 *
 * Keys. A free object whose second word lies on a purged page has lost its key (slab/key.h), so that hot paths must
 * not free the slab's objects: it is hidden (SLM_MAP_HIDDEN). Before a page is handed out anew, its objects get
 * their keys; with the last purged page the slab has its word again.
 *
 * Only who holds the slab (depot/partial.c) calls these, but for the check; objects may come back meanwhile. A fork
 * may catch it at any point: the word goes first and comes last, and a bit is set before the page goes, and cleared
 * once its objects have keys. What is lost then is a bit of a page that is resident.
 *
 * Tests hold the bits against mincore. It does not tell what is purged from what is swapped out, and in a child of a
 * fork they do not ask: there a page may be marked that another thread was about to purge. */
#pragma once

#include "os/vm.h"
#include "slab/slab.h"

/* Bytes of purged pages whose objects were taken since: each was touched for the first time again, or may be. */
extern slm_hidden _Atomic uint64_t slm_pages_touched_bytes;

/* Purge the whole pages of a slab on which no object is out of it; returns the bytes of those that were not. */
size_t slm_pages_purge(struct slm_slab *slab);

/* Are some purged, or fresh (slab/fresh.h)? */
slm_inline bool slm_pages_differ(const struct slm_slab *slab)
{
    return slab->span.some_purged || slab->span.fresh;
}

/* As slm_slab_take, but only objects that lie on no purged page: perhaps none. Fresh pages are populated. */
unsigned slm_pages_take(struct slm_slab *slab, unsigned n, void **rounds);

/* Of the objects whose bits are in a word, those that lie on no purged page. */
uint64_t slm_pages_resident(const struct slm_slab *slab, unsigned word);

/* The pages of the first object that touches a purged one are purged no longer, and can be taken from. */
void slm_pages_touch(struct slm_slab *slab, const struct slm_slab_shape *shape);

/* The same of all purged pages. */
void slm_pages_touch_all(struct slm_slab *slab, const struct slm_slab_shape *shape);

/* All objects are out: after a fork in which another thread held the slab a bit may be left. */
void slm_pages_all_out(struct slm_slab *slab, const struct slm_slab_shape *shape);

/* Stop the process if an object on a purged page is out, or there is a purged page that the slab does not know of. No
 * thread takes from it meanwhile. */
void slm_pages_check(const struct slm_slab *slab);

slm_inline unsigned slm_pages_in_granule(void)
{
    return (unsigned)(SLM_GRANULE >> slm_log2(slm_page_size));
}

/* Is that page, counted from the slab's start, purged? */
bool slm_pages_is_purged(const struct slm_slab *slab, size_t page);

/* Does the second word of an object, which begins at that offset in the slab's first granule, lie on a purged page?
 * True also if it lies in the next granule. */
slm_inline bool slm_pages_lacks_key(const struct slm_slab *slab, size_t offset)
{
    const size_t page = (offset + sizeof(void *)) >> slm_log2(slm_page_size);
    return page >= slm_pages_in_granule() || (slab->span.purged >> page & 1);
}
