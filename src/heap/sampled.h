/* Sampling: which allocations are sampled, and what becomes of them.
 *
 * A thread counts down the bytes that it allocates (slm_tls.sample_left); the object that takes the count below zero
 * is sampled (sample/interval.h says why that is fair). A small one then comes from a slab of its cache that has
 * sampled objects only, and is not in the page map: so the hot path of free knows nothing of samples, and its slow
 * half finds one by its slab's kind. A large one is marked in its span. Objects that come back to slabs of sampled
 * ones are free there at once, and no thread keeps them.
 *
 * A retired object is no longer counted, though it waits for its grace period. Objects for signal handlers
 * (slab_alloc_nolock) are not sampled. What libc asks for before the library has started, and a handler during its
 * thread's slow path, is passed over. */
#pragma once

#include "depot/cache.h"
#include "process/lifecycle.h"
#include "slab/large.h"

/* Does an object of n bytes take the count below zero? Once for each allocation. Two instructions on x86. */
slm_inline bool slm_sample_due(size_t n)
{
    return unlikely((slm_tls.sample_left -= (int64_t)n) < 0);
}

/* It does: the mean of the interval that ends in it, by which it is sampled. 0: none ends, or the object cannot be
 * sampled, and is allocated as always. Each thread's first allocation comes here. Keeps errno. */
uint64_t slm_sampled_due(size_t n);

/* The size class for a sampled object of n bytes, at most SLM_SMALL_MAX: several share one, as each that has any
 * takes pages. A sample has half a KiB at least, in the 2 MiB for which it stands. */
enum { SLM_SAMPLED_LEAST = 512 };
slm_inline struct slm_cache *slm_sampled_class(size_t n)
{
    n = slm_max(n, SLM_SAMPLED_LEAST);
    return slm_class_cache(slm_class_of_size(slm_class_larger(slm_class_size[slm_class_of_size(n)])));
}

/* The size that a small object of `size` bytes has as far as realloc goes: if it is sampled, that of what it stands
 * for, or samples would be allocated anew less often than others. */
size_t slm_sampled_size(const void *object, size_t size);

/* Is the object sampled, and small? Then *asked, which may be 0, is what was asked for. For frees that tell it. */
bool slm_sampled_asked(const void *object, size_t *asked);

/* A sampled object of n bytes of the cache. NULL: it could not be had, and the caller allocates as always. `node`:
 * where it has to lie; -1: where the thread runs. Keeps errno. A constructor may be called. */
void *slm_sampled_make(struct slm_cache *cache, int node, size_t n, uint64_t mean);

/* Both, after slm_sample_due has said yes. */
slm_inline void *slm_sampled_alloc(struct slm_cache *cache, int node, size_t n)
{
    const uint64_t mean = slm_sampled_due(n);
    return unlikely(mean != 0) ? slm_sampled_make(cache, node, n, mean) : NULL;
}

/* This large object is sampled. Returns it, or one in its stead (heap/guarded.h). *clean: that reads as zero. */
void *slm_sampled_large(void *object, size_t n, size_t alignment, bool *clean, uint64_t mean);

/* The live object is about to be freed or retired: it is no longer sampled. Any slab; signal handlers too. */
slm_inline void slm_sampled_end(const struct slm_slab *slab, const void *object)
{
    if (unlikely(slm_slab_is_sampled(slab)))
        slm_samples_end(atomic_exchange(slm_slab_sample(slab, object), 0));
}

/* The owner asked for n bytes in the place of what it had asked for, or than what seemed so, and the object is, or
 * has become, this one. A large object that is more than twice as long as it was when that was decided last, or less
 * than half, is taken for new. */
void slm_sampled_resize(void *object, size_t n);

/* A small sampled object becomes as long as its place, and stays, where one that is not sampled would move: so it is
 * taken for new. */
void slm_sampled_stay(void *object, size_t n);
void slm_sampled_resize_large(void *object, size_t n);
