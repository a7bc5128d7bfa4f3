/* Catching threads, waiting for a taker; see ownership.h. */
#include "thread/ownership.h"

#include "os/sys.h"
#include "os/vm.h"

enum { spins = 100, wait_ms = 10, pause_ms = 3 };

/* Counted up when a taking is over: what owners sleep on. */
static _Atomic uint32_t turn, sleepers;

static bool exchange_hot(struct slm_tls *tls, struct slm_thread *expected, struct slm_thread *wanted)
{
    return __atomic_compare_exchange_n(&tls->hot, &expected, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* The stand-in. The TLS of a thread that is gone may be unmapped; if not, it is as the thread left it. */
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

void slm_thread_look_if_gone(struct slm_thread *thread)
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
    slm_thread_look_if_gone(thread);
    if (thread->tls == &gone || exchange_hot(thread->tls, thread, slm_taken))
        thread->was = thread;
    else if (exchange_hot(thread->tls, slm_detour, slm_taken))
        thread->was = slm_detour;
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
    slm_thread_look_if_gone(thread);
    if (thread->tls == &slm_tls)
        store_relaxed(&thread->recalled, *(const uint32_t *)context);
    else
        atomic_fetch_or(&thread->attention, SLM_ATTEND_RECALL); /* pairs with slm_thread_leave */
}

uint32_t slm_take_recall(void)
{
    slm_thread_list_lock();
    uint32_t cache_id = load_relaxed(&slm_thread_recalls) + 1;
    store_relaxed(&slm_thread_recalls, cache_id);
    slm_thread_list_each(recall, &cache_id);
    slm_thread_list_unlock();
    return cache_id;
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
        struct slm_thread *self = slm_tls.self;
        if (self && self->generation != slm_fork_generation) /* another thread of the child has noticed the fork */
            exchange_hot(&slm_tls, slm_taken, self);
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
    if (thread)
        slm_thread_unclaim(thread);
    else
        store_release(&slm_tls.busy, 0);
}

void slm_take_fork_child(void)
{
    if (slm_tls.self)
        exchange_hot(&slm_tls, slm_taken, slm_tls.self);
    store_relaxed(&sleepers, 0);
}
