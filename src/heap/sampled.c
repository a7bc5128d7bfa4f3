/* Taking sampled objects, and their records; see sampled.h. All of it runs as a slow path without a block does: the
 * thread is busy, as locks of depots are taken. */
#include "heap/sampled.h"

#include <errno.h>

#include "base/errno.h"
#include "base/options.h"
#include "heap/guarded.h"
#include "os/background.h"
#include "process/mailbox.h"
#include "process/worker.h"
#include "sample/interval.h"
#include "sample/stacks.h"
#include "slab/key.h"
#include "thread/thread_cache.h"

enum { tries_most = 3 };

/* Where nothing is sampled a thread looks again after so many bytes: that may be switched on. */
static const int64_t look_bytes = (int64_t)64 << 20;

/* Pace. A sample takes about 1 us. A thread that allocates so fast that they would come at every few us doubles its
 * mean, up to the longest there is, and halves it when they come further apart. So no program spends more than about
 * 0.5 % of its time on samples, unless it asks for more than are usual. What counts is the average of some eight
 * gaps: single ones vary so much that means would be longer than they have to be. One gap of the longest kind is
 * enough to halve it. A mean is chosen before the interval by it begins, so that sums stay unbiased; each sample has
 * its own. */
enum { averaged = 8, close_us = 150, far_us = 3 * close_us, longest_us = averaged * far_us };
enum { usual_mean = 2 << 20, longest_mean = 64 << 20 };

static uint64_t mean_of(const struct slm_thread *self)
{
    const uint64_t mean = slm_setting(sample_bytes);
    return self && mean >= usual_mean ? slm_min(mean << self->sample_pace, longest_mean) : mean;
}

static slm_sampling void set_pace(struct slm_thread *self)
{
    const uint64_t now_us = slm_background_now_us(), since_us = slm_min(now_us - self->sampled_us, longest_us);
    const unsigned gap_us = self->sample_gap_us + (unsigned)since_us / averaged - self->sample_gap_us / averaged;
    const bool longer = gap_us < close_us && mean_of(self) < longest_mean;
    const bool shorter = gap_us >= far_us && self->sample_pace > 0;
    self->sampled_us = now_us;
    self->sample_pace += longer - shorter;
    self->sample_gap_us = (uint16_t)(longer ? 2 * gap_us : shorter ? gap_us / 2 : gap_us);
}

static void begin_interval(struct slm_tls *tls, uint16_t mean)
{
    tls->sample_mean = mean;
    tls->sample_left = (int64_t)slm_interval_draw(slm_interval_mean(mean));
}

/* After a sample. */
static slm_sampling __attribute__((noinline)) void go_on(struct slm_tls *tls)
{
    struct slm_thread *self = tls->self;
    if (self && slm_setting(sample_bytes) >= usual_mean)
        set_pace(self);
    begin_interval(tls, slm_interval_code(mean_of(self)));
}

static slm_cold __attribute__((noinline)) uint64_t look_later(struct slm_tls *tls)
{
    tls->sample_mean = 0;
    tls->sample_left = look_bytes;
    store_relaxed(&slm_sample_counts.gaps, 1);
    return 0;
}

/* The count has fallen below zero, for an object of n bytes. The mean by which the interval was drawn that ends in
 * it, whatever has changed since; 0: none ends. Intervals have no memory: the first one begins at this object. */
static uint64_t take_due(struct slm_tls *tls, size_t n)
{
    const uint64_t mean = mean_of(tls->self);
    uint16_t ended = tls->sample_mean;
    if (unlikely(mean == 0))
        return look_later(tls);
    if (ended == 0) {
        begin_interval(tls, ended = slm_interval_code(mean));
        if ((tls->sample_left -= (int64_t)n) >= 0)
            return 0;
    }
    go_on(tls);
    return slm_interval_mean(ended);
}

/* A thread that comes to no other slow path comes to this one. */
static slm_seldom __attribute__((noinline)) void look_for_mail(void)
{
    struct slm_thread *thread = slm_thread_enter(true);
    if (!thread)
        return;
    slm_worker_note_mail(thread);
    slm_thread_leave(thread);
}

slm_cold uint64_t slm_sampled_due(size_t n)
{
    struct slm_tls *tls = &slm_tls;
    const uint64_t mean = slm_process_started() ? take_due(tls, n) : 0;
    if (slm_mailbox_waits() && tls->self)
        look_for_mail();
    return load_relaxed(&tls->busy) ? 0 : mean;
}

static slm_sampling uint32_t record(const void *object, size_t asked, size_t given, uint64_t mean, uint16_t cache)
{
    const struct slm_sample_of of = {object, asked, given, mean, slm_stacks_here(), cache};
    return slm_samples_add(&of);
}

/* What an object of n bytes gets that is not sampled, for which this one stands: see slm_sampled_class. */
static slm_sampling const struct slm_cache *cache_for(const struct slm_cache *cache, size_t n)
{
    return slm_cache_is_class(cache) ? slm_class_cache(slm_class_of_size(n)) : cache;
}

/* Where the thread's magazines are from. */
static unsigned node_here(void)
{
    const struct slm_thread *self = slm_tls.self;
    return self ? load_relaxed(&self->node) : slm_direct_node();
}

static slm_sampling void *take(struct slm_depot *depot)
{
    void *object = NULL;
    const uint8_t before = slm_direct_begin();
    if (slm_depot_fill(depot, &object, 1) > 0 && depot->shape->keyed)
        slm_key_clear(object);
    slm_direct_end(before);
    return object;
}

/* What has a constructor, or keeps its type, must lie in a slab. */
static bool may_guard(const struct slm_slab_shape *shape)
{
    return slm_options.guard && !shape->hooks && shape->alignment <= 1;
}

/* At the cache's limit, but the thread has free rounds, or its depot: one goes home. */
static slm_sampling bool make_room(const struct slm_cache *cache)
{
    struct slm_thread *thread = slm_thread_enter(true);
    slm_limit_carry(cache->shape.limit);
    void *round = thread ? slm_thread_pop(thread, cache->id) : NULL;
    if (thread)
        slm_thread_leave(thread);
    if (round) {
        const uint8_t before = slm_direct_begin();
        slm_depot_give(&round, 1, "free");
        slm_direct_end(before);
    }
    slm_limit_carried(cache->shape.limit);
    return round != NULL;
}

/* What any slow path does: the thread is born by its first allocation, and heeds what handlers and other threads have
 * asked of it. */
static slm_sampling void pass(void)
{
    struct slm_thread *thread = slm_thread_enter(true);
    if (thread)
        slm_thread_leave(thread);
}

/* Do something about what errno says was in the way; true: try again. A constructor may call anything. */
static slm_sampling bool overcome(const struct slm_cache *cache, struct slm_depot *depot)
{
    return errno == EDQUOT ? make_room(cache) : errno == EAGAIN && slm_depot_grow(depot);
}

/* Without a record it could not say of which class it is (slm_sampled_asked). */
static slm_seldom void give_back(void *object, struct slm_limit *limit)
{
    slm_limit_carry(limit);
    slm_depot_give(&object, 1, "free");
    slm_limit_carried(limit);
}

slm_sampling void *slm_sampled_make(struct slm_cache *cache, int node, size_t n, uint64_t mean)
{
    slm_keep_errno();
    slm_fork_check();
    pass();
    struct slm_depot *depot = slm_cache_sampled_depot(cache, node < 0 ? node_here() : (unsigned)node);
    void *object = depot ? take(depot) : NULL;
    for (unsigned tries = 0; depot && !object && tries < tries_most && overcome(cache, depot); tries++)
        object = take(depot);
    if (!object) {
        add_relaxed(&slm_sample_counts.losses, 1);
        return NULL;
    }
    const struct slm_cache *stands_for = cache_for(cache, n);
    const uint8_t before = slm_direct_begin();
    void *guarded = may_guard(&cache->shape) ? slm_guarded_small(cache, object, n, mean) : NULL;
    const uint32_t index = guarded ? 0 : record(object, n, stands_for->shape.object_size, mean, stands_for->id);
    if (index)
        store_relaxed(slm_slab_sample(slm_slab_of(object), object), index);
    else if (!guarded)
        give_back(object, cache->shape.limit);
    slm_direct_end(before);
    return guarded ? guarded : index ? object : NULL;
}

static slm_sampling void record_large(void *object, size_t n, uint64_t mean)
{
    struct slm_large *large = slm_large_of(object);
    store_relaxed(&large->sample, record(object, n, large->usable, mean, SLM_SAMPLE_LARGE));
}

slm_sampling void *slm_sampled_large(void *object, size_t n, size_t alignment, bool *clean, uint64_t mean)
{
    slm_keep_errno();
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

slm_sampling void slm_sampled_resize_large(void *object, size_t n)
{
    struct slm_large *large = slm_large_of(object);
    if (n / 2 <= large->weighed && n >= large->weighed / 2) {
        slm_samples_change(load_relaxed(&large->sample), object, n, large->usable);
        return;
    }
    slm_large_end_sample(large);
    large->weighed = n;
    const uint64_t mean = slm_sample_due(n) ? slm_sampled_due(n) : 0;
    if (mean == 0)
        return;
    const uint8_t before = slm_direct_begin();
    record_large(object, n, mean);
    slm_direct_end(before);
}

/* Of a small object; 0: none. */
static slm_sampling uint32_t index_of(const void *object)
{
    const struct slm_slab *slab = slm_slab_of(object);
    return slab && slm_slab_is_sampled(slab) ? load_relaxed(slm_slab_sample(slab, object)) : 0;
}

slm_sampling bool slm_sampled_asked(const void *object, size_t *asked)
{
    const uint32_t index = index_of(object);
    if (index)
        *asked = slm_samples_at(index)->asked;
    return index != 0;
}

slm_sampling size_t slm_sampled_size(const void *object, size_t size)
{
    const uint32_t index = index_of(object);
    return index ? slm_min(slm_samples_at(index)->given, size) : size;
}

slm_for_few void slm_sampled_stay(void *object, size_t n)
{
    const uint32_t index = index_of(object);
    if (index == 0)
        return;
    const uint64_t mean = slm_sample_due(n) ? slm_sampled_due(n) : 0;
    const struct slm_cache *stands_for = slm_class_cache(slm_class_of_size(n));
    const uint8_t before = slm_direct_begin();
    slm_samples_redraw(index, &(struct slm_sample_of){object, n, stands_for->shape.object_size, mean,
                                                      mean != 0 ? slm_stacks_here() : 0, stands_for->id});
    slm_direct_end(before);
}

slm_sampling void slm_sampled_resize(void *object, size_t n)
{
    const uint32_t index = index_of(object);
    if (index)
        slm_samples_change(index, NULL, n, slm_max(slm_samples_at(index)->given, n)); /* it stays what it was given */
    else if (!slm_slab_of(object) && slm_large_of(object))
        slm_sampled_resize_large(object, n);
}
