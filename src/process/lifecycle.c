/* Start, birth, exit, fork; see lifecycle.h.
 *
 * In a child of fork the other threads' blocks are orphans (thread/thread_list.h; sync/fork.h and sync/lock.h explain
 * the rest). This may run in a signal handler that forked in the middle of a slow path. A handler that allocates in
 * the child and then returns into that slow path may meet lists that it has restarted: it should exec or _exit.
 *
 * Orphans are buried at leisure: a child that execs at once touches none of them. A thread that is born takes over
 * what two of them hold, whole, before it needs memory of its own: so generations of forks do not grow. Ticks do the
 * same by a few slots each, and so does giving everything back. */
#include "process/lifecycle.h"

#include <limits.h>
#include <pthread.h>

#include "base/errno.h"
#include "base/options.h"
#include "base/panic.h"
#include "figures/figures.h"
#include "figures/report.h"
#include "process/fault.h"
#include "process/limits.h"
#include "process/mailbox.h"
#include "process/reclaim.h"
#include "process/worker.h"
#include "os/background.h"
#include "os/sys.h"
#include "os/topology.h"
#include "os/vm.h"
#include "page/free_spans.h"
#include "page/huge.h"
#include "page/metadata.h"
#include "deferred/retire.h"
#include "page/reservation.h"
#include "sync/epoch.h"
#include "page/page_map.h"
#include "sample/interval.h"
#include "thread/gather.h"
#include "thread/thread_list.h"

enum { direct_passes_most = 64, slots_a_tick = 8, orphans_a_birth = 2 };

enum process_state { PROCESS_NEW, PROCESS_STARTED, PROCESS_FAILED };

static slm_once _Atomic uint32_t process_state;
static struct slm_lock start_lock = {.rank = SLM_RANK_START};
static slm_once pthread_key_t exit_key;
static slm_once bool exit_key_made;
static slm_once struct slm_tls *main_tls; /* NULL: another thread has started the library */

static void thread_exit(void *any);

/* If the caller is not the thread that forked, that one links itself at its next tick. */
static slm_seldom void fork_child(void)
{
    slm_lock_rank_forget();
    slm_take_fork_child();
    slm_cache_fork_child();
    slm_thread_list_fork_child(slm_tls.self);
    slm_worker_fork_child();
    slm_epoch_fork_child();
    slm_defer_queue_fork_child();
    slm_mailbox_fork_child();
}

/* The list's lock keeps takers out. A handler may fork meanwhile: the list of its child starts empty. */
slm_seldom bool slm_process_bury(unsigned slots)
{
    slm_thread_list_lock();
    const uint32_t generation = slm_fork_generation;
    struct slm_thread *orphan = slm_thread_list_orphan();
    if (!orphan) {
        slm_thread_list_unlock();
        return false;
    }
    slm_thread_look_if_gone(orphan);
    slm_for_each_slot (cache_id, &orphan->used) {
        if (load_relaxed(&slm_slot_of(orphan, cache_id)->target) == 0)
            continue;
        if (slots-- == 0) {
            slm_thread_list_unlock();
            return true;
        }
        slm_thread_empty_slot(orphan, cache_id, SLM_TO_DEPOT);
    }
    slm_retire_empty_slots(orphan);
    slm_reserve_empty(orphan, true);
    slm_kept_release(&orphan->kept);
    slm_figures_thread_ends(orphan);
    const bool listed = slm_fork_generation == generation;
    if (listed)
        slm_thread_list_unlink(orphan);
    slm_thread_list_unlock();
    if (listed)
        slm_thread_block_free(orphan);
    if (load_relaxed(&slm_defer_queue_objects) > 0)
        slm_worker_note_deferred();
    return true;
}

/* Under the start lock. It must not allocate, and does not depend on libc's own start. */
static slm_seldom enum process_state start_process(void)
{
    slm_topology_start();
    if (!slm_reservation_start())
        return PROCESS_FAILED;
    slm_metadata_start();
    slm_span_start_areas();
    slm_span_set_scarce(slm_vm_addresses_limited());
    slm_page_map_start();
    slm_slots_start();
    if (slm_checked || slm_bench) /* which use ranks */
        slm_defer_queue_start();
    slm_fork_start(fork_child);
    slm_interval_start();
    if (slm_sys_is_main_thread())
        main_tls = &slm_tls;
    return PROCESS_STARTED;
}

bool slm_process_started(void)
{
    uint32_t state = load_acquire(&process_state); /* pairs with the release below */
    if (likely(state != PROCESS_NEW)) {
        slm_fork_check();
        return state == PROCESS_STARTED;
    }
    pthread_key_t key; /* without the lock: whoever has hooked a call of libc's may allocate in it */
    slm_vm_start();
    const bool made = pthread_key_create(&key, thread_exit) == 0;
    slm_lock_acquire(&start_lock);
    state = load_relaxed(&process_state);
    const bool first = state == PROCESS_NEW;
    if (first) {
        exit_key = key;
        exit_key_made = made;
        state = start_process();
        store_release(&process_state, state);
    }
    slm_lock_release(&start_lock);
    if (!first && made) /* another thread has been faster, or the hook */
        pthread_key_delete(key);
    return state == PROCESS_STARTED;
}

/* Callers are busy: the key may need memory for its value, which comes from the depots then. */
static slm_cold bool arm(struct slm_tls *tls)
{
    return tls->armed = tls->armed || (exit_key_made && pthread_setspecific(exit_key, tls) == 0);
}

/* A handler may have been faster, and the thread be live. */
slm_cold void slm_thread_begin(void)
{
    struct slm_tls *tls = &slm_tls;
    store_relaxed(&tls->busy, 1);
    signal_fence();
    tls->stays = tls->came = arm(tls);
    signal_fence();
    store_release(&tls->busy, 0);
}

/* libc deals out the lowest key that is free. So all are taken, then given back but for the last; for an instant no
 * other thread can make one. False: the program has the last one. */
static slm_seldom bool make_last_key(void)
{
    uint64_t made[PTHREAD_KEYS_MAX / 64] = {0};
    pthread_key_t key = 0;
    while (key < PTHREAD_KEYS_MAX - 1 && pthread_key_create(&key, thread_exit) == 0)
        made[key / 64] |= (uint64_t)1 << key % 64;
    const bool last = key == PTHREAD_KEYS_MAX - 1;
    for (key = PTHREAD_KEYS_MAX - last; key-- > 0;)
        if (made[key / 64] >> key % 64 & 1)
            pthread_key_delete(key);
    return last;
}

enum last_key { LAST_KEY_NONE, LAST_KEY_COMING, LAST_KEY_MADE, LAST_KEY_TAKEN };

/* A thread that did not begin armed may be anywhere in its life. The last key costs it 512 bytes of libc's. Without
 * it there is no block; the other key ends a section that the thread leaves open, if another round comes. */
static __attribute__((noinline)) slm_seldom bool arm_late(struct slm_tls *tls)
{
    static _Atomic uint32_t last_key;
    uint32_t none = LAST_KEY_NONE;
    if (atomic_compare_exchange_strong(&last_key, &none, LAST_KEY_COMING))
        store_release(&last_key, make_last_key() ? LAST_KEY_MADE : LAST_KEY_TAKEN);
    if (load_acquire(&last_key) == LAST_KEY_MADE) /* pairs with the release above */
        tls->armed = pthread_setspecific(PTHREAD_KEYS_MAX - 1, tls) == 0;
    if (!tls->armed && exit_key_made)
        pthread_setspecific(exit_key, tls);
    return tls->armed;
}

static struct slm_thread *make_block(struct slm_tls *tls)
{
    struct slm_thread *thread = slm_thread_block_make();
    if (!thread)
        return NULL;
    thread->tls = tls;
    thread->helper = tls->helper;
    slm_shared_store(&tls->self, thread); /* before it is linked into the list */
    slm_thread_list_add(thread);
    return thread;
}

static struct slm_thread *birth(struct slm_tls *tls)
{
    for (unsigned i = 0; i < orphans_a_birth && unlikely(load_relaxed(&slm_orphans) > 0); i++)
        slm_process_bury(UINT_MAX);
    struct slm_thread *thread = slm_thread_list_inherit(tls);
    if (!thread && !(thread = make_block(tls)))
        return NULL;
    tls->key = slm_key_of_area(slm_area_start(slm_area_for_slabs(load_relaxed(&thread->node))));
    if (unlikely(slm_nodes > 1))
        slm_thread_look_where(thread);
    tls->state = SLM_THREAD_LIVE;
    if (load_relaxed(&tls->wanted))
        store_relaxed(&thread->attention, SLM_ATTEND_RESERVE);
    arm(tls);
    slm_worker_note_active(); /* it may be still soon, and hold much */
    return thread;            /* hot follows in slm_thread_leave */
}

/* May this thread, which is not live, come to life now? What is surplus goes back at its passes if it may not. */
static bool may_be_born(struct slm_tls *tls, bool is_alloc)
{
    if (load_relaxed(&tls->busy))
        return false;
    const bool asked = load_relaxed(&tls->wanted) != NULL; /* by slab_alloc_nolock: it does allocate */
    const bool often = ++tls->direct_passes % direct_passes_most == 0;
    if (tls->state == SLM_THREAD_GONE) {
        if (often)
            slm_reclaim_due(slm_sys_now_ms(), false, false);
        return false;
    }
    return is_alloc || asked || often;
}

slm_slow struct slm_thread *slm_thread_enter_slow(bool is_alloc)
{
    struct slm_tls *tls = &slm_tls;
    if (!may_be_born(tls, is_alloc))
        return NULL;
    store_relaxed(&tls->busy, 1);
    signal_fence();
    struct slm_thread *thread = NULL;
    if (slm_process_started()) {
        const bool armed = tls->armed || tls == main_tls;
        if (!armed && !tls->came)
            slm_worker_thread_found();
        if (armed || arm_late(tls))
            thread = birth(tls);
    }
    if (!thread) {
        signal_fence();
        store_release(&tls->busy, 0);
    }
    return thread;
}

slm_seldom void slm_thread_look_where(struct slm_thread *thread)
{
    const unsigned node = slm_topology_node_again(thread->ordinal, &thread->cpu, load_relaxed(&thread->node));
    if (likely(node == load_relaxed(&thread->node)))
        return;
    slm_figures_thread_moves(thread);
    slm_thread_move(thread, node);
}

slm_slow void slm_thread_tick(struct slm_thread *thread)
{
    if (thread->generation != slm_fork_generation) /* see fork_child */
        slm_thread_list_add(thread);
    const uint32_t orphans = load_relaxed(&slm_orphans);
    if (unlikely(orphans > 1))
        store_relaxed(&slm_orphans, orphans - 1);
    else if (unlikely(orphans > 0))
        slm_process_bury(slots_a_tick);
    if (slm_mailbox_waits())
        slm_worker_note_mail(thread);
    if (thread->passes < SLM_PASSES_BEFORE_TICKS)
        slm_worker_note_active();
    else
        slm_worker_tick(thread);
}

/* At the end of a slow path, outside of it: a constructor may have to run. */
slm_seldom __attribute__((noinline)) void slm_thread_attend(void)
{
    struct slm_thread *thread;
    if (atomic_fetch_and(&slm_tls.self->attention, (uint8_t)~SLM_ATTEND_PAUSE) & SLM_ATTEND_PAUSE)
        slm_take_pause();
    if (atomic_fetch_and(&slm_tls.self->attention, (uint8_t)~SLM_ATTEND_MAIL) & SLM_ATTEND_MAIL)
        slm_mailbox_serve(NULL);
    while (load_relaxed(&slm_tls.self->attention) != 0 && (thread = slm_thread_enter(false))) {
        const uint8_t asked = atomic_exchange(&thread->attention, 0);
        const unsigned node = load_relaxed(&thread->node);
        if (asked & SLM_ATTEND_RECALL) {
            const uint32_t recalls = load_relaxed(&slm_thread_recalls);
            slm_thread_empty(thread, SLM_TO_SLABS);
            slm_reserve_empty(thread, false);
            store_release(&thread->recalled, recalls); /* pairs with slm_take_recalled */
        }
        struct slm_cache *grow = asked & SLM_ATTEND_RESERVE ? slm_reserve_fill(thread) : NULL;
        slm_thread_unhide(thread);
        struct slm_depot *depot = grow ? slm_cache_depot(grow, node) : NULL;
        if (!depot || slm_depot_is_constructing(depot) || !slm_depot_grow(depot))
            break;
        atomic_fetch_or(&thread->attention, SLM_ATTEND_RESERVE);
    }
}

static bool bequeath(struct slm_thread *thread)
{
    if (load_relaxed(&thread->reserves))
        return false;
    const size_t bytes = slm_thread_leave_behind(thread);
    return slm_thread_list_bequeath(thread, bytes);
}

static void dissolve(struct slm_thread *thread)
{
    slm_thread_empty(thread, SLM_TO_DEPOT);
    slm_figures_thread_ends(thread);
    slm_thread_list_remove(thread); /* from here on no other thread looks at it */
    slm_reserve_empty(thread, true);
    slm_thread_block_free(thread);
}

/* The destructor of both keys. A thread that is sure to come here in the first round stays for a second one, as other
 * destructors may free much. What these allocate and free later on goes past the block. */
static slm_cold void thread_exit(void *any)
{
    (void)any;
    slm_keep_errno();
    struct slm_tls *tls = &slm_tls;
    struct slm_thread *thread = tls->self;
    if (load_relaxed(&tls->busy))
        return;
    if (thread && tls->stays) {
        tls->stays = false;
        pthread_setspecific(exit_key, tls);
        return;
    }
    slm_fork_check();
    if (thread)
        slm_thread_claim(tls);
    slm_shared_store(&tls->self, NULL); /* busy by now, so takers pass it */
    tls->state = SLM_THREAD_GONE;
    if (unlikely(slm_epoch_known())) /* not before: a handler that enters a section from here on does not register */
        slm_epoch_thread_exit();
    const bool seen = tls->came || tls == main_tls;
    if (!thread) { /* it is not busy */
        slm_worker_thread_gone(seen);
        return;
    }
    slm_retire_empty_slots(thread);
    slm_reserve_empty(thread, false);
    slm_kept_release(&thread->kept);
    if (!bequeath(thread))
        dissolve(thread);
    slm_worker_note_slabs();
    slm_worker_thread_gone(seen);
    signal_fence();
    store_release(&tls->busy, 0);
}

bool slm_thread_exit_expected(void)
{
    const struct slm_tls *tls = &slm_tls;
    return tls->state == SLM_THREAD_LIVE && tls->armed;
}

unsigned slm_direct_node(void)
{
    const struct slm_thread *self = slm_tls.self;
    return slm_topology_node(self ? self->ordinal : load_relaxed(&slm_thread_list_born));
}

void slm_direct_count(const void *object)
{
    if (likely(slm_nodes == 1))
        return;
    const unsigned node = slm_direct_node();
    if (slm_magazine_home(object) != node)
        slm_figures_count_remote(node);
}

/* In the child of fork(), on the thread that forked, which may be inside a section: it has to notice the fork (see
 * slm_epoch_fork_child) before a thread that it starts. */
static void look_for_fork(void)
{
    slm_keep_errno();
    slm_fork_check();
}

/* Only for processes that enter sections: libc's list of handlers costs memory. */
slm_seldom void slm_process_watch_forks(void)
{
    static _Atomic bool watched;
    if (!load_relaxed(&watched) && !atomic_exchange(&watched, true))
        pthread_atfork(NULL, NULL, look_for_fork);
}

/* No part of slm_once is written from here on, nor the sizes of malloc's caches. The section has whole pages
 * where the linker has used preload/sections.ld; in a program with the archive it is not sealed. Without
 * mprotect(2) nothing is. */
static slm_seldom void seal(void)
{
    extern char __start_slm_once[] slm_hidden, __stop_slm_once[] slm_hidden;
    slm_vm_read_only(__start_slm_once, (size_t)(__stop_slm_once - __start_slm_once));
    slm_page_map_seal();
}

/* libc is ready by now; until now the options were the defaults. */
__attribute__((constructor(101))) static void start_library(void)
{
    slm_keep_errno();
    if (!slm_process_started())
        return;
    slm_panic_start();
    slm_stderr_remember();
    slm_options_read();
    slm_background_start();
    if (slm_setting(stats) || slm_options.stats_file[0])
        slm_report_start();
    slm_reservation_cut();
    slm_span_start_areas();
    slm_cache_tune_all();
    slm_tls.sample_mean = 0; /* the interval begins anew: by the options' mean, which may be much shorter */
    slm_tls.sample_left = 0;
    if (unlikely(slm_setting(limit_bytes) | slm_setting(soft_limit_bytes) | (uint64_t)slm_options.limit[0]))
        slm_limits_start();
    if (unlikely(slm_options.thp[0]))
        slm_huge_start();
    if (unlikely(slm_options.guard))
        slm_fault_start();
    seal();
}

__attribute__((destructor(101))) static void end_library(void)
{
    if (slm_process_started())
        slm_report_write();
}
