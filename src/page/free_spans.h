/* The free spans of each area, and the frontier, above which nothing was ever in use. Free spans wait in bins by
 * length (page/bins.h), the states apart. Dirty spans are also in a queue by age, from which they are given back to
 * the kernel (page/purge.h).
 *
 * No system call is made under an area's lock. What the kernel works on, a span that is being purged or addresses
 * that are being mapped, is in no list meanwhile: it is its thread's alone.
 *
 * After a fork in which the lock was held, free spans are looked for in the descriptors, and listed anew: a child
 * sees all that a thread has stored up to some point (thread/thread_list.h). What that thread had unlisted is counted
 * as lost; so is what others were mapping. A span of an older generation is in no list yet. */
#pragma once

#include "page/bins.h"
#include "sync/lock.h"

/* A free span's descriptor. `no_owner` is where a slab has its owner, and stays NULL, as a released slab left it. */
struct slm_free_span {
    struct slm_span span;
    void *no_owner;
    struct slm_list age;
};

static_assert(sizeof(struct slm_free_span) <= SLM_DESCRIPTOR_BYTES, "a descriptor holds it");

struct slm_free_spans {
    struct slm_lock lock;
    size_t first, frontier, end;
    size_t mapping; /* granules that threads are mapping at the moment */
    struct slm_bins bins[SLM_SPAN_STATES];
    struct slm_list ages;      /* dirty spans, oldest first */
    uint64_t dirty_low;        /* the least bytes that were dirty since the last slm_span_purge_surplus */
    uint64_t dirty_low_before; /* and from the call before to that one; what was purged is taken off both */
    _Atomic uint64_t free_bytes[SLM_SPAN_STATES];
    _Atomic uint64_t lost_bytes, purges, purged_bytes;
    _Atomic uint64_t large_bytes;    /* of large objects in use: see slab/large.c */
    uint32_t spans[SLM_SPAN_STATES]; /* in the bins */
    uint32_t generation;             /* of the lists */
    uint32_t mapping_generation;     /* in which threads are mapping */
} slm_cacheline;

/* Most machines have one area: it lies apart from the others, among what every process uses. */
extern slm_hidden struct slm_free_spans slm_free_spans_first, slm_free_spans_others[SLM_AREAS_MAX - 1];

slm_inline struct slm_free_spans *slm_free_spans_in(unsigned area)
{
    return likely(area == 0) ? &slm_free_spans_first : &slm_free_spans_others[area - 1];
}

slm_inline struct slm_free_spans *slm_free_spans_of(const struct slm_span *span)
{
    return slm_free_spans_in(slm_area_of_granule(slm_span_granule(span)));
}

slm_inline struct slm_free_span *slm_free_span_of(struct slm_span *span)
{
    return (struct slm_free_span *)span;
}

/* Release it by slm_lock_release. It is held for all calls down to slm_free_spans_note_dirty_low. */
void slm_free_spans_lock(struct slm_free_spans *area);

/* List a free span and mark both its ends. Its neighbours are not looked at. */
void slm_free_spans_list(struct slm_free_spans *area, struct slm_span *span);
void slm_free_spans_unlist(struct slm_free_spans *area, struct slm_span *span);

/* The free spans right before and after a span, which may be listed or not, if they are of that state; else NULL. */
struct slm_span *slm_free_spans_before(struct slm_free_spans *area, const struct slm_span *span, unsigned state);
struct slm_span *slm_free_spans_after(struct slm_free_spans *area, const struct slm_span *span, unsigned state);

/* Join an unlisted free span with its free neighbours of the same state, and list the result, which is returned. */
struct slm_span *slm_free_spans_join(struct slm_free_spans *area, struct slm_span *span);

/* To be called after dirty memory has been taken into use. */
slm_inline void slm_free_spans_note_dirty_low(struct slm_free_spans *area)
{
    area->dirty_low = slm_min(area->dirty_low, load_relaxed(&area->free_bytes[SLM_SPAN_DIRTY]));
}

struct slm_span_figures {
    uint64_t dirty_bytes, lost_bytes, purges, purged_bytes, mapped_bytes;
};

/* Start the areas of all nodes. Before the first span, and again when there are more nodes. */
void slm_span_start_areas(void);

/* Address space is scarce where RLIMIT_AS is finite, and once the kernel has refused a mapping. */
void slm_span_set_scarce(bool is_scarce);
extern slm_hidden _Atomic bool slm_span_is_scarce;
slm_inline bool slm_span_scarce(void)
{
    return load_relaxed(&slm_span_is_scarce);
}

/* Dirty bytes of all areas; takes no lock. */
uint64_t slm_span_dirty_bytes(void);

/* Add an area's figures to the sums. */
void slm_span_add_figures(unsigned area, struct slm_span_figures *sums);
