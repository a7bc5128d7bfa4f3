/* The worker, and what slow paths do without one; see worker.h.
 *
 * The worker is a detached pthread with all signals blocked. It is started at a thread's birth: the process has just
 * made a thread, so no sandbox forbids it yet. While there is memory to give back it looks four times per purge
 * delay. When it has found none, and no thread was active for so long that everything would have become due, it
 * sleeps until one is. It ends when it is alone with one thread: then calls that demand a single-threaded process
 * (unshare, setns) work again.
 *
 *     worker:  NONE --birth of a thread--> STARTING --> RUNNING <--> ASLEEP        RUNNING --alone--> NONE
 *                                                       RUNNING <--> CALLED, out of a sleep that has an end
 *
 * While retired objects wait it looks five times per deferred_max_delay_ms: a magazine that does not fill up is put
 * on the queue by the second pass after its first object came. The functions of slab_epoch_call run here, too. */
#include "process/worker.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "base/options.h"
#include "deferred/retire.h"
#include "depot/pending_slabs.h"
#include "os/sys.h"
#include "page/free_spans.h"
#include "process/reclaim.h"
#include "sync/epoch.h"
#include "thread/ownership.h"

enum { pass_least_ms = 2, worker_stack = 512 << 10 };

enum worker_state { WORKER_NONE, WORKER_RUNNING, WORKER_CALLED, WORKER_ASLEEP, WORKER_STARTING };

static _Atomic uint32_t worker;
static _Atomic bool active;   /* a thread was active since the worker looked */
static _Atomic bool deferred; /* retired objects or functions may wait: cleared before a pass looks */

/* -- waking it --------------------------------------------------------------------------------------------------- */

static void wake_worker(void)
{
    uint32_t asleep = WORKER_ASLEEP;
    if (atomic_compare_exchange_strong(&worker, &asleep, WORKER_RUNNING))
        slm_sys_wake(&worker);
}

/* Memory has become free, or may have. A thread that finds the flag set leaves the worker to the one that set it. */
static void note_activity(void)
{
    if (load_relaxed(&active))
        return;
    atomic_store(&active, true); /* pairs with fall_asleep */
    if (atomic_load(&worker) == WORKER_ASLEEP)
        wake_worker();
}

void slm_worker_note_deferred(void)
{
    uint32_t running = WORKER_RUNNING;
    slm_fence(); /* the object can be found before the flag is read: pairs with slm_worker_do_deferred, fall_asleep */
    if (load_relaxed(&deferred) || atomic_exchange(&deferred, true))
        return;
    if (atomic_load(&worker) == WORKER_ASLEEP) /* pairs with fall_asleep */
        wake_worker();
    else if (!slm_tls.helper && atomic_compare_exchange_strong(&worker, &running, WORKER_CALLED))
        slm_sys_wake(&worker);
}

void slm_worker_note_freed(void)
{
    note_activity();
    slm_reclaim_excess();
}

void slm_worker_note_freed_if_scarce(void)
{
    if (unlikely(slm_span_scarce()))
        slm_worker_note_freed();
}

void slm_worker_thread_gone(void)
{
    slm_fence(); /* pairs with fall_asleep */
    if (slm_thread_list_count() > 1 || load_relaxed(&worker) == WORKER_NONE)
        return;
    wake_worker();
    slm_sys_wake(&worker); /* out of a timed sleep too */
}

slm_seldom void slm_worker_fork_child(void)
{
    store_relaxed(&worker, WORKER_NONE);
}

/* -- what there is to do ----------------------------------------------------------------------------------------- */

/* An object waits for two passes at most, and a grace period. */
static unsigned pass_interval_ms(void)
{
    return (unsigned)slm_max(slm_options.deferred_max_delay_ms / 5, pass_least_ms);
}

void slm_worker_do_deferred(struct slm_thread *self)
{
    static _Atomic uint64_t pass_due_ms;
    bool open = true;
    if (likely(!load_relaxed(&deferred)))
        return;
    if (slm_reclaim_claim(&pass_due_ms, slm_sys_now_us() / 1000, pass_interval_ms())) {
        atomic_exchange(&deferred, false); /* pairs with slm_worker_note_deferred */
        slm_retire_pass(self, false, &open);
    }
    slm_epoch_poll();
    if (slm_defer_queue_ripen_all())
        slm_worker_note_freed();
    if (open || load_relaxed(&slm_defer_queue_objects) > 0 || slm_defer_queue_functions_waiting() > 0)
        slm_worker_note_deferred();
}

void slm_worker_tick(struct slm_thread *thread)
{
    const uint64_t now = slm_sys_now_ms();
    if ((uint32_t)now - thread->adapted_ms >= SLM_RECLAIM_INTERVAL_MS) {
        if (thread->adapted_ms != 0) /* else its first tick */
            slm_thread_adapt(thread);
        thread->adapted_ms = (uint32_t)now;
    }
    if (load_relaxed(&worker) == WORKER_NONE) {
        slm_reclaim_due(now);
        slm_worker_do_deferred(thread);
    } else {
        note_activity();
    }
}

/* -- the worker -------------------------------------------------------------------------------------------------- */

/* Retired objects, functions and destructors. What these have freed in the worker is of more use to other threads. */
static void do_deferred(void)
{
    struct slm_thread *self = slm_thread_hide();
    slm_worker_do_deferred(self);
    slm_thread_unhide(self);
    slm_defer_queue_call_functions();
    slm_pending_slabs_release(NULL);
    if ((self = slm_thread_hide())) { /* it has a block only if they have allocated */
        slm_retire_empty_slots(self);
        slm_thread_empty(self, SLM_TO_DEPOT);
    }
    slm_thread_unhide(self);
}

/* Sleep until woken. The exchange and slm_worker_thread_gone's fence order "asleep, then look at the threads" against
 * "one thread less, then look whether it sleeps": one of both sees the other. So do the exchange and note_activity's
 * store, "asleep, then look for activity" against "active, then look whether it sleeps". */
static void fall_asleep(void)
{
    atomic_exchange(&worker, WORKER_ASLEEP);
    while (load_relaxed(&worker) == WORKER_ASLEEP && !atomic_load(&active) && !atomic_load(&deferred) &&
           slm_thread_list_count() > 1)
        slm_sys_wait(&worker, WORKER_ASLEEP, 0);
    store_relaxed(&worker, WORKER_RUNNING);
}

/* By several threads, or by retired objects that one of several has left to it. */
static bool is_needed(void)
{
    return slm_thread_list_count() > 1 || load_relaxed(&deferred);
}

/* Until the worker is alone with one thread. Memory that a thread leaves is due after two intervals at most: in the
 * first one it was still in use. */
static void work_while_needed(void)
{
    const unsigned idle_ms = (unsigned)slm_options.purge_delay_ms / 4 + 10;
    const uint64_t quiet_ms = 2 * (SLM_RECLAIM_INTERVAL_MS + slm_options.purge_delay_ms);
    uint64_t busy_ms = slm_sys_now_ms();
    while (is_needed()) {
        uint32_t called = WORKER_CALLED;
        /* before it looks: pairs with slm_worker_note_deferred */
        atomic_compare_exchange_strong(&worker, &called, WORKER_RUNNING);
        const uint64_t now = slm_sys_now_ms();
        const bool passed = atomic_exchange(&active, false);
        do_deferred();
        const bool done = slm_reclaim_due(now), waiting = load_relaxed(&deferred);
        if (done || passed || waiting)
            busy_ms = now;
        if (now - busy_ms < quiet_ms) {
            slm_sys_wait(&worker, WORKER_RUNNING, waiting ? (unsigned)slm_min(pass_interval_ms(), idle_ms) : idle_ms);
        } else {
            fall_asleep();
            busy_ms = slm_sys_now_ms(); /* the memory that it was woken for becomes due later */
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

slm_cold void slm_worker_start(void)
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
    /* Its first system calls come before this thread can enter a sandbox. */
    for (unsigned wait = 0; wait < 100 && load_acquire(&worker) == WORKER_STARTING; wait++)
        slm_sys_wait(&worker, WORKER_STARTING, 10);
}
