/* Catching threads, and what is done to their slots; see take.h. */
#include "thread/take.h"

#include <string.h>

#include "os/sys.h"
#include "os/vm.h"
#include "thread/remote.h"
#include "thread/reserve.h"

enum { spins = 100, wait_ms = 10, pause_ms = 3 };

/* Counted up when a taking is over: what owners sleep on. */
static _Atomic uint32_t turn, sleepers;

static bool exchange_hot(struct slm_tls *tls, struct slm_thread *expected, struct slm_thread *wanted)
{
    return __atomic_compare_exchange_n(&tls->hot, &expected, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* The TLS of threads that are gone without having been unlinked: brought to life in the very last round of key
 * destructors, no exit came. Their TLS may be unmapped; if it is not, it is as they left it, and may be taken. */
static struct slm_tls gone;

struct catching {
    const struct slm_take *take;
    unsigned missed;
    bool any, failed;
};

static void miss(struct slm_thread *thread, struct catching *catching)
{
    catching->missed++;
    if (catching->take->insist && load_relaxed(&slm_sys_has_membarrier))
        atomic_fetch_or(&thread->attention, SLM_ATTEND_PAUSE); /* pairs with slm_thread_leave */
}

/* Its memory may be unmapped, or another thread's. A thread that is linked has its block in `self`, or is on its way
 * out, busy until it is unlinked. */
static bool is_gone(struct slm_thread *thread)
{
    struct slm_tls *tls = thread->tls;
    if (!slm_vm_is_mapped(tls))
        return true;
    const struct slm_thread *self = slm_shared_load(&tls->self);
    return self != thread && (self || !load_acquire(&tls->busy));
}

static void look_if_gone(struct slm_thread *thread)
{
    if (thread->tls != &gone && is_gone(thread))
        thread->tls = &gone;
}

static void catch_one(struct slm_thread *thread, void *context)
{
    struct catching *catching = context;
    const struct slm_take *take = catching->take;
    thread->was = NULL;
    if (thread->tls == &slm_tls || (take->wants && !take->wants(thread, take->context)))
        return;
    look_if_gone(thread);
    if (thread->tls == &gone || exchange_hot(thread->tls, thread, slm_taken))
        thread->was = thread;
    else if (exchange_hot(thread->tls, slm_dry, slm_taken))
        thread->was = slm_dry;
    else
        miss(thread, catching); /* in a slow path */
    catching->any |= thread->was != NULL;
}

static void take_from(struct slm_thread *thread, const struct catching *catching)
{
    catching->take->work(thread, catching->take->context);
    atomic_fetch_and(&thread->attention, (uint8_t)~SLM_ATTEND_PAUSE); /* it need not, any more */
}

static void work(struct slm_thread *thread, void *context)
{
    struct catching *catching = context;
    struct slm_tls *tls = thread->tls;
    if (!thread->was)
        return;
    if (tls == &gone) {
        take_from(thread, catching);
        return;
    }
    const bool busy = load_acquire(&tls->busy); /* pairs with slm_thread_leave; before the look at hot */
    if (!catching->failed && !busy && __atomic_load_n(&tls->hot, __ATOMIC_ACQUIRE) == slm_taken)
        take_from(thread, catching);
    else
        miss(thread, catching);
    exchange_hot(tls, slm_taken, thread->was); /* release: the owner sees what was done */
}

unsigned slm_take_from_all(const struct slm_take *take)
{
    struct catching catching = {.take = take};
    slm_thread_list_lock();
    slm_thread_list_each(catch_one, &catching);
    if (catching.any || take->always)
        catching.failed = !slm_sys_membarrier();
    slm_thread_list_each(work, &catching);
    slm_thread_list_unlock();
    add_relaxed(&turn, 1);
    if (atomic_load(&sleepers) > 0) /* pairs with slm_take_wait */
        slm_sys_wake_all(&turn);
    return catching.missed;
}

static void recall(struct slm_thread *thread, void *context)
{
    look_if_gone(thread);
    if (thread->tls == &slm_tls)
        store_relaxed(&thread->recalled, *(const uint32_t *)context);
    else
        atomic_fetch_or(&thread->attention, SLM_ATTEND_RECALL); /* pairs with slm_thread_leave */
}

uint32_t slm_take_recall(void)
{
    slm_thread_list_lock();
    uint32_t number = load_relaxed(&slm_thread_recalls) + 1;
    store_relaxed(&slm_thread_recalls, number);
    slm_thread_list_each(recall, &number);
    slm_thread_list_unlock();
    return number;
}

static void find_least(struct slm_thread *thread, void *least)
{
    const uint32_t recalled = load_acquire(&thread->recalled); /* pairs with slm_thread_attend */
    if (thread->tls != &gone && recalled < *(uint32_t *)least)
        *(uint32_t *)least = recalled;
}

uint32_t slm_take_recalled(void)
{
    uint32_t least = UINT32_MAX;
    slm_thread_list_foreach(find_least, &least);
    return least;
}

slm_slow void slm_take_wait(void)
{
    for (unsigned spin = 0; slm_hot() == slm_taken; spin++) {
        slm_fork_check();
        if (spin < spins) {
            slm_cpu_relax();
            continue;
        }
        const uint32_t now = load_relaxed(&turn);
        atomic_fetch_add(&sleepers, 1); /* pairs with slm_take_from_all */
        if (__atomic_load_n(&slm_tls.hot, __ATOMIC_ACQUIRE) == slm_taken)
            slm_sys_wait(&turn, now, wait_ms);
        atomic_fetch_sub(&sleepers, 1);
    }
}

slm_slow void slm_take_pause(void)
{
    const uint32_t start = load_relaxed(&turn);
    for (unsigned wait = 0; wait < pause_ms && load_relaxed(&turn) == start; wait++) {
        if (slm_hot() == slm_taken) {
            slm_take_wait();
        } else {
            atomic_fetch_add(&sleepers, 1); /* pairs with slm_take_from_all */
            slm_sys_wait(&turn, start, 1);
            atomic_fetch_sub(&sleepers, 1);
        }
    }
}

struct slm_thread *slm_thread_hide(void)
{
    struct slm_tls *tls = &slm_tls;
    slm_fork_check();
    if (tls->state == SLM_THREAD_LIVE && !load_relaxed(&tls->busy)) {
        slm_thread_claim(tls);
        return tls->self;
    }
    store_relaxed(&tls->busy, 1);
    signal_fence();
    return NULL;
}

void slm_thread_unhide(struct slm_thread *thread)
{
    signal_fence();
    if (thread)
        slm_shared_store(&slm_tls.hot, thread);
    store_release(&slm_tls.busy, 0); /* pairs with slm_take_from_all */
}

/* A thread in a slow path may have been caught in the middle of anything: what it held stays counted. */
static void lose(struct slm_thread *thread, void *nothing)
{
    (void)nothing;
    look_if_gone(thread);
    if (thread->tls == &slm_tls || load_relaxed(&thread->tls->busy))
        return;
    const unsigned own = load_relaxed(&thread->node);
    for (unsigned n = slm_slot_next(thread, SLM_NAMED_FIRST); n < SLM_NUMBERS; n = slm_slot_next(thread, n + 1)) {
        struct slm_cache *cache = slm_cache_of(n);
        if (!cache || load_relaxed(&slm_slot_of(thread, n)->target) == 0)
            continue;
        for (unsigned node = 0; node < slm_nodes; node++) {
            const uint64_t local = node == own ? slm_thread_rounds(thread, n) : 0;
            const uint64_t rounds = local + slm_remote_rounds(thread, n, node, node + 1);
            if (rounds > 0)
                slm_depot_lose(slm_cache_depot(cache, node), rounds);
        }
    }
    slm_reserve_lose(thread);
}

void slm_take_fork_child(void)
{
    if (slm_thread_list_is_whole())
        slm_thread_list_each(lose, NULL);
    if (slm_tls.self)
        exchange_hot(&slm_tls, slm_taken, slm_tls.self);
    store_relaxed(&sleepers, 0);
}

/* -- rounds ------------------------------------------------------------------------------------------------------ */

static void keep(struct slm_take_rounds *rounds, struct slm_magazine *magazine)
{
    magazine->next = rounds->taken;
    rounds->taken = magazine;
}

/* All but a top round that a pop under way may have: see the argument. Where there is no memory they stay. */
static void take_loaded(const struct slm_thread *thread, struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    const bool marked = rounds->cache->shape.limit != NULL;
    const bool left = !marked || load_acquire(&thread->tls->popping); /* pairs with slm_pop_marked; before the top */
    void **top = slm_shared_load(&slot->top);
    const uint32_t count = (uint32_t)(top - slot->bottom) - (left && top > slot->bottom);
    struct slm_magazine *magazine = count > 0 ? slm_magazine_make(count) : NULL;
    rounds->doubtful |= marked && left;
    if (!magazine)
        return;
    memcpy(magazine->rounds, slot->bottom, count * sizeof(void *));
    magazine->count = count;
    slm_shared_store(&slot->bottom, slot->bottom + count);
    keep(rounds, magazine);
}

static void take_remote(struct slm_thread *thread, struct slm_take_rounds *rounds)
{
    struct slm_magazine *remote = slm_remote_take(thread, rounds->cache->number);
    if (remote)
        keep(rounds, remote);
}

static void take_previous(struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    if (!slot->previous || slot->previous->count == 0)
        return;
    keep(rounds, slot->previous);
    slot->previous = NULL;
}

/* Nobody uses the cache: the slot becomes as if it had never been used. */
static void dismantle(struct slm_thread *thread, struct slm_slot *slot, struct slm_take_rounds *rounds)
{
    struct slm_cache *cache = rounds->cache;
    if (slot->loaded) {
        slot->loaded->count = (uint32_t)(slot->top - slot->bottom);
        memmove(slot->loaded->rounds, slot->bottom, slot->loaded->count * sizeof(void *));
        keep(rounds, slot->loaded);
    }
    if (slot->previous)
        keep(rounds, slot->previous);
    thread->target_bytes -= (size_t)load_relaxed(&slot->target) * cache->shape.object_size * 2;
    memset(slot, 0, sizeof *slot);
}

static void take_slot(struct slm_thread *thread, void *context)
{
    struct slm_take_rounds *rounds = context;
    struct slm_slot *slot = slm_slot_of(thread, rounds->cache->number);
    take_remote(thread, rounds);
    if (rounds->how == SLM_TAKE_EVERYTHING)
        dismantle(thread, slot, rounds);
    else {
        take_previous(slot, rounds);
        take_loaded(thread, slot, rounds);
    }
    if (rounds->how == SLM_TAKE_EVERYTHING)
        slm_reserve_forget(thread, rounds->cache);
}

/* A slot that is not in use has no target: see thread/thread_cache.c, set_target. One whose owner has its rounds in
 * hand has no loaded magazine. */
static slm_unordered bool has_rounds(struct slm_thread *thread, void *context)
{
    struct slm_take_rounds *rounds = context;
    const unsigned number = rounds->cache->number;
    const struct slm_slot *slot = slm_slot_of(thread, number);
    const bool in_use = load_acquire(&slot->target) != 0;
    if (rounds->how == SLM_TAKE_EVERYTHING)
        return in_use || slm_reserve_knows(thread, rounds->cache);
    return in_use && (!slot->loaded || slm_thread_rounds(thread, number) > 0 || slm_remote_of(thread, number));
}

unsigned slm_take_rounds(struct slm_take_rounds *rounds, bool always)
{
    const struct slm_take take = {has_rounds, take_slot, rounds, always, rounds->how != SLM_TAKE_SPARE};
    return slm_take_from_all(&take);
}

void slm_take_own(struct slm_thread *thread, struct slm_take_rounds *rounds)
{
    const enum slm_take_how how = rounds->how;
    rounds->how = SLM_TAKE_EVERYTHING; /* the owner's own hot path is at rest */
    take_slot(thread, rounds);
    rounds->how = how;
}
