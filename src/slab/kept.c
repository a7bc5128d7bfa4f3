/* Keeping large objects; see kept.h. */
#include "slab/kept.h"

#include "base/panic.h"
#include "page/charge.h"
#include "page/demand.h"

enum { puts_a_free = 64, told_granules = 8 };

/* What a thread may keep: a MiB, but a sixteenth of what is in use at most, or a 64th if that is more. */
static uint64_t most_bytes(void)
{
    const uint64_t used = slm_demand_used();
    return slm_max(used / 64, slm_min(used / 16, (uint64_t)1 << 20));
}

static unsigned place_of(size_t granules)
{
    return granules <= 4 ? (unsigned)granules - 1 : granules <= 8 ? 4 : 5;
}

/* What has grown is no buffer that is replaced, and what a larger one replaces had better go. Now and
 * then one is freed in earnest, as slow paths see to what has become due. */
static bool may_be_kept(struct slm_kept *kept, const struct slm_large *large)
{
    const size_t bytes = slm_span_bytes(&large->span);
    return load_relaxed(&large->span.kind) == SLM_SPAN_LARGE && bytes - large->usable < SLM_GRANULE &&
           !(large->span.moved || large->was_moved || large->purged || large->tail_unmapped) &&
           bytes + ((uint64_t)load_relaxed(&kept->granules) << SLM_GRANULE_SHIFT) <= most_bytes() &&
           !slm_demand_replaces(bytes) && !slm_charge_is_near() && ++kept->puts % puts_a_free != 0;
}

/* A child of fork that comes between two stores has lost the object. */
bool slm_kept_put(struct slm_kept *kept, struct slm_large *large)
{
    if (large->span.granules > SLM_KEPT_GRANULES_MOST)
        return false;
    struct slm_large *_Atomic *place = &kept->objects[place_of(large->span.granules)];
    if (load_relaxed(place) || !may_be_kept(kept, large))
        return false;
    slm_large_end_sample(large);
    store_relaxed(&large->span.kind, SLM_SPAN_KEPT);
    signal_fence();
    store_relaxed(place, large);
    store_relaxed(&kept->granules, load_relaxed(&kept->granules) + large->span.granules);
    return true;
}

/* Another thread may have freed it at the same moment, and then taken it. */
static struct slm_large *take(struct slm_kept *kept, struct slm_large *_Atomic *place)
{
    struct slm_large *large = load_relaxed(place);
    if (unlikely(load_relaxed(&large->span.kind) != SLM_SPAN_KEPT))
        slm_panic("free", slm_span_start(&large->span), "double free of an object", NULL, large->usable);
    store_relaxed(place, NULL);
    store_relaxed(&kept->granules, load_relaxed(&kept->granules) - large->span.granules);
    signal_fence();
    return large;
}

/* Threads share what this writes: seldom. */
static void note_retaken(struct slm_kept *kept, uint32_t granules)
{
    kept->retaken += granules;
    if (kept->retaken < told_granules)
        return;
    slm_demand_retake((size_t)kept->retaken << SLM_GRANULE_SHIFT);
    kept->retaken = 0;
}

void *slm_kept_take(struct slm_kept *kept, size_t n, unsigned area)
{
    const size_t usable = slm_large_usable_for(n), granules = (usable + SLM_GRANULE - 1) >> SLM_GRANULE_SHIFT;
    if (granules > SLM_KEPT_GRANULES_MOST)
        return NULL;
    struct slm_large *_Atomic *place = &kept->objects[place_of(granules)];
    if (!load_relaxed(place))
        return NULL;
    struct slm_large *large = take(kept, place);
    if (unlikely(large->span.granules != granules || slm_area_of_granule(slm_span_granule(&large->span)) != area)) {
        slm_large_release(large);
        return NULL;
    }
    slm_large_reuse(large, usable);
    large->weighed = n;
    note_retaken(kept, large->span.granules);
    return slm_span_start(&large->span);
}

slm_cold void slm_kept_release(struct slm_kept *kept)
{
    kept->puts = 0;
    if (load_relaxed(&kept->granules) == 0)
        return;
    for (unsigned i = 0; i < SLM_KEPT; i++)
        if (load_relaxed(&kept->objects[i]))
            slm_large_release(take(kept, &kept->objects[i]));
}

slm_seldom slm_unordered uint64_t slm_kept_bytes(const struct slm_kept *kept, unsigned first, unsigned end)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < SLM_KEPT; i++) {
        const struct slm_large *large = load_relaxed(&kept->objects[i]);
        const unsigned node = large ? slm_node_of_area(slm_area_of_granule(slm_span_granule(&large->span))) : end;
        bytes += node >= first && node < end ? large->usable : 0;
    }
    return bytes;
}
