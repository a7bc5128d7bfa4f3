/* The worker, and what slow paths do without one; see worker.h.
 *
 * The worker is a pthread with all signals blocked. It is started where a thread is created, before it; where the
 * library does not see that, when a second thread first allocates. Later a sandbox may forbid it. While there is
 * memory to give back it looks four times per purge delay. When it has found none, and no thread was active for so
 * long that everything would have become due, it sleeps until one is.
 *
 *     worker:  NONE --a thread comes--> STARTING --> RUNNING <--> ASLEEP
 *                                                    RUNNING <--> CALLED, out of a sleep that has an end
 *                                                    RUNNING --alone--> LEAVING --> NONE, or a thread comes: RUNNING
 *
 * It ends when it is alone with one thread: then calls that demand a single-threaded process (unshare, setns) work.
 * The thread whose end has left it alone waits until it is gone, so that who joins that thread can make such calls.
 * Before, the worker frees what has been retired, if readers let it. It says no if it is still needed. And nobody
 * waits once it has run functions or destructors of the program's, as they may wait for that very thread.
 *
 * While retired objects wait it looks five times per deferred_max_delay_ms: a magazine that does not fill up is put
 * on the queue by the second pass after its first object came. The functions of slab_epoch_call run here, too. */
#include "process/worker.h"

#include <pthread.h>

#include "base/options.h"
#include "deferred/retire.h"
#include "depot/pending_slabs.h"
#include "os/background.h"
#include "os/sys.h"
#include "page/charge.h"
#include "page/demand.h"
#include "page/free_spans.h"
#include "process/limits.h"
#include "process/mailbox.h"
#include "process/reclaim.h"
#include "sync/epoch.h"
#include "thread/park.h"

enum {
    pass_least_ms = 2,
    alone_ms = 10,
    attempts_most = 20,
    worker_stack = 512 << 10,
    fruitless_most = 2,
    fruitless_ms = 1000,
    worth_bytes = 8 << 20,
    last_steps_ms = 50,
    look_bytes = 1 << 20,
    starts_most = 8,
    starts_interval_ms = 20,
    look_ms = 1000 /* at limits, and at the mailbox, however long a purge waits */
};

enum worker_state {
    WORKER_NONE,
    WORKER_STARTING, /* for ever, if a sandbox ends it at its first system call */
    WORKER_RUNNING,
    WORKER_CALLED,
    WORKER_ASLEEP,
    WORKER_LEAVING,
};

static _Atomic uint32_t worker;
static _Atomic bool active;        /* a thread was active since the worker looked */
static _Atomic bool deferred;      /* retired objects or functions may wait: cleared before a pass looks */
static _Atomic bool ever_deferred; /* it has been set once */

/* Live threads: the first one, those whose creation was seen, and in other processes those that have allocated. */
static _Atomic uint32_t living = 1;
static _Atomic(slm_thread_creator) creator; /* NULL: no creation was seen */

/* -- waking it --------------------------------------------------------------------------------------------------- */

/* Out of any sleep. */
static void call_worker(void)
{
    uint32_t state = WORKER_RUNNING;
    if (atomic_compare_exchange_strong(&worker, &state, WORKER_CALLED) ||
        (state == WORKER_ASLEEP && atomic_compare_exchange_strong(&worker, &state, WORKER_RUNNING)))
        slm_sys_wake(&worker);
}

/* Memory has become free, or may have. A thread that finds the flag set leaves the worker to the one that set it. */
void slm_worker_note_active(void)
{
    if (load_relaxed(&active))
        return;
    atomic_store(&active, true); /* pairs with fall_asleep */
    if (atomic_load(&worker) == WORKER_ASLEEP)
        call_worker();
}

void slm_worker_note_deferred(void)
{
    slm_fence(); /* the object can be found before the flag is read: pairs with slm_worker_do_deferred, fall_asleep */
    if (load_relaxed(&deferred) || atomic_exchange(&deferred, true))
        return;
    store_relaxed(&ever_deferred, true);
    if (!slm_tls.helper)
        call_worker(); /* pairs with fall_asleep */
}

static bool is_helped(void)
{
    return load_relaxed(&worker) > WORKER_STARTING;
}

slm_seldom void slm_worker_note_mail(struct slm_thread *thread)
{
    if (is_helped())
        call_worker();
    else
        atomic_fetch_or(&thread->attention, SLM_ATTEND_MAIL);
}

/* Nothing happens where the caller is in a slow path. */
static slm_seldom void serve_mail(void)
{
    if (is_helped())
        call_worker();
    else
        slm_mailbox_serve(NULL);
}

/* The call comes after the word is given: pairs with sleep_until_woken. */
slm_seldom void slm_worker_forbid(void)
{
    slm_background_forbid();
    call_worker();
    slm_park_forbid();
}

static bool reclaim_due(uint64_t now, bool helped, bool parked)
{
    const bool limited = unlikely(load_relaxed(&slm_limits_watched)) && slm_limits_tick(now);
    return slm_reclaim_due(now, helped, parked) | limited;
}

void slm_worker_note_freed(void)
{
    if (is_helped())
        slm_worker_note_active();
    else if (slm_span_dirty_bytes() > 0)
        reclaim_due(slm_sys_now_ms(), false, false);
    const uint64_t replaced = slm_demand_take_replaced();
    if (unlikely(replaced > 0))
        slm_reclaim_replaced(replaced);
    if (unlikely(slm_demand_fell()))
        slm_reclaim_fallen(is_helped());
    slm_reclaim_excess();
    if (unlikely(slm_charge_is_near()))
        slm_limits_purge();
    if (slm_mailbox_waits())
        serve_mail();
}

void slm_worker_note_kept(void)
{
    if (is_helped())
        slm_worker_note_active();
}

void slm_worker_note_large(size_t bytes)
{
    slm_worker_note_kept();
    static _Atomic uint64_t unseen; /* lags where threads race */
    const uint64_t sum = load_relaxed(&unseen) + bytes;
    store_relaxed(&unseen, sum < look_bytes ? sum : 0);
    if (sum >= look_bytes)
        slm_worker_note_freed();
}

void slm_worker_look_at_spans(void)
{
    store_relaxed(&slm_span_look_due, false);
    slm_reclaim_grown();
    slm_worker_note_freed();
}

/* -- what there is to do ----------------------------------------------------------------------------------------- */

/* An object waits for two passes at most, and a grace period. */
static unsigned pass_interval_ms(void)
{
    return (unsigned)slm_max(slm_setting(deferred_max_delay_ms) / 5, pass_least_ms);
}

void slm_worker_do_deferred(struct slm_thread *self, bool all)
{
    static _Atomic uint64_t pass_due_ms;
    bool open = true;
    if (likely(!load_relaxed(&deferred)))
        return;
    if (all || slm_reclaim_claim(&pass_due_ms, slm_sys_now_us() / 1000, pass_interval_ms())) {
        atomic_exchange(&deferred, false); /* pairs with slm_worker_note_deferred */
        const unsigned left = slm_retire_pass(self, all, &open);
        open = open && (!all || left > 0);
    }
    if (all)
        slm_epoch_await(load_relaxed(&slm_epoch_wanted), 0); /* as far as it comes without a wait */
    else
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
    if (is_helped()) {
        slm_worker_note_active();
    } else {
        reclaim_due(now, false, slm_park_pass(now));
        slm_worker_do_deferred(thread, false);
    }
}

/* -- the worker -------------------------------------------------------------------------------------------------- */

/* The thread that waits for the worker's end. */
struct waiter {
    _Atomic uint32_t answer;
    pthread_t worker; /* to be joined, if it ends */
};

enum answer { NO_ANSWER, ENDS, STAYS };

static struct waiter nobody;             /* yet */
static _Atomic(struct waiter *) waiting; /* NULL: none may wait, and the worker is detached, or there is none */

static slm_cold void answer(struct waiter *waiter, enum answer how)
{
    if (!waiter || waiter == &nobody)
        return;
    waiter->worker = pthread_self();
    store_release(&waiter->answer, how); /* pairs with await_end; it may be gone from here on */
    slm_sys_wake(&waiter->answer);
}

/* The program's code may wait for the very thread that waits for the worker, in the destructors of thread-specific
 * values too: from here on nobody waits. */
static slm_cold void detach(void)
{
    if (load_relaxed(&waiting)) {
        pthread_detach(pthread_self());
        answer(atomic_exchange(&waiting, NULL), STAYS); /* pairs with await_end */
    }
}

/* Slabs that are vacant, and whose objects have a destructor. */
static slm_cold void destruct(void)
{
    if (load_relaxed(&slm_pending_slabs_due) > 0) {
        detach();
        slm_pending_slabs_release(NULL);
    }
}

/* Retired objects, functions and destructors. What these have freed in the worker is of more use to other threads. */
static slm_cold void do_deferred(bool all)
{
    struct slm_thread *self = slm_thread_hide();
    slm_worker_do_deferred(self, all);
    slm_thread_unhide(self);
    if (slm_defer_queue_functions_waiting() > 0) {
        detach();
        slm_defer_queue_call_functions();
    }
    destruct();
    if ((self = slm_thread_hide())) { /* it has a block only if they have allocated */
        slm_retire_empty_slots(self);
        slm_thread_empty(self, SLM_TO_DEPOT);
    }
    slm_thread_unhide(self);
}

static bool are_several(void)
{
    return slm_thread_list_count() > 1 || load_relaxed(&living) > 1;
}

/* By several threads, or by retired objects that one of several has left to it. */
static bool is_needed(void)
{
    return are_several() || load_relaxed(&deferred);
}

/* Where it can, it sleeps on the bell as well. Under a sandbox it cannot: all know futex(2), but not its younger
 * brother. Who announces one wakes the worker, and waits until it is out of that. */
static bool hears_bell;

static slm_cold void sleep_until_woken(void)
{
    slm_always_read static const struct slm_sys_word words[] = {
        {WORKER_ASLEEP, &worker, SLM_SYS_PRIVATE},
        {0, &slm_mailbox_note.bell, SLM_SYS_SHARED},
    };
    if (hears_bell) {
        hears_bell = slm_background_begin() && slm_sys_wait_any(words, 2);
        slm_background_end();
    } else {
        slm_sys_wait(&worker, WORKER_ASLEEP, 0);
    }
}

/* Sleep until woken. The exchange and slm_worker_thread_gone's fence order "asleep, then look at the threads" against
 * "one thread less, then look whether it sleeps": one of both sees the other. So do the exchange and the store of
 * slm_worker_note_active, "asleep, then look for activity" against "active, then look whether it sleeps". */
static slm_cold void fall_asleep(void)
{
    atomic_exchange(&worker, WORKER_ASLEEP);
    while (load_relaxed(&worker) == WORKER_ASLEEP && !atomic_load(&active) && !atomic_load(&deferred) &&
           !slm_mailbox_waits() && are_several())
        sleep_until_woken();
    atomic_exchange(&worker, WORKER_RUNNING); /* over a call: before the next look */
}

/* The call is taken before what it was for is looked at: pairs with call_worker. */
static slm_cold bool take_call(void)
{
    uint32_t called = WORKER_CALLED;
    atomic_compare_exchange_strong(&worker, &called, WORKER_RUNNING);
    return is_needed();
}

/* The thread that has left the worker alone is about to wait for its end, if it does not yet. Who waits is answered
 * here if it does not end. */
static slm_cold bool look_whether_needed(void)
{
    if (!take_call() && atomic_load(&waiting) == &nobody) {
        slm_sys_wait(&worker, WORKER_RUNNING, alone_ms);
        take_call();
    }
    if (atomic_load(&waiting) == &nobody) /* pairs with await_end */
        return is_needed();
    for (unsigned i = 0; i < attempts_most && load_relaxed(&waiting) && !are_several(); i++) {
        do_deferred(true);
        if (!is_needed())
            return false;
        slm_sys_sleep_ms(1); /* for the next barrier, or a thread in a slow path */
    }
    const bool needed = is_needed();
    if (needed && load_relaxed(&waiting)) /* it is not detached, nor has become so */
        answer(atomic_exchange(&waiting, &nobody), STAYS);
    return needed;
}

static _Atomic uint32_t fruitless; /* lives of workers, one after the other, in which nothing was given back */
static _Atomic uint64_t ended_ms;  /* the last of them */

/* Until the worker is alone with one thread. Memory that a thread leaves is due after two intervals at most: in the
 * first one it was still in use. */
static slm_cold void work_while_needed(void)
{
    uint64_t busy_ms = slm_sys_now_ms();
    while (look_whether_needed()) {
        const uint64_t now = slm_sys_now_ms();
        const bool passed = atomic_exchange(&active, false);
        if (slm_mailbox_waits())
            slm_mailbox_serve(destruct);
        do_deferred(false);
        const bool parks = slm_park_pass(now), done = reclaim_due(now, true, parks), waits = load_relaxed(&deferred);
        if (done || passed || parks || waits)
            busy_ms = now;
        if (done || waits)
            store_relaxed(&fruitless, 0);
        const uint64_t delay_ms = slm_setting(purge_delay_ms);
        const unsigned idle_ms = (unsigned)slm_min(delay_ms / 4 + 10, look_ms);
        if (now - busy_ms < 2 * (SLM_RECLAIM_INTERVAL_MS + delay_ms)) {
            slm_sys_wait(&worker, WORKER_RUNNING, waits ? (unsigned)slm_min(pass_interval_ms(), idle_ms) : idle_ms);
        } else {
            fall_asleep();
            busy_ms = slm_sys_now_ms(); /* the memory that it was woken for becomes due later */
        }
    }
}

/* False: a thread has come meanwhile, and found the worker there. */
static slm_cold bool leave(void)
{
    uint32_t leaving = WORKER_LEAVING;
    atomic_exchange(&worker, WORKER_LEAVING); /* then look: pairs with slm_worker_thread_comes, start */
    if (is_needed()) {
        atomic_exchange(&worker, WORKER_RUNNING);
        return false;
    }
    struct waiter *waiter = atomic_exchange(&waiting, NULL); /* before a next worker lets itself be waited for */
    const bool ends = atomic_compare_exchange_strong(&worker, &leaving, WORKER_NONE);
    if (ends && waiter == &nobody)
        pthread_detach(pthread_self());
    if (!ends && waiter)
        atomic_store(&waiting, &nobody);
    answer(waiter, ends ? ENDS : STAYS);
    return ends;
}

static slm_cold void *work(void *nothing)
{
    slm_tls.helper = true;
    hears_bell = slm_background_enter();
    atomic_store(&waiting, &nobody);
    store_relaxed(&slm_demand_watched, true);
    store_release(&worker, WORKER_RUNNING);
    slm_sys_wake(&worker);
    add_relaxed(&fruitless, 1); /* until it has done something */
    do
        work_while_needed();
    while (!leave());
    store_relaxed(&slm_demand_watched, false);
    store_relaxed(&ended_ms, slm_sys_now_ms());
    return nothing;
}

/* -- beginning and end ------------------------------------------------------------------------------------------- */

/* Where threads come and go at once, the worker would come and go with each. So in a small heap two lives in which it
 * had nothing to do are enough for a second, and in a large one few threads get one. But a program that retires
 * objects always has its worker. */
static slm_cold bool is_worth_it(void)
{
    static _Atomic uint64_t since_ms;
    static _Atomic uint32_t starts;
    const uint64_t now = slm_sys_now_ms();
    if (load_relaxed(&ever_deferred))
        return true;
    if (load_relaxed(&fruitless) >= fruitless_most && now - load_relaxed(&ended_ms) < fruitless_ms &&
        slm_demand_used() < worth_bytes)
        return false;
    if (now - load_relaxed(&since_ms) >= starts_interval_ms) {
        store_relaxed(&since_ms, now);
        store_relaxed(&starts, 0);
    }
    return add_relaxed(&starts, 1) < starts_most;
}

static _Atomic(const struct slm_tls *) starter; /* the thread that creates the worker */

static slm_cold void create_worker(void)
{
    const slm_thread_creator seen = load_relaxed(&creator);
    pthread_attr_t attributes;
    pthread_t thread;
    store_relaxed(&starter, &slm_tls);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, worker_stack);
    const uint64_t before = slm_sys_block_signals();
    if ((seen ? seen : pthread_create)(&thread, &attributes, work, NULL) != 0)
        store_relaxed(&worker, WORKER_NONE); /* the slow paths go on doing it */
    slm_sys_restore_signals(before);
    pthread_attr_destroy(&attributes);
    store_relaxed(&starter, NULL);
}

/* Its first system calls come before this thread can enter a sandbox. */
static slm_cold void start(void)
{
    uint32_t state = WORKER_LEAVING; /* then it stays */
    if (!slm_options.worker || atomic_compare_exchange_strong(&worker, &state, WORKER_RUNNING) ||
        state != WORKER_NONE || !is_worth_it() || !atomic_compare_exchange_strong(&worker, &state, WORKER_STARTING))
        return;
    create_worker();
    for (unsigned wait = 0; wait < 100 && load_acquire(&worker) == WORKER_STARTING; wait++)
        slm_sys_wait(&worker, WORKER_STARTING, 10);
}

/* The worker answers at its next look, in which no code of the program's runs. All signals wait, as their handlers
 * may fork: the child has no worker. */
static slm_cold bool await_end(void)
{
    struct waiter self = {.answer = NO_ANSWER}, *none = &nobody;
    int state;
    const uint64_t before = slm_sys_block_signals();
    const bool waits = atomic_compare_exchange_strong(&waiting, &none, &self); /* before the call */
    call_worker();
    while (waits && load_acquire(&self.answer) == NO_ANSWER) /* pairs with answer */
        slm_sys_wait(&self.answer, NO_ANSWER, 0);
    const bool ends = load_relaxed(&self.answer) == ENDS;
    if (ends) {
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
        pthread_join(self.worker, NULL);
        pthread_setcancelstate(state, NULL);
    }
    slm_sys_restore_signals(before);
    return ends;
}

/* True: there was one, and it is gone. */
static slm_cold bool end_if_alone(void)
{
    slm_fence(); /* pairs with fall_asleep */
    return !are_several() && load_relaxed(&worker) != WORKER_NONE && await_end();
}

slm_cold void slm_worker_thread_comes(bool with_worker, slm_thread_creator create)
{
    if (load_relaxed(&starter) == &slm_tls)
        return;
    store_relaxed(&creator, create);
    atomic_fetch_add(&living, 1); /* pairs with leave */
    if (with_worker)
        start();
}

slm_seldom bool slm_worker_thread_failed(void)
{
    if (load_relaxed(&starter) == &slm_tls)
        return false;
    atomic_fetch_sub(&living, 1);
    if (!end_if_alone() && slm_sys_now_ms() - load_relaxed(&ended_ms) >= last_steps_ms)
        return false;
    slm_sys_sleep_ms(1); /* the kernel counts a thread that has been joined until its last steps are done */
    atomic_fetch_add(&living, 1);
    return true;
}

slm_seldom void slm_worker_thread_found(void)
{
    if (slm_tls.helper || load_relaxed(&creator))
        return;
    slm_tls.came = true;
    atomic_fetch_add(&living, 1);
    start();
}

slm_cold void slm_worker_thread_gone(bool was_seen)
{
    if (slm_tls.helper)
        return;
    if (was_seen)
        atomic_fetch_sub(&living, 1);
    end_if_alone();
    if (!are_several())
        slm_reclaim_alone();
}

slm_cold void slm_worker_fork_child(void)
{
    store_relaxed(&worker, WORKER_NONE);
    store_relaxed(&slm_demand_watched, false);
    store_relaxed(&waiting, NULL);
    store_relaxed(&starter, NULL);
    store_relaxed(&living, 1);
    slm_tls.came = true;
}
