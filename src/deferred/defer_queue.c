/* Queues, and freers; see defer_queue.h.
 *
 * Why a ripe object is free to be used: it was unreachable before it was put here (its retirer's program order, or
 * the membarrier of a taker, thread/ownership.h), the stamp was taken after that, under the lock, and slm_epoch_passed
 * says that no reader is left that may have found it (sync/epoch.c).
 *
 * Fork. A child that finds a queue's lock held by a thread that it does not have starts the queue empty: what was on
 * it is lost to it. So is what other threads had taken off and not freed yet. */
#include "deferred/defer_queue.h"

#include <string.h>

#include "base/options.h"
#include "base/panic.h"
#include "os/sys.h"
#include "os/topology.h"
#include "page/page_map.h"
#include "page/reservation.h"
#include "sync/epoch.h"
#include "thread/thread_cache.h"

enum { SEGMENTS = 4, heads_at_once = 32, ripen_batch = 256, limit_least = 8 << 20 };

enum kind { MAGAZINES, HEADS, FUNCTIONS, LARGE, KINDS };

/* Singly linked, the oldest first: pointers to pointers to the next. */
struct chain {
    void *first, *last;
};

struct segment {
    uint64_t stamp;
    struct chain chains[KINDS];
};

static struct queue {
    struct slm_lock lock;
    struct segment segments[SEGMENTS];
    struct chain ripe[KINDS];
    struct slm_magazine *open; /* for threads that have none of their own: not stamped before it is put away */
} slm_cacheline queues[SLM_NODES_MAX];

_Atomic uint64_t slm_defer_queue_objects, slm_defer_queue_bytes;
_Atomic uint64_t slm_defer_queue_waits, slm_defer_queue_excesses, slm_defer_queue_unfreed;

/* | fork generation 32 | count 32 |: in a child of a fork both start afresh, and what its thread took
 * before is not counted off. */
static _Atomic uint64_t freers[2];
static _Atomic uint32_t phase;

/* They are called in the order in which they were put, so that two counts tell which have been. */
static struct {
    _Atomic uint64_t put, called;
    _Atomic bool runner; /* a thread is at it */
} functions;
static __thread bool calling;

/* For copies where there is no memory, or else a barrier would wait for some. It comes back when its rounds have been
 * freed. */
static _Alignas(struct slm_magazine) char last_block[512];
static _Atomic bool last_block_out;

slm_seldom void slm_defer_queue_start(void)
{
    const bool wanted = slm_checked || slm_bench; /* nobody else asks for ranks */
    for (unsigned node = 0; wanted && node < SLM_NODES_MAX; node++)
        queues[node].lock.rank = SLM_RANK_RING;
}

/* -- chains ------------------------------------------------------------------------------------------------------ */

static void **next_of(enum kind kind, void *thing)
{
    switch (kind) {
    case MAGAZINES:
        return (void **)&((struct slm_magazine *)thing)->next;
    case LARGE:
        return (void **)&((struct slm_large *)thing)->next;
    default:
        return (void **)&((struct slm_epoch_head *)thing)->next;
    }
}

static void append(enum kind kind, struct chain *to, const struct chain *from)
{
    if (!from->first)
        return;
    if (to->first)
        *next_of(kind, to->last) = from->first;
    else
        to->first = from->first;
    to->last = from->last;
}

static slm_seldom void empty_queue(struct queue *queue)
{
    for (unsigned i = 0; i < SEGMENTS; i++)
        queue->segments[i] = (struct segment){0};
    for (unsigned kind = 0; kind < KINDS; kind++)
        queue->ripe[kind] = (struct chain){NULL, NULL};
    queue->open = NULL;
}

static void lock_queue(struct queue *queue)
{
    if (unlikely(slm_lock_acquire(&queue->lock)))
        empty_queue(queue);
}

static void ripen_segment(struct queue *queue, struct segment *segment)
{
    for (unsigned kind = 0; kind < KINDS; kind++)
        append(kind, &queue->ripe[kind], &segment->chains[kind]);
    *segment = (struct segment){0};
}

/* Under the lock: the segment with the least stamp that has passed; NULL: there is none. */
static struct segment *oldest_passed(struct queue *queue)
{
    struct segment *oldest = NULL;
    for (unsigned i = 0; i < SEGMENTS; i++) {
        struct segment *segment = &queue->segments[i];
        if (segment->stamp != 0 && slm_epoch_passed(segment->stamp) && (!oldest || segment->stamp < oldest->stamp))
            oldest = segment;
    }
    return oldest;
}

/* Under the lock: the oldest first, so that things keep their order. */
static void ripen_segments(struct queue *queue)
{
    struct segment *segment;
    while ((segment = oldest_passed(queue)))
        ripen_segment(queue, segment);
}

/* The latest stamp of functions that wait; 0: none do. */
static uint64_t latest_function(const struct queue *queue)
{
    uint64_t latest = 0;
    for (unsigned i = 0; i < SEGMENTS; i++)
        if (queue->segments[i].chains[FUNCTIONS].first)
            latest = slm_max(latest, queue->segments[i].stamp);
    return latest;
}

/* Under the lock. Functions keep their order: one that need not wait waits for those before it. */
static void enqueue(struct queue *queue, enum kind kind, void *thing)
{
    const struct chain one = {thing, thing};
    *next_of(kind, thing) = NULL;
    uint64_t stamp = slm_epoch_stamp();
    if (stamp == 0 && kind == FUNCTIONS)
        stamp = latest_function(queue);
    struct segment *segment = &queue->segments[stamp % SEGMENTS];
    if (stamp == 0) {
        append(kind, &queue->ripe[kind], &one);
    } else {
        if (segment->stamp != stamp)
            ripen_segments(queue); /* this one is among them: its stamp is older by four at least */
        segment->stamp = stamp;
        append(kind, &segment->chains[kind], &one);
    }
}

static void count_on(uint64_t objects, uint64_t bytes)
{
    add_relaxed(&slm_defer_queue_objects, objects);
    add_relaxed(&slm_defer_queue_bytes, bytes);
    add_relaxed(&slm_epoch_waiting_bytes, bytes);
}

static void put(struct queue *queue, enum kind kind, void *thing)
{
    lock_queue(queue);
    if (kind == FUNCTIONS)
        add_relaxed(&functions.put, 1);
    enqueue(queue, kind, thing);
    slm_lock_release(&queue->lock);
}

/* -- freers ------------------------------------------------------------------------------------------------------ */

struct freer {
    unsigned which;
    uint64_t counted; /* the word before */
};

static struct freer begin_freeing(void)
{
    struct freer freer = {load_relaxed(&phase) & 1, 0};
    freer.counted = load_relaxed(&freers[freer.which]);
    while (!atomic_compare_exchange_weak(&freers[freer.which], &freer.counted, freer.counted + 1))
        continue; /* pairs with slm_defer_queue_await_freers: before the queue's lock */
    return freer;
}

/* Release: what was done is seen by who waits. */
static void end_freeing(struct freer freer)
{
    uint64_t word = load_relaxed(&freers[freer.which]);
    while (word >> 32 == freer.counted >> 32 &&
           !atomic_compare_exchange_weak_explicit(&freers[freer.which], &word, word - 1, memory_order_release,
                                                  memory_order_relaxed))
        continue;
}

void slm_defer_queue_await_freers(void)
{
    for (unsigned which = 0; which < 2; which++)
        for (unsigned look = 0; (uint32_t)load_acquire(&freers[which]) != 0; look++) { /* pairs with end_freeing */
            store_relaxed(&phase, which ^ 1);
            if (look < 100)
                slm_cpu_relax();
            else
                slm_sys_sleep_ms(1);
        }
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
    if (magazine->number != SLM_RETIRED_MIXED)
        return (uint64_t)magazine->count * slm_cache_of(magazine->number)->shape.object_size;
    for (uint32_t i = 0; i < magazine->count; i++)
        bytes += bytes_of(magazine->rounds[i]);
    return bytes;
}

void slm_defer_queue_put_magazine(unsigned node, struct slm_magazine *magazine)
{
    count_on(magazine->count, bytes_of_magazine(magazine));
    put(&queues[node], MAGAZINES, magazine);
}

static void put_open_away(struct queue *queue)
{
    enqueue(queue, MAGAZINES, queue->open);
    queue->open = NULL;
}

bool slm_defer_queue_put_object(unsigned node, void *object)
{
    struct queue *queue = &queues[node];
    lock_queue(queue);
    if (!queue->open) {
        queue->open = slm_defer_queue_make_block(SLM_MAGAZINE_ROUNDS_MAX);
        if (queue->open) {
            queue->open->next = NULL;
            queue->open->number = SLM_RETIRED_MIXED;
        }
    }
    struct slm_magazine *open = queue->open;
    if (open) {
        count_on(1, bytes_of(object));
        open->rounds[open->count++] = object;
        if (open->count == open->capacity)
            put_open_away(queue);
    }
    slm_lock_release(&queue->lock);
    return open != NULL;
}

void slm_defer_queue_put_open_away(void)
{
    for (unsigned node = 0; node < slm_nodes; node++) {
        if (load_relaxed(&slm_defer_queue_objects) == 0)
            return;
        lock_queue(&queues[node]);
        if (queues[node].open)
            put_open_away(&queues[node]);
        slm_lock_release(&queues[node].lock);
    }
}

void slm_defer_queue_put_head(unsigned node, struct slm_epoch_head *head, void *object)
{
    head->object = object;
    count_on(1, bytes_of(object));
    put(&queues[node], HEADS, head);
}

void slm_defer_queue_put_function(struct slm_epoch_head *head, void (*function)(struct slm_epoch_head *head))
{
    head->function = function;
    put(&queues[0], FUNCTIONS, head);
}

void slm_defer_queue_put_large(unsigned node, struct slm_large *large)
{
    count_on(1, large->usable);
    put(&queues[node], LARGE, large);
}

struct slm_magazine *slm_defer_queue_make_block(uint32_t rounds)
{
    return slm_checked && slm_options.refuse_blocks ? NULL : slm_magazine_make(rounds);
}

static slm_seldom struct slm_magazine *take_last_block(void)
{
    struct slm_magazine *magazine = (struct slm_magazine *)(void *)last_block;
    if (atomic_exchange(&last_block_out, true)) /* pairs with free_block */
        return NULL;
    magazine->capacity = (sizeof last_block - sizeof *magazine) / sizeof(void *);
    return magazine;
}

static void free_block(struct slm_magazine *magazine)
{
    if (magazine == (void *)last_block)
        store_release(&last_block_out, false);
    else
        slm_magazine_free(magazine);
}

size_t slm_defer_queue_put_rounds(unsigned node, unsigned number, void *const *rounds, size_t n)
{
    struct slm_magazine *made = slm_defer_queue_make_block((uint32_t)n), *magazine = made ? made : take_last_block();
    if (!magazine)
        return 0;
    magazine->number = (uint16_t)(made ? number : SLM_RETIRED_MIXED);
    magazine->count = (uint32_t)slm_min(n, magazine->capacity);
    memcpy(magazine->rounds, rounds, magazine->count * sizeof(void *));
    n = magazine->count;
    slm_defer_queue_put_magazine(node, magazine); /* from here on it is not ours */
    return n;
}

uint64_t slm_defer_queue_limit_bytes(void)
{
    if (slm_options.deferred_max_bytes > 0)
        return slm_options.deferred_max_bytes;
    return slm_max(limit_least, slm_reservation_heap_bytes() / 16);
}

/* -- freeing ----------------------------------------------------------------------------------------------------- */

/* Not below 0: a child of a fork may have lost count of what the thread that forked had in freer. */
static void lower(_Atomic uint64_t *figure, uint64_t n)
{
    uint64_t was = load_relaxed(figure);
    while (!atomic_compare_exchange_weak(figure, &was, was - slm_min(was, n)))
        continue;
}

struct sums {
    uint64_t objects, bytes, functions;
};

static void weigh(enum kind kind, const void *thing, struct sums *sums)
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

/* In a child of a fork what was taken before is not counted any more. Release: who finds no object waiting sees
 * those freed (slm_deferred_free_all). */
static void count_off(struct freer freer, const struct sums *freed)
{
    if (load_relaxed(&freers[freer.which]) >> 32 != freer.counted >> 32)
        return;
    lower(&slm_defer_queue_objects, freed->objects);
    lower(&slm_defer_queue_bytes, freed->bytes);
    lower(&slm_epoch_waiting_bytes, freed->bytes);
}

void slm_defer_queue_free_objects(void *const *objects, unsigned n)
{
    slm_depot_give(objects, n, "slab_free_deferred");
}

/* Into the stock, beyond what a depot keeps otherwise: as much as may wait may also be ready for use. */
static void stock_magazine(struct slm_magazine *magazine)
{
    struct slm_cache *cache = slm_cache_of(magazine->number);
    const uint64_t limit = load_relaxed(&cache->depot_rounds) + slm_defer_queue_limit_bytes() / cache->shape.object_size;
    slm_magazine_hand_on(cache, magazine, limit);
}

static void free_magazines(struct slm_magazine *magazine, struct sums *freed)
{
    for (struct slm_magazine *next; magazine; magazine = next) {
        weigh(MAGAZINES, magazine, freed);
        next = magazine->next;
        if (magazine->number != SLM_RETIRED_MIXED) {
            stock_magazine(magazine);
        } else {
            slm_defer_queue_free_objects(magazine->rounds, magazine->count);
            free_block(magazine);
        }
    }
}

/* The head lies in the object: it is read before that is freed. */
static void free_heads(struct slm_epoch_head *head, struct sums *freed)
{
    while (head) {
        void *objects[heads_at_once];
        unsigned n = 0;
        for (; head && n < heads_at_once; head = head->next) {
            objects[n++] = head->object;
            weigh(HEADS, head, freed);
        }
        slm_defer_queue_free_objects(objects, n);
    }
}

static void free_larges(struct slm_large *large, struct sums *freed)
{
    for (struct slm_large *next; large; large = next) {
        next = large->next;
        weigh(LARGE, large, freed);
        slm_large_free_retired(large);
    }
}

/* Under the lock: the first n of a chain, or all there are. */
static void *take_off(enum kind kind, struct chain *chain, unsigned n)
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

bool slm_defer_queue_ripen(unsigned node, unsigned most)
{
    struct queue *queue = &queues[node];
    if (load_relaxed(&slm_defer_queue_objects) == 0)
        return false;
    const struct freer mine = begin_freeing();
    lock_queue(queue);
    ripen_segments(queue);
    struct slm_magazine *magazines = take_off(MAGAZINES, &queue->ripe[MAGAZINES], most);
    struct slm_epoch_head *heads = take_off(HEADS, &queue->ripe[HEADS], most * heads_at_once);
    struct slm_large *larges = take_off(LARGE, &queue->ripe[LARGE], most);
    slm_lock_release(&queue->lock);
    struct sums freed = {0, 0, 0};
    free_magazines(magazines, &freed);
    free_heads(heads, &freed);
    free_larges(larges, &freed);
    count_off(mine, &freed);
    end_freeing(mine);
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

uint64_t slm_defer_queue_functions_put(void)
{
    return load_relaxed(&functions.put);
}

uint64_t slm_defer_queue_functions_waiting(void)
{
    return load_relaxed(&functions.put) - load_relaxed(&functions.called);
}

static struct slm_epoch_head *take_functions(void)
{
    lock_queue(&queues[0]);
    ripen_segments(&queues[0]);
    struct slm_epoch_head *head = queues[0].ripe[FUNCTIONS].first;
    queues[0].ripe[FUNCTIONS] = (struct chain){NULL, NULL};
    slm_lock_release(&queues[0].lock);
    return head;
}

/* The runner's exchange and store pair with each other: one thread at a time, and each sees what the one before did.
 */
bool slm_defer_queue_call_functions(void)
{
    if (calling || slm_defer_queue_functions_waiting() == 0 || atomic_exchange(&functions.runner, true))
        return false;
    calling = true; /* until all that is taken has been called: see slm_defer_queue_fork_child */
    struct slm_epoch_head *head = take_functions(), *next;
    const bool some = head != NULL;
    for (; head; head = next) {
        next = head->next;
        head->function(head);
        atomic_fetch_add_explicit(&functions.called, 1,
                                  memory_order_release); /* pairs with slm_defer_queue_await_functions */
    }
    calling = false;
    store_release(&functions.runner, false);
    return some;
}

void slm_defer_queue_await_functions(uint64_t put)
{
    while ((int64_t)(load_acquire(&functions.called) - put) < 0)
        if (!slm_defer_queue_call_functions())
            slm_sys_sleep_ms(1);
}

/* -- fork, checks ------------------------------------------------------------------------------------------------ */

static slm_seldom void add_chain(enum kind kind, void *thing, struct sums *sums)
{
    for (; thing; thing = *next_of(kind, thing))
        weigh(kind, thing, sums);
}

static void add_queue(const struct queue *queue, struct sums *sums)
{
    add_chain(MAGAZINES, queue->open, sums);
    for (unsigned kind = 0; kind < KINDS; kind++) {
        add_chain(kind, queue->ripe[kind].first, sums);
        for (unsigned i = 0; i < SEGMENTS; i++)
            add_chain(kind, queue->segments[i].chains[kind].first, sums);
    }
}

/* A queue that somebody was at is as good as empty, and there are no other freers. The thread that forked may have
 * been at it: in a function, then those behind it are still going to be called; or in a handler that interrupted it.
 */
slm_seldom void slm_defer_queue_fork_child(void)
{
    struct sums sums = {0, 0, 0};
    for (unsigned node = 0; node < slm_nodes; node++)
        if (load_relaxed(&queues[node].lock.word) == 0)
            add_queue(&queues[node], &sums);
    lower(&slm_epoch_waiting_bytes, load_relaxed(&slm_defer_queue_bytes) - sums.bytes);
    store_relaxed(&slm_defer_queue_objects, sums.objects);
    store_relaxed(&slm_defer_queue_bytes, sums.bytes);
    for (unsigned which = 0; which < 2; which++)
        store_relaxed(&freers[which], (uint64_t)slm_fork_generation << 32);
    if (calling)
        return;
    store_relaxed(&functions.runner, false);
    store_relaxed(&functions.called, load_relaxed(&functions.put) - sums.functions);
}

slm_seldom void slm_defer_queue_check(void)
{
    for (unsigned node = 0; node < slm_nodes; node++) {
        struct sums sums = {0, 0, 0};
        lock_queue(&queues[node]);
        add_queue(&queues[node], &sums);
        for (unsigned i = 0; i < SEGMENTS; i++)
            if (queues[node].segments[i].stamp % SEGMENTS != i && queues[node].segments[i].stamp != 0)
                slm_panic("check", &queues[node], "a segment has a stamp of another's", NULL, NULL);
        const bool too_many =
            sums.objects > load_relaxed(&slm_defer_queue_objects); /* counted before, and until freed */
        slm_lock_release(&queues[node].lock);
        if (too_many)
            slm_panic("check", &queues[node], "more is on the queue than was put there", NULL, NULL);
    }
}
