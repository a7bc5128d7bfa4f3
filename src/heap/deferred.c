/* The slow half of retiring; see deferred.h. Where no thread reads, an object is freed at once. Otherwise it goes
 * into the thread's retired magazine. A thread that has filled one helps: it checks the readers, and frees some of
 * the ripe objects on the queue.
 *
 * While too many bytes wait, the thread waits for grace periods, but 10 ms at most: it may hold a lock that a
 * reader wants. It does not wait inside a section of its own, as no grace period ends before that does, nor where the
 * caller has given a head.
 *
 * Where there is no memory for a magazine, an object with a head is queued by it. For one without, the thread waits
 * for a grace period, and frees it. Inside a section it cannot wait, and the object is left unfreed: a leak, but
 * neither a deadlock nor an object freed too early. */
#include "heap/deferred.h"

#include <limits.h>

#include "base/errno.h"
#include "base/panic.h"
#include "depot/pending_slabs.h"
#include "heap/free.h"
#include "heap/guarded.h"
#include "process/lifecycle.h"
#include "process/worker.h"
#include "os/sys.h"
#include "os/topology.h"
#include "sync/epoch.h"
#include "thread/freed.h"

static const char call[] = "slab_free_deferred";

enum { ripen_batch = 16, wait_most_us = 10000 };

/* -- too much, or too little memory ------------------------------------------------------------------------------ */

static bool too_much_waits(void)
{
    return load_relaxed(&slm_defer_queue_bytes) > slm_defer_queue_limit_bytes();
}

static void wait_for_less(void)
{
    const uint64_t deadline_us = slm_sys_now_us() + wait_most_us;
    add_relaxed(&slm_defer_queue_waits, 1);
    do {
        bool some = false;
        for (unsigned node = 0; node < slm_nodes; node++)
            some |= slm_defer_queue_ripen(node, ripen_batch);
        if (!some)
            slm_epoch_await(load_relaxed(&slm_epoch_completed) + 1, deadline_us);
    } while (too_much_waits() && slm_sys_now_us() < deadline_us);
}

/* Objects wait on the queue: free some. */
static void help(bool may_wait)
{
    slm_epoch_poll();
    if (slm_defer_queue_ripen(slm_direct_node(), ripen_batch))
        slm_worker_note_freed();
    if (likely(!too_much_waits()))
        return;
    if (may_wait && !slm_epoch_inside())
        wait_for_less();
    else
        add_relaxed(&slm_defer_queue_excesses, 1);
}

static slm_slow void free_without_memory(void *pointer)
{
    static _Atomic bool told;
    if (!slm_epoch_inside()) {
        slm_epoch_await(slm_epoch_stamp(), UINT64_MAX);
        slm_freed_ripen(slm_cache_of_object(pointer), &pointer, 1);
        slm_depot_give(&pointer, 1, "slab_free_deferred");
        return;
    }
    add_relaxed(&slm_defer_queue_unfreed, 1);
    if (!atomic_exchange(&told, true))
        slm_warn("no memory to retire an object inside an epoch section: it and its like are left unfreed "
                 "(slab_stats.deferred_unfreed)",
                 NULL);
}

/* -- retiring ---------------------------------------------------------------------------------------------------- */

static void defer_large(void *pointer)
{
    struct slm_large *large = slm_large_of(pointer);
    if (large ? !slm_large_retire(large) : !(large = slm_guarded_retire(pointer, call)))
        slm_refuse(pointer, call);
    slm_defer_queue_put_large(slm_direct_node(), large);
}

/* Into the thread's own magazine, if it has a block, and if there is membarrier(2), so that others can take objects
 * that age there; else into one of the queue's. */
static void defer_small(void *pointer, size_t slot_offset, struct slm_epoch_head *head)
{
    struct slm_thread *thread = slm_thread_enter(true);
    const bool own = thread && load_relaxed(&slm_sys_has_membarrier);
    const bool done = own && slm_retire_push(thread, slot_offset, pointer);
    if (thread && !own)
        slm_retire_empty_slots(thread);
    if (thread)
        slm_thread_leave(thread);
    if (own ? done : slm_defer_queue_put_object(slm_direct_node(), pointer))
        return;
    if (head)
        slm_defer_queue_put_head(slm_direct_node(), head, pointer);
    else
        free_without_memory(pointer);
}

static void defer_slowly(void *pointer, size_t slot_offset, struct slm_epoch_head *head)
{
    slm_keep_errno();
    slm_fork_check();
    slm_epoch_begin_quiet();
    if (slot_offset != 0 && slm_epoch_nobody_reads()) {
        slm_free(pointer);
    } else {
        if (slot_offset == 0)
            defer_large(pointer);
        else
            defer_small(pointer, slot_offset, head);
        slm_worker_note_deferred();
    }
    if (load_relaxed(&slm_defer_queue_objects) > 0)
        help(head == NULL);
}

slm_slow void slm_defer_slow(void *pointer, struct slm_epoch_head *head)
{
    if (!pointer)
        return;
    const size_t word = slm_map_offset_at(pointer);
    const size_t slot_offset = slm_freed_check_word(pointer, word, call, slm_double_free);
    if (unlikely(word == 0) && slot_offset != 0)
        slm_sampled_end(slm_slab_of(pointer), pointer);
    if (slot_offset != 0 && slm_defer_push(slm_retired_slot_beside(slm_hot_slot(slot_offset)), pointer))
        return;
    if (unlikely(!slm_epoch_never_read()))
        defer_slowly(pointer, slot_offset, head);
    else if (slot_offset != 0)
        slm_free(pointer);
    else
        slm_free_slow(pointer, call);
}

/* -- poll, barrier ----------------------------------------------------------------------------------------------- */

bool slm_deferred_poll(void)
{
    const uint64_t before = load_relaxed(&slm_epoch_completed);
    struct slm_thread *self = slm_thread_hide();
    slm_worker_do_deferred(self, false);
    slm_thread_unhide(self);
    slm_pending_slabs_poll();
    if (!slm_epoch_inside()) {
        slm_pending_slabs_release(NULL);
        slm_defer_queue_call_functions();
    }
    return load_relaxed(&slm_epoch_completed) != before;
}

/* Without membarrier(2) objects in other threads' magazines cannot be reached. */
slm_seldom void slm_deferred_free_all(unsigned attempts)
{
    for (unsigned left = 1; left > 0;) {
        bool open;
        struct slm_thread *self = slm_thread_hide();
        left = slm_retire_pass(self, true, &open);
        slm_thread_unhide(self);
        slm_fence(); /* pairs with slm_defer_queue_take_rounds: the slots' bottoms, before the figure */
        if (left == 0 && load_acquire(&slm_defer_queue_objects) == 0) /* pairs with end_freeing */
            break;
        slm_epoch_await(load_relaxed(&slm_epoch_wanted), UINT64_MAX);
        slm_defer_queue_ripen_all();
        if (left > 0 && (--attempts == 0 || !load_relaxed(&slm_sys_has_membarrier)))
            break;
        if (left > 0)
            slm_sys_sleep_ms(1);
    }
    slm_defer_queue_await_freers();
}

slm_seldom void slm_deferred_barrier(void)
{
    const char *barrier = "slab_epoch_barrier";
    if (slm_epoch_inside())
        slm_panic(barrier, NULL, "inside a section of the caller's own", NULL, 0);
    if (slm_defer_queue_is_calling())
        slm_panic(barrier, NULL, "inside a function of slab_epoch_call", NULL, 0);
    slm_fork_check();
    slm_deferred_free_all(UINT_MAX);
    slm_defer_queue_await_functions();
}

/* The worker calls the function, if there is a worker. */
void slm_deferred_call(struct slm_epoch_head *head, void (*function)(struct slm_epoch_head *head))
{
    slm_fork_check();
    slm_defer_queue_put_function(head, function);
    slm_worker_note_deferred();
}
