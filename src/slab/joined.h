/* Joined objects: adjacent ones of a slab, handed out together as one of a larger class. The slab's geometry
 * stays; a second bitmap says which objects are inner pieces, that is, belong to the same joined object as the
 * one before.
 *
 *     bits     1 0 0 0 1 0 0 1     1: free in the slab
 *     joined   0 0 1 1 0 0 0 0     objects 1, 2 and 3 are one
 *
 * A joined object's class is the largest whose size its pieces have together. It lies in one word of bits, so that
 * each step takes one atomic operation, and begins where the alignment of its class's size allows. What hot paths
 * know about objects is not true of it: the slab is hidden from before the first one is handed out until none is
 * left (slm_slab_hide).
 *
 * The slab's bits and count mean what they do in slab.h, with as many objects as there are pieces. The holder sets
 * the joined bits once it has cleared the bits; who gives the object back clears them before it sets the bits, so
 * that the next holder, who acquires the bits, finds them clear. Between the two nobody changes the joined bits of
 * live pieces: whoever has a pointer to the object sees them as they were when it was handed out. A late look at a
 * slab that has gone is harmless, as one at its bits is: metadata stays mapped. */
#pragma once

#include "base/size_class.h"
#include "slab/slab.h"

enum { SLM_JOINED_MOST = 64 }; /* pieces: a word's */

/* The holder takes up to n joined objects of so many pieces, lowest address first, which begin at multiples of
 * `alignment`, a power of two. Returns how many; 0 also if there is no memory for the bits. If there are any, the
 * slab is hidden from hot paths now. They have their keys. */
unsigned slm_joined_take(struct slm_slab *slab, unsigned pieces, size_t alignment, unsigned n, void **rounds);

/* Does the slab have joined objects now? Under the lock of its depot, while nobody holds it. */
bool slm_joined_any(const struct slm_slab *slab);

/* The pieces of the live object that the pointer lies in. */
unsigned slm_joined_pieces(const struct slm_slab *slab, const void *object);

/* As slm_slab_give, of one object, joined or not, of a slab that has had joined ones; returns its pieces, by which
 * the caller then raises the count. Each gets a key. */
unsigned slm_joined_give(struct slm_slab *slab, void *object, const char *call, const char *cache);

/* The class of an object of two pieces or more. */
slm_inline unsigned slm_joined_class(const struct slm_slab *slab, unsigned pieces)
{
    const size_t bytes = slm_min((size_t)pieces * slab->object_size, SLM_SMALL_MAX);
    const unsigned class = slm_class_of_size(bytes);
    return slm_class_size[class] > bytes ? class - 1 : class;
}

/* The size of an object. */
slm_inline uint32_t slm_joined_size(const struct slm_slab *slab, unsigned pieces)
{
    return pieces > 1 ? slm_class_size[slm_joined_class(slab, pieces)] : slab->object_size;
}

/* Is the pointer to a piece of a joined object, or to no object's piece at all? */
slm_inline bool slm_joined_near(const struct slm_slab *slab, const void *pointer)
{
    const _Atomic uint64_t *joined = slm_slab_joins(slab);
    const uint32_t index = slm_slab_index(slab, pointer);
    return !joined || index >= slab->objects || (load_relaxed(&joined[index / 64]) >> index % 64 & 3) != 0;
}
