/* Catching threads, waiting for a taker; see ownership.h. */
#include "thread/ownership.h"

#include "depot/depot.h"
#include "os/sys.h"
#include "os/vm.h"

enum { spins = 100, wait_ms = 10, pause_ms = 3 };

/* Owners sleep on `turn`, which is raised when a taking is over. */
static _Atomic uint32_t turn, sleepers;

static bool exchange_hot(struct slm_tls *tls, struct slm_thread *expected, struct slm_thread *wanted)
{
    return __atomic_compare_exchange_n(&tls->hot, &expected, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

struct catching {
    const struct slm_take *take;
    void (*more)(struct slm_thread *thread, void *context); /* what is done at the moment */
    unsigned missed;
    bool any, failed;
};

static void miss(struct slm_thread *thread, struct catching *catching)
{
    catching->missed++;
    if (catching->take->insist && load_relaxed(&slm_sys_has_membarrier))
        atomic_fetch_or(&thread->attention, SLM_ATTEND_PAUSE); /* pairs with slm_thread_attend */
}

/* Its TLS may be unmapped, or another thread's by now. A thread that is linked has its block in `self`, or is busy at
 * its end until it is unlinked. */
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
    if (thread->tls == &slm_gone_tls || (slm_thread_tls(thread) != &slm_gone_tls && !is_gone(thread)))
        return;
    thread->tls = &slm_gone_tls;
    slm_slots_mend(thread);
    if (load_relaxed(&slm_orphans) == 0)
        store_relaxed(&slm_orphans, 1);
}

static void catch_one(struct slm_thread *thread, void *context)
{
    struct catching *catching = context;
    const struct slm_take *take = catching->take;
    if (thread->was)
        thread->was = NULL;
    if (slm_thread_tls(thread) == &slm_tls || !take->wants(thread, take->context))
        return;
    slm_thread_look_if_gone(thread);
    if (thread->tls == &slm_gone_tls || exchange_hot(thread->tls, thread, slm_taken))
        thread->was = thread;
    else if (exchange_hot(thread->tls, slm_detour, slm_taken))
        thread->was = slm_detour;
    else if (exchange_hot(thread->tls, slm_parked, slm_taken))
        thread->was = slm_parked;
    else
        miss(thread, catching); /* it is in a slow path */
    catching->any |= thread->was != NULL;
}

/* The block is no longer ours. */
static void let_go(struct slm_thread *thread)
{
    if (thread->tls != &slm_gone_tls)
        exchange_hot(thread->tls, slm_taken, thread->was); /* release: the owner sees what was done */
}

/* The barrier has been issued, or has failed: is the block ours? Loads busy, then hot. */
static bool is_caught(const struct slm_tls *tls, bool failed)
{
    if (tls == &slm_gone_tls)
        return true;
    return !failed && !load_acquire(&tls->busy) && /* pairs with slm_thread_unclaim */
           __atomic_load_n(&tls->hot, __ATOMIC_ACQUIRE) == slm_taken;
}

bool slm_take_has(const struct slm_thread *thread)
{
    return thread->was && is_caught(thread->tls, false);
}

static void work(struct slm_thread *thread, void *context)
{
    struct catching *catching = context;
    const struct slm_take *take = catching->take;
    if (!thread->was)
        return;
    const bool caught = is_caught(thread->tls, catching->failed);
    if (caught) {
        take->work(thread, take->context);
        atomic_fetch_and(&thread->attention, (uint8_t)~SLM_ATTEND_PAUSE); /* it need not pause any more */
    } else {
        miss(thread, catching);
    }
    if (caught && take->more)
        return;
    let_go(thread);
    thread->was = NULL;
}

static slm_seldom void work_more(struct slm_thread *thread, void *context)
{
    const struct catching *catching = context;
    if (thread->was)
        catching->more(thread, catching->take->context);
}

static slm_seldom void end_more(struct slm_thread *thread, void *nothing)
{
    (void)nothing;
    if (thread->was)
        let_go(thread);
}

/* All that were caught stay so. */
static __attribute__((noinline)) slm_seldom void do_more(struct catching *catching)
{
    for (unsigned i = 0; (catching->more = catching->take->more[i]) && slm_sys_membarrier(); i++)
        slm_thread_list_each(work_more, catching);
    slm_thread_list_each(end_more, NULL);
}

unsigned slm_take_from_all(const struct slm_take *take)
{
    struct catching catching = {.take = take};
    slm_thread_list_lock();
    slm_thread_list_each(catch_one, &catching);
    if (catching.any || take->always)
        catching.failed = !slm_sys_membarrier();
    if (take->still && !catching.failed)
        take->still(take->context);
    slm_thread_list_each(work, &catching);
    if (catching.any && take->more)
        do_more(&catching);
    slm_thread_list_unlock();
    add_relaxed(&turn, 1);
    if (atomic_load(&sleepers) > 0) /* pairs with slm_take_wait */
        slm_sys_wake_all(&turn);
    return catching.missed;
}

static void recall(struct slm_thread *thread, void *context)
{
    if (slm_thread_tls(thread) == &slm_gone_tls)
        return;
    slm_thread_look_if_gone(thread);
    if (thread->tls == &slm_tls)
        store_relaxed(&thread->recalled, *(const uint32_t *)context);
    else
        atomic_fetch_or(&thread->attention, SLM_ATTEND_RECALL); /* pairs with slm_thread_attend */
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
    if (slm_thread_tls(thread) != &slm_gone_tls && recalled < *(uint32_t *)least)
        *(uint32_t *)least = recalled;
}

uint32_t slm_take_recalled(void)
{
    uint32_t least = UINT32_MAX;
    slm_thread_list_foreach(find_least, &least);
    return least;
}

/* Until `turn` is no longer `now`, or some milliseconds; at once if only a taken block is to be waited for and is not
 * taken any more. */
static void sleep_on_turn(uint32_t now, bool while_taken, unsigned ms)
{
    atomic_fetch_add(&sleepers, 1); /* pairs with slm_take_from_all */
    if (!while_taken || __atomic_load_n(&slm_tls.hot, __ATOMIC_ACQUIRE) == slm_taken)
        slm_sys_wait(&turn, now, ms);
    atomic_fetch_sub(&sleepers, 1);
}

/* The rounds that stand in for others go home: their pages, which may never have been touched, stay so. The misses to
 * come are no reason for larger magazines. */
static void give_stand_ins(struct slm_thread *thread)
{
    slm_for_each_slot (cache_id, &thread->used) {
        struct slm_slot *slot = slm_slot_of(thread, cache_id);
        slot->misses = 0;
        if (cache_id < SLM_CLASSES && slot->top != slot->bottom)
            slm_depot_give(slot->bottom++, 1, "free");
    }
}

/* The owner is back. A claim, as slm_thread_claim makes it. */
static __attribute__((noinline)) slm_seldom void unpark(struct slm_tls *tls)
{
    store_relaxed(&tls->busy, 1);
    signal_fence();
    if (__atomic_load_n(&tls->hot, __ATOMIC_ACQUIRE) != slm_parked) {
        store_release(&tls->busy, 0);
        return;
    }
    slm_shared_store(&tls->hot, slm_nothing);
    signal_fence();
    give_stand_ins(tls->self);
    slm_thread_unclaim(tls->self);
}

slm_slow void slm_take_wait(void)
{
    if (slm_hot() == slm_parked)
        unpark(&slm_tls);
    for (unsigned spin = 0; slm_hot() == slm_taken; spin++) {
        slm_fork_check();
        struct slm_thread *self = slm_tls.self;
        if (self && self->generation != slm_fork_generation) /* another thread of the child has noticed the fork */
            exchange_hot(&slm_tls, slm_taken, self);
        if (spin < spins)
            slm_cpu_relax();
        else
            sleep_on_turn(load_relaxed(&turn), true, wait_ms);
    }
}

slm_slow void slm_take_pause(void)
{
    const uint32_t start = load_relaxed(&turn);
    for (unsigned wait = 0; wait < pause_ms && load_relaxed(&turn) == start; wait++) {
        if (slm_hot() == slm_taken)
            slm_take_wait();
        else
            sleep_on_turn(start, false, 1);
    }
}

slm_often struct slm_thread *slm_thread_hide(void)
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

slm_often void slm_thread_unhide(struct slm_thread *thread)
{
    if (thread) {
        slm_thread_worked(thread);
        thread->passes += SLM_PASSES_HIDDEN;
        slm_thread_unclaim(thread);
    } else
        store_release(&slm_tls.busy, 0);
}

void slm_take_fork_child(void)
{
    if (slm_tls.self)
        exchange_hot(&slm_tls, slm_taken, slm_tls.self);
    store_relaxed(&sleepers, 0);
}
