/* Slow halves of named caches; see object.h and closed.h.
 *
 * An allocation charges first, where its cache is accounted, then takes an object; when there is none, it charges
 * back. Three things can be in the way, and each is tried again once something was done about it: the limit (other
 * threads' windows are gathered), a slab that must be constructed (outside of the thread's block: user's code runs),
 * memory. */
#include "heap/object.h"

#include <errno.h>
#include <string.h>

#include "base/panic.h"
#include "depot/pending_slabs.h"
#include "heap/alloc.h"
#include "heap/closed.h"
#include "heap/free.h"
#include "heap/lifecycle.h"
#include "os/topology.h"

enum { looks_most = 100 }; /* for other threads' windows, up to a millisecond each */

struct slm_cache *slm_object_cache(const struct slab_cache *named, const char *call)
{
    struct slm_cache *cache = load_acquire(&named->cache); /* pairs with slm_named_create */
    if (unlikely(!cache))
        slm_panic(call, named, "a destroyed cache", NULL, NULL);
    return cache;
}

/* The user's destructors, now that this call is done. */
static void finish(const struct slm_cache *cache)
{
    if (likely(load_relaxed(&slm_pending_slabs_due) == 0))
        return;
    const int kept = errno;
    slm_pending_slabs_release(&cache->shape);
    errno = kept;
}

/* -- charging ---------------------------------------------------------------------------------------------------- */

/* The caller is in a slow path, if it has a block. */
static struct slm_window *window_of(struct slm_thread *thread, const struct slm_cache *cache)
{
    return thread && slm_slot_make(thread, cache->number) ? slm_window_of(thread, cache) : NULL;
}

/* One object; without a block `thread` is NULL. */
static bool charge(struct slm_thread *thread, struct slm_cache *cache)
{
    if (!cache->account)
        return true;
    struct slm_window *window = window_of(thread, cache);
    return window ? slm_account_take(cache->account, window) : slm_account_take_direct(cache->account, 1);
}

static void charge_back(struct slm_thread *thread, struct slm_cache *cache)
{
    if (!cache->account)
        return;
    struct slm_window *window = window_of(thread, cache);
    if (window)
        slm_account_give(cache->account, window);
    else
        slm_account_give_direct(cache->account, 1);
}

/* -- one object -------------------------------------------------------------------------------------------------- */

/* For a charge without it that has failed. */
static void close_own_window(struct slm_cache *cache)
{
    struct slm_thread *thread = slm_thread_enter(true);
    struct slm_window *window = window_of(thread, cache);
    if (window)
        slm_window_close(cache->account, window);
    if (thread)
        slm_thread_leave(thread);
}

/* What an attempt came to, and on which node. */
struct attempt {
    bool limited;
    unsigned node;
};

static void *try_once(struct slm_cache *cache, struct attempt *attempt)
{
    struct slm_thread *thread = slm_thread_enter(true);
    attempt->node = thread ? load_relaxed(&thread->node) : slm_direct_node();
    attempt->limited = !charge(thread, cache);
    void *object = NULL;
    if (!attempt->limited) {
        object = thread ? slm_thread_pop(thread, cache->number) : slm_alloc_direct(cache);
        if (!object)
            charge_back(thread, cache);
    }
    if (thread)
        slm_thread_leave(thread);
    return object;
}

/* Do something about what is in the way; true: try again. This remembers what was done so far. */
struct obstacles {
    unsigned looks, reclaims;
    uint32_t closed; /* all windows were, before the last attempt */
};

/* A charge has failed. It has met the limit if all windows were closed before it, and still are. */
static bool find_room(struct slm_cache *cache, struct obstacles *so_far)
{
    const uint32_t closed = slm_account_close_windows(cache);
    const bool met = closed != 0 && closed == so_far->closed;
    so_far->closed = closed;
    return !met && so_far->looks++ < looks_most;
}

static bool overcome(struct slm_cache *cache, const struct attempt *attempt, size_t n, struct obstacles *so_far)
{
    const struct slm_slab_life *life = cache->shape.life;
    if (attempt->limited) {
        errno = ENOMEM;
        return find_room(cache, so_far);
    }
    if (life && life->constructor) {
        if (slm_depot_grow(slm_cache_depot(cache, attempt->node)))
            return true;
        if (errno == EDEADLK)
            return false;
    }
    const bool again = so_far->reclaims++ == 0 && slm_heap_reclaim_for(n * cache->shape.object_size);
    errno = ENOMEM;
    return again;
}

static void *alloc_slowly(struct slm_cache *cache)
{
    const int kept = errno;
    struct attempt attempt;
    struct obstacles so_far = {0};
    void *object;
    do
        object = try_once(cache, &attempt);
    while (unlikely(!object) && overcome(cache, &attempt, 1, &so_far));
    if (object)
        errno = kept;
    return object;
}

/* A name whose objects are to be zeroed has its cache's own magazines all the same. */
static void *pop_direct(const struct slm_cache *cache)
{
    struct slm_slot *slot = slm_slot_at(slm_hot(), cache->shape.place);
    void **top = slm_shared_load(&slot->top);
    if (top == slm_shared_load(&slot->bottom))
        return NULL;
    return slm_slot_pop(slot, top);
}

/* As slm_counted_pop and slm_counted_push, for far caches, accounted or not. */
static void *far_pop(struct slm_cache *cache)
{
    void *round = NULL;
    slm_closed_begin();
    struct slm_far_slot *far = slm_slot_far(slm_hot(), cache->number);
    if (far) {
        void **top = slm_shared_load(&far->slot.top);
        if (top != slm_shared_load(&far->slot.bottom) && (!cache->account || far->window.net != far->window.high)) {
            far->window.net += cache->account != NULL;
            round = slm_slot_pop(&far->slot, top);
        }
    }
    slm_closed_end();
    return round;
}

static bool far_push(struct slm_cache *cache, void *object)
{
    bool room = false;
    slm_closed_begin();
    struct slm_far_slot *far = slm_slot_far(slm_hot(), cache->number);
    if (far) {
        void **top = slm_shared_load(&far->slot.top);
        room = top != far->slot.limit && (!cache->account || far->window.net != far->window.low);
        if (room) {
            far->window.net -= cache->account != NULL;
            slm_slot_push(&far->slot, top, object);
        }
    }
    slm_closed_end();
    return room;
}

/* From the thread's own magazine, where the hot path did not look. */
static void *pop_elsewhere(const struct slab_cache *named, struct slm_cache *cache)
{
    if (slm_cache_is_far(cache))
        return far_pop(cache);
    if (cache->account)
        return slm_counted_pop(cache->shape.place);
    return named->zero ? pop_direct(cache) : NULL;
}

static slm_slow void *refill_slow(struct slm_cache *cache)
{
    void *object = alloc_slowly(cache);
    finish(cache);
    return object;
}

/* By itself, so that accounted caches' fast half saves no registers. */
static __attribute__((noinline)) void *alloc_elsewhere(const struct slab_cache *named)
{
    struct slm_cache *cache = slm_object_cache(named, "slab_cache_alloc");
    void *object = pop_elsewhere(named, cache);
    if (unlikely(!object))
        object = refill_slow(cache);
    if (named->zero && likely(object != NULL))
        memset(object, 0, cache->shape.object_size);
    return object;
}

void *slm_object_alloc_slow(struct slab_cache *named)
{
    void *object = likely(named->counted) ? slm_counted_pop(named->alloc_place) : NULL;
    return likely(object != NULL) ? object : alloc_elsewhere(named);
}

/* From a node that may not be the thread's: its depot's stock, or its slabs. */
static void *take_from_node(struct slm_cache *cache, unsigned node)
{
    struct slm_depot *depot = slm_cache_depot(cache, node);
    struct slm_magazine *full = NULL;
    void *object = NULL;
    if (slm_depot_get(depot, &full)) {
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
    const int kept = errno;
    struct obstacles so_far = {0};
    struct attempt attempt = {.node = node};
    void *object = NULL;
    if (!slm_process_started())
        return NULL;
    do {
        attempt.limited = cache->account && !slm_account_take_direct(cache->account, 1);
        if (!attempt.limited)
            object = take_from_node(cache, node);
        if (attempt.limited)
            close_own_window(cache);
        else if (!object)
            charge_back(NULL, cache);
    } while (!object && overcome(cache, &attempt, 1, &so_far));
    if (object)
        errno = kept;
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

void *slm_object_alloc_node(struct slab_cache *named, int node)
{
    struct slm_cache *cache = slm_object_cache(named, "slab_cache_alloc_node");
    if (node == -1)
        return slm_object_alloc(named);
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
    if (node == -1)
        return slm_alloc(n);
    if (!is_node(node))
        return NULL;
    if (n > SLM_SMALL_MAX)
        return slm_alloc_large_node(n, (unsigned)node);
    if (slm_tls.area == slm_area_start(slm_area_for_slabs((unsigned)node))) {
        void *object = slm_alloc(n);
        if (!object || slm_node_of(object) == (unsigned)node)
            return object;
        slm_free(object);
    }
    return alloc_on(&slm_class_caches[slm_class_of_size(n)], (unsigned)node);
}

/* In a signal handler, perhaps: nothing but the reserve and atomic operations. */
void *slm_object_alloc_nolock(struct slab_cache *named)
{
    struct slm_cache *cache = slm_object_cache(named, "slab_cache_alloc_nolock");
    if (cache->account && !slm_account_take_direct(cache->account, 1))
        return NULL;
    void *object = slm_reserve_pop(cache);
    if (!object)
        charge_back(NULL, cache);
    else if (named->zero)
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

static slm_slow void closed_free_slow(struct slm_cache *cache, void *object, const char *call)
{
    struct slm_thread *thread = slm_thread_enter(false);
    charge_back(thread, cache);
    if (unlikely(!thread)) {
        slm_direct_count(object);
        slm_depot_give(&object, 1, call);
        return;
    }
    slm_thread_free(thread, cache->number, object);
    slm_thread_leave(thread);
}

void slm_closed_free(struct slm_cache *cache, void *object, const char *call)
{
    const bool local = slm_area_granule_valid(slm_area_granule(slm_tls.area, object));
    if (!local ||
        (slm_cache_is_far(cache) ? !far_push(cache, object) : !slm_counted_push(cache->shape.place, object)))
        closed_free_slow(cache, object, call);
}

void slm_object_free_full_slow(struct slab_cache *named, void *object)
{
    if (likely(named->counted) && likely(slm_counted_push(named->free_place, object)))
        return;
    slm_free_slow(object, "slab_cache_free");
}

slm_slow void slm_object_free_slow(struct slab_cache *named, void *object)
{
    const char *call = "slab_cache_free";
    struct slm_cache *cache = slm_object_cache(named, call);
    if (!object)
        return;
    if (unlikely(slm_place_of(object) != cache->shape.place ||
                 (slm_cache_is_far(cache) && slm_cache_of_object(object) != cache)))
        not_of_this_cache(cache, object, call);
    slm_free_slow(object, call);
}

/* -- bulk -------------------------------------------------------------------------------------------------------- */

/* All n at once: a window is for single calls. */
static bool charge_bulk(struct slm_cache *cache, size_t n)
{
    struct obstacles so_far = {0};
    if (!cache->account || slm_account_take_direct(cache->account, n))
        return true;
    close_own_window(cache);
    while (!slm_account_take_direct(cache->account, n))
        if (!find_room(cache, &so_far))
            return false;
    return true;
}

static size_t take_some(struct slm_cache *cache, size_t n, void **out, unsigned *node)
{
    struct slm_thread *thread = slm_thread_enter(true);
    if (unlikely(!thread)) {
        *node = slm_direct_node();
        return (*out = slm_alloc_direct(cache)) ? 1 : 0;
    }
    *node = load_relaxed(&thread->node);
    const size_t got = slm_thread_pop_bulk(thread, cache->number, n, out);
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
        slm_thread_free(thread, cache->number, objects[i]);
    slm_thread_leave(thread);
}

/* The objects alone, without their charge. */
static bool take_bulk(struct slm_cache *cache, size_t n, void **out)
{
    struct obstacles so_far = {0};
    struct attempt attempt = {0};
    size_t got = 0, more;
    do {
        more = take_some(cache, n - got, out + got, &attempt.node);
        got += more;
    } while (got < n && (more > 0 || overcome(cache, &attempt, n - got, &so_far)));
    if (got == n)
        return true;
    give_some(cache, got, out, "slab_cache_alloc_bulk");
    return false;
}

size_t slm_object_alloc_bulk(struct slab_cache *named, size_t n, void **out)
{
    struct slm_cache *cache = slm_object_cache(named, "slab_cache_alloc_bulk");
    const int kept = errno;
    if (n == 0)
        return 0;
    if (n > SIZE_MAX / cache->shape.object_size || !charge_bulk(cache, n)) {
        errno = ENOMEM;
        return 0;
    }
    if (unlikely(!take_bulk(cache, n, out))) {
        if (cache->account)
            slm_account_give_direct(cache->account, n);
        n = 0;
    }
    for (size_t i = 0; named->zero && i < n; i++)
        memset(out[i], 0, cache->shape.object_size);
    finish(cache);
    if (n > 0)
        errno = kept;
    return n;
}

/* The object and some behind it, of which slm_thread_push_run can tell that they are the cache's. How many. */
static size_t free_run(struct slm_cache *cache, struct slm_thread *thread, size_t n, void *const *objects,
                       const char *call)
{
    if (unlikely(slm_place_of(*objects) != cache->shape.place ||
                 (slm_cache_is_far(cache) && slm_cache_of_object(*objects) != cache)))
        not_of_this_cache(cache, *objects, call);
    if (likely(thread && !slm_is_remote(thread, *objects)))
        return slm_thread_push_run(thread, cache->number, n, objects);
    if (thread)
        slm_thread_free(thread, cache->number, *objects);
    else {
        slm_direct_count(*objects);
        slm_depot_give(objects, 1, call);
    }
    return 1;
}

void slm_object_free_bulk(struct slab_cache *named, size_t n, void *const *objects)
{
    const char *call = "slab_cache_free_bulk";
    struct slm_cache *cache = slm_object_cache(named, call);
    struct slm_thread *thread = slm_thread_enter(false);
    size_t done, freed = 0;
    const int kept = errno;
    for (; n > 0; objects += done, n -= done) {
        done = 1;
        if (likely(*objects != NULL))
            freed += done = free_run(cache, thread, n, objects, call);
    }
    if (likely(thread != NULL))
        slm_thread_leave(thread);
    if (cache->account)
        slm_account_give_direct(cache->account, freed);
    finish(cache);
    errno = kept;
}
