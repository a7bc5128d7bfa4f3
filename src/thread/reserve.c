/* The stacks of reserves; see reserve.h. */
#include "thread/reserve.h"

#include <errno.h>
#include <string.h>

#include "page/metadata.h"
#include "thread/remote.h"

enum { rounds_most = 12, rounds_low = 4 };

struct slm_reserve {
    struct slm_reserve *next;
    _Atomic(struct slm_cache *) cache; /* NULL: free for another */
    _Atomic uint32_t count;
    _Atomic bool asked; /* a handler has found it low */
    void *rounds[rounds_most];
};

struct slm_reserve *slm_reserve_find(struct slm_thread *thread, const struct slm_cache *cache)
{
    struct slm_reserve *reserve = load_acquire(&thread->reserves); /* pairs with add_stack */
    while (reserve && load_acquire(&reserve->cache) != cache)      /* pairs with the stores */
        reserve = reserve->next;
    return reserve;
}

static void *pop(struct slm_reserve *reserve)
{
    for (;;) {
        const uint32_t count = load_relaxed(&reserve->count);
        if (count == 0)
            return NULL;
        void *round = reserve->rounds[count - 1];
        if (slm_signal_exchange(&reserve->count, count, count - 1))
            return round;
    }
}

static void push(struct slm_reserve *reserve, void *round)
{
    uint32_t count;
    do {
        count = load_relaxed(&reserve->count);
        reserve->rounds[count] = round;
        signal_fence();
    } while (!slm_signal_exchange(&reserve->count, count, count + 1));
}

/* The next slow path fills it; when it is dry the next malloc or free is one. */
static void ask(struct slm_thread *thread, struct slm_reserve *reserve, struct slm_cache *cache, bool dry)
{
    if (reserve)
        store_relaxed(&reserve->asked, true);
    else
        store_relaxed(&slm_tls.wanted, cache);
    if (!thread)
        return; /* its birth will look */
    atomic_fetch_or_explicit(&thread->attention, SLM_ATTEND_RESERVE, memory_order_relaxed);
    struct slm_thread *hot = thread;
    if (dry) /* not if it is taken or in a slow path: pairs with catch_one (thread/ownership.c) */
        __atomic_compare_exchange_n(&slm_tls.hot, &hot, slm_detour, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

void *slm_reserve_pop(struct slm_cache *cache)
{
    struct slm_thread *thread = slm_tls.self;
    struct slm_reserve *reserve = thread ? slm_reserve_find(thread, cache) : NULL;
    void *round = reserve ? pop(reserve) : NULL;
    if (round && unlikely(slm_limit_charge(cache->shape.limit, 1) == 0)) {
        push(reserve, round); /* and not charged before it was there: other threads would find the limit met */
        return NULL;
    }
    if (!round || load_relaxed(&reserve->count) < rounds_low)
        ask(thread, reserve, cache, round == NULL);
    return round;
}

static void add_stack(struct slm_thread *thread, struct slm_cache *cache)
{
    if (slm_reserve_find(thread, cache))
        return;
    struct slm_reserve *reserve = slm_reserve_find(thread, NULL);
    if (!reserve) {
        if (!(reserve = slm_metadata_alloc(sizeof *reserve)))
            return;
        memset(reserve, 0, sizeof *reserve);
        reserve->next = load_relaxed(&thread->reserves);
        store_release(&thread->reserves, reserve); /* pairs with slm_reserve_find */
    }
    store_relaxed(&reserve->asked, true);
    store_release(&reserve->cache, cache);
}

struct slm_cache *slm_reserve_fill(struct slm_thread *thread)
{
    struct slm_cache *wanted = atomic_exchange(&slm_tls.wanted, NULL);
    if (wanted && slm_cache_of(wanted->id) == wanted) /* a cache may have been destroyed before this thread's birth */
        add_stack(thread, wanted);
    for (struct slm_reserve *reserve = load_relaxed(&thread->reserves); reserve; reserve = reserve->next) {
        struct slm_cache *cache = load_relaxed(&reserve->cache);
        if (!cache || !load_relaxed(&reserve->asked))
            continue;
        store_relaxed(&reserve->asked, false); /* before: a handler may ask again meanwhile */
        void *round = NULL;
        slm_limit_carry(cache->shape.limit); /* a round is charged between the two calls */
        while (load_relaxed(&reserve->count) < rounds_most && (round = slm_thread_pop(thread, cache->id))) {
            slm_limit_return(cache->shape.limit, 1);
            push(reserve, round);
        }
        slm_limit_carried(cache->shape.limit);
        if (!round && errno == EAGAIN && load_relaxed(&reserve->count) == 0) {
            store_relaxed(&reserve->asked, true);
            return cache;
        }
    }
    return NULL;
}

static void give_all(struct slm_reserve *reserve)
{
    void *round;
    const struct slm_cache *cache = load_relaxed(&reserve->cache);
    struct slm_limit *limit = cache ? cache->shape.limit : NULL;
    slm_limit_carry(limit);
    while ((round = pop(reserve))) {
        slm_limit_recharge(limit, 1);
        slm_depot_give(&round, 1, "free");
    }
    slm_limit_carried(limit);
}

bool slm_reserve_knows(struct slm_thread *thread, const struct slm_cache *cache)
{
    return load_relaxed(&slm_thread_tls(thread)->wanted) == cache || slm_reserve_find(thread, cache) != NULL;
}

void slm_reserve_forget(struct slm_thread *thread, struct slm_cache *cache)
{
    struct slm_cache *wanted = cache;
    atomic_compare_exchange_strong(&thread->tls->wanted, &wanted, NULL);
    struct slm_reserve *reserve = slm_reserve_find(thread, cache);
    if (reserve) {
        give_all(reserve);
        store_release(&reserve->cache, NULL);
    }
}

slm_often void slm_reserve_empty(struct slm_thread *thread, bool end)
{
    struct slm_reserve *reserve = load_relaxed(&thread->reserves), *next;
    if (end)
        store_relaxed(&thread->reserves, NULL);
    store_relaxed(&thread->tls->wanted, NULL); /* its cache may be destroyed by now */
    for (; reserve; reserve = next) {
        next = reserve->next;
        give_all(reserve);
        if (end)
            slm_metadata_free(reserve, sizeof *reserve);
        else
            store_release(&reserve->cache, NULL);
    }
}

slm_unordered bool slm_reserve_has(struct slm_thread *thread, const struct slm_cache *cache, const void *object)
{
    const struct slm_reserve *reserve = slm_reserve_find(thread, cache);
    for (uint32_t i = reserve ? load_relaxed(&reserve->count) : 0; i > 0; i--)
        if (reserve->rounds[i - 1] == object)
            return true;
    return false;
}

uint32_t slm_reserve_rounds(struct slm_thread *thread, const struct slm_cache *cache)
{
    struct slm_reserve *reserve = slm_reserve_find(thread, cache);
    return reserve ? load_relaxed(&reserve->count) : 0;
}

uint64_t slm_reserve_bytes(struct slm_thread *thread)
{
    uint64_t bytes = 0;
    for (struct slm_reserve *reserve = load_acquire(&thread->reserves); reserve; reserve = reserve->next) {
        const struct slm_cache *cache = load_relaxed(&reserve->cache);
        bytes += cache ? (uint64_t)load_relaxed(&reserve->count) * cache->shape.object_size : 0;
    }
    return bytes;
}

struct held {
    struct slm_cache *cache;
    uint64_t rounds;
};

static void add_thread(struct slm_thread *thread, void *context)
{
    struct held *held = context;
    const unsigned cache_id = held->cache->id;
    held->rounds += slm_thread_rounds(thread, cache_id) + slm_remote_rounds(thread, cache_id, 0, slm_nodes);
    held->rounds += slm_reserve_rounds(thread, held->cache);
}

uint64_t slm_reserve_held_by_all(struct slm_cache *cache)
{
    struct held held = {cache, 0};
    slm_thread_list_foreach(add_thread, &held);
    return held.rounds;
}
