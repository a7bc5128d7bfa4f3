/* Large objects, over 32 KiB: each at the start of a span of its own. */
#pragma once

#include "base/atomic.h"
#include "os/vm.h"
#include "page/span.h"
#include "sample/samples.h"

struct slm_large {
    struct slm_span span;
    void *no_owner; /* where a slab has its owner: a late look at a released slab must not find a depot here */
    size_t usable;  /* what the owner may write: its request rounded up to pages */
    size_t weighed; /* bytes asked for when it was last decided whether it is sampled: see heap/sampled.h */
    struct slm_large *next;  /* freed without a lock, and not yet given back; or retired, on a queue */
    _Atomic uint32_t sample; /* index of its sample; 0: it is not sampled */
    bool grown;              /* the last change of its size was a growth */
    bool was_moved;          /* to grow */
    bool purged;             /* by slm_large_clear */
    bool tail_unmapped;      /* the pages behind `usable` in its last granule */
    bool rest_clean;         /* the granules behind `usable`, its headroom, read as zero: nobody has touched them */
};

static_assert(sizeof(struct slm_large) <= SLM_DESCRIPTOR_BYTES, "a descriptor holds it");

/* The usable bytes of an object made for n. */
slm_inline size_t slm_large_usable_for(size_t n)
{
    return slm_align_up(slm_max(n, 1), slm_page_size);
}

/* n bytes on a multiple of `alignment`, a power of two, from an area. *clean: they are zero. NULL and ENOMEM. */
void *slm_large_alloc(size_t n, size_t alignment, unsigned area, bool *clean);

/* Zero all usable bytes of a dirty object, new or not in use. Returns it. */
void *slm_large_clear(void *object);

/* The large object that starts here, retired or not; NULL if none does. */
struct slm_large *slm_large_of(const void *pointer);

/* Retire it: it can no longer be freed. False: a double free. */
bool slm_large_retire(struct slm_large *large);

/* It is about to be freed, or handed out anew: it is no longer sampled. */
slm_inline void slm_large_end_sample(struct slm_large *large)
{
    if (unlikely(load_relaxed(&large->sample) != 0))
        slm_samples_end(atomic_exchange(&large->sample, 0));
}

/* Make one live again that was kept: so long, and dirty. */
void slm_large_reuse(struct slm_large *large, size_t usable);

/* Give back one that was retired, or kept, and is the caller's alone. */
void slm_large_release(struct slm_large *large);

slm_inline bool slm_large_is_retired(const struct slm_large *large)
{
    return load_relaxed(&large->span.kind) == SLM_SPAN_RETIRED;
}

/* Free it. The bytes that were given back; 0: a double free. */
size_t slm_large_free(struct slm_large *large);

/* The same without a lock, legal in signal handlers; false: a double free. slm_large_free_pending gives the span
 * back; slow paths call it when slm_large_pending is not NULL. */
bool slm_large_free_nolock(struct slm_large *large);
void slm_large_free_pending(void);
extern slm_hidden struct slm_large *_Atomic slm_large_pending;

/* Change the size in place, else move the object. What grows twice in a row gets headroom, addresses behind it into
 * which it grows in place. The new address; NULL: no memory, and the object is as it was. */
void *slm_large_resize(struct slm_large *large, size_t n);

/* Usable bytes of the large objects in an area, with those that are kept. */
uint64_t slm_large_area_bytes(unsigned area);
