/* The list of caches, and the size classes in it; see cache.h. */
#include "depot/cache.h"

#include <string.h>

#include "base/options.h"
#include "depot/join.h"
#include "depot/shards.h"
#include "os/topology.h"
#include "page/free_spans.h"
#include "page/metadata.h"
#include "page/page_map.h"

/* A thread holds two magazines, and several threads share a limit. */
enum {
    start_bytes = 8192,
    start_rounds_most = 5,
    few_rounds = 8, /* of large objects, in up to so many times the bytes: */
    few_factor = 4,
    most_rounds_least = 2,
    magazines_a_limit = 16,
    stock_start_bytes = 4096,
    learnt_most = 32 << 10, /* rounds: their magazines take 256 KiB, which do not go back */
    few_granules = 16,      /* of slabs, and */
    few_share = 8,          /* that part of what is in use */
};

static __attribute__((section(".bss.slm_class_records"))) struct slm_cache class_records[SLM_CLASSES];
static struct slm_lock making = {.rank = SLM_RANK_CLASSES};
struct slm_cache *_Atomic slm_class_caches[SLM_CLASSES];
slm_sparse struct slm_cache *_Atomic slm_caches[SLM_CACHE_IDS];
slm_sparse struct slm_depot_counts slm_cache_gone[SLM_NODES_MAX];

static struct slm_lock mutex = {.rank = SLM_RANK_CACHES};
static struct slm_list caches = {&caches, &caches}; /* named ones */

slm_seldom void slm_cache_name_class(char *name, unsigned class)
{
    unsigned size = slm_class_size[class];
    char digits[8];
    unsigned at = sizeof digits;
    for (; size != 0; size /= 10)
        digits[--at] = (char)('0' + size % 10);
    memcpy(name, "size-", 5);
    memcpy(name + 5, digits + at, sizeof digits - at);
}

/* What all stocks together may have where they learn: where nobody may look again, no more than this, and little
 * where address space is scarce (process/reclaim.c). */
static const uint64_t unwatched_bytes = (uint64_t)64 << 20, scarce_bytes = (uint64_t)4 << 20;
static _Atomic uint64_t granted; /* bytes */

static uint64_t bytes_to_grant(void)
{
    const uint64_t watched = load_relaxed(&slm_demand_watched) ? UINT64_MAX : unwatched_bytes;
    const uint64_t most = slm_min(slm_setting(depot_bytes), unlikely(slm_span_scarce()) ? scarce_bytes : watched);
    return most - slm_min(most, load_relaxed(&granted));
}

/* Has the program not fixed it? */
static bool learns(const struct slm_cache *cache)
{
    return load_relaxed(&cache->fixed_magazines) == 0;
}

/* Within bounds. */
static void set_stock(struct slm_cache *cache, uint64_t rounds)
{
    const size_t size = cache->shape.object_size;
    const uint64_t before = load_relaxed(&cache->stock_rounds), room = before + bytes_to_grant() / size;
    const uint64_t most =
        learns(cache) ? slm_min(load_relaxed(&cache->depot_rounds), room) : load_relaxed(&cache->depot_rounds);
    const uint64_t least = slm_max(stock_start_bytes / size, 1);
    const uint32_t wanted = (uint32_t)slm_min(slm_min(slm_max(rounds, least), most), UINT32_MAX);
    const uint64_t had = atomic_exchange_explicit(&cache->stock_rounds, wanted, memory_order_relaxed);
    add_relaxed(&granted, (wanted - had) * size);
}

/* A magazine of a few large objects, in as many bytes as a magazine of small ones, would be exchanged at every
 * other call. */
static uint32_t most_rounds(size_t size)
{
    const size_t few = slm_min(few_factor * slm_setting(magazine_bytes) / size, few_rounds);
    const size_t most = slm_max(slm_max(slm_setting(magazine_bytes) / size, few), most_rounds_least);
    return (uint32_t)slm_min(most, SLM_MAGAZINE_ROUNDS_MAX);
}

/* Bounds that the program has not fixed: few rounds at first, up to as many bytes as the options allow. */
static void set_bounds(struct slm_cache *cache)
{
    const size_t size = cache->shape.object_size;
    uint32_t most = (uint32_t)slm_min(load_relaxed(&cache->fixed_rounds), SLM_MAGAZINE_ROUNDS_MAX), start = most;
    if (most == 0) {
        most = most_rounds(size);
        start = (uint32_t)slm_min(slm_max(start_bytes / size, 1), slm_min(start_rounds_most, most));
    }
    if (cache->shape.limit) {
        most = (uint32_t)slm_min(most, slm_max(cache->shape.limit->objects / magazines_a_limit, 1));
        start = (uint32_t)slm_min(start, most);
    }
    store_relaxed(&cache->most_rounds, most);
    store_relaxed(&cache->start_rounds, start);
    const uint64_t magazines = load_relaxed(&cache->fixed_magazines);
    const uint64_t stock = magazines != 0 ? magazines * most : slm_min(slm_setting(depot_bytes) / size, learnt_most);
    store_relaxed(&cache->depot_rounds, (uint32_t)slm_min(stock, UINT32_MAX));
    set_stock(cache, magazines != 0 ? UINT32_MAX : 0);
}

/* How many of those that have gone home would better have stayed: not long ago, and there was hardly another use for
 * the memory, as classes have made few slabs since then. Threads that race may lose some. */
static uint32_t wrongly_sent_home(const struct slm_cache *cache, uint32_t now_ms)
{
    const uint32_t ago_ms = now_ms - load_relaxed(&cache->sent_home_ms);
    const uint16_t made = (uint16_t)(load_relaxed(&slm_depot_granules_made) - load_relaxed(&cache->made_then));
    const bool few = made <= few_granules + slm_demand_used() / SLM_GRANULE / few_share;
    return (int32_t)ago_ms <= (int32_t)slm_setting(purge_delay_ms) && few ? load_relaxed(&cache->sent_home) : 0;
}

static void set_sent_home(struct slm_cache *cache, uint32_t rounds)
{
    store_relaxed(&cache->sent_home, (uint16_t)slm_min(rounds, learnt_most));
    store_relaxed(&cache->made_then, (uint16_t)load_relaxed(&slm_depot_granules_made));
}

void slm_cache_note_sent_home(struct slm_cache *cache, uint32_t rounds)
{
    const uint32_t now_ms = (uint32_t)slm_sys_now_ms();
    set_sent_home(cache, wrongly_sent_home(cache, now_ms) + rounds);
    store_relaxed(&cache->sent_home_ms, now_ms);
}

void slm_cache_widen_stock(struct slm_cache *cache, uint32_t rounds)
{
    const uint32_t home = wrongly_sent_home(cache, (uint32_t)slm_sys_now_ms());
    const uint32_t back = (uint32_t)slm_min(home, rounds);
    set_sent_home(cache, home - back);
    if (back > 0 && learns(cache))
        set_stock(cache, (uint64_t)load_relaxed(&cache->stock_rounds) + back);
}

void slm_cache_narrow_stock(struct slm_cache *cache)
{
    if (learns(cache))
        set_stock(cache, load_relaxed(&cache->stock_rounds) / 2);
}

void slm_cache_forget_stock(struct slm_cache *cache)
{
    if (learns(cache))
        set_stock(cache, 0);
}

static const char *name_in_messages(const struct slm_cache *cache)
{
    return slm_cache_is_class(cache) ? NULL : slm_cache_own(cache)->name;
}

static slm_cold void fill(struct slm_cache *cache)
{
    cache->shape.slot_offset = slm_slot_offset_of(cache->id);
    slm_slab_shape_fill(&cache->shape);
    slm_for_each_depot (depot, cache) /* a reused cache has several already */
        slm_depot_init(depot, &cache->shape, name_in_messages(cache), depot->node);
    set_bounds(cache);
    cache->generation = slm_fork_generation;
}

static __attribute__((noinline)) slm_seldom struct slm_cache *of_joined(const struct slm_depot *depot,
                                                                        const struct slm_slab *slab,
                                                                        const void *pointer)
{
    const unsigned pieces = slm_joined_pieces(slab, pointer);
    return pieces == 1 ? slm_cache_of_depot(depot) : load_acquire(&slm_class_caches[slm_joined_class(slab, pieces)]);
}

struct slm_cache *slm_cache_of_slab(const struct slm_slab *slab, const void *pointer)
{
    const struct slm_depot *depot = slab ? load_acquire(&slab->owner) : NULL; /* pairs with slm_partial_hold */
    if (!depot)
        return NULL;
    return likely(!slm_slab_joins(slab)) ? slm_cache_of_depot(depot) : of_joined(depot, slab, pointer);
}

struct slm_cache *slm_cache_of_object(const void *pointer)
{
    return slm_cache_of_slab(slm_slab_of(pointer), pointer);
}

static unsigned classes_made(void)
{
    unsigned made = 0;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        made += load_relaxed(&slm_class_caches[class]) != NULL;
    return made;
}

/* A fork may catch it at any point: the record is in use from the last step on. */
slm_cold struct slm_cache *slm_class_cache_make(unsigned class, bool wait)
{
    if (wait) {
        slm_fork_check();
        slm_lock_acquire(&making);
    } else if (!slm_lock_try(&making)) {
        return NULL;
    }
    struct slm_cache *cache = load_relaxed(&slm_class_caches[class]);
    if (!cache) {
        cache = &class_records[classes_made()];
        memset(cache, 0, sizeof *cache);
        cache->id = (uint16_t) class;
        cache->shape.object_size = slm_class_size[class];
        fill(cache);
        slm_join_register(&cache->first, class);
        store_release(&slm_class_caches[class], cache); /* pairs with slm_class_cache */
    }
    slm_lock_release(&making);
    return cache;
}

slm_seldom void slm_cache_add(struct slm_cache *cache)
{
    fill(cache);
    slm_page_map_set_size(cache->shape.slot_offset, cache->shape.object_size);
    slm_list_insert_before(&caches, &cache->link);
    store_release(&slm_caches[cache->id], cache); /* pairs with the thread that gets its first object */
}

void slm_depot_add_counts(const struct slm_depot *depot, struct slm_depot_counts *sums)
{
    sums->locks += slm_depot_locks(depot);
    sums->contended += slm_depot_contended(depot);
    sums->released += load_acquire(&depot->slabs_released); /* before those made: see slm_depot_slabs */
    sums->made += load_relaxed(&depot->slabs_made);
}

slm_seldom void slm_cache_remove(struct slm_cache *cache)
{
    slm_list_remove(&cache->link);
    slm_cache_forget_stock(cache);
    slm_for_each_depot (depot, cache)
        slm_depot_add_counts(depot, &slm_cache_gone[depot->node]);
    store_relaxed(&slm_caches[cache->id], NULL);
}

slm_cold void slm_cache_tune_all(void)
{
    for (unsigned i = classes_made(); i-- > 0;)
        set_bounds(&class_records[i]);
}

static slm_seldom void set_new_bounds(struct slm_cache *cache)
{
    set_bounds(cache);
    atomic_fetch_add_explicit(&cache->tuned, 1, memory_order_release); /* pairs with heed_tuning */
}

slm_seldom void slm_cache_tune(struct slm_cache *cache, uint32_t rounds, uint32_t magazines)
{
    store_relaxed(&cache->fixed_rounds, rounds);
    store_relaxed(&cache->fixed_magazines, magazines);
    set_new_bounds(cache);
}

slm_seldom void slm_cache_trim_stock(struct slm_cache *cache)
{
    slm_for_each_depot (depot, cache)
        if (load_relaxed(&depot->stock_rounds) > load_relaxed(&cache->depot_rounds))
            slm_depot_trim(depot, true);
}

static slm_seldom void tune_again(struct slm_cache *cache, void *nothing)
{
    (void)nothing;
    set_new_bounds(cache);
    slm_cache_trim_stock(cache);
}

/* A class that is being made may have the options as they were: it is waited for. */
slm_seldom void slm_cache_tune_again(void)
{
    slm_lock_acquire(&making);
    slm_lock_release(&making);
    slm_cache_each(tune_again, NULL);
}

/* In `others`: of a node's depot of sampled objects. Node 0 has no other depot there. */
static unsigned sampled_place(unsigned node)
{
    return node == 0 ? 0 : SLM_NODES_MAX + node;
}

static slm_sampling _Atomic(struct slm_depot *) *other_depots(struct slm_cache *cache)
{
    _Atomic(struct slm_depot *) *others = load_acquire(&cache->others); /* pairs with the exchange below */
    if (others)
        return others;
    const bool one_node = slm_nodes == 1 && !slm_checked; /* which may simulate more later */
    const size_t bytes = (one_node ? 1 : 2 * SLM_NODES_MAX) * sizeof *others;
    _Atomic(struct slm_depot *) *made = slm_metadata_alloc(bytes);
    if (!made)
        return NULL;
    memset((void *)made, 0, bytes);
    if (atomic_compare_exchange_strong(&cache->others, &others, made))
        return made;
    slm_metadata_free((void *)made, bytes);
    return others;
}

/* The depot at that place, made if there is none; NULL: there is no memory for it. */
static slm_sampling struct slm_depot *make_depot(struct slm_cache *cache, _Atomic(struct slm_depot *) *place,
                                                 unsigned node, uint8_t shard)
{
    struct slm_depot *depot = load_acquire(place); /* pairs with the exchange below */
    if (depot)
        return depot;
    struct slm_depot *made = slm_metadata_alloc(sizeof *made);
    if (!made)
        return NULL;
    memset(made, 0, sizeof *made);
    made->shard = shard;
    slm_depot_init(made, &cache->shape, name_in_messages(cache), node);
    if (atomic_compare_exchange_strong(place, &depot, made)) {
        if (slm_cache_is_class(cache) && shard == 0)
            slm_join_register(made, cache->id);
        return made;
    }
    slm_metadata_free(made, sizeof *made);
    return depot;
}

slm_for_few struct slm_depot *slm_cache_depot_other(struct slm_cache *cache, unsigned node)
{
    _Atomic(struct slm_depot *) *others = other_depots(cache);
    if (!others)
        return &cache->first;
    struct slm_depot *depot = make_depot(cache, &others[node], node, 0);
    return likely(depot != NULL) ? depot : &cache->first;
}

slm_sampling struct slm_depot *slm_cache_sampled_depot(struct slm_cache *cache, unsigned node)
{
    _Atomic(struct slm_depot *) *others = other_depots(cache);
    return others ? make_depot(cache, &others[sampled_place(node)], node, SLM_SHARD_SAMPLED) : NULL;
}

/* The depot at that place of `others`; NULL: it has not been made. */
static struct slm_depot *other_made(struct slm_cache *cache, unsigned place)
{
    _Atomic(struct slm_depot *) *others = load_acquire(&cache->others); /* pairs with other_depots */
    return others ? load_acquire(&others[place]) : NULL;
}

struct slm_depot *slm_cache_depot_made(struct slm_cache *cache, unsigned node)
{
    if (node == 0)
        return &cache->first;
    return other_made(cache, node);
}

struct slm_depot *slm_cache_depot_after(struct slm_cache *cache, const struct slm_depot *depot)
{
    struct slm_depot *next = NULL;
    if (!slm_depot_is_sampled(depot) && !(next = slm_depot_shard_after(depot)))
        next = other_made(cache, sampled_place(depot->node));
    for (unsigned node = depot->node + 1; node < slm_nodes && !next; node++)
        if (!(next = slm_cache_depot_made(cache, node)))
            next = other_made(cache, sampled_place(node));
    return next;
}

uint64_t slm_cache_slabs(struct slm_cache *cache)
{
    uint64_t slabs = 0;
    slm_for_each_depot (depot, cache)
        slabs += slm_depot_slabs(depot);
    return slabs;
}

/* If a thread that a fork lost held it: links are written in an order in which the list can always be walked. */
void slm_cache_lock(void)
{
    slm_fork_check();
    slm_lock_acquire(&mutex);
}

bool slm_cache_try_lock(void)
{
    return slm_lock_try(&mutex);
}

void slm_cache_unlock(void)
{
    slm_lock_release(&mutex);
}

void slm_cache_each(void (*visit)(struct slm_cache *cache, void *context), void *context)
{
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        struct slm_cache *cache = load_acquire(&slm_class_caches[class]);
        if (cache)
            visit(cache, context);
    }
    for (struct slm_list *at = caches.next; at != &caches; at = at->next)
        visit(slm_container(at, struct slm_cache, link), context);
}

static void forget_hands(struct slm_cache *cache, void *nothing)
{
    (void)nothing;
    struct slm_limit *limit = cache->shape.limit;
    if (limit && slm_limit_hands(load_relaxed(&limit->hands)) > 0) /* the page may be shared with the parent */
        store_relaxed(&limit->hands, 0);
}

slm_seldom void slm_cache_fork_child(void)
{
    slm_cache_each(forget_hands, NULL);
}
