/* Sweeping; see sweep.h.
 *
 * A slab that is at least half free, and of which nothing was taken or given back since the last sweep, is held while
 * its free pages are purged. `span.swept` has its count then. Swept slabs are at the end of their bucket: refills
 * prefer others, and the next sweep looks no further. On clean memory most pages of a slab that was never half in use
 * are untouched: it is left alone. */
#include "depot/sweep.h"

enum { sweep_rounds_most = 64, sweep_looks_most = 64, dense_size = 2048 };

/* Hold slabs of a bucket that are due to be swept, and note the count of others. */
static unsigned hold_sparse(struct slm_depot *depot, unsigned bucket, bool all, size_t most, struct slm_slab **slabs)
{
    unsigned number = 0, looks = 0;
    size_t bytes = 0;
    slm_depot_lock(depot);
    struct slm_list *first = &depot->buckets[bucket];
    struct slm_list *at = depot->occupied >> bucket & 1 ? first->next : first, *next;
    for (; at != first && number < SLM_PARTIAL_MOST && bytes < most && looks < sweep_looks_most; at = next, looks++) {
        struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
        const uint32_t free = (uint32_t)load_relaxed(&slab->free), before = slab->span.swept;
        next = at->next;
        if (slm_partial_is_swept(slab, free))
            break;
        if ((before & SLM_SLAB_FRESH) && slab->span.state == SLM_SPAN_CLEAN)
            continue;
        slab->span.swept = (uint16_t)free;
        if ((before != free && !all) || slab == depot->vacant)
            continue;
        slab->span.swept |= SLM_SLAB_SWEPT;
        slm_partial_unlist(depot, slab, SLM_SLAB_HELD);
        bytes += (size_t)free * slab->object_size;
        slabs[number++] = slab;
    }
    slm_lock_release(&depot->lock);
    return number;
}

static size_t sweep(struct slm_depot *depot, unsigned bucket, bool all, size_t most)
{
    struct slm_slab *slabs[SLM_PARTIAL_MOST];
    size_t purged = 0;
    unsigned number = 1;
    for (unsigned i = 0; (all || i < sweep_rounds_most) && number > 0 && purged < most; i++) {
        number = hold_sparse(depot, bucket, all, most - purged, slabs);
        for (unsigned j = 0; j < number; j++)
            purged += slm_pages_purge(slabs[j]);
        if (number > 0)
            slm_partial_put(depot, slabs, number, 0);
    }
    return purged;
}

slm_seldom size_t slm_depot_sweep_bucket(struct slm_depot *depot, unsigned bucket, size_t most)
{
    const bool whole_pages = depot->shape->object_size >= dense_size;
    const bool worth = !depot->shape->hooks && (bucket >= SLM_DEPOT_SPARSE || whole_pages);
    return worth && slm_depot_falls(depot) && slm_partial_any(depot) ? sweep(depot, bucket, true, most) : 0;
}

size_t slm_depot_sweep(struct slm_depot *depot, bool all)
{
    size_t purged = 0;
    if (depot->shape->hooks) /* what its constructor has made stays */
        return 0;
    for (unsigned bucket = SLM_DEPOT_SPARSE; bucket < SLM_DEPOT_BUCKETS; bucket++)
        purged += sweep(depot, bucket, all, SIZE_MAX);
    return purged;
}
