/* Create, destroy, shrink, tune; see cache_control.h. */
#include "control/cache_control.h"

#include <errno.h>
#include <string.h>

#include "base/panic.h"
#include "depot/pending_slabs.h"
#include "heap/deferred.h"
#include "process/lifecycle.h"
#include "thread/gather.h"
#include "os/background.h"
#include "os/sys.h"
#include "sync/epoch.h"

#define SIZE_MOST ((size_t)1 << 20)

enum {
    flags_known = SLAB_TYPESAFE_BY_EPOCH | SLAB_NO_MERGE | SLAB_ZERO | SLAB_CACHELINE_ALIGN | SLAB_ACCOUNT,
    attempts_most = 100,     /* at threads that are in a slow path, a millisecond apart */
    dismantling_most = 3000, /* the same where a thread that is merely slow must not be left out */
};

/* -- create ------------------------------------------------------------------------------------------------------ */

static bool is_sound(const char *name, size_t size, const struct slab_cache_attr *attr)
{
    const bool keeps_state = attr->ctor || (attr->flags & SLAB_TYPESAFE_BY_EPOCH);
    return name && *name && size > 0 && size <= SIZE_MOST && attr->align <= SIZE_MOST &&
           (attr->align == 0 || slm_is_power_of_two(attr->align)) && !(attr->flags & ~(unsigned)flags_known) &&
           attr->magazine_rounds <= SLM_ROUNDS_MOST && !((attr->flags & SLAB_ZERO) && keeps_state);
}

slm_seldom struct slab_cache *slm_cache_control_create(const char *name, size_t size,
                                                       const struct slab_cache_attr *attr)
{
    static const struct slab_cache_attr nothing_special;
    attr = attr ? attr : &nothing_special;
    if (!is_sound(name, size, attr)) {
        errno = EINVAL;
        return NULL;
    }
    if (!slm_process_started()) {
        errno = ENOMEM;
        return NULL;
    }
    static _Atomic bool looked; /* without membarrier(2) threads keep no magazines of limited caches */
    if (attr->limit_bytes != 0 && !atomic_exchange(&looked, true))
        slm_sys_membarrier_register();
    slm_cache_lock();
    struct slab_cache *named = slm_cache_name_create(name, size, attr);
    if (named)
        slm_thread_list_cover(load_relaxed(&named->cache)->id);
    slm_cache_unlock();
    return named;
}

struct depot_sums {
    uint64_t released, out;
};

static slm_seldom struct depot_sums sum_depots(struct slm_cache *cache)
{
    struct depot_sums sums = {0, 0};
    slm_for_each_depot (depot, cache) {
        sums.released += load_relaxed(&depot->slabs_released);
        sums.out += load_acquire(&depot->objects_out); /* pairs with slm_depot_give */
    }
    return sums;
}

/* The user's destructors, and slabs whose grace period has passed. No lock is held. */
static void release_retired(const struct slm_cache *cache)
{
    slm_pending_slabs_poll();
    slm_pending_slabs_release(&cache->shape);
}

/* Take free objects from all threads; returns how many threads were missed. */
static unsigned gather(struct slm_cache *cache, enum slm_take_how how)
{
    uint64_t gathered;
    return slm_gather_from_threads(cache, how, &gathered);
}

/* -- shrink, tune ------------------------------------------------------------------------------------------------ */

/* Who asks: the program, which has called; or somebody outside, while this thread has something else to do. Then a
 * sandbox may not know what taking from threads needs, and destructors run only if there is a function for that. */
struct asker {
    bool outside;
    void (*destruct)(void);
};

static const struct asker program;

static void gather_for(struct slm_cache *cache, enum slm_take_how how, struct asker asker)
{
    if (!asker.outside || slm_background_begin())
        gather(cache, how);
    if (asker.outside)
        slm_background_end();
}

static void release_for(const struct slm_cache *cache, struct asker asker)
{
    if (!asker.outside)
        release_retired(cache);
    else if (asker.destruct)
        asker.destruct();
}

/* Under the mutex, which is free afterwards. */
static slm_seldom size_t shrink_and_unlock(struct slm_cache *cache, struct asker asker)
{
    const size_t bytes = (size_t)cache->shape.granules << SLM_GRANULE_SHIFT;
    const uint64_t before = sum_depots(cache).released;
    gather_for(cache, SLM_TAKE_SPARE, asker);
    slm_gather_from_depots(cache);
    slm_cache_unlock();
    release_for(cache, asker);
    return (size_t)(sum_depots(cache).released - before) * bytes;
}

slm_seldom size_t slm_cache_control_shrink(struct slab_cache *named)
{
    slm_cache_lock();
    return shrink_and_unlock(slm_cache_name_cache(named, "slab_cache_shrink"), program);
}

static slm_seldom void tune_and_unlock(struct slm_cache *cache, unsigned rounds, unsigned magazines,
                                       struct asker asker)
{
    slm_cache_tune(cache, rounds, magazines);
    gather_for(cache, SLM_TAKE_TO_STOCK, asker);
    slm_cache_trim_stock(cache);
    slm_cache_unlock();
    release_for(cache, asker);
}

slm_seldom int slm_cache_control_tune(struct slab_cache *named, unsigned rounds, unsigned magazines)
{
    if (!named || rounds > SLM_ROUNDS_MOST) {
        errno = EINVAL;
        return -1;
    }
    slm_cache_lock();
    tune_and_unlock(slm_cache_name_cache(named, "slab_cache_tune"), rounds, magazines, program);
    return 0;
}

/* -- for who asks from outside: the cache may go at any time ----------------------------------------------------- */

/* Under the mutex. Of the caches with that name, the one with the lowest id from `first` on; classes come first. */
static slm_seldom struct slm_cache *find_called(const char *name, unsigned first)
{
    for (unsigned class = first; class < SLM_CLASSES; class ++) {
        char of_class[SLM_CACHE_NAME_BYTES] = {0};
        struct slm_cache *cache = load_acquire(&slm_class_caches[class]); /* pairs with slm_class_cache_make */
        slm_cache_name_class(of_class, class);
        if (cache && strcmp(of_class, name) == 0)
            return cache;
    }
    return slm_cache_name_find(name, first);
}

/* For each cache with that name: the mutex is taken, and `and_unlock` leaves it. How many there were. */
static slm_seldom unsigned for_each_called(const char *name,
                                           void (*and_unlock)(struct slm_cache *cache, void *context), void *context)
{
    unsigned count = 0;
    for (unsigned first = 0;; count++) {
        slm_cache_lock();
        struct slm_cache *cache = find_called(name, first);
        if (!cache)
            break;
        first = cache->id + 1;
        and_unlock(cache, context);
    }
    slm_cache_unlock();
    return count;
}

/* What leaves has no name any more, and slab_cache_destroy may be at work on it. */
static slm_seldom struct slm_cache *find_at(unsigned id)
{
    struct slm_cache *cache = id < SLM_CLASSES ? load_acquire(&slm_class_caches[id]) : load_relaxed(&slm_caches[id]);
    return cache && (slm_cache_is_class(cache) || cache->names > 0) ? cache : NULL;
}

struct shrinking {
    struct asker asker;
    size_t bytes;
};

static slm_seldom void shrink_one(struct slm_cache *cache, void *context)
{
    struct shrinking *shrinking = context;
    shrinking->bytes += shrink_and_unlock(cache, shrinking->asker);
}

slm_seldom unsigned slm_cache_control_shrink_called(const char *name, void (*destruct)(void), size_t *bytes)
{
    struct shrinking shrinking = {{true, destruct}, 0};
    const unsigned count = for_each_called(name, shrink_one, &shrinking);
    *bytes = shrinking.bytes;
    return count;
}

slm_seldom size_t slm_cache_control_shrink_all(void (*destruct)(void))
{
    size_t bytes = 0;
    for (unsigned id = 0; id < SLM_CACHE_IDS; id++) {
        slm_cache_lock();
        struct slm_cache *cache = find_at(id);
        if (cache)
            bytes += shrink_and_unlock(cache, (struct asker){true, destruct});
        else
            slm_cache_unlock();
    }
    return bytes;
}

struct tuning {
    struct asker asker;
    unsigned rounds, magazines;
};

static slm_seldom void tune_one(struct slm_cache *cache, void *context)
{
    const struct tuning *tuning = context;
    tune_and_unlock(cache, tuning->rounds, tuning->magazines, tuning->asker);
}

slm_seldom int slm_cache_control_tune_called(const char *name, uint64_t rounds, uint64_t magazines,
                                             void (*destruct)(void), unsigned *count)
{
    *count = 0;
    if (rounds > SLM_ROUNDS_MOST || magazines > UINT32_MAX)
        return EINVAL;
    struct tuning tuning = {{true, destruct}, (unsigned)rounds, (unsigned)magazines};
    *count = for_each_called(name, tune_one, &tuning);
    return *count ? 0 : ENOENT;
}

/* -- destroy ----------------------------------------------------------------------------------------------------- */

/* No thread uses the cache: take everything from all threads, to the last round. Threads in a slow path leave it in a
 * moment. Returns how many did not (they are stopped in it), or could not be reached for lack of membarrier. */
static slm_seldom unsigned dismantle(struct slm_cache *cache)
{
    for (unsigned attempt = 0;; attempt++) {
        const unsigned missed = gather(cache, SLM_TAKE_EVERYTHING);
        if (missed == 0 || attempt == dismantling_most || !load_relaxed(&slm_sys_has_membarrier))
            return missed;
        slm_sys_sleep_ms(1);
    }
}

/* Objects out of slabs less those in magazines, reserves and stock; exact when the cache is not in use. */
static slm_seldom uint64_t live_objects(struct slm_cache *cache)
{
    const uint64_t held = slm_reserve_held_by_all(cache), out = sum_depots(cache).out;
    return out > held ? out - held : 0;
}

/* A thread that is missed may be carrying free objects to their slabs. */
static slm_seldom uint64_t live_after_shrinking(struct slm_cache *cache)
{
    for (unsigned attempt = 0;; attempt++) {
        const unsigned missed = gather(cache, SLM_TAKE_INSISTING);
        slm_gather_from_depots(cache);
        const uint64_t live = live_objects(cache);
        if (live == 0 || missed == 0 || attempt == attempts_most || !load_relaxed(&slm_sys_has_membarrier))
            return live;
        slm_sys_sleep_ms(1);
    }
}

static slm_seldom void say_busy(const char *name, uint64_t live)
{
    struct slm_line line = {0};
    slm_line_text(&line, "slabmalloc: slab_cache_destroy: ");
    slm_line_text(&line, name);
    slm_line_text(&line, " has ");
    slm_line_number(&line, live);
    slm_line_text(&line, live == 1 ? " live object" : " live objects");
    slm_line_write(&line, 2);
}

/* Under the mutex, the last name. Returns how many objects live: then nothing has happened. As long as that is not
 * known other threads may be using the cache, and only as much is taken as shrinking may take. */
static slm_seldom uint64_t destroy(struct slab_cache *named, struct slm_cache *cache, unsigned *missed)
{
    uint64_t live = live_after_shrinking(cache);
    if (live > 0)
        return live;
    *missed = dismantle(cache);
    slm_gather_from_depots(cache);
    live = live_objects(cache);
    if (live > 0)
        return live;
    slm_cache_name_destroy(named, *missed > 0 ? slm_take_recall() : 0);
    return 0;
}

/* Wait until all slabs are gone, wherever their destructors run: then the program may take away what these use.
 * Inside a destructor, or a read section that a grace period would wait for, this cannot wait. */
static void await_destructors(struct slm_cache *cache)
{
    const struct slm_object_hooks *hooks = cache->shape.hooks;
    const bool forked = cache->generation != slm_fork_generation; /* slabs may be lost: do not wait forever */
    if (!hooks || !hooks->destructor)
        return;
    for (unsigned wait = 0; slm_cache_slabs(cache) > 0 && !(forked && wait == attempts_most); wait++) {
        if (slm_pending_slabs_is_releasing() || (hooks->typesafe && slm_epoch_inside()))
            break;
        release_retired(cache);
        if (slm_cache_slabs(cache) > 0)
            slm_sys_sleep_ms(1);
    }
}

slm_seldom int slm_cache_control_destroy(struct slab_cache *named)
{
    if (!named)
        return 0;
    if (!slm_epoch_inside() && !slm_defer_queue_is_calling() && !slm_pending_slabs_is_releasing())
        slm_deferred_free_all(attempts_most);
    slm_cache_lock();
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_destroy");
    if (slm_cache_is_class(cache)) {
        slm_cache_unlock();
        errno = EINVAL;
        return -1;
    }
    const bool last = cache->names == 1;
    unsigned missed = 0;
    const uint64_t live = last ? destroy(named, cache, &missed) : 0;
    if (!last)
        slm_cache_name_drop(named);
    slm_cache_unlock();
    release_retired(cache);
    if (live > 0) {
        say_busy(named->name, live);
        errno = EBUSY;
        return -1;
    }
    if (last) {
        if (missed == 0) /* else a thread may be stopped with some of its objects */
            await_destructors(cache);
        slm_cache_lock();
        cache->attended = false;
        slm_cache_name_sweep(slm_take_recalled());
        slm_cache_unlock();
    }
    return 0;
}
