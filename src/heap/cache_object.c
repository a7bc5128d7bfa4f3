/* Slow halves of named caches; see cache_object.h.
 *
 * Three things can be in the way of an allocation, and it is tried again once something was done about it: the cache's
 * limit (what other threads and nodes hold is gathered), a slab that must be constructed (outside of the thread's
 * block: user's code runs), memory. */
#include "heap/cache_object.h"

#include <string.h>

#include "base/errno.h"
#include "base/panic.h"
#include "depot/pending_slabs.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "thread/gather.h"
#include "process/give_back.h"
#include "process/lifecycle.h"
#include "os/topology.h"

/* For objects that other threads have in their hands, up to a millisecond each; and those of them in a row that find
 * nothing, after which the limit is met. One alone may miss objects that change places meanwhile. */
enum { looks_most = 100, empty_looks_most = 3 };

/* The user's destructors, now that this call is done. */
static void finish(const struct slm_cache *cache)
{
    if (unlikely(load_relaxed(&slm_pending_slabs_due) > 0))
        slm_pending_slabs_release(&cache->shape);
}

/* -- one object -------------------------------------------------------------------------------------------------- */

/* What an attempt came to (errno's code), and on which node. */
struct attempt {
    int error;
    unsigned node;
};

static void *try_once(struct slm_cache *cache, struct attempt *attempt)
{
    struct slm_thread *thread = slm_thread_enter(true);
    attempt->node = thread ? load_relaxed(&thread->node) : slm_direct_node();
    void *object = thread ? slm_thread_pop(thread, cache->id) : slm_alloc_direct(cache);
    attempt->error = errno;
    if (thread)
        slm_thread_leave(thread);
    return object;
}

/* What was done so far about what is in the way. */
struct obstacles {
    unsigned looks, reclaims;
    unsigned empty_looks; /* in a row */
};

/* Do something; true: try again. Else errno says why not. */
static bool overcome(struct slm_cache *cache, const struct attempt *attempt, size_t n, struct obstacles *so_far)
{
    bool again = false;
    if (attempt->error == EDQUOT) {
        if (so_far->empty_looks < empty_looks_most && so_far->looks++ < looks_most) {
            so_far->empty_looks = slm_gather_for_limit(cache) ? 0 : so_far->empty_looks + 1;
            again = true;
        }
        errno = ENOMEM;
        return again;
    }
    if (cache->hooks.constructor) {
        if (slm_depot_grow(slm_cache_depot(cache, attempt->node)))
            return true;
        if (errno == EDEADLK)
            return false;
    }
    again = so_far->reclaims++ == 0 && slm_give_back_for(n * cache->shape.object_size);
    errno = ENOMEM;
    return again;
}

static slm_slow void *refill_slow(struct slm_cache *cache)
{
    const int kept = errno;
    struct attempt attempt;
    struct obstacles so_far = {0};
    void *object;
    do
        object = try_once(cache, &attempt);
    while (unlikely(!object) && overcome(cache, &attempt, 1, &so_far));
    const int error = errno;
    finish(cache);
    errno = object ? kept : error;
    return object;
}

slm_slow void *slm_cache_object_alloc_slow(struct slab_cache *named)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc");
    void *object;
    if (!named->zero || !slm_pop_marked(named->free_slot_word, &object)) /* zeroed names have their cache's magazine */
        object = refill_slow(cache);
    if (named->zero && likely(object != NULL))
        memset(object, 0, cache->shape.object_size);
    return object;
}

/* From a node that may not be the thread's: its depot's stock, or its slabs. */
static void *take_from_node(struct slm_cache *cache, unsigned node)
{
    struct slm_depot *depot = slm_cache_depot(cache, node);
    struct slm_magazine *full = NULL;
    void *object = NULL;
    if (!cache->shape.limit && slm_depot_get(depot, &full)) { /* else all free objects stay where others see them */
        object = full->rounds[--full->count];
        if (full->count > 0)
            slm_magazine_put(cache, node, &full, load_relaxed(&cache->depot_rounds));
        slm_magazine_free(full);
    } else if (!slm_depot_fill(depot, &object, 1)) {
        return NULL;
    }
    return object;
}

static void *alloc_on(struct slm_cache *cache, unsigned node)
{
    struct obstacles so_far = {0};
    struct attempt attempt = {.node = node};
    void *object;
    if (!slm_process_started())
        return NULL;
    do {
        object = take_from_node(cache, node);
        attempt.error = errno;
    } while (!object && overcome(cache, &attempt, 1, &so_far));
    return object;
}

/* False with EINVAL: there is no such node. */
static bool is_node(int node)
{
    const bool is = node >= 0 && slm_process_started() && (unsigned)node < slm_nodes;
    if (!is)
        errno = EINVAL;
    return is;
}

void *slm_cache_object_alloc_node(struct slab_cache *named, int node)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc_node");
    if (node == -1)
        return slm_cache_object_alloc(named);
    if (!is_node(node))
        return NULL;
    void *object = alloc_on(cache, (unsigned)node);
    if (named->zero && object)
        memset(object, 0, cache->shape.object_size);
    finish(cache);
    return object;
}

/* The thread's own magazines hold its node's rounds; it may find out just then that it is on another. */
void *slm_alloc_node(size_t n, int node)
{
    bool clean;
    if (node == -1)
        return slm_alloc(n);
    if (!is_node(node))
        return NULL;
    if (n > SLM_SMALL_MAX)
        return slm_alloc_large_slow(n, 1, node, &clean);
    if (slm_tls.area == slm_area_start(slm_area_for_slabs((unsigned)node))) {
        void *object = slm_alloc(n);
        if (!object || slm_node_of(object) == (unsigned)node)
            return object;
        slm_free(object);
    }
    return alloc_on(&slm_class_caches[slm_class_of_size(n)], (unsigned)node);
}

/* In a signal handler, perhaps: nothing but the reserve and atomic operations. */
void *slm_cache_object_alloc_nolock(struct slab_cache *named)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc_nolock");
    void *object = slm_reserve_pop(cache);
    if (object && named->zero)
        memset(object, 0, cache->shape.object_size);
    return object;
}

/* -- free -------------------------------------------------------------------------------------------------------- */

static _Noreturn slm_slow void not_of_this_cache(const struct slm_cache *cache, const void *object, const char *call)
{
    const struct slm_cache *owner = slm_cache_of_object(object);
    struct slm_line line = {0};
    if (!owner)
        slm_refuse(object, call);
    slm_line_text(&line, "an object of cache ");
    slm_line_text(&line, owner->name);
    slm_line_text(&line, " given to cache ");
    slm_line_text(&line, cache->name);
    slm_panic(call, object, line.text, NULL, slm_slab_start(slm_slab_of(object)));
}

slm_slow void slm_cache_object_free_full_slow(struct slab_cache *named, void *object)
{
    (void)named;
    slm_free_slow(object, "slab_cache_free");
}

slm_slow void slm_cache_object_free_slow(struct slab_cache *named, void *object)
{
    const char *call = "slab_cache_free";
    struct slm_cache *cache = slm_cache_name_cache(named, call);
    if (!object)
        return;
    if (unlikely(slm_slot_word_at(object) != cache->shape.slot_word))
        not_of_this_cache(cache, object, call);
    slm_free_slow(object, call);
}

/* -- bulk -------------------------------------------------------------------------------------------------------- */

static size_t take_some(struct slm_cache *cache, size_t n, void **out, struct attempt *attempt)
{
    struct slm_thread *thread = slm_thread_enter(true);
    if (unlikely(!thread)) {
        *out = try_once(cache, attempt);
        return *out ? 1 : 0;
    }
    attempt->node = load_relaxed(&thread->node);
    const size_t got = slm_thread_pop_bulk(thread, cache->id, n, out);
    attempt->error = errno;
    slm_thread_leave(thread);
    return got;
}

static void give_some(struct slm_cache *cache, size_t n, void *const *objects, const char *call)
{
    struct slm_thread *thread = slm_thread_enter(false);
    if (unlikely(!thread)) {
        slm_depot_give(objects, (unsigned)n, call);
        return;
    }
    for (size_t i = 0; i < n; i++) /* the thread may have come to another node */
        slm_thread_free(thread, cache->id, objects[i]);
    slm_thread_leave(thread);
}

static bool take_bulk(struct slm_cache *cache, size_t n, void **out)
{
    struct obstacles so_far = {0};
    struct attempt attempt = {0};
    size_t got = 0, more;
    do {
        more = take_some(cache, n - got, out + got, &attempt);
        got += more;
    } while (got < n && (more > 0 || overcome(cache, &attempt, n - got, &so_far)));
    if (got == n)
        return true;
    const int error = errno;
    give_some(cache, got, out, "slab_cache_alloc_bulk");
    errno = error;
    return false;
}

size_t slm_cache_object_alloc_bulk(struct slab_cache *named, size_t n, void **out)
{
    struct slm_cache *cache = slm_cache_name_cache(named, "slab_cache_alloc_bulk");
    const struct slm_limit *limit = cache->shape.limit;
    if (n == 0)
        return 0;
    if (n > SIZE_MAX / cache->shape.object_size || (limit && n > limit->objects)) {
        errno = ENOMEM;
        return 0;
    }
    if (unlikely(!take_bulk(cache, n, out)))
        n = 0;
    for (size_t i = 0; named->zero && i < n; i++)
        memset(out[i], 0, cache->shape.object_size);
    const int error = errno;
    finish(cache);
    errno = error;
    return n;
}

/* The object and some behind it, of which slm_thread_push_run can tell that they are the cache's. How many. */
static size_t free_run(struct slm_cache *cache, struct slm_thread *thread, size_t n, void *const *objects,
                       const char *call)
{
    if (unlikely(slm_slot_word_at(*objects) != cache->shape.slot_word))
        not_of_this_cache(cache, *objects, call);
    if (likely(thread && !slm_is_remote(thread, *objects)))
        return slm_thread_push_run(thread, cache->id, n, objects);
    if (thread)
        slm_thread_free(thread, cache->id, *objects);
    else {
        slm_direct_count(*objects);
        slm_depot_give(objects, 1, call);
    }
    return 1;
}

void slm_cache_object_free_bulk(struct slab_cache *named, size_t n, void *const *objects)
{
    const char *call = "slab_cache_free_bulk";
    struct slm_cache *cache = slm_cache_name_cache(named, call);
    struct slm_thread *thread = slm_thread_enter(false);
    for (size_t done; n > 0; objects += done, n -= done)
        done = likely(*objects != NULL) ? free_run(cache, thread, n, objects, call) : 1;
    if (likely(thread != NULL))
        slm_thread_leave(thread);
    finish(cache);
}
