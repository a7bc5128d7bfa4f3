/* Slow halves of named caches; see cache_object.h.
 *
 * Three things can be in the way of an allocation. Something is done about each, then it is tried again: the cache's
 * limit is met (the free objects that other threads and nodes hold are gathered), a slab has to be constructed
 * (outside of the thread's block, as user's code runs), there is no memory (all that can go is given back). */
#include "heap/cache_object.h"

#include <string.h>

#include "base/errno.h"
#include "base/panic.h"
#include "depot/pending_slabs.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap/guarded.h"
#include "os/topology.h"
#include "page/charge.h"
#include "process/give_back.h"
#include "process/lifecycle.h"
#include "process/worker.h"
#include "thread/gather.h"

/* Looks for free objects at the limit. While calls of other threads are under way that may have some, a look takes a
 * millisecond: a thread that has to wait for a processor is waited for. */
enum { looks_most = 100, waits_most = 10000 };

/* The user's destructors, now that this call is done; they may change errno. */
static void finish(const struct slm_cache *cache)
{
    if (unlikely(load_relaxed(&slm_pending_slabs_due) > 0))
        slm_pending_slabs_release(&cache->shape);
}

static void *zero(const struct slab_cache *named, const struct slm_cache *cache, void *object)
{
    return named->zero && object ? memset(object, 0, cache->shape.object_size) : object;
}

/* -- allocation -------------------------------------------------------------------------------------------------- */

/* The attempts of one call. */
struct attempts {
    int error; /* of the last one, errno's code */
    unsigned node;
    unsigned looks, waits, reclaims;
    enum slm_look found; /* by the last look; GATHERED at first */
};

/* Up to n objects from the calling thread's magazines; one if it has no block. Returns how many. */
slm_inline size_t take_from_thread(struct slm_cache *cache, size_t n, void **out, struct attempts *at)
{
    struct slm_thread *thread = slm_thread_enter(true);
    void *object = NULL;
    size_t got = 0;
    at->node = thread ? load_relaxed(&thread->node) : slm_direct_node();
    if (thread && n > 1)
        got = slm_thread_pop_bulk(thread, cache->id, n, out);
    else if ((object = thread ? slm_thread_pop(thread, cache->id) : slm_alloc_direct(cache)))
        out[got++] = object;
    if (unlikely(got < n))
        at->error = errno;
    if (thread)
        slm_thread_leave(thread);
    return got;
}

/* An object from the depot's stock or the slabs of a node that may not be the thread's. Returns how many: 0 or 1. */
static size_t take_from_node(struct slm_cache *cache, unsigned node, void **out, struct attempts *at)
{
    struct slm_depot *depot = slm_cache_depot(cache, node);
    struct slm_magazine *full = NULL;
    if (cache->shape.limit || !slm_depot_get(depot, &full)) { /* a limited cache's stock stays where others see it */
        const size_t got = slm_depot_fill(depot, out, 1);
        at->error = errno;
        at->node = node;
        return got;
    }
    *out = full->rounds[--full->count];
    if (full->count > 0)
        slm_magazine_put(cache, node, &full, slm_cache_stock_rounds(cache));
    slm_magazine_free(full);
    return 1;
}

static slm_seldom void look(struct slm_cache *cache, struct attempts *at)
{
    at->found = slm_gather_for_limit(cache, at->found == SLM_LOOK_UNSURE);
    at->looks += at->found != SLM_LOOK_BUSY;
    at->waits += at->found == SLM_LOOK_BUSY;
}

/* Do something about what was in the way of n objects; true: try again. Else errno says why not. */
static bool overcome(struct slm_cache *cache, size_t n, struct attempts *at)
{
    bool again;
    if (at->error == EDQUOT) {
        again = at->found != SLM_LOOK_NONE && at->looks < looks_most && at->waits < waits_most;
        if (again)
            look(cache, at);
    } else {
        if (cache->shape.hooks && cache->shape.hooks->constructor) {
            if (slm_depot_grow(slm_cache_depot(cache, at->node)))
                return true;
            if (errno == EDEADLK)
                return false;
        }
        again = at->reclaims++ == 0 && slm_give_back_for(n * cache->shape.object_size);
        if (!again)
            slm_charge_refused();
    }
    errno = ENOMEM;
    return again;
}

slm_inline size_t take_once(struct slm_cache *cache, int node, size_t n, void **out, struct attempts *at)
{
    const size_t got =
        node < 0 ? take_from_thread(cache, n, out, at) : take_from_node(cache, (unsigned)node, out, at);
    if (got == 1 && likely(cache->shape.keyed))
        slm_key_clear(*out);
    return got;
}

/* A first attempt has got some of n objects. The rest; false: nothing is taken. */
static slm_slow bool take_rest(struct slm_cache *cache, int node, size_t n, size_t got, void **out,
                               struct attempts *at)
{
    at->looks = at->waits = at->reclaims = 0;
    at->found = SLM_LOOK_GATHERED;
    for (size_t more = got; got < n && (more > 0 || overcome(cache, n - got, at)); got += more)
        more = take_once(cache, node, n - got, out + got, at);
    if (got == n)
        return true;
    const int error = errno;
    while (got > 0)
        slm_free(out[--got]);
    errno = error;
    return false;
}

/* n objects, at least 1, from that node (-1: the calling thread's). errno is kept; false with errno: none taken. */
static __attribute__((noinline)) bool take(struct slm_cache *cache, int node, size_t n, void **out)
{
    const int kept = errno;
    struct attempts at;
    const size_t got = take_once(cache, node, n, out, &at);
    const bool done = likely(got == n) || take_rest(cache, node, n, got, out, &at);
    const int error = done ? kept : errno;
    finish(cache);
    errno = error;
    return done;
}

void *slm_cache_object_alloc_slow(struct slab_cache *named)
{
    void *object;
    if (!named) /* the hot path has read it */
        __builtin_unreachable();
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc");
    const uint32_t slot_offset = cache->shape.slot_offset;
    if (named->zero && slm_pop_marked(slot_offset, &object)) /* the cache's magazine, which others share */
        return memset(object, 0, cache->shape.object_size);
    return take(cache, -1, 1, &object) ? zero(named, cache, object) : NULL;
}

slm_for_few void *slm_cache_object_alloc_due_slow(struct slab_cache *named)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc");
    void *object = slm_sampled_alloc(cache, -1, named->size);
    return object ? zero(named, cache, object) : slm_cache_object_alloc_slow(named);
}

/* Of n objects those that are due to be sampled, which may be none; slm_sample_due has said yes to all of them
 * together. Returns how many. */
static slm_for_few size_t take_sampled(const struct slab_cache *named, struct slm_cache *cache, size_t n, void **out)
{
    size_t got = 0;
    slm_tls.sample_left += (int64_t)(n * named->size);
    for (size_t i = 0; i < n; i++) {
        void *object = slm_sample_due(named->size) ? slm_sampled_alloc(cache, -1, named->size) : NULL;
        if (object)
            out[got++] = object;
    }
    return got;
}

/* False: errno is EINVAL where there is no such node, ENOMEM where the process could not start. */
static bool is_node(int node)
{
    const bool started = slm_process_started();
    if (started && node >= 0 && (unsigned)node < slm_nodes)
        return true;
    errno = started ? EINVAL : ENOMEM;
    return false;
}

void *slm_cache_object_alloc_node(struct slab_cache *named, int node)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc_node");
    void *object;
    if (node == -1)
        return slm_cache_object_alloc(named);
    if (!is_node(node))
        return NULL;
    if (slm_sample_due(named->size) && (object = slm_sampled_alloc(cache, node, named->size)))
        return zero(named, cache, object);
    return take(cache, node, 1, &object) ? zero(named, cache, object) : NULL;
}

/* The thread's own magazines hold its node's objects, unless it finds out in this very call that it has moved. */
void *slm_alloc_node(size_t n, int node)
{
    void *object;
    if (node == -1)
        return slm_alloc(n);
    if (!is_node(node))
        return NULL;
    if (n > SLM_SMALL_MAX)
        return slm_alloc_large_slow(n, 1, node, NULL);
    if (slm_tls.key == slm_key_of_area(slm_area_start(slm_area_for_slabs((unsigned)node)))) {
        object = slm_alloc(n);
        if (!object || slm_node_of(object) == (unsigned)node)
            return object;
        slm_free(object);
    }
    struct slm_cache *cache = slm_class_cache(slm_class_of_size(n));
    if (slm_sample_due(n) && (object = slm_sampled_alloc(cache, node, n)))
        return object;
    return take(cache, node, 1, &object) ? slm_alloc_check(object, n) : NULL;
}

/* In a signal handler, perhaps: the reserve and atomic operations only. */
void *slm_cache_object_alloc_nolock(struct slab_cache *named)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc_nolock");
    void *object = slm_reserve_pop(cache);
    if (object && cache->shape.keyed)
        slm_key_clear(object);
    return zero(named, cache, object);
}

size_t slm_cache_object_alloc_bulk(struct slab_cache *named, size_t n, void **out)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc_bulk");
    const struct slm_limit *limit = cache->shape.limit;
    if (n == 0)
        return 0;
    if (n > PTRDIFF_MAX / cache->shape.object_size || (limit && n > limit->objects)) {
        errno = ENOMEM;
        return 0;
    }
    const size_t sampled = slm_sample_due(n * named->size) ? take_sampled(named, cache, n, out) : 0;
    if (unlikely(sampled < n) && unlikely(!take(cache, -1, n - sampled, out + sampled))) {
        const int error = errno;
        for (size_t i = 0; i < sampled; i++)
            slm_free(out[i]);
        errno = error;
        return 0;
    }
    for (size_t i = 0; named->zero && i < n; i++)
        zero(named, cache, out[i]);
    return n;
}

/* -- free -------------------------------------------------------------------------------------------------------- */

static _Noreturn slm_slow void not_of_this_cache(const struct slm_cache *cache, const void *object, const char *call)
{
    const struct slm_cache *owner = slm_cache_of_object(object);
    struct slm_line line = {0};
    if (!owner)
        owner = slm_guarded_cache(object, call, slm_double_free);
    if (!owner)
        slm_refuse(object, call);
    if (slm_cache_is_class(owner))
        slm_line_add(&line, "an object of %u bytes", owner->shape.object_size);
    else
        slm_line_add(&line, "an object of cache %s", slm_cache_own(owner)->name);
    slm_line_add(&line, " given to cache %s", slm_cache_own(cache)->name);
    slm_panic(call, object, line.text, NULL, 0);
}

/* Any pointer that the program takes for an object of the cache. */
static void free_one(struct slm_cache *cache, void *object, const char *call)
{
    if (!object)
        return;
    if (unlikely(slm_cache_of_object(object) != cache) && slm_guarded_cache(object, call, slm_double_free) != cache)
        not_of_this_cache(cache, object, call);
    slm_free_slow(object, call);
}

slm_slow void slm_cache_object_free_slow(struct slab_cache *named, void *object)
{
    const char *call = "slab_cache_free";
    free_one(slm_cache_name_cache(named, call), object, call);
}

/* Is it known to be one of the cache's that lie on the thread's node? */
slm_inline bool is_near(const struct slm_cache *cache, const void *object)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, object);
    return likely(slm_area_granule_valid(granule)) &&
           slm_page_map_offset(slm_key_area(key), granule) == slm_slab_map_offset(&cache->shape);
}

/* The leading objects that slm_thread_push_run can tell to be live ones of the cache's. Returns how many. */
static size_t free_run(struct slm_cache *cache, size_t n, void *const *objects)
{
    struct slm_thread *thread = slm_thread_enter(false);
    size_t done = 0;
    if (unlikely(!thread))
        return 0;
    for (size_t run = 1; run > 0 && done < n; done += run)
        run = is_near(cache, objects[done]) ? slm_thread_push_run(thread, cache->id, n - done, objects + done) : 0;
    slm_thread_leave(thread);
    return done;
}

void slm_cache_object_free_bulk(struct slab_cache *named, size_t n, void *const *objects)
{
    const char *call = "slab_cache_free_bulk";
    struct slm_cache *cache = slm_cache_name_cache(named, call);
    for (size_t done = 0; done < n; done++) {
        done += cache->shape.mapped ? free_run(cache, n - done, objects + done) : 0;
        if (done < n)
            free_one(cache, objects[done], call);
    }
    finish(cache);
    slm_worker_note_slabs();
}
