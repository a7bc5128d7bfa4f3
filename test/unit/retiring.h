/* What the tests of retired objects share: a cache, and a thread that counts as a reader and enters sections when it
 * is told. Nothing ages on its own: passes are due once in a quarter of an hour. A test leaves nothing that waits. */
#pragma once

#include "caches.h"
#include "epochs.h"

#include "base/options.h"
#include "deferred/retire.h"
#include "depot/pending_slabs.h"
#include "heap/deferred.h"
#include "heap/cache_object.h"
#include "process/worker.h"

#include <limits.h>

enum { SIZE = 512, FAR_OFF_MS = 3600000 };

static const struct slab_cache_attr own_slabs = {.flags = SLAB_NO_MERGE};

static struct slab_cache *name;
static struct slm_cache *cache;
static struct helper reader;

static inline void enter_section(void *nothing)
{
    (void)nothing;
    enter();
}

static inline void leave_section(void *nothing)
{
    (void)nothing;
    leave();
}

static inline void begin_reading(void)
{
    tell(&reader, enter_section, NULL);
}

static inline void end_reading(void)
{
    tell(&reader, leave_section, NULL);
}

/* A reader that is outside: what is retired from here on waits for a grace period, and that for nobody. */
static inline void start_reader(void)
{
    start_live_helper(&reader);
    begin_reading();
    end_reading();
}

/* A group's setup. The first pass is due at once: here it comes. From now on something was retired some time. */
static inline int begin_retiring(void **state)
{
    slm_settings.deferred_max_delay_ms = FAR_OFF_MS;
    slm_options.worker = 0;
    const int started = start_unnamed(state);
    slm_worker_note_deferred();
    slm_deferred_poll();
    slm_settings.deferred_max_delay_ms = 100; /* which says how many passes look at what was closed, too */
    return started;
}

static inline void make_cache(const struct slab_cache_attr *attr)
{
    name = named("retired", SIZE, attr);
    cache = cache_of(name);
}

static inline int fresh_cache(void **state)
{
    (void)state;
    make_cache(&own_slabs);
    start_reader();
    return 0;
}

/* In all threads' retired magazines. */
static inline void add_retired(struct slm_thread *thread, void *sums)
{
    slm_retire_count(thread, sums);
}

static inline uint64_t in_magazines(void)
{
    struct slm_retired_sums sums = {0, 0};
    slm_thread_list_foreach(add_retired, &sums);
    return sums.objects;
}

static inline uint64_t on_queues(void)
{
    return load_relaxed(&slm_defer_queue_objects);
}

static inline uint64_t waiting(void)
{
    return in_magazines() + on_queues();
}

/* Of a test that has failed in the middle. */
static inline void leave_all_sections(void *nothing)
{
    (void)nothing;
    while (slm_epoch_inside())
        leave();
}

/* This thread begins each test as one that has not retired anything yet. */
static inline void forget_own_magazines(void)
{
    struct slm_thread *thread = slm_thread_enter(true);
    slm_retire_empty_slots(thread);
    slm_retired_slot_at(thread, cache->shape.slot_offset)->target = 0;
    slm_thread_leave(thread);
}

/* All that was retired of the cache has become free, and nothing of it twice: a slab would see that. */
static inline int all_is_free(void **state)
{
    (void)state;
    leave_all_sections(NULL);
    tell(&reader, leave_all_sections, NULL);
    slm_options.refuse_blocks = 0;
    forget_own_magazines();
    slm_deferred_free_all(UINT_MAX);
    slm_epoch_await(slm_epoch_stamp(), UINT64_MAX);
    slm_pending_slabs_poll(); /* type-safe slabs wait on their own */
    slm_defer_queue_check();
    end_helper(&reader);
    if (waiting() != 0 || load_relaxed(&slm_defer_queue_bytes) != 0 || load_relaxed(&slm_epoch_waiting_bytes) != 0)
        return -1;
    return slab_cache_destroy(name);
}

static inline void *object_of_cache(void)
{
    void *object = slm_cache_object_alloc(name);
    require(object != NULL);
    return object;
}

/* What has been retired before is ripe. */
static inline bool ripens_within(unsigned ms)
{
    return slm_epoch_await(slm_epoch_stamp(), slm_sys_now_us() + ms * UINT64_C(1000));
}

static inline void let_ripen(void)
{
    require(slm_epoch_await(slm_epoch_stamp(), UINT64_MAX));
}

static inline void defer_some(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        slm_defer(object_of_cache(), NULL);
}

/* A head inside an object of the cache. */
static inline void *head_in(void *object)
{
    return (char *)object + 64;
}
