/* When memory goes back, and who sees to it; see reclaim.h.
 *
 * Depots keep their working set: magazines that nobody missed for an interval are surplus (Bonwick and Adams). Dirty
 * spans are the same: what stayed dirty for a `purge_delay_ms` is purged. When a large object is freed, what is dirty
 * beyond `dirty_bytes` or a quarter of the heap, whichever is more, is purged at once. Where address space is scarce,
 * the bound is a sixteenth of the heap and holds for all that becomes free: the program's own mappings and threads'
 * stacks cannot wait for a delay.
 *
 * The worker is a detached pthread with all signals blocked. It is started at a thread's birth: the process has just
 * made a thread, so no sandbox forbids it yet. While there is something to give it looks four times a purge delay;
 * when it has found nothing and no thread has passed for so long that everything would have become due, it sleeps
 * until one does. It goes when it is alone with one thread: then what demands a single-threaded process (unshare,
 * setns) works again.
 *
 *     worker:  NONE --birth of a thread--> STARTING --> RUNNING <--> ASLEEP        RUNNING --alone--> NONE
 *                                                       RUNNING <--> CALLED, out of a sleep that has an end
 *
 * Retired objects it looks after five times a deferred_max_delay_ms while some wait: what does not fill a magazine is
 * put on the queue by the second pass after it came. Here, too, run the functions of slab_epoch_call.
 */
#include "process/reclaim.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "base/options.h"
#include "depot/cache_name.h"
#include "depot/pending_slabs.h"
#include "deferred/retire.h"
#include "os/sys.h"
#include "page/free_spans.h"
#include "page/purge.h"
#include "page/reservation.h"
#include "percpu/percpu.h"
#include "slab/large.h"
#include "sync/epoch.h"
#include "thread/ownership.h"

enum { scarce_dirty_least = 4 << 20, interval_ms = 1000, pass_least_ms = 2, worker_stack = 512 << 10 };

enum worker_state { WORKER_NONE, WORKER_RUNNING, WORKER_CALLED, WORKER_ASLEEP, WORKER_STARTING };

static _Atomic uint64_t purge_due_ms, trim_due_ms, pass_due_ms;
static _Atomic uint32_t worker;
static _Atomic bool active;   /* a thread has passed since the worker looked */
static _Atomic bool deferred; /* something retired may wait, or a function: cleared before a pass looks */

static uint64_t dirty_limit(void)
{
    const uint64_t heap_bytes = slm_reservation_heap_bytes();
    if (slm_span_scarce())
        return slm_min(slm_options.dirty_bytes, slm_max(scarce_dirty_least, heap_bytes / 16));
    return slm_max(slm_options.dirty_bytes, heap_bytes / 4);
}

/* True for one caller when `due` has come; the next time is `interval` from now. */
static bool claim(_Atomic uint64_t *due, uint64_t now, uint64_t interval)
{
    uint64_t was = load_relaxed(due);
    return now >= was && atomic_compare_exchange_strong(due, &was, now + interval);
}

struct trimming {
    bool all, found;
};

static void trim_cache(struct slm_cache *cache, void *context)
{
    struct trimming *trimming = context;
    slm_for_each_depot (depot, cache)
        if (slm_depot_slabs(depot) > 0 || load_relaxed(&depot->stock_rounds) > 0) /* of another depot's slabs */
            trimming->found |= slm_depot_trim(depot, trimming->all);
}

/* True if there was anything to trim. Who holds the mutex, and does not `wait` for it, trims nothing: the next look
 * will. */
static bool trim_depots(bool all, bool wait)
{
    struct trimming trimming = {all, false};
    if (load_relaxed(&slm_depot_pending))
        slm_depot_relink_pending();
    if (wait)
        slm_cache_lock();
    else if (!slm_cache_try_lock())
        return true;
    slm_cache_each(trim_cache, &trimming);
    if (slm_cache_name_some_leave())
        slm_cache_name_sweep(slm_take_recalled());
    slm_cache_unlock();
    return slm_pending_slabs_poll() || trimming.found;
}

static void purge_excess(void)
{
    if (slm_span_dirty_bytes() > dirty_limit())
        slm_span_purge(dirty_limit() / 2);
}

/* What has become due. True if anything was done. */
static bool do_due(uint64_t now)
{
    bool done = false;
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    if (claim(&trim_due_ms, now, interval_ms)) {
        done |= trim_depots(false, false);
        done |= slm_percpu_trim(false);
    }
    if (slm_span_dirty_bytes() > 0 && claim(&purge_due_ms, now, slm_options.purge_delay_ms))
        done |= slm_span_purge_surplus() > 0;
    if (slm_span_scarce())
        purge_excess();
    return done;
}

/* What comes right behind a pass waits for two of them, and a grace period. */
static unsigned pass_interval_ms(void)
{
    return (unsigned)slm_max(slm_options.deferred_max_delay_ms / 5, pass_least_ms);
}

void slm_reclaim_deferred(struct slm_thread *self)
{
    bool open = true;
    if (likely(!load_relaxed(&deferred)))
        return;
    if (claim(&pass_due_ms, slm_sys_now_us() / 1000, pass_interval_ms())) {
        atomic_exchange(&deferred, false); /* pairs with slm_reclaim_note_deferred */
        slm_retire_pass(self, false, &open);
    }
    slm_epoch_poll();
    if (slm_defer_queue_ripen_all())
        slm_reclaim_after_free();
    if (open || load_relaxed(&slm_defer_queue_objects) > 0 || slm_defer_queue_functions_waiting() > 0)
        slm_reclaim_note_deferred();
}

/* In the worker, which has a block if functions or destructors have allocated. */
static void do_deferred(void)
{
    struct slm_thread *self = slm_thread_hide();
    slm_reclaim_deferred(self);
    slm_thread_unhide(self);
    slm_defer_queue_call_functions();
}

/* What functions and destructors have freed here is of more use to others. */
static void empty_own(void)
{
    struct slm_thread *self = slm_thread_hide();
    if (self) {
        slm_retire_empty_slots(self);
        slm_thread_empty(self, SLM_TO_DEPOT);
    }
    slm_thread_unhide(self);
}

/* The worker sleeps for good. The exchange and slm_reclaim_thread_gone's fence order "asleep, then look at the
 * threads" against "one thread less, then look whether it sleeps": one of both sees the other. So do the exchange and
 * note_activity's store, "asleep, then look for activity" against "active, then look whether it sleeps". */
static void fall_asleep(void)
{
    atomic_exchange(&worker, WORKER_ASLEEP);
    while (load_relaxed(&worker) == WORKER_ASLEEP && !atomic_load(&active) && !atomic_load(&deferred) &&
           slm_thread_list_count() > 1)
        slm_sys_wait(&worker, WORKER_ASLEEP, 0);
    store_relaxed(&worker, WORKER_RUNNING);
}

static void wake_worker(void)
{
    uint32_t asleep = WORKER_ASLEEP;
    if (atomic_compare_exchange_strong(&worker, &asleep, WORKER_RUNNING))
        slm_sys_wake(&worker);
}

/* A thread has given something back, or may have. Who finds the flag set leaves the worker to whoever set it. */
static void note_activity(void)
{
    if (load_relaxed(&active))
        return;
    atomic_store(&active, true); /* pairs with fall_asleep */
    if (atomic_load(&worker) == WORKER_ASLEEP)
        wake_worker();
}

static void call_worker(void)
{
    uint32_t running = WORKER_RUNNING;
    if (atomic_load(&worker) == WORKER_ASLEEP) /* pairs with fall_asleep */
        wake_worker();
    else if (!slm_tls.helper && atomic_compare_exchange_strong(&worker, &running, WORKER_CALLED))
        slm_sys_wake(&worker);
}

/* The fence: what waits can be found before the look at the flag. */
void slm_reclaim_note_deferred(void)
{
    slm_fence(); /* pairs with slm_reclaim_deferred and fall_asleep */
    if (!load_relaxed(&deferred) && !atomic_exchange(&deferred, true))
        call_worker();
}

/* By several threads, or by what one of several has left to it. */
static bool is_needed(void)
{
    return slm_thread_list_count() > 1 || load_relaxed(&deferred);
}

/* Until the worker is alone with one thread. What a thread leaves behind is due after two intervals at most: the
 * first finds the least that was there in a time when it still was in use. */
static void work_while_needed(void)
{
    const unsigned idle_ms = (unsigned)slm_options.purge_delay_ms / 4 + 10;
    const uint64_t quiet_ms = 2 * (interval_ms + slm_options.purge_delay_ms);
    uint64_t busy_ms = slm_sys_now_ms();
    while (is_needed()) {
        uint32_t called = WORKER_CALLED;
        atomic_compare_exchange_strong(&worker, &called, WORKER_RUNNING); /* before it looks: pairs with the call */
        const uint64_t now = slm_sys_now_ms();
        const bool passed = atomic_exchange(&active, false);
        do_deferred();
        slm_pending_slabs_release(NULL);
        empty_own();
        const bool done = do_due(now), waiting = load_relaxed(&deferred);
        if (done || passed || waiting)
            busy_ms = now;
        if (now - busy_ms < quiet_ms) {
            slm_sys_wait(&worker, WORKER_RUNNING, waiting ? (unsigned)slm_min(pass_interval_ms(), idle_ms) : idle_ms);
        } else {
            fall_asleep();
            busy_ms = slm_sys_now_ms(); /* what it was woken for becomes due later */
        }
    }
}

static void *work(void *nothing)
{
    uint32_t none;
    slm_tls.helper = true;
    prctl(PR_SET_NAME, "slabmalloc", 0, 0, 0);
    store_release(&worker, WORKER_RUNNING);
    slm_sys_wake(&worker);
    do { /* a thread that was born while the worker was about to go has not started another */
        work_while_needed();
        atomic_exchange(&worker, WORKER_NONE);
        none = WORKER_NONE;
    } while (is_needed() && atomic_compare_exchange_strong(&worker, &none, WORKER_RUNNING));
    return nothing;
}

slm_seldom void slm_reclaim_start_worker(void)
{
    uint32_t none = WORKER_NONE;
    if (!slm_options.worker || load_relaxed(&worker) != WORKER_NONE ||
        !atomic_compare_exchange_strong(&worker, &none, WORKER_STARTING))
        return;
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, worker_stack);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, &attributes, work, NULL) != 0)
        store_relaxed(&worker, WORKER_NONE); /* the slow paths go on doing it */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    /* Its first system calls are not those of a sandbox that this thread may enter next. */
    for (unsigned wait = 0; wait < 100 && load_acquire(&worker) == WORKER_STARTING; wait++)
        slm_sys_wait(&worker, WORKER_STARTING, 10);
}

void slm_reclaim_thread_gone(void)
{
    slm_fence(); /* pairs with fall_asleep */
    if (slm_thread_list_count() > 1 || load_relaxed(&worker) == WORKER_NONE)
        return;
    wake_worker();
    slm_sys_wake(&worker); /* out of a timed sleep too */
}

slm_seldom void slm_reclaim_fork_child(void)
{
    store_relaxed(&worker, WORKER_NONE);
}

void slm_reclaim_tick(struct slm_thread *thread)
{
    const uint64_t now = slm_sys_now_ms();
    if ((uint32_t)now - thread->adapted_ms >= interval_ms) {
        if (thread->adapted_ms != 0) /* else its first tick */
            slm_thread_adapt(thread);
        thread->adapted_ms = (uint32_t)now;
    }
    if (load_relaxed(&worker) == WORKER_NONE) {
        do_due(now);
        slm_reclaim_deferred(thread);
    } else {
        note_activity();
    }
}

void slm_reclaim_after_free(void)
{
    note_activity();
    purge_excess();
}

void slm_reclaim_if_scarce(void)
{
    if (unlikely(slm_span_scarce()))
        slm_reclaim_after_free();
}

size_t slm_reclaim_all(bool wait)
{
    if (load_relaxed(&slm_large_pending))
        slm_large_free_pending();
    trim_depots(true, wait);
    slm_percpu_trim(true);
    return slm_span_scarce() ? slm_span_unmap_free() : slm_span_purge(0);
}
