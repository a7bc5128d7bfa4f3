/* Looking for an object among the free ones; see freed.h. */
#include "thread/freed.h"

#include "base/panic.h"
#include "os/sys.h"
#include "slab/key.h"
#include "thread/ownership.h"
#include "thread/reserve.h"

const char slm_double_free[] = "double free of an object", slm_use_after_free[] = "use of a freed object";

enum { looks_most = 5 };

struct search {
    const struct slm_cache *cache;
    const void *object;
    bool found, again; /* in hand somewhere; a thread was in a slow path */
};

static slm_seldom slm_unordered bool is_among(void *const *rounds, size_t n, const void *object)
{
    for (n = slm_min(n, SLM_MAGAZINE_ROUNDS_MAX); n > 0; n--)
        if (rounds[n - 1] == object)
            return true;
    return false;
}

static slm_seldom slm_unordered bool is_in_magazine(const struct slm_magazine *magazine, const void *object)
{
    return magazine && is_among(magazine->rounds, magazine->count, object);
}

/* What is read from here on is no older than what was read before, also where stores of others may be seen in another
 * order than they were made. */
static bool settled(void)
{
#ifdef __x86_64__
    slm_fence();
    return true;
#else
    return slm_sys_membarrier();
#endif
}

slm_slow slm_unordered bool slm_freed_is_in_previous(const struct slm_slot *slot, const void *object)
{
    const struct slm_magazine *previous = slot->previous;
    const size_t count = previous ? slm_min(previous->count, SLM_MAGAZINE_ROUNDS_MAX) : 0;
    const size_t last = slm_min(count, SLM_FREED_LAST);
    return last > 0 && is_among(previous->rounds + count - last, last, object);
}

/* Its owner goes on meanwhile: arrays stay mapped. Cursors of two magazines may be read, and what they say is then
 * mostly no number of rounds. What lay below the top that was read stays there, or is overwritten by another push. */
static slm_seldom slm_unordered bool is_in_thread(struct slm_thread *thread, const struct slm_cache *cache,
                                                  const void *object)
{
    const struct slm_slot *slot = slm_slot_of(thread, cache->id);
    void *const *const bottom = slm_shared_load(&slot->bottom), *const *const top = slm_shared_load(&slot->top);
    const size_t rounds = (size_t)(top - bottom);
    if (load_relaxed(&slot->target) != 0 && ((rounds <= SLM_MAGAZINE_ROUNDS_MAX && is_among(bottom, rounds, object) &&
                                              settled() && is_among(bottom, rounds, object)) ||
                                             is_in_magazine(slot->previous, object)))
        return true;
    return is_in_magazine(slm_remote_of(thread, cache->id), object) || slm_reserve_has(thread, cache, object);
}

/* A thread in a slow path changes its magazines: rounds that were popped long ago may seem to be in one. So what is
 * found there says nothing. Acquire: pairs with slm_thread_unclaim. */
static slm_seldom slm_unordered void search_thread(struct slm_thread *thread, void *context)
{
    struct search *search = context;
    slm_thread_look_if_gone(thread);
    const bool other = thread->tls != &slm_tls;
    bool busy = other && load_acquire(&thread->tls->busy);
    const uint32_t passes = __atomic_load_n(&thread->passes, __ATOMIC_ACQUIRE);
    const bool found = !busy && is_in_thread(thread, search->cache, search->object) && settled();
    slm_fence(); /* what was found, before the second look at the thread */
    busy |=
        other && (load_relaxed(&thread->tls->busy) || __atomic_load_n(&thread->passes, __ATOMIC_RELAXED) != passes);
    search->found |= found && !busy;
    search->again |= busy;
}

static slm_seldom void look(struct search *search, const struct slm_slab *slab)
{
    search->again = false;
    search->found = slm_slab_has(slab, search->object);
    if (!search->found)
        slm_thread_list_foreach(search_thread, search);
    slm_for_each_depot (depot, (struct slm_cache *)search->cache)
        search->found = search->found || slm_depot_stock_has(depot, search->object);
}

static slm_slow bool is_free(const struct slm_cache *cache, const struct slm_slab *slab, const void *object)
{
    struct search search = {.cache = cache, .object = object, .again = true};
    for (unsigned looks = 0; search.again && looks < looks_most; looks++) {
        if (looks > 0)
            slm_sys_sleep_ms(1);
        look(&search, slab);
        if (search.found)
            return true;
    }
    return false;
}

static _Noreturn slm_slow void refuse(const struct slm_slab *slab, const void *pointer, const char *call,
                                      const char *what)
{
    const struct slm_cache *cache = slm_cache_of_slab(slab, pointer);
    slm_panic(call, pointer, what, cache ? cache->first.cache_name : NULL,
              cache ? cache->shape.object_size : slab->object_size);
}

/* Is there a reason to look? `self`: the calling thread's block; NULL: it is not to be looked into. */
static bool is_suspect(struct slm_thread *self, const struct slm_cache *cache, const struct slm_slab *slab,
                       const void *object)
{
    if (cache->shape.keyed) /* a free one without a key: its page was purged since */
        return slm_key_is_set(object, slm_key_of(object)) || slm_slab_has(slab, object);
    return self ? slm_freed_seems_free(slab, slm_slot_of(self, cache->id), object) : slm_slab_has(slab, object);
}

slm_cold struct slm_cache *slm_freed_check(const void *pointer, const char *call, const char *what)
{
    const struct slm_slab *slab = slm_slab_of(pointer);
    struct slm_cache *cache = slm_cache_of_slab(slab, pointer);
    if (!cache)
        return NULL;
    if (unlikely(!slm_slab_is_object(slab, pointer)))
        refuse(slab, pointer, call, "not the start of an object");
    if (unlikely(is_suspect(slm_tls.self, cache, slab, pointer)) && is_free(cache, slab, pointer))
        refuse(slab, pointer, call, what);
    return cache;
}

slm_seldom bool slm_freed_check_nolock(const struct slm_slab *slab, const void *object, const char *call)
{
    const struct slm_cache *cache = slm_cache_of_slab(slab, object);
    struct slm_thread *self = load_relaxed(&slm_tls.busy) ? NULL : slm_tls.self;
    bool found = false;
    if (!slm_slab_is_object(slab, object))
        refuse(slab, object, call, "not the start of an object");
    if (!cache || (cache->shape.keyed && likely(!slm_key_is_set(object, slm_key_of(object))) &&
                   likely(!slm_slab_has(slab, object))))
        return false;
    if (self && cache->shape.keyed)
        found = is_in_thread(self, cache, object);
    else if (self)
        found = slm_freed_is_last(slab, slm_slot_of(self, cache->id), object);
    if (found || slm_slab_has(slab, object))
        refuse(slab, object, call, slm_double_free);
    return cache->shape.keyed;
}

/* It has the key. If it was retired twice, the first time may be among those before it, where no search looks. */
static slm_slow void check_ripe(const void *object, void *const *before, size_t n)
{
    static const char call[] = "slab_free_deferred";
    if (is_among(before, n, object))
        refuse(slm_slab_of(object), object, call, slm_double_free);
    slm_freed_check(object, call, slm_double_free);
}

/* Some have lain cold for long: the lines of those to come are fetched meanwhile. */
void slm_freed_ripen(struct slm_cache *cache, void *const *objects, size_t n)
{
    enum { ahead = 8 };
    if (!cache || !cache->shape.keyed)
        return;
    for (size_t i = 0; i < n; i++) {
        void *const object = objects[i];
        const uintptr_t key = slm_key_of(object);
        __builtin_prefetch(objects[slm_min(i + ahead, n - 1)], 1, 2);
        if (unlikely(slm_key_is_set(object, key)))
            check_ripe(object, objects, i);
        slm_key_set(object, key);
    }
}
