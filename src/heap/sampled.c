/* Taking sampled objects, and their records; see sampled.h. All of it runs as a slow path without a block does: the
 * thread is busy, as locks of depots are taken. */
#include "heap/sampled.h"

#include <errno.h>

#include "base/errno.h"
#include "base/options.h"
#include "heap/guarded.h"
#include "sample/interval.h"
#include "sample/stacks.h"
#include "slab/key.h"

/* A thread looks at the mean at least once in so many bytes: it may change, and sampling be switched on. */
static const uint64_t look_bytes = (uint64_t)64 << 20;

static void count_down(struct slm_tls *tls, uint64_t bytes)
{
    tls->sample_left = (int64_t)slm_min(bytes, look_bytes);
    tls->sample_rest = bytes - (uint64_t)tls->sample_left;
}

/* The count has fallen below zero, for an object of n bytes. The mean by which that was decided; 0: it was not an
 * interval's end, or there is none. Intervals have no memory: one that goes by another mean begins anew here. */
static slm_for_few uint64_t take_due(struct slm_tls *tls, size_t n)
{
    const uint64_t mean = slm_setting(sample_bytes);
    const bool begins = tls->sample_mean != mean;
    uint64_t rest = tls->sample_rest;
    tls->sample_mean = mean;
    if (mean == 0)
        rest = look_bytes + n;
    else if (begins)
        rest = slm_interval_draw(mean);
    const bool due = mean > 0 && rest < n;
    count_down(tls, due ? slm_interval_draw(mean) : rest - n);
    return due ? mean : 0;
}

static slm_for_few uint64_t decide(size_t n)
{
    struct slm_tls *tls = &slm_tls;
    const uint64_t mean = slm_process_started() ? take_due(tls, n) : 0;
    return load_relaxed(&tls->busy) ? 0 : mean;
}

static slm_for_few uint32_t record(const void *object, size_t asked, size_t given, uint64_t mean, uint16_t cache)
{
    const struct slm_sample_of of = {object, asked, given, mean, slm_stacks_here(), cache};
    return slm_samples_add(&of);
}

/* Where the thread's magazines are from. */
static unsigned node_here(void)
{
    const struct slm_thread *self = slm_tls.self;
    return self ? load_relaxed(&self->node) : slm_direct_node();
}

static slm_for_few void *take(struct slm_depot *depot)
{
    void *object = NULL;
    if (slm_depot_fill(depot, &object, 1) == 0)
        return NULL;
    if (depot->shape->keyed)
        slm_key_clear(object);
    return object;
}

/* What has a constructor, or keeps its type, must lie in a slab. */
static bool may_guard(const struct slm_slab_shape *shape)
{
    return slm_options.guard && !shape->hooks && shape->alignment <= 1;
}

slm_for_few void *slm_sampled_alloc(struct slm_cache *cache, int node, size_t n)
{
    slm_keep_errno();
    const uint64_t mean = decide(n);
    if (mean == 0)
        return NULL;
    slm_fork_check();
    uint8_t before = slm_direct_begin();
    struct slm_depot *depot = slm_cache_sampled_depot(cache, node < 0 ? node_here() : (unsigned)node);
    void *object = depot ? take(depot) : NULL;
    if (depot && !object && errno == EAGAIN) { /* its objects have a constructor, which may call anything */
        slm_direct_end(before);
        const bool grown = slm_depot_grow(depot);
        before = slm_direct_begin();
        object = grown ? take(depot) : NULL;
    }
    void *guarded = object && may_guard(&cache->shape) ? slm_guarded_small(cache, object, n, mean) : NULL;
    if (object && !guarded)
        store_relaxed(slm_slab_sample(slm_slab_of(object), object),
                      record(object, n, cache->shape.object_size, mean, cache->id));
    slm_direct_end(before);
    return guarded ? guarded : object;
}

static slm_for_few void record_large(void *object, size_t n, uint64_t mean)
{
    struct slm_large *large = slm_large_of(object);
    store_relaxed(&large->sample, record(object, n, large->usable, mean, SLM_SAMPLE_LARGE));
}

slm_for_few void *slm_sampled_large(void *object, size_t n, size_t alignment, bool *clean)
{
    slm_keep_errno();
    const uint64_t mean = decide(n);
    if (mean == 0)
        return object;
    const uint8_t before = slm_direct_begin();
    const unsigned area = slm_area_of_granule(slm_granule_of(object));
    void *guarded = slm_options.guard ? slm_guarded_large(n, alignment, area, mean, clean) : NULL;
    if (guarded)
        slm_large_free(slm_large_of(object));
    else
        record_large(object, n, mean);
    slm_direct_end(before);
    return guarded ? guarded : object;
}

slm_for_few void slm_sampled_resize(void *object, size_t n)
{
    const struct slm_slab *slab = slm_slab_of(object);
    if (slab && slm_slab_is_sampled(slab))
        slm_samples_change(load_relaxed(slm_slab_sample(slab, object)), NULL, n, slab->object_size);
}

slm_for_few void slm_sampled_resize_large(void *object, size_t n)
{
    struct slm_large *large = slm_large_of(object);
    if (n / 2 <= large->weighed && n >= large->weighed / 2) {
        slm_samples_change(load_relaxed(&large->sample), object, n, large->usable);
        return;
    }
    slm_large_end_sample(large);
    large->weighed = n;
    const uint64_t mean = slm_sample_due(n) ? decide(n) : 0;
    if (mean == 0)
        return;
    const uint8_t before = slm_direct_begin();
    record_large(object, n, mean);
    slm_direct_end(before);
}
