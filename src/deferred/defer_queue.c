/* Queues, and freers; see defer_queue.h.
 *
 * Why a ripe object may be used again. It was unreachable before it was put here: by the program order of the thread
 * that retired it, or by the membarrier of a taker (thread/ownership.h). Its stamp was taken after that, under the
 * lock. Then slm_epoch_passed says that no reader is left that may have found it (sync/epoch.c).
 *
 * Fork. A child that finds a queue's lock held by a thread that it does not have starts with an empty queue: what was
 * on it is lost to the child. So is what other threads had taken off and not freed yet. */
#include "deferred/defer_queue.h"

#include <limits.h>
#include <string.h>

#include "base/hook.h"
#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"
#include "os/topology.h"
#include "page/page_map.h"
#include "page/reservation.h"
#include "sync/epoch.h"
#include "depot/magazines.h"
#include "slab/guard.h"
#include "thread/freed.h"

enum { SEGMENTS = 4, ripen_batch = 256, limit_least = 8 << 20 };

enum kind { MAGAZINES, HEADS, LARGE, FUNCTIONS, KINDS };

/* Singly linked, the oldest first. */
struct chain {
    void *first, *last;
};

struct segment {
    uint64_t stamp;
    struct chain chains[KINDS];
};

static struct queue {
    struct slm_lock lock;
    uint64_t newest; /* stamp */
    struct segment segments[SEGMENTS];
    struct chain ripe[KINDS];
} slm_cacheline queues[SLM_NODES_MAX] slm_sparse;

_Atomic uint64_t slm_defer_queue_objects, slm_defer_queue_bytes;
_Atomic uint64_t slm_defer_queue_waits, slm_defer_queue_excesses, slm_defer_queue_unfreed;

static _Atomic uint64_t freers[2];
static _Atomic uint32_t phase; /* modulo two: which count grows */

/* They are called in the order in which they were put: two counts tell which have been called. */
static struct {
    _Atomic uint64_t put, called;
    _Atomic bool runner; /* a thread is calling them */
} functions;
static __thread bool calling;

/* For copies when there is no memory, which a barrier would wait for. It is free again when its rounds have
 * been freed. */
static slm_sparse _Alignas(struct slm_magazine) char last_magazine[512];
static _Atomic bool last_magazine_out;

slm_cold void slm_defer_queue_start(void)
{
    for (unsigned node = 0; node < SLM_NODES_MAX; node++)
        queues[node].lock.rank = SLM_RANK_DEFER_QUEUE;
}

/* -- chains ------------------------------------------------------------------------------------------------------ */

static_assert(offsetof(struct slm_magazine, next) == 0 && offsetof(struct slm_epoch_head, next) == 0, "next_of");

/* Inline, as most kinds are constants. */
slm_inline void **next_of(enum kind kind, void *thing)
{
    return (void **)(void *)((char *)thing + (kind == LARGE ? offsetof(struct slm_large, next) : 0));
}

slm_inline void append(enum kind kind, struct chain *to, const struct chain *from)
{
    if (from->first) {
        *(to->first ? next_of(kind, to->last) : &to->first) = from->first;
        to->last = from->last;
    }
}

slm_inline void append_one(enum kind kind, struct chain *to, void *thing)
{
    *next_of(kind, thing) = NULL;
    append(kind, to, &(struct chain){thing, thing});
}

/* Under the lock: the first n of a chain, or all there are. */
slm_inline void *take_off(enum kind kind, struct chain *chain, unsigned n)
{
    void *first = chain->first, *last = first;
    if (!first)
        return NULL;
    while (--n > 0 && *next_of(kind, last))
        last = *next_of(kind, last);
    chain->first = *next_of(kind, last);
    *next_of(kind, last) = NULL;
    return first;
}

static void lock_queue(struct queue *queue)
{
    if (unlikely(slm_lock_acquire(&queue->lock)))
        memset((char *)queue + sizeof queue->lock, 0, sizeof *queue - sizeof queue->lock);
}

/* Under the lock: the oldest first, and none after one that has not passed, so that things keep their order. */
static void ripen_segments(struct queue *queue)
{
    for (unsigned i = 1; i <= SEGMENTS; i++) {
        struct segment *segment = &queue->segments[(queue->newest + i) % SEGMENTS];
        if (segment->stamp == 0)
            continue;
        if (!slm_epoch_passed(segment->stamp))
            break;
        for (unsigned kind = 0; kind < KINDS; kind++)
            append(kind, &queue->ripe[kind], &segment->chains[kind]);
        *segment = (struct segment){0};
    }
}

/* Under the lock: the chain for what is put now. A function that need not wait is put after those that do. */
static struct chain *chain_for(struct queue *queue, enum kind kind)
{
    uint64_t stamp = slm_epoch_stamp();
    if (stamp == 0 && kind == FUNCTIONS && slm_defer_queue_functions_waiting() > 1)
        stamp = load_relaxed(&slm_epoch_wanted);
    if (stamp == 0)
        return &queue->ripe[kind];
    struct segment *segment = &queue->segments[stamp % SEGMENTS];
    if (segment->stamp != stamp)
        ripen_segments(queue); /* this one is among them: its stamp is older by four at least */
    queue->newest = segment->stamp = stamp;
    return &segment->chains[kind];
}

/* -- putting ----------------------------------------------------------------------------------------------------- */

static uint64_t bytes_of(const void *object)
{
    const struct slm_cache *cache = slm_cache_of_object(object);
    return cache ? cache->shape.object_size : 0;
}

static uint64_t bytes_of_magazine(const struct slm_magazine *magazine)
{
    uint64_t bytes = 0;
    if (magazine->cache_id != SLM_RETIRED_MIXED)
        return (uint64_t)magazine->count * slm_cache_of(magazine->cache_id)->shape.object_size;
    for (uint32_t i = 0; i < magazine->count; i++)
        bytes += bytes_of(magazine->rounds[i]);
    return bytes;
}

struct sums {
    uint64_t objects, bytes, functions;
};

slm_inline void weigh(enum kind kind, const void *thing, struct sums *sums)
{
    switch (kind) {
    case MAGAZINES:
        sums->objects += ((const struct slm_magazine *)thing)->count;
        sums->bytes += bytes_of_magazine(thing);
        break;
    case HEADS:
        sums->objects++;
        sums->bytes += bytes_of(((const struct slm_epoch_head *)thing)->object);
        break;
    case LARGE:
        sums->objects++;
        sums->bytes += ((const struct slm_large *)thing)->usable;
        break;
    default:
        sums->functions++;
    }
}

static void count_on(uint64_t objects, uint64_t bytes)
{
    add_relaxed(&slm_defer_queue_objects, objects);
    add_relaxed(&slm_defer_queue_bytes, bytes);
    add_relaxed(&slm_epoch_waiting_bytes, bytes);
}

slm_inline void put_counted(unsigned node, enum kind kind, void *thing)
{
    lock_queue(&queues[node]);
    if (kind == FUNCTIONS)
        add_relaxed(&functions.put, 1);
    append_one(kind, chain_for(&queues[node], kind), thing);
    slm_lock_release(&queues[node].lock);
}

slm_inline void put(unsigned node, enum kind kind, void *thing)
{
    struct sums sums = {0};
    weigh(kind, thing, &sums);
    if (kind != FUNCTIONS)
        count_on(sums.objects, sums.bytes);
    put_counted(node, kind, thing);
}

void slm_defer_queue_put_magazine(unsigned node, struct slm_magazine *magazine)
{
    put(node, MAGAZINES, magazine);
}

bool slm_defer_queue_put_object(unsigned node, void *object)
{
    struct queue *queue = &queues[node];
    lock_queue(queue);
    struct chain *chain = chain_for(queue, MAGAZINES);
    struct slm_magazine *magazine = chain->first ? chain->last : NULL;
    if (!magazine || magazine->cache_id != SLM_RETIRED_MIXED || magazine->count == magazine->capacity) {
        magazine = slm_defer_queue_make_magazine(SLM_MAGAZINE_ROUNDS_MAX);
        if (magazine) {
            magazine->cache_id = SLM_RETIRED_MIXED;
            append_one(MAGAZINES, chain, magazine);
        }
    }
    if (magazine) {
        count_on(1, bytes_of(object));
        magazine->rounds[magazine->count++] = object;
    }
    slm_lock_release(&queue->lock);
    return magazine != NULL;
}

void slm_defer_queue_put_head(unsigned node, struct slm_epoch_head *head, void *object)
{
    head->object = object;
    put(node, HEADS, head);
}

void slm_defer_queue_put_function(struct slm_epoch_head *head, void (*function)(struct slm_epoch_head *head))
{
    head->function = function;
    put(0, FUNCTIONS, head);
}

void slm_defer_queue_put_large(unsigned node, struct slm_large *large)
{
    put(node, LARGE, large);
}

struct slm_magazine *slm_defer_queue_make_magazine(uint32_t rounds)
{
    return slm_checked && slm_options.refuse_blocks ? NULL : slm_magazine_make(rounds);
}

size_t slm_defer_queue_take_rounds(unsigned node, unsigned cache_id, void ***bottom, size_t n)
{
    struct slm_magazine *magazine = slm_defer_queue_make_magazine((uint32_t)n);
    if (!magazine) {
        if (atomic_exchange(&last_magazine_out, true)) /* pairs with free_thing */
            return 0;
        magazine = (struct slm_magazine *)(void *)last_magazine;
        magazine->capacity = (sizeof last_magazine - sizeof *magazine) / sizeof(void *) - 1;
        cache_id = SLM_RETIRED_MIXED;
    }
    magazine->cache_id = (uint16_t)cache_id;
    magazine->count = (uint32_t)slm_min(n, magazine->capacity);
    n = magazine->count;
    memcpy(magazine->rounds, *bottom, n * sizeof(void *));
    count_on(n, bytes_of_magazine(magazine));
    __atomic_store_n(bottom, *bottom + n, __ATOMIC_RELEASE); /* pairs with slm_deferred_free_all */
    put_counted(node, MAGAZINES, magazine);                  /* from here on it is not ours */
    return n;
}

uint64_t slm_defer_queue_limit_bytes(void)
{
    const uint64_t most = slm_options.deferred_max_bytes;
    return most > 0 ? most : slm_max(limit_least, slm_reservation_heap_bytes() / 16);
}

/* -- freeing ----------------------------------------------------------------------------------------------------- */

/* Not below 0: a child of a fork no longer counts what the thread that forked had taken. */
static void lower(_Atomic uint64_t *figure, uint64_t n)
{
    uint64_t was = load_relaxed(figure);
    while (!atomic_compare_exchange_weak(figure, &was, was - slm_min(was, n)))
        continue;
}

struct freer {
    unsigned which; /* count */
    uint32_t generation;
};

static struct freer begin_freeing(void)
{
    const unsigned which = load_relaxed(&phase) % 2;
    atomic_fetch_add(&freers[which], 1); /* pairs with slm_defer_queue_await_freers: before the queue's lock */
    signal_fence();                      /* a child forked before this has no such count, or it is lowered */
    return (struct freer){which, slm_fork_generation};
}

/* In a child of a fork what was taken before is not counted any more. Release: a thread that finds no object waiting,
 * or no freer, sees those freed. */
static void end_freeing(struct freer freer, const struct sums *freed)
{
    if (slm_fork_generation != freer.generation)
        return;
    lower(&slm_defer_queue_objects, freed->objects);
    lower(&slm_defer_queue_bytes, freed->bytes);
    lower(&slm_epoch_waiting_bytes, freed->bytes);
    lower(&freers[freer.which], 1);
}

void slm_defer_queue_await_freers(void)
{
    for (unsigned which = 0; which < 2; which++)
        for (unsigned look = 0; load_acquire(&freers[which]) != 0; look++) { /* pairs with end_freeing */
            store_relaxed(&phase, which + 1);
            if (look < 100)
                slm_cpu_relax();
            else
                slm_sys_sleep_ms(1);
        }
}

/* Into the stock, beyond the usual limit of a depot: as much as may wait may also be ready for use. */
static void stock_magazine(struct slm_magazine *magazine)
{
    struct slm_cache *cache = slm_cache_of(magazine->cache_id);
    const uint64_t limit =
        load_relaxed(&cache->depot_rounds) + slm_defer_queue_limit_bytes() / cache->shape.object_size;
    slm_magazine_hand_on(cache, magazine, limit);
}

/* Objects that have no key are looked at together. */
static void check_ripe(const struct slm_magazine *magazine)
{
    struct slm_cache *cache = slm_cache_of(magazine->cache_id);
    if (cache->shape.keyed)
        slm_freed_ripen(cache, magazine->rounds, magazine->count);
    else
        slm_magazine_check(cache, magazine, slm_magazine_home(magazine->rounds[0]), "slab_free_deferred");
}

static void give_mixed(void *const *rounds, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        slm_freed_ripen(slm_cache_of_object(rounds[i]), rounds + i, 1);
    slm_depot_give(rounds, n, "slab_free_deferred");
}

static void release_guard(struct slm_guard *guard)
{
    void *stand_in = guard->stand_in;
    slm_guard_put_away(guard, false);
    if (stand_in)
        give_mixed(&stand_in, 1);
}

static void free_thing(enum kind kind, void *thing)
{
    struct slm_magazine *magazine = thing;
    if (kind == LARGE && unlikely(slm_guard_kind(thing) == SLM_SPAN_GUARDED_RETIRED)) {
        release_guard(thing);
    } else if (kind == LARGE) {
        slm_large_release(thing);
    } else if (kind == HEADS) {
        void *object = ((struct slm_epoch_head *)thing)->object; /* in which the head lies */
        give_mixed(&object, 1);
    } else if (magazine->cache_id != SLM_RETIRED_MIXED) {
        check_ripe(magazine);
        stock_magazine(magazine);
    } else {
        give_mixed(magazine->rounds, magazine->count);
        if (thing == last_magazine)
            store_release(&last_magazine_out, false);
        else
            slm_magazine_free(magazine);
    }
}

bool slm_defer_queue_ripen(unsigned node, unsigned batch)
{
    struct queue *queue = &queues[node];
    struct sums freed = {0};
    if (load_relaxed(&slm_defer_queue_objects) == 0)
        return false;
    const struct freer freer = begin_freeing();
    lock_queue(queue);
    ripen_segments(queue);
    void *const taken[FUNCTIONS] = {
        [MAGAZINES] = take_off(MAGAZINES, &queue->ripe[MAGAZINES], batch),
        [HEADS] = take_off(HEADS, &queue->ripe[HEADS], batch),
        [LARGE] = take_off(LARGE, &queue->ripe[LARGE], batch),
    };
    slm_lock_release(&queue->lock);
    for (unsigned kind = 0; kind < FUNCTIONS; kind++)
        for (void *thing = taken[kind], *next; thing; thing = next) {
            next = *next_of(kind, thing);
            weigh(kind, thing, &freed);
            free_thing(kind, thing);
        }
    end_freeing(freer, &freed);
    return freed.objects > 0;
}

bool slm_defer_queue_ripen_all(void)
{
    bool some = false;
    for (unsigned node = 0; node < slm_nodes; node++)
        while (slm_defer_queue_ripen(node, ripen_batch))
            some = true;
    return some;
}

/* -- functions --------------------------------------------------------------------------------------------------- */

bool slm_defer_queue_is_calling(void)
{
    return calling;
}

slm_often uint64_t slm_defer_queue_functions_waiting(void)
{
    return load_relaxed(&functions.put) - load_relaxed(&functions.called);
}

struct calls {
    struct slm_hook hook; /* the first member */
    struct slm_epoch_head *first;
};

static void call_each(const struct slm_hook *hook)
{
    for (struct slm_epoch_head *head = ((const struct calls *)hook)->first, *next; head; head = next) {
        next = head->next;
        head->function(head);
        atomic_fetch_add(&functions.called, 1); /* pairs with slm_defer_queue_await_functions */
    }
}

/* One thread at a time. The exchange and the store of `runner` pair: each runner sees what the one before did. */
bool slm_defer_queue_call_functions(void)
{
    if (calling || slm_defer_queue_functions_waiting() == 0 || atomic_exchange(&functions.runner, true))
        return false;
    calling = true; /* until all that is taken has been called: see slm_defer_queue_fork_child */
    lock_queue(&queues[0]);
    ripen_segments(&queues[0]);
    const struct calls calls = {
        {call_each, "an exception or pthread_exit left a function of slab_epoch_call", NULL},
        take_off(FUNCTIONS, &queues[0].ripe[FUNCTIONS], UINT_MAX),
    };
    slm_lock_release(&queues[0].lock);
    slm_hook_run(&calls.hook);
    calling = false;
    store_release(&functions.runner, false);
    return calls.first != NULL;
}

void slm_defer_queue_await_functions(void)
{
    const uint64_t put = load_relaxed(&functions.put);
    if (slm_defer_queue_functions_waiting() > 0)
        slm_epoch_await(load_relaxed(&slm_epoch_wanted), UINT64_MAX);
    while ((int64_t)(load_acquire(&functions.called) - put) < 0)
        if (!slm_defer_queue_call_functions())
            slm_sys_sleep_ms(1);
}

/* -- fork, checks ------------------------------------------------------------------------------------------------ */

static slm_seldom void add_queue(const struct queue *queue, struct sums *sums)
{
    for (unsigned kind = 0; kind < KINDS; kind++)
        for (unsigned i = 0; i <= SEGMENTS; i++) {
            const struct chain *chain = i < SEGMENTS ? &queue->segments[i].chains[kind] : &queue->ripe[kind];
            for (void *thing = chain->first; thing; thing = *next_of(kind, thing))
                weigh(kind, thing, sums);
        }
}

/* A queue that is locked counts as empty, and there are no freers. If the thread that forked was calling functions,
 * it goes on with those that it has taken off. */
slm_seldom void slm_defer_queue_fork_child(void)
{
    struct sums sums = {0};
    for (unsigned node = 0; node < slm_nodes; node++)
        if (load_relaxed(&queues[node].lock.word) == 0)
            add_queue(&queues[node], &sums);
    lower(&slm_epoch_waiting_bytes, load_relaxed(&slm_defer_queue_bytes) - sums.bytes);
    store_relaxed(&slm_defer_queue_objects, sums.objects);
    store_relaxed(&slm_defer_queue_bytes, sums.bytes);
    for (unsigned which = 0; which < 2; which++)
        store_relaxed(&freers[which], 0);
    if (calling)
        return;
    store_relaxed(&functions.runner, false);
    store_relaxed(&functions.called, load_relaxed(&functions.put) - sums.functions);
}

slm_seldom void slm_defer_queue_check(void)
{
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct sums sums = {0};
        lock_queue(&queues[node]);
        add_queue(&queues[node], &sums);
        const bool too_many = sums.objects > load_relaxed(&slm_defer_queue_objects); /* counted first, until freed */
        slm_lock_release(&queues[node].lock);
        if (too_many)
            slm_panic("check", &queues[node], "more is on the queue than was put there", NULL, 0);
    }
}
