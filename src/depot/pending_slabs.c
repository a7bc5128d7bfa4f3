/* Two queues under one lock; see pending_slabs.h. The lock is of a rank behind the depot's, and nothing is called
 * under it.
 *
 * Fork. A child that finds the lock held by a thread that it does not have starts both queues empty: those slabs are
 * lost to it. */
#include "depot/pending_slabs.h"

#include "sync/epoch.h"

_Atomic uint32_t slm_pending_slabs_due;

struct queue {
    struct slm_list slabs; /* oldest first, by their spans' links; not initialised while `count` is 0 */
    uint32_t count;
};

static struct slm_lock lock = {.rank = SLM_RANK_RETIRED};
static struct queue waiting, due;
static _Atomic uint32_t waiting_count; /* for looks without the lock */
static __thread bool releasing;

static void lock_queues(void)
{
    if (likely(!slm_lock_acquire(&lock)))
        return;
    waiting.count = due.count = 0;
    store_relaxed(&waiting_count, 0);
    store_relaxed(&slm_pending_slabs_due, 0);
}

static void put(struct queue *queue, struct slm_slab *slab)
{
    if (queue->count++ == 0)
        slm_list_init(&queue->slabs);
    slm_list_insert_before(&queue->slabs, &slab->span.link);
    store_relaxed(&waiting_count, waiting.count);
    store_relaxed(&slm_pending_slabs_due, due.count);
}

static struct slm_slab *oldest(const struct queue *queue)
{
    return queue->count > 0 ? slm_container(queue->slabs.next, struct slm_slab, span.link) : NULL;
}

static struct slm_slab *take_out(struct queue *queue, struct slm_slab *slab)
{
    slm_list_remove(&slab->span.link);
    queue->count--;
    store_relaxed(&waiting_count, waiting.count);
    store_relaxed(&slm_pending_slabs_due, due.count);
    return slab;
}

static const struct slm_slab_shape *shape_of(const struct slm_slab *slab)
{
    return ((const struct slm_depot *)slab->wait.depot)->shape;
}

static uint64_t bytes_of(const struct slm_slab *slab)
{
    return (uint64_t)shape_of(slab)->granules << SLM_GRANULE_SHIFT;
}

/* The oldest that may be released in a call about this shape. */
static struct slm_slab *get_due(const struct slm_slab_shape *shape)
{
    struct slm_slab *found = NULL;
    lock_queues();
    if (due.count > 0)
        for (struct slm_list *at = due.slabs.next; at != &due.slabs && !found; at = at->next) {
            struct slm_slab *slab = slm_container(at, struct slm_slab, span.link);
            if (!shape || shape_of(slab) == shape || !shape_of(slab)->life->destructor)
                found = take_out(&due, slab);
        }
    slm_lock_release(&lock);
    return found;
}

void slm_pending_slabs_add(struct slm_depot *depot, struct slm_slab *slab)
{
    const struct slm_slab_life *life = depot->shape->life;
    slab->wait = (struct slm_slab_wait){depot, life->typesafe ? slm_epoch_stamp() : 0};
    if (life->typesafe)
        add_relaxed(&slm_epoch_waiting_bytes, bytes_of(slab));
    lock_queues();
    put(life->typesafe ? &waiting : &due, slab);
    slm_lock_release(&lock);
}

bool slm_pending_slabs_poll(void)
{
    if (likely(load_relaxed(&waiting_count) == 0))
        return false;
    slm_epoch_poll();
    lock_queues();
    while (waiting.count > 0 && slm_epoch_passed(oldest(&waiting)->wait.stamp)) {
        sub_relaxed(&slm_epoch_waiting_bytes, bytes_of(oldest(&waiting)));
        put(&due, take_out(&waiting, oldest(&waiting)));
    }
    const bool some = waiting.count > 0;
    slm_lock_release(&lock);
    return some;
}

bool slm_pending_slabs_is_releasing(void)
{
    return releasing;
}

void slm_pending_slabs_release(const struct slm_slab_shape *shape)
{
    struct slm_slab *slab;
    if (load_relaxed(&slm_pending_slabs_due) == 0 || releasing)
        return;
    releasing = true;
    while ((slab = get_due(shape))) {
        struct slm_depot *depot = slab->wait.depot;
        const struct slm_slab_life *life = depot->shape->life;
        if (life->destructor)
            slm_slab_each_object(slab, life->destructor, life->context);
        slm_slab_release(slab);
        atomic_fetch_add_explicit(&depot->slabs_released, 1, memory_order_release); /* pairs with slm_depot_slabs */
    }
    releasing = false;
}
