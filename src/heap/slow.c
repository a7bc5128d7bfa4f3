/* Slow halves; see slow.h. Each enters the thread's block, works, and leaves. Without a block to enter, objects come
 * from the depots, and go to their slabs, one by one. When the kernel has no memory left, everything that can go is
 * given back, and the call is tried once more. */
#include "heap/slow.h"

#include "base/errno.h"
#include "base/panic.h"
#include "depot/pending_slabs.h"
#include "figures/figures.h"
#include "heap/guarded.h"
#include "os/topology.h"
#include "page/charge.h"
#include "page/demand.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "percpu/percpu.h"
#include "process/give_back.h"
#include "process/lifecycle.h"
#include "process/worker.h"
#include "slab/joined.h"
#include "slab/large.h"
#include "thread/freed.h"
#include "thread/thread_list.h"

void *slm_alloc_direct(struct slm_cache *cache)
{
    void *object = NULL;
    if (!slm_process_started()) {
        errno = ENOMEM;
        return NULL;
    }
    const uint8_t before = slm_direct_begin();
    slm_depot_fill(slm_cache_depot(cache, slm_direct_node()), &object, 1);
    slm_direct_end(before);
    return object;
}

enum { first_passes = 1, looks_apart = 16, asked_most = 4 };

/* A class takes a page at least, and most programs have one or two objects of most sizes. So a class's first objects
 * are lent by the class of the next power of two, as long as they waste little. Which these were is remembered for
 * frees that tell a size: bits of their addresses. */
enum { lent_most = 8, lent_waste = 1024, lent_classes = SLM_CLASSES_IN_TABLE + 8 };
static _Atomic uint8_t lent_count[lent_classes];
static _Atomic uint32_t lent[lent_classes][lent_most];

static uint32_t lent_bits(const void *object)
{
    return (uint32_t)((uintptr_t)object >> 4);
}

/* The class that lends one, or the class itself; *place: where to remember it. */
static unsigned lender(unsigned class, _Atomic uint32_t **place)
{
    const uint32_t size = slm_class_size[class], larger = slm_class_larger(size);
    const unsigned most = size == larger ? 0 : (unsigned)slm_min(lent_waste / (larger - size), lent_most);
    const unsigned n = atomic_fetch_add(&lent_count[class], 1);
    if (n >= most) {
        store_relaxed(&lent_count[class], lent_most);
        return class;
    }
    *place = &lent[class][n];
    return slm_class_of_size(larger);
}

bool slm_take_back_lent(const void *object, unsigned class)
{
    for (unsigned n = 0; class < lent_classes && n < lent_most; n++) {
        uint32_t bits = lent_bits(object);
        if (atomic_compare_exchange_strong(&lent[class][n], &bits, 0))
            return true;
    }
    return false;
}

static void *take_from_class(unsigned class)
{
    struct slm_thread *thread = slm_thread_enter(true);
    void *object = likely(thread != NULL) ? slm_thread_pop(thread, class) : slm_alloc_direct(slm_class_cache(class));
    if (likely(thread != NULL))
        slm_thread_leave(thread);
    if (likely(object != NULL))
        slm_key_clear(object);
    return object;
}

static __attribute__((noinline)) void *alloc_young_class(unsigned class)
{
    _Atomic uint32_t *place = NULL;
    void *object = take_from_class(lender(class, &place));
    if (object && place)
        store_relaxed(place, lent_bits(object));
    return object;
}

static void *alloc_class(unsigned class)
{
    const bool young = class < lent_classes && load_relaxed(&lent_count[class]) < lent_most;
    return unlikely(young) ? alloc_young_class(class) : take_from_class(class);
}

slm_slow void *slm_alloc_check_slow(void *object)
{
    const struct slm_slab *slab = slm_slab_of(object);
    if (!slab || !slm_slab_is_object(slab, object))
        slm_refuse(object, "free");
    return object;
}

slm_slow void *slm_alloc_due_slow(size_t n)
{
    const uint64_t mean = slm_sampled_due(n);
    void *object = NULL;
    if (unlikely(mean != 0))
        object = slm_sampled_make(slm_sampled_class(n), -1, n, mean);
    if (likely(!object))
        object = slm_pop_keyed(slm_slot_offset_of(slm_class_of_size(n)));
    return likely(object != NULL) ? slm_alloc_check(object, n) : slm_alloc_slow(n);
}

slm_slow void *slm_alloc_slow(size_t n)
{
    const int kept = errno;
    const unsigned class = slm_class_of_size(n);
    void *object = alloc_class(class);
    if (unlikely(!object) && slm_give_back_for(n))
        object = alloc_class(class);
    slm_worker_note_slabs();
    errno = likely(object != NULL) ? kept : slm_charge_refused();
    return slm_alloc_check(object, n);
}

/* May the thread keep large objects at the moment? Then its block is claimed. */
static struct slm_thread *enter_kept(void)
{
    struct slm_tls *tls = &slm_tls;
    slm_fork_check();
    if (unlikely(load_relaxed(&tls->busy) || tls->state != SLM_THREAD_LIVE))
        return NULL;
    slm_thread_claim(tls);
    return tls->self;
}

static void *take_kept(size_t n, size_t alignment, int node)
{
    struct slm_thread *self = slm_tls.self;
    if (!self || load_relaxed(&self->kept.granules) == 0 || alignment > SLM_GRANULE || node >= 0 || !enter_kept())
        return NULL;
    void *object = slm_kept_take(&self->kept, n, slm_area_for_large(load_relaxed(&self->node)));
    slm_thread_unclaim(self);
    return object;
}

/* Small processes keep none. */
static bool keep(struct slm_large *large)
{
    struct slm_thread *self = slm_demand_used() >= 16 * SLM_GRANULE ? enter_kept() : NULL;
    if (!self)
        return false;
    const bool kept = slm_kept_put(&self->kept, large), first = self->kept.puts == 1;
    slm_thread_unclaim(self);
    if (unlikely(first))
        slm_worker_note_kept();
    return kept;
}

/* A handler that comes in between may be left out. */
static void count_taken(void)
{
    struct slm_thread *self = slm_tls.self;
    if (likely(self != NULL))
        slm_count(&self->objects_taken, 1);
    else
        slm_figures_count_direct();
}

/* A call that failed does not count: what it asked for may be anything. */
static void *note_large(void *object, size_t n, size_t alignment, bool *clean)
{
    const uint64_t mean = object && slm_sample_due(n) ? slm_sampled_due(n) : 0;
    return unlikely(mean != 0) ? slm_sampled_large(object, n, alignment, clean, mean) : object;
}

slm_slow void *slm_alloc_large_slow(size_t n, size_t alignment, int node, bool *clean)
{
    bool unknown;
    clean = clean ? clean : &unknown;
    void *object = likely(n <= (size_t)PTRDIFF_MAX) ? take_kept(n, alignment, node) : NULL;
    if (object) {
        count_taken();
        *clean = false;
        return note_large(object, n, alignment, clean);
    }
    const int kept = errno;
    if (likely(n <= (size_t)PTRDIFF_MAX) && slm_process_started()) {
        if (unlikely(load_relaxed(&slm_large_pending) != NULL))
            slm_large_free_pending();
        const unsigned area = node < 0 ? slm_area_for_large(slm_direct_node()) : slm_area_for_slabs((unsigned)node);
        object = slm_large_alloc(n, alignment, area, clean);
        if (unlikely(!object) && slm_give_back_for(n))
            object = slm_large_alloc(n, alignment, area, clean);
        slm_worker_note_slabs();
        count_taken();
        object = note_large(object, n, alignment, clean);
    }
    errno = likely(object != NULL) ? kept : slm_charge_refused();
    return object;
}

_Noreturn slm_slow void slm_refuse(const void *pointer, const char *call)
{
    const struct slm_cache *cache = slm_cache_of_object(pointer);
    if (cache)
        slm_panic(call, pointer, "not the start of an object", cache->first.cache_name, cache->shape.object_size);
    if (slm_reservation_described(slm_granule_of(pointer)))
        slm_panic(call, pointer, "no object, or one that is free already", NULL, 0);
    const char *what =
        slm_percpu_owns(pointer) ? "per-CPU memory, which slab_percpu_free frees" : "not allocated by this library";
    slm_panic(call, pointer, what, NULL, 0);
}

/* Here the class takes arithmetic, not a load, and what was pushed where a rest has no key is found. */
slm_hot_path void *slm_alloc_medium(size_t n)
{
    if (unlikely(n > SLM_SMALL_MAX))
        return slm_alloc_large_slow(n, 1, -1, NULL);
    if (slm_sample_due(n))
        return slm_alloc_due_slow(n);
    size_t slot_offset = slm_slot_offset_of(slm_class_above_table(n));
    slm_hide_value(slot_offset);
    void *object = slm_pop_keyed(slot_offset);
    if (unlikely(!object))
        return slm_alloc_slow(n);
    return slm_alloc_check(object, n);
}

static void free_large(struct slm_large *large, void *pointer, const char *call)
{
    if (keep(large))
        return;
    slm_keep_errno();
    slm_fork_check();
    const size_t bytes = slm_large_free(large);
    if (bytes == 0)
        slm_refuse(pointer, call);
    slm_worker_note_large(bytes);
    slm_worker_note_slabs();
}

void slm_free_direct(void *object, const char *call)
{
    const uint8_t before = slm_direct_begin();
    slm_direct_count(object);
    slm_depot_give(&object, 1, call);
    slm_direct_end(before);
}

/* A slot with this factor has the thread's next free of the class come here: of an object that is not at its slab's
 * start, a product with it is above SLM_NO_ROUND (base/magazine.h), and not below the factor. */
static const uint64_t asking = (uint64_t)1 << 47;

/* A thread has freed an object of a shared slab. What one thread has made for many fills several slabs, as a rule: so
 * its next free is looked at, too, the first few times. */
static void ask_next(struct slm_thread *thread, size_t slot_offset)
{
    if (thread->asked == asked_most)
        return;
    thread->asked++;
    slm_slot_at(thread, slot_offset)->start_factor = asking;
}

/* Is the thread's last refill from that slab? */
static bool takes_from(const struct slm_slot *slot, const struct slm_slab *slab)
{
    return slm_slot_rounds(slot) > 0 && slm_slab_of(*slot->bottom) == slab;
}

/* Is the object the first that the thread has to do with in its class, or, before it has a block, at all? Then
 * another thread has made it, and perhaps others beside it for further threads. Who inherits a block goes on with
 * what another thread had. Who only frees has no use for lines of its own. */
static bool is_strange(struct slm_thread *thread, size_t slot_offset, const struct slm_slab *slab)
{
    if (!thread)
        return slm_tls.state == SLM_THREAD_NONE && slm_tls.direct_passes <= first_passes &&
               slm_thread_list_legacies() == 0;
    struct slm_slot *slot = slm_slot_at(thread, slot_offset);
    if (likely(slot->start_factor > asking))
        return false;
    slot->start_factor = slm_page_map_start_factor(slot_offset);
    return load_relaxed(&thread->refills) > 0 && !takes_from(slot, slab);
}

static __attribute__((noinline)) bool is_small_shared(struct slm_thread *thread, size_t slot_offset,
                                                      const void *object)
{
    struct slm_slab *slab = slm_slab_of(object);
    const bool strange = is_strange(thread, slot_offset, slab);
    return unlikely(slm_partial_is_shared(slab)) || (unlikely(strange) && slm_partial_share(slab));
}

/* Has it to go to its slab? See slm_partial_share. */
slm_inline bool is_shared(struct slm_thread *thread, size_t slot_offset, const void *object)
{
    return slm_page_map_size(slot_offset) < SLM_LINE_BYTES && is_small_shared(thread, slot_offset, object);
}

static void give_shared(struct slm_slab *slab, void *object, const char *call)
{
    slm_depot_give(&object, 1, call);
    if (load_relaxed(&slab->free) % looks_apart == 0)
        slm_partial_relink(slab);
}

static void free_small(size_t slot_offset, void *object, const char *call)
{
    const unsigned cache_id = slm_cache_id_of(slot_offset);
    if (slm_cache_of(cache_id)->shape.keyed)
        slm_key_set(object, slm_key_of(object));
    struct slm_thread *thread = slm_thread_enter(false);
    if (likely(thread != NULL)) {
        if (unlikely(is_shared(thread, slot_offset, object))) {
            ask_next(thread, slot_offset);
            give_shared(slm_slab_of(object), object, call);
        } else {
            slm_thread_free(thread, cache_id, object);
        }
        slm_thread_leave(thread);
    } else {
        (void)is_shared(NULL, slot_offset, object);
        slm_free_direct(object, call);
    }
    if (likely(load_relaxed(&slm_pending_slabs_due) == 0))
        return;
    const struct slm_cache *cache = slm_cache_of(cache_id); /* NULL: it has been destroyed since */
    if (cache && cache->shape.hooks)
        slm_pending_slabs_release(&cache->shape);
}

/* As the hot path does it, for objects that it leaves alone. Their caches are found by their slabs. */
static __attribute__((noinline)) bool push_by_slab(const struct slm_slab *slab, void *object)
{
    const struct slm_cache *cache = slm_cache_of_slab(slab, object);
    if (!cache || slm_partial_is_shared(slab) || !slm_slab_is_object(slab, object) ||
        !slm_area_granule_valid(slm_key_granule(slm_tls.key, object)))
        return false;
    const bool keyed = cache->shape.keyed;
    if (keyed && (slm_key_is_set(object, slm_tls.key) || slm_slab_has(slab, object)))
        return false;
    struct slm_thread *thread = slm_hot();
    struct slm_slot *slot = slm_slot_at(thread, cache->shape.slot_offset);
    void **const top = slm_shared_load(&slot->top);
    if (*top == NULL)
        return false;
    if (!keyed && slm_freed_seems_free(slab, slot, object))
        return false;
    if (keyed)
        slm_key_set(object, slm_tls.key);
    slm_slot_push(slot, top, object);
    return true;
}

/* What is no large object: a small one, or one with guards; else it is refused. */
static __attribute__((noinline)) slm_slow void free_checked(void *pointer, const char *call)
{
    slm_keep_errno();
    slm_fork_check();
    const size_t slot_offset = slm_freed_check_offset(pointer, call, slm_double_free);
    if (slot_offset == 0) {
        if (!slm_guarded_free(pointer, call))
            slm_refuse(pointer, call);
        return;
    }
    free_small(slot_offset, pointer, call);
    slm_worker_note_slabs();
}

/* What was sampled goes to its slab. The thread passes through its block all the same, to heed what it is asked. */
static slm_sampling __attribute__((noinline)) void free_sampled(struct slm_slab *slab, void *object, const char *call)
{
    slm_keep_errno();
    slm_fork_check();
    const struct slm_cache *cache = slm_freed_check(object, call, slm_double_free);
    if (!cache)
        slm_refuse(object, call);
    slm_sampled_end(slab, object);
    if (cache->shape.keyed)
        slm_key_set(object, slm_key_of(object));
    const bool hooks = cache->shape.hooks;
    slm_free_direct(object, call);
    struct slm_thread *thread = slm_thread_enter(false);
    if (thread)
        slm_thread_leave(thread);
    if (unlikely(hooks) && load_relaxed(&slm_pending_slabs_due) > 0)
        slm_pending_slabs_release(&cache->shape);
    slm_worker_note_slabs();
}

static __attribute__((noinline)) slm_slow void free_unpushed(void *pointer, const char *call)
{
    if (unlikely(slm_map_offset_at(pointer) <= SLM_MAP_HIDDEN)) {
        struct slm_large *large = slm_large_of(pointer);
        if (large) {
            free_large(large, pointer, call);
            return;
        }
        struct slm_slab *slab = slm_slab_of(pointer);
        if (slab && slm_slab_is_sampled(slab)) {
            free_sampled(slab, pointer, call);
            return;
        }
        if (slab && push_by_slab(slab, pointer))
            return;
    }
    free_checked(pointer, call);
}

enum { hidden_sample = 32 };

/* An object of a hidden slab was pushed, one of so many. */
static slm_for_few __attribute__((noinline)) void note_worked(struct slm_slab *slab)
{
    slm_keep_errno();
    slm_fork_check();
    struct slm_thread *thread = slm_thread_enter(false);
    if (!thread)
        return;
    slm_partial_note_worked(slab, hidden_sample);
    slm_thread_leave(thread);
}

/* An object of a shared slab. False: the thread has no block to enter. */
static __attribute__((noinline)) bool free_shared(struct slm_slab *slab, size_t slot_offset, void *object)
{
    slm_keep_errno();
    slm_fork_check();
    struct slm_thread *thread = slm_thread_enter(false);
    if (!thread)
        return false;
    slm_key_set(object, slm_key_of(object));
    ask_next(thread, slot_offset);
    give_shared(slab, object, "free");
    slm_thread_leave(thread);
    slm_worker_note_slabs();
    return true;
}

/* Of a hidden slab's live object, without any order: is its key seen by who frees it? */
slm_unordered static inline bool has_own_key(const struct slm_slab *slab, void *pointer, size_t offset)
{
    return likely(!slm_pages_lacks_key(slab, offset)) && (!slab->span.some_joined || !slm_joined_near(slab, pointer));
}

/* As the hot path does it (heap/free.h), for most objects of hidden slabs: what is in use may be hidden for long.
 * Purged pages have no keys: what lies there is free already. Objects of shared slabs go there. */
static __attribute__((noinline)) bool push_hidden(void *pointer, uintptr_t key)
{
    const size_t offset = (uint16_t)(uintptr_t)pointer;
    struct slm_slab *slab = slm_descriptor(slm_granule_of(pointer));
    const struct slm_depot *depot = load_acquire(&slab->owner); /* as in slm_depot_give */
    struct slm_thread *thread = slm_hot();
    struct slm_slot *slot = slm_slot_at(thread, depot ? slm_slab_map_offset(depot->shape) : 0);
    void **const top = slm_shared_load(&slot->top);
    if (unlikely(slot->start_factor * offset >= (uintptr_t)*top) || unlikely(slm_key_is_set(pointer, key)) ||
        unlikely(!has_own_key(slab, pointer, offset)))
        return false;
    if (depot && slm_partial_is_shared(slab))
        return free_shared(slab, slm_slab_map_offset(depot->shape), pointer);
    slm_key_set(pointer, key);
    slm_slot_push(slot, top, pointer);
    if (unlikely(++thread->hidden_frees % hidden_sample == 0))
        note_worked(slab);
    return true;
}

/* NULL is freed often: by C programs at their ends of scopes, by libc 18 times at each thread's end. */
slm_slow void slm_free_slow(void *pointer, const char *call)
{
    const uintptr_t key = slm_tls.key;
    const size_t granule = slm_key_granule(key, pointer);
    const size_t offset = slm_area_granule_valid(granule) ? slm_page_map_offset(slm_key_area(key), granule) : 0;
    if (likely(offset > SLM_MAP_HIDDEN))
        free_checked(pointer, call);
    else if (pointer && !(offset == SLM_MAP_HIDDEN && push_hidden(pointer, key)))
        free_unpushed(pointer, call);
}

/* An object that may be free in another thread cannot be looked for, and stays as it is. */
static slm_for_few void free_small_nolock(const struct slm_slab *slab, void *object, const char *call)
{
    if (slm_freed_check_nolock(slab, object, call))
        return;
    slm_span_keep_descriptors(); /* the slab may be pending when it is free */
    slm_sampled_end(slab, object);
    const struct slm_depot *depot = load_acquire(&slab->owner); /* as in slm_depot_give */
    if (depot && depot->shape->keyed)
        slm_key_set(object, slm_key_of(object));
    if (!slm_depot_give_nolock(object, call))
        slm_refuse(object, call);
    slm_direct_count(object);
}

slm_for_few void slm_free_nolock(void *pointer)
{
    const char *call = "slab_free_nolock";
    const struct slm_slab *slab = pointer ? slm_slab_of(pointer) : NULL;
    struct slm_large *large = pointer && !slab ? slm_large_of(pointer) : NULL;
    if (slab)
        free_small_nolock(slab, pointer, call);
    else if (pointer && !(large ? slm_large_free_nolock(large) : slm_guarded_free_nolock(pointer, call)))
        slm_refuse(pointer, call);
}

slm_slow size_t slm_usable_slow(const void *pointer)
{
    const char *call = "malloc_usable_size";
    if (!pointer)
        return 0;
    const struct slm_cache *cache = slm_freed_check(pointer, call, slm_use_after_free);
    const struct slm_large *large = cache ? NULL : slm_large_of(pointer);
    const size_t guarded = cache || large ? 0 : slm_guarded_usable(pointer, call, slm_use_after_free);
    if (!cache && !large && guarded == 0)
        slm_refuse(pointer, call);
    if (large)
        return large->usable;
    return cache ? cache->shape.object_size : guarded;
}
