/* Two lists under one lock, which ranks after the depot's; see pending_slabs.h. A child of a fork that finds the lock
 * held by a thread that it does not have starts both lists empty: those slabs are lost to it. */
#include "depot/pending_slabs.h"

#include "sync/epoch.h"
#include "sync/lock.h"

/* The oldest first, linked by their spans' links; and their lengths, to be read without the lock. */
static struct slm_lock lock = {.rank = SLM_RANK_PENDING_SLABS};
static struct slm_list waiting = {&waiting, &waiting}, due = {&due, &due};
static _Atomic uint32_t waiting_count;
_Atomic uint32_t slm_pending_slabs_due;

static __thread bool releasing;

static void lock_lists(void)
{
    if (likely(!slm_lock_acquire(&lock)))
        return;
    slm_list_init(&waiting);
    slm_list_init(&due);
    store_relaxed(&waiting_count, 0);
    store_relaxed(&slm_pending_slabs_due, 0);
}

static uint64_t bytes_of(const struct slm_slab *slab)
{
    return (uint64_t)slab->wait.shape->granules << SLM_GRANULE_SHIFT;
}

/* Take off the oldest that may be released in a call about this shape. */
static slm_for_few struct slm_slab *get_due(const struct slm_slab_shape *shape)
{
    struct slm_slab *found = NULL;
    lock_lists();
    for (struct slm_list *at = due.next; at != &due && !found; at = at->next) {
        struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
        if (!shape || slab->wait.shape == shape || !slab->wait.shape->hooks->destructor)
            found = slab;
    }
    if (found) {
        slm_list_remove(&found->span.link);
        sub_relaxed(&slm_pending_slabs_due, 1);
    }
    slm_lock_release(&lock);
    return found;
}

slm_for_few void slm_pending_slabs_add(struct slm_slab *slab, const struct slm_slab_shape *shape,
                                       _Atomic uint64_t *released)
{
    const bool waits = shape->hooks->typesafe;
    slab->wait = (struct slm_slab_wait){shape, released, waits ? slm_epoch_stamp() : 0};
    if (waits)
        add_relaxed(&slm_epoch_waiting_bytes, bytes_of(slab));
    lock_lists();
    slm_list_insert_before(waits ? &waiting : &due, &slab->span.link);
    add_relaxed(waits ? &waiting_count : &slm_pending_slabs_due, 1);
    slm_lock_release(&lock);
}

static slm_for_few __attribute__((noinline)) bool poll(void)
{
    slm_epoch_poll();
    lock_lists();
    const bool nobody_reads = slm_epoch_nobody_reads(); /* of what is in the list: as for slm_epoch_stamp */
    while (!slm_list_empty(&waiting)) {
        struct slm_slab *slab = slm_container(waiting.next, struct slm_slab, span.link);
        if (!nobody_reads && !slm_epoch_passed(slab->wait.stamp))
            break;
        sub_relaxed(&slm_epoch_waiting_bytes, bytes_of(slab));
        slm_list_remove(&slab->span.link);
        slm_list_insert_before(&due, &slab->span.link);
        sub_relaxed(&waiting_count, 1);
        add_relaxed(&slm_pending_slabs_due, 1);
    }
    const bool some = !slm_list_empty(&waiting);
    slm_lock_release(&lock);
    return some;
}

bool slm_pending_slabs_poll(void)
{
    return unlikely(load_relaxed(&waiting_count) > 0) && poll();
}

bool slm_pending_slabs_is_releasing(void)
{
    return releasing;
}

slm_for_few void slm_pending_slabs_release(const struct slm_slab_shape *shape)
{
    struct slm_slab *slab;
    if (load_relaxed(&slm_pending_slabs_due) == 0 || releasing)
        return;
    releasing = true;
    while ((slab = get_due(shape))) {
        _Atomic uint64_t *released = slab->wait.released;
        const struct slm_object_hooks *hooks = slab->wait.shape->hooks;
        if (hooks->destructor)
            slm_slab_each_object(slab, hooks, hooks->destructor, "an exception or pthread_exit left the destructor");
        slm_slab_release(slab);
        atomic_fetch_add_explicit(released, 1, memory_order_release); /* pairs with slm_depot_slabs */
    }
    releasing = false;
}
