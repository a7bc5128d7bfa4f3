/* Refill, drain, adapt; see thread_cache.h.
 *
 * Capacity. A cache starts with a few rounds; each second trip to the depot doubles its target, up to what
 * `magazine_bytes` and `thread_bytes` allow; adapting halves the targets of caches that idle. An array that is too
 * small for its target is exchanged when it happens to be empty; `limit` keeps to the target. A cache whose tuning
 * fixes the rounds has that target from the first miss on. Tuning counts `tuned` up: a slot that remembers another
 * count empties itself at its next trip to the depot, and starts anew.
 *
 * A taker (thread/ownership.h) may have raised `bottom`: what lies below is gone, and unload() moves the rest down. */
#include "thread/thread_cache.h"

#include <errno.h>
#include <string.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"

/* So much is welcome in one magazine, whatever the target. */
enum { small_enough_bytes = 8192 };

static void count_one(_Atomic uint64_t *counter, uint64_t n)
{
    store_relaxed(counter, load_relaxed(counter) + n);
}

/* An empty array with room for the target: this one if it has. The old one where memory is short, perhaps NULL. */
static struct slm_magazine *magazine_fit(struct slm_magazine *magazine, uint32_t target)
{
    if (magazine && magazine->capacity >= slm_magazine_capacity(target))
        return magazine;
    struct slm_magazine *made = slm_magazine_make(target);
    if (!made)
        return magazine;
    slm_magazine_free(magazine);
    return made;
}

/* Write down how many rounds the loaded magazine has, and take it out of the cursors. */
static struct slm_magazine *unload(struct slm_slot *slot)
{
    struct slm_magazine *magazine = slot->loaded;
    if (magazine) {
        magazine->count = (uint32_t)(slot->top - slot->bottom);
        if (unlikely(slot->bottom != magazine->rounds))
            memmove(magazine->rounds, slot->bottom, magazine->count * sizeof(void *));
    }
    slm_shared_store(&slot->top, NULL);
    slot->bottom = slot->limit = NULL;
    slot->loaded = NULL;
    return magazine;
}

static void load(struct slm_slot *slot, struct slm_magazine *magazine)
{
    const uint32_t room =
        (uint32_t)slm_max(slm_min(magazine->capacity, load_relaxed(&slot->target)), magazine->count);
    slot->loaded = magazine;
    slot->bottom = magazine->rounds;
    slot->limit = magazine->rounds + room;
    slm_shared_store(&slot->top, magazine->rounds + magazine->count);
}

static void set_target(struct slm_thread *thread, struct slm_slot *slot, const struct slm_cache *cache,
                       uint32_t target)
{
    const size_t more = ((size_t)target - load_relaxed(&slot->target)) * cache->shape.object_size * 2;
    thread->target_bytes += more;                   /* modulo 2^64 */
    store_release(&slot->target, (uint16_t)target); /* pairs with thread/gather.c: done with the cache where it is 0 */
}

/* A trip to the depot: let the cache's magazines grow if it makes many. */
static void grow_on_miss(struct slm_thread *thread, struct slm_slot *slot, const struct slm_cache *cache)
{
    const uint32_t most = load_relaxed(&cache->most_rounds);
    uint32_t target = load_relaxed(&slot->target);
    if (target == 0)
        target = load_relaxed(&cache->start_rounds);
    else if (++slot->misses % 2 == 0)
        target = (uint32_t)slm_min(target < 6 ? 6 : target * 2 + 2, most);
    if (target <= load_relaxed(&slot->target))
        return;
    const size_t more = (size_t)(target - load_relaxed(&slot->target)) * cache->shape.object_size * 2;
    if (load_relaxed(&slot->target) == 0 || thread->target_bytes + more <= slm_options.thread_bytes)
        set_target(thread, slot, cache, target);
}

/* Move rounds from a magazine that is too large or too small for this thread into one that suits it. */
static struct slm_magazine *decant(const struct slm_slot *slot, struct slm_cache *cache, struct slm_magazine *from,
                                   struct slm_magazine *to)
{
    const uint32_t n = (uint32_t)slm_min(from->count, slm_min(to->capacity, load_relaxed(&slot->target)));
    memcpy(to->rounds, from->rounds + from->count - n, n * sizeof(void *));
    to->count = n;
    from->count -= n;
    slm_magazine_hand_on(cache, from, load_relaxed(&cache->depot_rounds));
    return to;
}

enum { line_bytes = 64 };

/* What was retired has waited for a grace period while others were used in its place, megabytes at times, and whoever
 * gets it writes it: its first lines are asked for all together now, not one by one then. The processor finds out
 * about further ones itself. */
static void warm_up(struct slm_magazine *magazine, size_t object_size)
{
    if (likely(magazine->cache_id == SLM_NOT_RETIRED))
        return;
    magazine->cache_id = SLM_NOT_RETIRED;
    const size_t second = object_size > line_bytes ? line_bytes : 0;
    for (void **round = magazine->rounds + magazine->count; round-- > magazine->rounds;) {
        __builtin_prefetch(*round, 1, 2);
        __builtin_prefetch((const char *)*round + second, 1, 2);
    }
}

/* May the thread have a magazine from the stock as it is? It may be another thread's with a higher target. Those who
 * trade with each other would cut up each one otherwise, and change arrays at each trip: that is the lock of
 * metadata, twice. */
static bool fits_despite_target(const struct slm_magazine *full, uint32_t target, const struct slm_cache *cache)
{
    if (full->count <= target)
        return true;
    const bool little = full->count * (size_t)cache->shape.object_size <= small_enough_bytes;
    return load_relaxed(&cache->fixed_rounds) == 0 && (little || full->count <= target * 2 + 2);
}

/* Rounds in place of an empty magazine: a whole one from the stock, else objects from slabs. NULL: there are none,
 * and *empty is as it was. */
static struct slm_magazine *fetch(const struct slm_thread *thread, const struct slm_slot *slot,
                                  struct slm_cache *cache, struct slm_magazine *empty)
{
    struct slm_depot *depot = slm_cache_depot(cache, load_relaxed(&thread->node));
    const uint32_t target = load_relaxed(&slot->target);
    struct slm_magazine *full = empty;
    if (slm_depot_get(depot, &full)) {
        warm_up(full, cache->shape.object_size);
        if (fits_despite_target(full, target, cache))
            return full;
        struct slm_magazine *fitting = slm_magazine_make(target);
        return fitting ? decant(slot, cache, full, fitting) : full;
    }
    empty->count = slm_depot_fill(depot, empty->rounds, (unsigned)slm_min(target, empty->capacity));
    return empty->count > 0 ? empty : NULL;
}

/* How many rounds the stock may hold for the magazine to be worth its place there. */
static uint64_t limit_of(const struct slm_cache *cache, const struct slm_magazine *magazine)
{
    return magazine->count > SLM_MAGAZINE_SMALL ? load_relaxed(&cache->depot_rounds) : 0;
}

/* Hand on what a slot holds, and the cache's remote magazine: to depots or slabs. */
static void hand_on_all(struct slm_thread *thread, struct slm_slot *slot, struct slm_cache *cache, enum slm_whereto whereto)
{
    struct slm_magazine *all[] = {unload(slot), slot->previous, slm_remote_take(thread, cache->id)};
    slot->previous = NULL;
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i])
            slm_magazine_hand_on(cache, all[i], whereto == SLM_TO_SLABS ? 0 : limit_of(cache, all[i]));
    }
}

/* Empty a slot and forget its target. */
static void empty_slot(struct slm_thread *thread, struct slm_slot *slot, struct slm_cache *cache, enum slm_whereto whereto)
{
    hand_on_all(thread, slot, cache, whereto);
    slot->misses = 0;
    set_target(thread, slot, cache, 0); /* last: from here on the cache may be destroyed */
}

/* On the way to the depot: a slot from before the last tuning starts anew. Pairs with slm_cache_tune: acquire. */
static void heed_tuning(struct slm_thread *thread, struct slm_slot *slot, struct slm_cache *cache)
{
    const uint32_t tuned = load_acquire(&cache->tuned);
    if (likely(slot->tuned == tuned))
        return;
    empty_slot(thread, slot, cache, SLM_TO_DEPOT);
    slot->tuned = tuned;
}

/* Without membarrier(2) nobody could take from other threads what keeps a limited cache from serving: they keep
 * nothing. */
static bool keeps_magazines(const struct slm_cache *cache)
{
    return likely(!cache->shape.limit) || load_relaxed(&slm_sys_has_membarrier);
}

/* Without a magazine: where there is no memory for one there may still be an object. */
static void *take_one(const struct slm_thread *thread, struct slm_cache *cache)
{
    void *object = NULL;
    return slm_depot_fill(slm_cache_depot(cache, load_relaxed(&thread->node)), &object, 1) ? object : NULL;
}

/* The previous magazine takes the loaded one's place. */
static void exchange(struct slm_slot *slot)
{
    struct slm_magazine *other = slot->previous;
    slot->previous = unload(slot);
    load(slot, other);
}

void *slm_thread_refill(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_cache *cache = slm_cache_of(cache_id);
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    if (unlikely(!keeps_magazines(cache)))
        return take_one(thread, cache);
    slm_slot_use(thread, cache_id);
    heed_tuning(thread, slot, cache);
    if (slot->previous && slot->previous->count > 0) {
        exchange(slot);
        return slm_slot_pop(slot, slot->top);
    }
    grow_on_miss(thread, slot, cache);
    count_one(&thread->refills, 1);
    struct slm_magazine *empty = magazine_fit(unload(slot), load_relaxed(&slot->target));
    if (!empty)
        return take_one(thread, cache);
    struct slm_magazine *full = fetch(thread, slot, cache, empty);
    if (!full) {
        empty->count = 0;
        load(slot, empty);
        return NULL;
    }
    count_one(&thread->objects_taken, full->count);
    load(slot, full);
    return slm_slot_pop(slot, slot->top);
}

void *slm_thread_pop(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    return slot->top != slot->bottom ? slm_slot_pop(slot, slot->top) : slm_thread_refill(thread, cache_id);
}

/* The slot's full magazine becomes the previous one, an empty one is loaded; false: there is none. */
static bool make_room(struct slm_thread *thread, struct slm_cache *cache)
{
    struct slm_slot *slot = slm_slot_of(thread, cache->id);
    if (unlikely(!keeps_magazines(cache)))
        return false;
    slm_slot_use(thread, cache->id);
    heed_tuning(thread, slot, cache);
    struct slm_magazine *full = unload(slot), *empty = slot->previous;
    if (load_relaxed(&slot->target) == 0 || (empty && empty->count > 0)) {
        grow_on_miss(thread, slot, cache);
        count_one(&thread->drains, 1);
    }
    if (empty && empty->count > 0) {
        slm_magazine_put(cache, load_relaxed(&thread->node), &empty, load_relaxed(&cache->depot_rounds));
    }
    slot->previous = full;
    empty = magazine_fit(empty, load_relaxed(&slot->target));
    if (!empty)
        return false;
    empty->count = 0;
    load(slot, empty);
    return true;
}

void slm_thread_drain(struct slm_thread *thread, unsigned cache_id, void *object)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    if (likely(make_room(thread, slm_cache_of(cache_id))))
        slm_slot_push(slot, slot->top, object);
    else
        slm_depot_give(&object, 1, "free");
}

/* The slot is in use from here on, so that whoever looks for the cache's rounds finds the remote ones. */
static slm_slow void free_remote_slow(struct slm_thread *thread, unsigned cache_id, void *object)
{
    struct slm_cache *cache = slm_cache_of(cache_id);
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    count_one(&thread->remote_frees, 1);
    if (unlikely(!keeps_magazines(cache))) {
        slm_depot_give(&object, 1, "free");
        return;
    }
    slm_slot_use(thread, cache_id);
    heed_tuning(thread, slot, cache);
    if (load_relaxed(&slot->target) == 0)
        grow_on_miss(thread, slot, cache);
    slm_remote_push(thread, cache, object);
}

void slm_thread_free(struct slm_thread *thread, unsigned cache_id, void *object)
{
    if (unlikely(slm_is_remote(thread, object)))
        free_remote_slow(thread, cache_id, object);
    else
        slm_thread_push(thread, cache_id, object);
}

void slm_thread_push(struct slm_thread *thread, unsigned cache_id, void *object)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    if (likely(slot->top != slot->limit))
        slm_slot_push(slot, slot->top, object);
    else
        slm_thread_drain(thread, cache_id, object);
}

/* Rounds off the top of the loaded magazine. */
static size_t pop_some(struct slm_slot *slot, size_t n, void **out)
{
    n = slm_min(n, (size_t)(slot->top - slot->bottom));
    if (n == 0)
        return 0;
    memcpy(out, slot->top - n, n * sizeof *out);
    slm_shared_store(&slot->top, slot->top - n);
    return n;
}

/* So many are moved at once and the loaded magazine does not have them, or has no room for them: the previous one
 * may. And magazines may as well hold up to four times as many, so that most of the time one does; whole times, so
 * that what is moved seldom straddles two. */
static void grow_for_bulk(struct slm_thread *thread, struct slm_slot *slot, unsigned cache_id, size_t n)
{
    const struct slm_cache *cache = slm_cache_of(cache_id);
    const size_t most = slm_min(n * 4, load_relaxed(&cache->most_rounds));
    const uint32_t wanted = (uint32_t)(most < n ? most : most / n * n);
    const uint32_t target = load_relaxed(&slot->target);
    const size_t more = (size_t)(wanted - target) * cache->shape.object_size * 2;
    if (target != 0 && wanted > target && thread->target_bytes + more <= slm_options.thread_bytes)
        set_target(thread, slot, cache, wanted);
}

size_t slm_thread_pop_bulk(struct slm_thread *thread, unsigned cache_id, size_t n, void **out)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    if ((size_t)(slot->top - slot->bottom) < n) {
        if (slot->previous && slot->previous->count >= n)
            exchange(slot);
        else
            grow_for_bulk(thread, slot, cache_id, n);
    }
    size_t got = pop_some(slot, n, out);
    while (got < n) { /* the round that a refill pops is one of those wanted */
        void *object = slm_thread_refill(thread, cache_id);
        if (!object)
            break;
        out[got++] = object;
        got += pop_some(slot, n - got, out + got);
    }
    return got;
}

void slm_thread_push_bulk(struct slm_thread *thread, unsigned cache_id, size_t n, void *const *objects)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    for (size_t done = 0; done < n;) {
        const size_t some = slm_min(n - done, (size_t)(slot->limit - slot->top));
        if (some > 0) {
            memcpy(slot->top, objects + done, some * sizeof *objects);
            slm_shared_store(&slot->top, slot->top + some);
            done += some;
        } else {
            slm_thread_drain(thread, cache_id, objects[done++]);
        }
    }
}

typedef uintptr_t pair __attribute__((vector_size(16), aligned(8), may_alias)); /* every 64-bit machine has such */

/* Copy two pointers; bits in which they differ from `one`. */
slm_inline pair copy_two(void **to, void *const *from, pair one)
{
    const pair two = *(const pair *)(const void *)from;
    *(pair *)(void *)to = two;
    return two ^ one;
}

/* Copy n pointers, a constant multiple of two; true if all lie in the granule of the first of `one`. */
slm_inline bool copy_some(void **to, void *const *from, unsigned n, pair one)
{
    pair differ = copy_two(to, from, one);
#pragma GCC unroll 16
    for (unsigned i = 2; i < n; i += 2)
        differ |= copy_two(to + i, from + i, one);
    return (differ[0] | differ[1]) >> SLM_GRANULE_SHIFT == 0;
}

/* Copy n pointers to where there is room for them, up to the first that does not lie in the granule of the first. How
 * many. By 32 at first, by eights then, the last of which may overlap the one before. */
slm_inline size_t copy_run(void **const to, void *const *const from, const size_t n)
{
    const uintptr_t first = (uintptr_t)from[0];
    const pair one = {first, first};
    size_t done = 0;
    for (; done + 32 <= n && copy_some(to + done, from + done, 32, one); done += 32)
        ;
    if (likely(done == n))
        return n;
    for (; done + 8 <= n && copy_some(to + done, from + done, 8, one); done += 8)
        ;
    if (n >= 8 && n - done < 8 && copy_some(to + n - 8, from + n - 8, 8, one))
        return n;
    for (; done < n && ((uintptr_t)from[done] ^ first) >> SLM_GRANULE_SHIFT == 0; done++)
        to[done] = from[done];
    return done;
}

size_t slm_thread_push_run(struct slm_thread *thread, unsigned cache_id, size_t n, void *const *objects)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    if ((size_t)(slot->limit - slot->top) < n) {
        const struct slm_magazine *previous = slot->previous;
        if (previous && previous->count + n <= slm_min(previous->capacity, load_relaxed(&slot->target)))
            exchange(slot);
        else
            grow_for_bulk(thread, slot, cache_id, n);
    }
    if (slot->top == slot->limit && !make_room(thread, slm_cache_of(cache_id))) {
        slm_depot_give(objects, 1, "slab_cache_free_bulk");
        return 1;
    }
    const size_t done = copy_run(slot->top, objects, slm_min(n, (size_t)(slot->limit - slot->top)));
    slm_shared_store(&slot->top, slot->top + done);
    return done;
}

void slm_thread_empty_class(struct slm_thread *thread, unsigned cache_id, enum slm_whereto whereto)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    if (load_relaxed(&slot->target) != 0)
        empty_slot(thread, slot, slm_cache_of(cache_id), whereto);
}

void slm_thread_empty(struct slm_thread *thread, enum slm_whereto whereto)
{
    for (unsigned n = slm_slot_next(thread, 0); n < SLM_CACHE_IDS; n = slm_slot_next(thread, n + 1))
        slm_thread_empty_class(thread, n, whereto);
}

void slm_thread_adapt(struct slm_thread *thread)
{
    for (unsigned n = slm_slot_next(thread, 0); n < SLM_CACHE_IDS; n = slm_slot_next(thread, n + 1)) {
        struct slm_slot *slot = slm_slot_of(thread, n);
        const uint32_t target = load_relaxed(&slot->target), misses = slot->misses;
        struct slm_magazine *remote = slm_remote_take(thread, n);
        if (remote) {
            struct slm_limit *limit = slm_cache_of(n)->shape.limit;
            slm_limit_carry(limit);
            slm_magazine_hand_on(slm_cache_of(n), remote, limit_of(slm_cache_of(n), remote));
            slm_limit_carried(limit);
        }
        slot->misses = 0;
        if (target == 0 || misses > 0)
            continue;
        struct slm_cache *cache = slm_cache_of(n);
        if (load_relaxed(&cache->fixed_rounds) != 0 || target <= load_relaxed(&cache->start_rounds))
            continue;
        hand_on_all(thread, slot, cache, SLM_TO_DEPOT);
        set_target(thread, slot, cache, target / 2);
    }
}

slm_slow void slm_thread_move(struct slm_thread *thread, unsigned node)
{
    for (unsigned n = slm_slot_next(thread, 0); n < SLM_CACHE_IDS; n = slm_slot_next(thread, n + 1)) {
        struct slm_slot *slot = slm_slot_of(thread, n);
        if (load_relaxed(&slot->target) != 0)
            hand_on_all(thread, slot, slm_cache_of(n), SLM_TO_DEPOT);
    }
    store_relaxed(&thread->node, node);
    slm_tls.area = slm_area_start(slm_area_for_slabs(node));
}

static void check_slot(const struct slm_slot *slot, const struct slm_cache *cache)
{
    const bool in_use = load_relaxed(&slot->target) != 0;
    const struct slm_magazine *magazine = in_use ? slot->loaded : NULL;
    const bool ordered = slot->bottom <= slot->top && slot->top <= slot->limit;
    const bool inside =
        !magazine || (slot->bottom >= magazine->rounds && slot->limit <= magazine->rounds + magazine->capacity);
    if (!ordered || !inside || (!magazine && slot->limit))
        slm_panic("check", slot, "a magazine's cursors are out of order", cache ? cache->name : NULL, NULL);
}

slm_seldom void slm_thread_check(struct slm_thread *thread)
{
    const struct slm_slot *none = &thread->slots[0];
    if (none->top || none->bottom || none->limit)
        slm_panic("check", thread, "place 0 has a magazine", NULL, NULL);
    for (unsigned n = slm_slot_next(thread, 0); n < SLM_CACHE_IDS; n = slm_slot_next(thread, n + 1))
        check_slot(slm_slot_of(thread, n), slm_cache_of(n));
}
