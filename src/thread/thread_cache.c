/* Refill, drain, adapt; see thread_cache.h.
 *
 * Capacity. A cache starts with a few rounds; every second trip to the depot doubles its target, up to what
 * `magazine_bytes` and `thread_bytes` allow; adapting halves the targets of caches that were not missed. An array
 * that is too small for its target is replaced when it happens to be empty; one that is too large is filled up to
 * the target.
 *
 * Of long objects a thread has few, and would exchange loaded and previous magazine at every few calls. There the
 * loaded one has both's rounds, up to twice the target, and the previous one is an empty array.
 *
 * A cache whose tuning fixes the rounds has that target from the first miss on. Tuning raises the cache's `tuned`:
 * a slot that has another count empties itself at its next trip to the depot, and starts over.
 *
 * A taker (thread/ownership.h) may have raised `bottom`: what lies below is gone, and slm_pair_unload() moves the
 * rest down. */
#include "thread/thread_cache.h"

#include <errno.h>
#include <string.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"
#include "page/page_map.h"
#include "thread/pair.h"
#include "thread/thread_list.h"

/* A magazine of this size is accepted as it is, whatever the target. */
enum { small_enough_bytes = 8192 };

/* How much of a class a thread that ends leaves to the next one. Where many are alive, most of them wait, each
 * with all that it has: so what is more comes from the depot, in whole magazines, and is not for one thread alone. */
enum { left_behind_kib = 8 << 10, left_behind_most = 64 << 10 };

static size_t left_behind(void)
{
    const size_t threads = slm_max(slm_thread_list_count(), 1u);
    return slm_min(((size_t)left_behind_kib << 10) / (threads * threads), left_behind_most);
}

/* An empty array with room for the target: the given one if it has. Without memory, the given one, perhaps NULL. */
static struct slm_magazine *magazine_fit(struct slm_magazine *magazine, uint32_t target)
{
    const bool fits = magazine && magazine->capacity >= slm_magazine_capacity(target);
    struct slm_magazine *made = fits ? NULL : slm_magazine_make(target);
    if (!made)
        return magazine;
    slm_magazine_free(magazine);
    return made;
}

static void set_target(struct slm_thread *thread, struct slm_slot *slot, const struct slm_cache *cache,
                       uint32_t target)
{
    const size_t more = ((size_t)target - load_relaxed(&slot->target)) * cache->shape.object_size * 2;
    thread->target_bytes += more; /* modulo 2^64 */
    slot->start_factor = slm_start_factor(cache->shape.object_size);
    store_release(&slot->target, (uint16_t)target); /* pairs with has_rounds (thread/gather.c): 0: no longer in use */
}

/* Raise the target if the thread may hold so much. */
static void raise_target(struct slm_thread *thread, struct slm_slot *slot, const struct slm_cache *cache,
                         uint32_t target)
{
    const uint32_t before = load_relaxed(&slot->target);
    if (target <= before)
        return;
    const size_t more = (size_t)(target - before) * cache->shape.object_size * 2;
    if (before == 0 || thread->target_bytes + more <= slm_setting(thread_bytes))
        set_target(thread, slot, cache, target);
}

/* About twice as many. But the long objects of all classes that are missed share what is left of `thread_bytes`:
 * those that came first would have all of it, and the others a trip to the depot for every other call. */
static uint32_t next_target(const struct slm_thread *thread, const struct slm_cache *cache, uint32_t target)
{
    const uint32_t twice = target < 5 ? 5 : target * 2 + 3;
    if (!slm_pair_is_long(cache))
        return twice;
    const uint64_t most = slm_setting(thread_bytes), left = most - slm_min(most, thread->target_bytes);
    return (uint32_t)slm_min(twice, target + slm_max(left / 16 / (cache->shape.object_size * 2), 1));
}

/* A trip to the depot: let the cache's magazines grow if there are many. */
static void grow_on_miss(struct slm_thread *thread, struct slm_slot *slot, const struct slm_cache *cache)
{
    const uint32_t target = load_relaxed(&slot->target), most = load_relaxed(&cache->most_rounds);
    if (target == 0)
        raise_target(thread, slot, cache, load_relaxed(&cache->start_rounds));
    else if ((slot->misses = (uint16_t)((slot->misses & ~SLM_SLOT_BITS) + 1)) % 2 == 0 && target < most)
        raise_target(thread, slot, cache, (uint32_t)slm_min(next_target(thread, cache, target), most));
}

/* Move rounds from a magazine that does not suit this thread into one that does. */
static struct slm_magazine *decant(const struct slm_slot *slot, struct slm_cache *cache, struct slm_magazine *from,
                                   struct slm_magazine *to)
{
    const uint32_t n = (uint32_t)slm_min(from->count, slm_min(to->capacity, load_relaxed(&slot->target)));
    memcpy(to->rounds, from->rounds + from->count - n, n * sizeof(void *));
    to->count = n;
    from->count -= n;
    slm_magazine_hand_on(cache, from, slm_cache_stock_rounds(cache));
    return to;
}

/* Retired objects have waited for a grace period while others, megabytes at times, were used in their place. The
 * thread that gets one will write it: their first two lines are prefetched now, all at once, and the processor
 * fetches further ones by itself. */
static void warm_up(struct slm_magazine *magazine, size_t object_size)
{
    if (likely(magazine->cache_id == SLM_NOT_RETIRED))
        return;
    magazine->cache_id = SLM_NOT_RETIRED;
    const size_t second = object_size > 64 ? 64 : 0;
    for (void **round = magazine->rounds + magazine->count; round-- > magazine->rounds;) {
        __builtin_prefetch(*round, 1, 2);
        __builtin_prefetch((const char *)*round + second, 1, 2);
    }
}

/* May the thread have a magazine from the stock as it is? It may be that of a thread with a higher target. Threads
 * that trade with each other would otherwise cut up each one, and replace arrays at each trip, which takes the lock
 * of metadata twice. */
static bool fits_despite_target(const struct slm_magazine *full, uint32_t target, const struct slm_cache *cache)
{
    if (full->count <= target)
        return true;
    return load_relaxed(&cache->fixed_rounds) == 0 &&
           (full->count <= target * 2 + 3 || full->count * (size_t)cache->shape.object_size <= small_enough_bytes);
}

/* Rounds in place of an empty magazine, or of none: a whole one from the stock, else objects from slabs. An array is
 * made for those only: the stock would collect it. The result has no rounds if there are none, and is NULL if there
 * is no memory for an array. */
static struct slm_magazine *fetch(struct slm_depot *depot, const struct slm_slot *slot, struct slm_cache *cache,
                                  struct slm_magazine *empty)
{
    const uint32_t target = load_relaxed(&slot->target);
    struct slm_magazine *full = empty;
    if (slm_depot_get(depot, &full)) {
        warm_up(full, cache->shape.object_size);
        if (fits_despite_target(full, target, cache))
            return full;
        struct slm_magazine *fitting = slm_magazine_make(target);
        return fitting ? decant(slot, cache, full, fitting) : full;
    }
    empty = magazine_fit(empty, slm_pair_loaded_rounds(slot, cache));
    if (!empty)
        return NULL;
    empty->count = slm_depot_fill(depot, empty->rounds, (unsigned)slm_min(target, empty->capacity));
    slm_cache_note_taken(cache, empty->count);
    return empty;
}

/* To the stock, or to slabs: where small ones always go. */
static void hand_on(struct slm_cache *cache, struct slm_magazine *magazine, enum slm_whereto whereto)
{
    if (!magazine)
        return;
    const bool to_slabs = whereto == SLM_TO_SLABS || magazine->count <= SLM_MAGAZINE_SMALL;
    slm_magazine_hand_on(cache, magazine, to_slabs ? 0 : slm_cache_stock_rounds(cache));
}

/* Hand on what a slot holds, and the cache's remote magazine. */
static void hand_on_all(struct slm_thread *thread, struct slm_slot *slot, struct slm_cache *cache,
                        enum slm_whereto whereto)
{
    struct slm_magazine *previous = slot->previous;
    slot->previous = NULL;
    hand_on(cache, slm_pair_unload(slot), whereto);
    hand_on(cache, previous, whereto);
    hand_on(cache, slm_remote_take(thread, cache->id), whereto);
}

/* Empty a slot and forget its target. */
static void empty_slot(struct slm_thread *thread, struct slm_slot *slot, struct slm_cache *cache,
                       enum slm_whereto whereto)
{
    hand_on_all(thread, slot, cache, whereto);
    slot->misses = 0;
    set_target(thread, slot, cache, 0); /* last: from here on the cache may be destroyed */
}

/* Before a trip to the depot: a slot from before the last tuning starts over. Acquire: pairs with slm_cache_tune. */
slm_inline void heed_tuning(struct slm_thread *thread, struct slm_slot *slot, struct slm_cache *cache)
{
    const uint32_t tuned = load_acquire(&cache->tuned);
    if (likely(slot->tuned == tuned))
        return;
    empty_slot(thread, slot, cache, SLM_TO_DEPOT);
    slot->tuned = tuned;
}

/* Without membarrier(2) a call that has met a cache's limit could not take from other threads: they keep nothing. */
slm_inline bool keeps_magazines(const struct slm_cache *cache)
{
    return likely(!cache->shape.limit) || load_relaxed(&slm_sys_has_membarrier);
}

/* Without a magazine: if there is no memory for one there may still be an object. */
static void *take_one(struct slm_depot *depot)
{
    void *object = NULL;
    return slm_depot_fill(depot, &object, 1) ? object : NULL;
}

void *slm_thread_refill(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_cache *cache = slm_cache_of(cache_id);
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    const unsigned node = load_relaxed(&thread->node);
    if (unlikely(!keeps_magazines(cache)))
        return take_one(slm_cache_depot(cache, node));
    slm_thread_works(thread, slot);
    slm_slot_use(&thread->used, cache_id);
    heed_tuning(thread, slot, cache);
    if (slot->previous && slot->previous->count > 0) {
        slm_pair_take(slot, cache);
        return slm_slot_pop(slot, slot->top);
    }
    grow_on_miss(thread, slot, cache);
    slm_count(&thread->refills, 1);
    struct slm_magazine *full = fetch(slm_cache_depot(cache, node), slot, cache, slm_pair_unload(slot));
    if (!full)
        return take_one(slm_cache_depot(cache, node));
    const uint32_t taken = full->count;
    slm_pair_load(slot, full, slm_pair_loaded_rounds(slot, cache));
    if (taken == 0)
        return NULL;
    slm_count(&thread->objects_taken, taken);
    return slm_slot_pop(slot, slot->top);
}

void *slm_thread_pop(struct slm_thread *thread, unsigned cache_id)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    return slot->top != slot->bottom ? slm_slot_pop(slot, slot->top) : slm_thread_refill(thread, cache_id);
}

/* A full magazine of long objects: the older half goes to the depot, by the array of the previous magazine, which
 * is empty. False: there is no array. */
static __attribute__((noinline)) bool give_half(struct slm_thread *thread, struct slm_slot *slot,
                                                struct slm_cache *cache, struct slm_magazine *full)
{
    struct slm_magazine *half = slot->previous = magazine_fit(slot->previous, full->count / 2);
    grow_on_miss(thread, slot, cache);
    slm_count(&thread->drains, 1);
    if (half) {
        half->count = 0;
        slm_pair_move_oldest(full, half, (uint32_t)slm_min(full->count / 2, half->capacity));
        slm_magazine_put(cache, load_relaxed(&thread->node), &half, slm_cache_stock_rounds(cache));
        if (half)
            half->count = 0;
        slot->previous = half;
    }
    slm_pair_load(slot, full, slm_pair_loaded_rounds(slot, cache));
    return *slot->top != NULL;
}

/* The slot's full magazine becomes the previous one, and an empty one is loaded; or half of it goes. False: there is
 * no array. */
static bool make_room(struct slm_thread *thread, struct slm_cache *cache)
{
    struct slm_slot *slot = slm_slot_of(thread, cache->id);
    if (unlikely(!keeps_magazines(cache)))
        return false;
    slm_thread_works(thread, slot);
    slm_slot_use(&thread->used, cache->id);
    heed_tuning(thread, slot, cache);
    if (slm_pair_fill(slot, cache))
        return true;
    struct slm_magazine *full = slm_pair_unload(slot), *empty = slot->previous;
    const bool trip = empty && empty->count > 0;
    if (!trip && slm_pair_is_long(cache) && full && full->count > load_relaxed(&slot->target))
        return give_half(thread, slot, cache, full);
    if (trip || load_relaxed(&slot->target) == 0) {
        grow_on_miss(thread, slot, cache);
        slm_count(&thread->drains, 1);
    } else {
        slot->misses |= SLM_SLOT_TURNED;
    }
    if (trip)
        slm_magazine_put(cache, load_relaxed(&thread->node), &empty, slm_cache_stock_rounds(cache));
    slot->previous = full;
    const uint32_t most = slm_pair_loaded_rounds(slot, cache);
    empty = magazine_fit(empty, most);
    if (!empty)
        return false;
    empty->count = 0;
    slm_pair_load(slot, empty, most);
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

/* The slot is in use from here on, so that a walk over the slots finds the remote rounds. */
static slm_seldom __attribute__((noinline)) void free_remote_slow(struct slm_thread *thread, unsigned cache_id,
                                                                  void *object)
{
    struct slm_cache *cache = slm_cache_of(cache_id);
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    slm_count(&thread->remote_frees, 1);
    if (unlikely(!keeps_magazines(cache))) {
        slm_depot_give(&object, 1, "free");
        return;
    }
    slm_thread_works(thread, slot);
    slm_slot_use(&thread->used, cache_id);
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
    if (likely(*slot->top != NULL))
        slm_slot_push(slot, slot->top, object);
    else
        slm_thread_drain(thread, cache_id, object);
}

/* Rounds off the top of the loaded magazine, for the program. */
static slm_for_few size_t pop_some(struct slm_slot *slot, bool keyed, size_t n, void **out)
{
    n = slm_min(n, slm_slot_rounds(slot));
    if (n == 0)
        return 0;
    void *const *rounds = slot->top - n;
    if (keyed)
        slm_key_take(out, rounds, n);
    else
        memcpy(out, rounds, n * sizeof *out);
    slm_shared_store(&slot->top, slot->top - n);
    return n;
}

/* Neither magazine has that many to move, or room for them. Let them hold up to four times as many, so that
 * most of the time one does; a multiple, so that what is moved seldom straddles two. */
static slm_for_few void grow_for_bulk(struct slm_thread *thread, struct slm_slot *slot, unsigned cache_id, size_t n)
{
    const struct slm_cache *cache = slm_cache_of(cache_id);
    const size_t most = slm_min(n * 4, load_relaxed(&cache->most_rounds));
    if (load_relaxed(&slot->target) != 0)
        raise_target(thread, slot, cache, (uint32_t)(most < n ? most : most / n * n));
}

slm_for_few size_t slm_thread_pop_bulk(struct slm_thread *thread, unsigned cache_id, size_t n, void **out)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    slm_thread_works(thread, slot);
    if (slm_slot_rounds(slot) < n) {
        if (slot->previous && slot->previous->count >= n)
            slm_pair_exchange(slot, slm_cache_of(cache_id));
        else
            grow_for_bulk(thread, slot, cache_id, n);
    }
    const bool keyed = slm_cache_of(cache_id)->shape.keyed;
    size_t got = pop_some(slot, keyed, n, out);
    while (got < n) { /* the round that a refill pops is one of those wanted */
        void *object = slm_thread_refill(thread, cache_id);
        if (!object)
            break;
        if (keyed)
            slm_key_clear(object);
        out[got++] = object;
        got += pop_some(slot, keyed, n - got, out + got);
    }
    return got;
}

/* Push n objects, a constant, if all are starts of objects in the granule. Returns how many: an object that has a key
 * already, and those after it, are not pushed. Others than starts are seen in the sum of all products, as those of
 * starts have no bit that a factor has. */
slm_inline size_t push_some(void **top, void *const *objects, size_t n, uintptr_t granule, uint64_t factor,
                            uintptr_t key)
{
    void *some[4]; /* in registers */
    uintptr_t offsets = 0;
    uint64_t products = 0;
#pragma GCC unroll 4
    for (size_t i = 0; i < n; i++) {
        some[i] = objects[i];
        const uintptr_t offset = (uintptr_t)some[i] - granule;
        offsets |= offset;
        products |= factor * offset;
    }
    if (unlikely(offsets >= SLM_GRANULE) || unlikely(products >= factor))
        return 0;
#pragma GCC unroll 4
    for (size_t i = 0; i < n; i++) {
        if (unlikely(slm_key_is_set(some[i], key)))
            return i;
        slm_key_set(some[i], key);
        top[i] = some[i];
    }
    return n;
}

/* Push the leading objects of n that a hot free would push (heap/free.h): those of the first one's granule. */
static size_t push_leading(void **top, void *const *objects, size_t n, uint64_t factor)
{
    const uintptr_t key = slm_tls.key, granule = (uintptr_t)objects[0] & ~(SLM_GRANULE - 1);
    size_t done = 0, some = 4;
    for (; some == 4 && done + 4 <= n; done += some)
        some = push_some(top + done, objects + done, 4, granule, factor, key);
    for (some = 1; some == 1 && done < n; done += some)
        some = push_some(top + done, objects + done, 1, granule, factor, key);
    return done;
}

slm_for_few size_t slm_thread_push_run(struct slm_thread *thread, unsigned cache_id, size_t n, void *const *objects)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    slm_thread_works(thread, slot);
    if (slm_slot_room(slot) < n) {
        const struct slm_magazine *previous = slot->previous;
        if (previous && previous->count + n <= slm_min(previous->capacity, load_relaxed(&slot->target)))
            slm_pair_exchange(slot, slm_cache_of(cache_id));
        else
            grow_for_bulk(thread, slot, cache_id, n);
    }
    if (slm_slot_room(slot) == 0 && !make_room(thread, slm_cache_of(cache_id)))
        return 0;
    n = slm_min(n, slm_slot_room(slot));
    n = push_leading(slot->top, objects, n, slot->start_factor);
    slm_shared_store(&slot->top, slot->top + n);
    return n;
}

void slm_thread_empty_slot(struct slm_thread *thread, unsigned cache_id, enum slm_whereto whereto)
{
    struct slm_slot *slot = slm_slot_of(thread, cache_id);
    slm_thread_works(thread, slot);
    if (load_relaxed(&slot->target) != 0)
        empty_slot(thread, slot, slm_cache_of(cache_id), whereto);
}

void slm_thread_empty(struct slm_thread *thread, enum slm_whereto whereto)
{
    slm_for_each_slot (cache_id, &thread->used)
        slm_thread_empty_slot(thread, cache_id, whereto);
    slm_kept_release(&thread->kept);
}

slm_cold size_t slm_thread_leave_behind(struct slm_thread *thread)
{
    const size_t most = left_behind();
    size_t bytes = 0;
    slm_for_each_slot (cache_id, &thread->used) {
        struct slm_slot *slot = slm_slot_of(thread, cache_id);
        struct slm_cache *cache = slm_cache_of(cache_id);
        slm_thread_works(thread, slot);
        if (load_relaxed(&slot->target) == 0)
            continue; /* and perhaps no cache */
        const size_t held = (size_t)slm_thread_rounds(thread, cache_id) * cache->shape.object_size;
        if (cache_id >= SLM_CLASSES || held > most)
            empty_slot(thread, slot, cache, SLM_TO_DEPOT);
        else
            bytes += held;
        slot->misses = 0;
    }
    slm_thread_worked(thread);
    return bytes;
}

/* Nobody has missed what it holds: it starts with half. */
static void cool_slot(struct slm_thread *thread, struct slm_slot *slot, struct slm_cache *cache,
                      enum slm_whereto whereto)
{
    const uint32_t target = load_relaxed(&slot->target);
    hand_on_all(thread, slot, cache, whereto);
    if (target > load_relaxed(&cache->start_rounds))
        set_target(thread, slot, cache, target / 2);
}

void slm_thread_adapt(struct slm_thread *thread)
{
    slm_for_each_slot (cache_id, &thread->used) {
        struct slm_cache *cache = slm_cache_of(cache_id);
        struct slm_slot *slot = slm_slot_of(thread, cache_id);
        const uint32_t target = load_relaxed(&slot->target), misses = slot->misses & ~SLM_SLOT_BITS;
        slm_thread_works(thread, slot);
        slot->misses = 0;
        if (target == 0)
            continue; /* and perhaps no cache */
        hand_on(cache, slm_remote_of(thread, cache_id),
                SLM_TO_DEPOT); /* a call that has met the limit sees it there */
        slm_remote_take(thread, cache_id);
        if (misses > 0 || load_relaxed(&cache->fixed_rounds) != 0 || target <= load_relaxed(&cache->start_rounds))
            continue;
        cool_slot(thread, slot, cache, SLM_TO_DEPOT);
    }
    slm_kept_release(&thread->kept);
}

void slm_thread_cool(struct slm_thread *thread)
{
    slm_for_each_slot (cache_id, &thread->used) {
        struct slm_slot *slot = slm_slot_of(thread, cache_id);
        if (cache_id >= SLM_CLASSES)
            break;
        slm_thread_works(thread, slot);
        if ((slot->misses & SLM_SLOT_STILL) && load_relaxed(&slot->target) != 0)
            hand_on_all(thread, slot, slm_cache_of(cache_id), SLM_TO_SLABS);
        slot->misses |= SLM_SLOT_STILL;
    }
    slm_kept_release(&thread->kept);
}

slm_seldom void slm_thread_move(struct slm_thread *thread, unsigned node)
{
    slm_for_each_slot (cache_id, &thread->used) {
        struct slm_slot *slot = slm_slot_of(thread, cache_id);
        slm_thread_works(thread, slot);
        if (load_relaxed(&slot->target) != 0)
            hand_on_all(thread, slot, slm_cache_of(cache_id), SLM_TO_DEPOT);
    }
    store_relaxed(&thread->node, node);
    slm_tls.key = slm_key_of_area(slm_area_start(slm_area_for_slabs(node)));
}

static void check_slot(const struct slm_slot *slot, const struct slm_cache *cache)
{
    struct slm_magazine *magazine = load_relaxed(&slot->target) != 0 ? slot->loaded : NULL;
    const bool inside = magazine ? slot->bottom >= magazine->rounds && slot->bottom <= slot->top &&
                                       slot->top <= magazine->rounds + magazine->count &&
                                       magazine->count <= magazine->capacity && !magazine->rounds[magazine->count]
                                 : slot->bottom == slm_no_rounds && slot->top == slm_no_rounds;
    if (!inside)
        slm_panic("check", slot, "a magazine's cursors are out of order", cache ? cache->first.cache_name : NULL,
                  cache ? cache->shape.object_size : 0);
}

slm_seldom void slm_thread_check(struct slm_thread *thread)
{
    check_slot(&thread->slots[0], NULL); /* never has a magazine */
    slm_for_each_slot (cache_id, &thread->used)
        if (cache_id + 1 < thread->covered)
            check_slot(slm_slot_of(thread, cache_id), slm_cache_of(cache_id));
}
