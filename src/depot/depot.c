/* Depots; see depot.h.
 *
 * Taking from a slab. A slab is out (no free objects, in no list), listed (partial, in a bucket), or held: one thread
 * has taken it out of its bucket, or has just made it, and alone takes objects from it. `where` changes under the
 * depot's lock only. Giving needs no lock: bits, then the count (slab.h). A thread that sees the count leave 0, reach
 * the total, or change its bucket asks for relinking under the lock, which looks again at everything:
 *
 *   held           the holder will look at the count when it brings the slab back, under the same lock
 *   free == all    vacant: the first is kept, listed; others are unlinked, their owner cleared, and released to the
 *                  spans after unlocking
 *   else           into the bucket of its count
 *
 * When a giving thread has the lock, the slab may have been released and its memory recut, even for this same depot.
 * `owner` tells: it is set by the maker before any other thread knows the slab, and cleared under the lock of the
 * depot that it names. So under our lock `owner == depot` is stable, and then `where` and the count can be relied on,
 * whatever happened to the slab in between. Descriptors are never unmapped.
 *
 * Giving without a lock (slm_depot_give_nolock) leaves the relinking to others: the slab goes onto a stack of pending
 * ones by a compare-exchange, and the next thread that fills a magazine takes the whole stack and relinks. The link
 * outlives the slab: one that has been released or recut meanwhile is relinked to no effect.
 *
 * Slabs whose objects have a destructor or keep their type become pending on release (depot/pending_slabs.h).
 *
 * Sweeping. A slab that is at least half free, and of which nothing was taken or given back since the last sweep, is
 * held while its free pages are purged. `span.swept` has its count then. Swept
 * slabs are at the end of their bucket: refills prefer others, and the next sweep looks no further. Most pages of a
 * slab that was never half in use are untouched: it is left alone.
 *
 * Growing. A slab is made outside the lock: it may take system calls, and the new slab is its maker's alone until it
 * is put back. Bench builds can hold the lock meanwhile (grow=locked), to show what that costs: the Linux slab
 * allocator did so before its lock-less refill. The ranks allow it, as only locks of spans and metadata are taken.
 *
 * Fork. A child that finds the lock held by a thread that it does not have empties the lists. A slab that is marked
 * as listed in an older generation of the lists, or held in an older generation of the process, is out. */
#include "depot/depot.h"

#include <errno.h>
#include <string.h>

#include "base/panic.h"
#include "depot/pending_slabs.h"
#include "os/vm.h"
#include "page/metadata.h"

enum { slabs_at_once = 8, sparse_bucket = SLM_DEPOT_BUCKETS / 2, sweep_rounds_most = 64, sweep_looks_most = 64 };

/* Everything but the lock, which a late look at a destroyed cache's depot may hold. */
void slm_depot_init(struct slm_depot *depot, const struct slm_slab_shape *shape, const char *cache_name,
                    unsigned node)
{
    memset((char *)depot + sizeof depot->lock, 0, sizeof *depot - sizeof depot->lock);
    depot->locks_before = load_relaxed(&depot->lock.acquired);
    depot->contended_before = load_relaxed(&depot->lock.contended);
    if (depot->lock.rank != SLM_RANK_DEPOT) /* it may be read meanwhile */
        depot->lock.rank = SLM_RANK_DEPOT;
    depot->generation = slm_fork_generation;
    depot->shape = shape;
    depot->cache_name = cache_name;
    depot->node = node;
}

void slm_depot_lose(struct slm_depot *depot, uint64_t n)
{
    sub_relaxed(&depot->objects_out, n);
    slm_limit_return(depot->shape->limit, n);
}

static void restart(struct slm_depot *depot)
{
    slm_depot_lose(depot, load_relaxed(&depot->stock_rounds));
    store_relaxed(&depot->stock_rounds, 0);
    depot->full = depot->empty = NULL;
    depot->full_count = depot->full_low = depot->occupied = 0;
    depot->vacant = NULL;
    depot->generation = slm_fork_generation;
}

static void lock_depot(struct slm_depot *depot)
{
    if (unlikely(slm_lock_acquire(&depot->lock)))
        restart(depot);
}

bool slm_depot_get(struct slm_depot *depot, struct slm_magazine **magazine)
{
    lock_depot(depot);
    struct slm_magazine *full = depot->full;
    if (full) {
        depot->full = full->next;
        if (--depot->full_count < depot->full_low)
            depot->full_low = depot->full_count;
        sub_relaxed(&depot->stock_rounds, full->count);
        if (*magazine) {
            (*magazine)->next = depot->empty;
            depot->empty = *magazine;
        }
        *magazine = full;
        slm_count(&depot->exchanges, 1);
        slm_count(&depot->gets, 1);
        slm_count(&depot->rounds_got, full->count);
    }
    slm_lock_release(&depot->lock);
    return full != NULL;
}

slm_seldom uint64_t slm_depot_moves(struct slm_depot *depot)
{
    lock_depot(depot);
    const uint64_t moves = load_relaxed(&depot->exchanges) + load_relaxed(&depot->fills);
    slm_lock_release(&depot->lock);
    return moves;
}

bool slm_depot_put(struct slm_depot *depot, struct slm_magazine **magazine, uint64_t limit_rounds)
{
    lock_depot(depot);
    const bool room = load_relaxed(&depot->stock_rounds) + (*magazine)->count <= limit_rounds;
    if (room) {
        struct slm_magazine *empty = depot->empty;
        if (empty)
            depot->empty = empty->next;
        (*magazine)->next = depot->full;
        depot->full = *magazine;
        depot->full_count++;
        add_relaxed(&depot->stock_rounds, (*magazine)->count);
        slm_count(&depot->exchanges, 1);
        slm_count(&depot->rounds_put, (*magazine)->count);
        *magazine = empty;
    }
    slm_lock_release(&depot->lock);
    return room;
}

bool slm_depot_stock_has(struct slm_depot *depot, const void *object)
{
    bool found = false;
    lock_depot(depot);
    for (const struct slm_magazine *full = depot->full; full && !found; full = full->next)
        for (uint32_t i = 0; i < full->count && !found; i++)
            found = full->rounds[i] == object;
    slm_lock_release(&depot->lock);
    return found;
}

static unsigned bucket_of(int32_t free, unsigned objects)
{
    return free <= 0 ? 0 : (unsigned)slm_min((unsigned)free * SLM_DEPOT_BUCKETS / objects, SLM_DEPOT_BUCKETS - 1);
}

static void set_where(struct slm_slab *slab, enum slm_slab_where where)
{
    slab->where = (uint8_t)where;
    slab->where_generation = slm_fork_generation;
}

static bool is_swept(const struct slm_slab *slab, uint32_t free)
{
    return slab->span.swept == (free | SLM_SLAB_SWEPT | SLM_SLAB_KEYLESS);
}

static void list_slab(struct slm_depot *depot, struct slm_slab *slab, int32_t free)
{
    const unsigned bucket = bucket_of(free, slab->objects);
    if (!(depot->occupied >> bucket & 1)) {
        slm_list_init(&depot->buckets[bucket]);
        depot->occupied |= 1u << bucket;
    }
    if (bucket < sparse_bucket)
        slab->span.swept &= SLM_SLAB_KEYLESS;
    if (is_swept(slab, (uint32_t)free))
        slm_list_insert_before(&depot->buckets[bucket], &slab->span.link);
    else
        slm_list_insert_after(&depot->buckets[bucket], &slab->span.link);
    slab->bucket = (uint8_t)bucket;
    if (free == slab->objects)
        depot->vacant = slab;
    set_where(slab, SLM_SLAB_LISTED);
}

static void unlist_slab(struct slm_depot *depot, struct slm_slab *slab, enum slm_slab_where where)
{
    slm_list_remove(&slab->span.link);
    if (slm_list_empty(&depot->buckets[slab->bucket]))
        depot->occupied &= ~(1u << slab->bucket);
    if (depot->vacant == slab) {
        depot->vacant = NULL;
        depot->vacant_seen = false;
    }
    set_where(slab, where);
}

/* Under the lock: put a slab that is neither held nor listed where its count says. True: it is vacant, and the caller
 * alone releases it, after unlocking. */
static bool file_slab(struct slm_depot *depot, struct slm_slab *slab)
{
    const int32_t free = load_acquire(&slab->free); /* pairs with slm_slab_count */
    if (free == slab->objects && depot->vacant) {
        set_where(slab, SLM_SLAB_OUT);
        store_relaxed(&slab->owner, NULL);
        return true;
    }
    if (free > 0) {
        list_slab(depot, slab, free);
    } else {
        if (unlikely(slab->span.swept & SLM_SLAB_KEYLESS))
            slm_slab_all_out(slab, depot->shape);
        slab->span.swept = 0;
        set_where(slab, SLM_SLAB_OUT);
    }
    return false;
}

/* A vacant slab that is unlisted and has no owner. */
static void release(struct slm_depot *depot, struct slm_slab *slab)
{
    const struct slm_object_hooks *hooks = depot->shape->hooks;
    slm_slab_check_vacant(slab);
    if (hooks && (hooks->destructor || hooks->typesafe)) {
        slm_pending_slabs_add(slab, depot->shape, &depot->slabs_released);
    } else {
        slm_slab_release(slab);
        atomic_fetch_add_explicit(&depot->slabs_released, 1, memory_order_release); /* pairs with slm_depot_slabs */
    }
}

static void relink(struct slm_depot *depot, struct slm_slab *slab)
{
    bool vacant = false;
    lock_depot(depot);
    const bool ours = load_acquire(&slab->owner) == depot; /* pairs with the release in grow() */
    if (ours && !(slab->where == SLM_SLAB_HELD && slab->where_generation == slm_fork_generation)) {
        if (slab->where == SLM_SLAB_LISTED && slab->where_generation >= depot->generation)
            unlist_slab(depot, slab, SLM_SLAB_OUT);
        vacant = file_slab(depot, slab);
    }
    slm_lock_release(&depot->lock);
    if (vacant)
        release(depot, slab);
}

/* Put held slabs back, after `taken` objects were taken from them. */
static void put_slabs(struct slm_depot *depot, struct slm_slab *const *slabs, unsigned number, unsigned taken)
{
    bool vacant[slabs_at_once];
    lock_depot(depot);
    for (unsigned i = 0; i < number; i++)
        vacant[i] = file_slab(depot, slabs[i]);
    slm_count(&depot->fills, taken > 0);
    slm_count(&depot->rounds_taken, taken);
    slm_lock_release(&depot->lock);
    for (unsigned i = 0; i < number; i++)
        if (vacant[i])
            release(depot, slabs[i]);
}

/* Hold partial slabs, the fullest first, until there are n objects in them. */
static unsigned hold_slabs(struct slm_depot *depot, struct slm_slab **slabs, unsigned n)
{
    unsigned number = 0, objects = 0;
    lock_depot(depot);
    while (depot->occupied != 0 && number < slabs_at_once && objects < n) {
        struct slm_list *bucket = &depot->buckets[__builtin_ctz(depot->occupied)];
        struct slm_slab *slab = slm_container(bucket->next, struct slm_slab, span.link);
        unlist_slab(depot, slab, SLM_SLAB_HELD);
        slab->span.swept &= SLM_SLAB_FRESH | SLM_SLAB_KEYLESS;
        objects += (unsigned)load_relaxed(&slab->free);
        slabs[number++] = slab;
    }
    slm_lock_release(&depot->lock);
    return number;
}

/* Hold slabs of a bucket that are due to be swept, and note the count of others. */
static unsigned hold_sparse(struct slm_depot *depot, unsigned bucket, bool all, struct slm_slab **slabs)
{
    unsigned number = 0, looks = 0;
    lock_depot(depot);
    struct slm_list *first = &depot->buckets[bucket];
    struct slm_list *at = depot->occupied >> bucket & 1 ? first->next : first, *next;
    for (; at != first && number < slabs_at_once && looks < sweep_looks_most; at = next, looks++) {
        struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
        const uint32_t free = (uint32_t)load_relaxed(&slab->free), before = slab->span.swept;
        next = at->next;
        if (is_swept(slab, free))
            break;
        if (before & SLM_SLAB_FRESH)
            continue;
        slab->span.swept = free | (before & SLM_SLAB_KEYLESS);
        if (((before & ~SLM_SLAB_KEYLESS) != free && !all) || slab == depot->vacant)
            continue;
        slab->span.swept |= SLM_SLAB_SWEPT | SLM_SLAB_KEYLESS;
        unlist_slab(depot, slab, SLM_SLAB_HELD);
        slabs[number++] = slab;
    }
    slm_lock_release(&depot->lock);
    return number;
}

/* A new slab, held by the caller. */
static struct slm_slab *grow(struct slm_depot *depot)
{
    const bool locked = slm_seam_grow_locked();
    if (locked)
        lock_depot(depot);
    struct slm_slab *slab = slm_slab_make(depot->shape, depot->node);
    if (locked)
        slm_lock_release(&depot->lock);
    if (!slab)
        return NULL;
    set_where(slab, SLM_SLAB_HELD);
    add_relaxed(&depot->slabs_made, 1);
    store_release(&slab->owner, depot); /* pairs with relink(), which sees then that it is held */
    return slab;
}

static void reverse(void **first, void **last)
{
    for (; first < last; first++, last--) {
        void *round = *first;
        *first = *last;
        *last = round;
    }
}

static bool constructs(const struct slm_depot *depot)
{
    return depot->shape->hooks && depot->shape->hooks->constructor;
}

/* As slm_depot_fill, of objects that are charged. */
static unsigned take(struct slm_depot *depot, void **rounds, unsigned n)
{
    struct slm_slab *slabs[slabs_at_once];
    unsigned number = hold_slabs(depot, slabs, n), got = 0;
    if (number == 0 && constructs(depot)) {
        errno = EAGAIN;
        return 0;
    }
    if (number == 0) {
        if (!(slabs[0] = grow(depot)))
            return 0;
        number = 1;
    }
    for (unsigned i = 0; i < number; i++) {
        const unsigned taken = slm_slab_take(slabs[i], n - got, rounds + got);
        if (depot->shape->keyed)
            slm_slab_set_keys(slabs[i], rounds + got, taken);
        got += taken;
    }
    add_relaxed(&depot->objects_out, got);
    put_slabs(depot, slabs, number, got);
    if (got > 1)
        reverse(rounds, rounds + got - 1);
    return got;
}

unsigned slm_depot_fill(struct slm_depot *depot, void **rounds, unsigned n)
{
    struct slm_limit *limit = depot->shape->limit;
    if (unlikely(load_relaxed(&slm_depot_pending)))
        slm_depot_relink_pending();
    const unsigned charged = slm_limit_charge(limit, n);
    if (unlikely(charged == 0)) {
        errno = EDQUOT;
        return 0;
    }
    const unsigned got = take(depot, rounds, charged);
    slm_limit_return(limit, charged - got);
    return got;
}

/* A new slab, held. Memory that others have used costs a system call. */
static slm_seldom struct slm_slab *grow_clean(struct slm_depot *depot)
{
    struct slm_slab *slab = grow(depot);
    if (slab && slab->span.state == SLM_SPAN_DIRTY)
        slm_vm_purge(slm_slab_start(slab), slm_span_bytes(&slab->span));
    return slab;
}

/* It is held as long as it is kept apart. */
slm_seldom unsigned slm_depot_fill_clean(struct slm_depot *depot, struct slm_slab **aside, void **rounds, unsigned n)
{
    unsigned got = 0;
    struct slm_slab *slab = *aside;
    while (got < n && (slab || (slab = grow_clean(depot)))) {
        got += slm_slab_take(slab, n - got, rounds + got);
        if (got < n) {
            put_slabs(depot, &slab, 1, 0);
            slab = NULL;
        }
    }
    add_relaxed(&depot->objects_out, got);
    if (n == 0 && slab && load_acquire(&slab->free) == slab->objects) { /* pairs with slm_slab_count */
        put_slabs(depot, &slab, 1, 0);
        slab = NULL;
    }
    *aside = slab;
    return got;
}

/* The slabs whose objects this thread is constructing, the innermost first, by their spans' links. (A constructor
 * that jumps away leaves its slab here: a frame would be gone, a descriptor stays.) */
static __thread struct slm_list *constructing;

bool slm_depot_is_constructing(const struct slm_depot *depot)
{
    for (struct slm_list *at = constructing; at; at = at->next) {
        const struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
        if (((struct slm_depot *)load_relaxed(&slab->owner))->shape == depot->shape)
            return true;
    }
    return false;
}

bool slm_depot_grow(struct slm_depot *depot)
{
    static _Atomic bool warned;
    if (slm_depot_is_constructing(depot)) {
        if (!atomic_exchange(&warned, true))
            slm_warn("a constructor allocated from its own cache, which had no free object: ", depot->cache_name);
        errno = EDEADLK;
        return false;
    }
    struct slm_slab *slab = grow(depot);
    if (!slab)
        return false;
    if (constructs(depot)) {
        const struct slm_object_hooks *hooks = depot->shape->hooks;
        struct slm_list *outer = slab->span.link.next = constructing;
        constructing = &slab->span.link;
        slm_slab_each_object(slab, hooks, hooks->constructor, "an exception or pthread_exit left the constructor");
        constructing = outer;
    }
    put_slabs(depot, &slab, 1, 0);
    return true;
}

static _Noreturn slm_slow void not_ours(const void *pointer, const char *call)
{
    const bool inside = slm_span_of(pointer);
    slm_panic(call, pointer, inside ? "not the start of an object" : "no object, or one that is free already", NULL,
              0);
}

/* Raise the count of a slab by the objects given back. True: it may have to be relinked. */
static bool count_given(struct slm_slab *slab, unsigned given)
{
    const unsigned objects = slab->objects; /* read first: once it is counted another thread may release the slab */
    const int32_t before = slm_slab_count(slab, given), after = before + (int32_t)given;
    return before == 0 || after == (int32_t)objects || bucket_of(before, objects) != bucket_of(after, objects);
}

void slm_depot_give(void *const *rounds, unsigned n, const char *call)
{
    for (unsigned i = 0; i < n;) {
        struct slm_slab *slab = slm_slab_of(rounds[i]);
        struct slm_depot *depot = slab ? load_relaxed(&slab->owner) : NULL;
        if (!depot)
            not_ours(rounds[i], call);
        const unsigned given = slm_slab_give(slab, rounds + i, n - i, call, depot->cache_name);
        slm_limit_return(depot->shape->limit, given);
        /* release: pairs with the cache's destruction, which looks whether anything is out */
        atomic_fetch_sub_explicit(&depot->objects_out, given, memory_order_release);
        if (count_given(slab, given))
            relink(depot, slab);
        i += given;
    }
}

struct slm_slab *_Atomic slm_depot_pending;

/* The end of the stack; a slab whose link is NULL is not in it. */
static struct slm_slab last_pending;

/* A thread that finds the slab on the stack already has counted before: the thread that takes it off clears the link,
 * and then looks at the count. Both sides are sequentially consistent, so that one sees the other. */
static void pend(struct slm_slab *slab)
{
    struct slm_slab *none = NULL, *first = load_relaxed(&slm_depot_pending);
    slm_fence(); /* pairs with the exchange in slm_depot_relink_pending */
    if (!atomic_compare_exchange_strong(&slab->pending, &none, &last_pending))
        return;
    do
        store_relaxed(&slab->pending, first ? first : &last_pending);
    while (!atomic_compare_exchange_weak(&slm_depot_pending, &first, slab));
}

bool slm_depot_give_nolock(void *object, const char *call)
{
    struct slm_slab *slab = slm_slab_of(object);
    struct slm_depot *depot = slab ? load_relaxed(&slab->owner) : NULL;
    if (!depot)
        return false;
    slm_slab_give(slab, &object, 1, call, depot->cache_name);
    slm_limit_return(depot->shape->limit, 1);
    atomic_fetch_sub_explicit(&depot->objects_out, 1, memory_order_release); /* as in slm_depot_give */
    if (count_given(slab, 1))
        pend(slab);
    return true;
}

void slm_depot_relink_pending(void)
{
    struct slm_slab *slab = atomic_exchange(&slm_depot_pending, NULL), *next;
    for (; slab && slab != &last_pending; slab = next) {
        next = atomic_exchange(&slab->pending, NULL); /* before the look at the count: see pend */
        struct slm_depot *depot = load_relaxed(&slab->owner);
        if (depot)
            relink(depot, slab);
    }
}

/* Take the surplus magazines off the stock; under the lock only pointers move. */
static struct slm_magazine *take_surplus(struct slm_depot *depot, bool all, struct slm_magazine **empties)
{
    lock_depot(depot);
    uint32_t surplus = all ? depot->full_count : depot->full_low;
    struct slm_magazine *first = depot->full, *last = NULL;
    for (uint32_t i = 0; i < surplus; i++) {
        last = last ? last->next : first;
        sub_relaxed(&depot->stock_rounds, last->count);
    }
    if (last) {
        depot->full = last->next;
        last->next = NULL;
    }
    depot->full_count -= surplus;
    depot->full_low = depot->full_count;
    *empties = depot->empty;
    depot->empty = NULL;
    slm_lock_release(&depot->lock);
    return last ? first : NULL;
}

/* The vacant slab that is kept, if it was not needed between two trims; *waiting: it has to wait for the next one. */
static struct slm_slab *take_vacant(struct slm_depot *depot, bool all, bool *waiting)
{
    lock_depot(depot);
    struct slm_slab *found = all || depot->vacant_seen ? depot->vacant : NULL;
    if (found) {
        unlist_slab(depot, found, SLM_SLAB_OUT);
        store_relaxed(&found->owner, NULL);
    }
    *waiting = depot->vacant_seen = depot->vacant != NULL;
    slm_lock_release(&depot->lock);
    return found;
}

size_t slm_depot_sweep(struct slm_depot *depot, bool all)
{
    struct slm_slab *slabs[slabs_at_once];
    size_t purged = 0;
    if (depot->shape->hooks) /* what its constructor has made stays */
        return 0;
    for (unsigned bucket = sparse_bucket; bucket < SLM_DEPOT_BUCKETS; bucket++) {
        unsigned number = slabs_at_once;
        for (unsigned i = 0; (all || i < sweep_rounds_most) && number == slabs_at_once; i++) {
            number = hold_sparse(depot, bucket, all, slabs);
            for (unsigned j = 0; j < number; j++)
                purged += slm_slab_purge_pages(slabs[j]);
            if (number > 0)
                put_slabs(depot, slabs, number, 0);
        }
    }
    return purged;
}

slm_unordered bool slm_depot_keeps_vacant(const struct slm_depot *depot)
{
    return depot->vacant != NULL;
}

bool slm_depot_trim(struct slm_depot *depot, bool all)
{
    slm_limit_carry(depot->shape->limit);
    struct slm_magazine *empties, *next, *full = take_surplus(depot, all, &empties);
    const bool stocked = full || empties;
    bool waiting;
    for (; full; full = next) {
        next = full->next;
        slm_depot_give(full->rounds, full->count, "trim");
        slm_metadata_free(full, slm_magazine_bytes(full->capacity));
    }
    slm_limit_carried(depot->shape->limit);
    for (; empties; empties = next) {
        next = empties->next;
        slm_metadata_free(empties, slm_magazine_bytes(empties->capacity));
    }
    struct slm_slab *vacant = take_vacant(depot, all, &waiting);
    if (vacant)
        release(depot, vacant);
    return stocked || vacant || waiting;
}
