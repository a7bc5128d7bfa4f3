/* Live threads; see thread_list.h. */
#include "thread/thread_list.h"

#include "os/topology.h"

enum {
    helpers_most = 8, /* the library's own threads, which are not counted */
    burial_ticks = 3,
    legacies_most = 32,
    legacies_looked_at = 4,
    legacies_bytes_most = 256 << 10, /* that they may hold */
};

static struct slm_lock lock = {.rank = SLM_RANK_THREADS};
static struct slm_list threads = {&threads, &threads};
static _Atomic uint32_t count;
static _Atomic uint32_t legacies, legacies_low; /* written under the lock; and the least since the last look */
static size_t legacies_bytes;
static _Atomic unsigned covered = SLM_NAMED_FIRST + 1; /* named caches have the slots below; written under the lock */

/* After a fork whose child had to start with an empty list, linked by `next`: the blocks that were in it. One may be
 * that of the thread that forked, which may go on for long before it is in a slow path and links itself again. Which
 * one is not known: all get cursors until then. */
static struct slm_list lost = {&lost, &lost};

_Atomic uint32_t slm_orphans;

/* A handler may fork in the middle. Its child has other lists, and the walk would not come to this one's end. */
static void each_in(const struct slm_list *head, void (*visit)(struct slm_thread *thread, void *context),
                    void *context)
{
    const uint32_t generation = slm_fork_generation;
    for (struct slm_list *at = head->next; at != head && slm_fork_generation == generation; at = at->next)
        visit(slm_container(at, struct slm_thread, link), context);
}

_Atomic uint32_t slm_thread_list_born;
_Atomic uint32_t slm_thread_recalls;

static void be_counted(struct slm_thread *thread)
{
    thread->generation = slm_fork_generation;
    store_relaxed(&thread->recalled, load_relaxed(&slm_thread_recalls));
    add_relaxed(&count, !thread->tls->helper);
}

static void link_in(struct slm_thread *thread)
{
    thread->ordinal = add_relaxed(&slm_thread_list_born, 1);
    slm_slots_cover(thread, load_relaxed(&covered));
    slm_list_insert_before(&threads, &thread->link);
    be_counted(thread);
}

void slm_thread_list_add(struct slm_thread *thread)
{
    slm_lock_acquire(&lock); /* held by a thread that a fork has lost: the list has started empty then */
    if (thread->generation != 0)
        slm_list_init(&lost); /* it has come back */
    link_in(thread);
    slm_lock_release(&lock);
}

/* -- legacies ---------------------------------------------------------------------------------------------------- */

slm_cold bool slm_thread_list_bequeath(struct slm_thread *thread, size_t bytes)
{
    static _Atomic bool found;
    if (unlikely(!load_relaxed(&found))) {
        slm_topology_find_here();
        store_relaxed(&found, true);
    }
    slm_lock_acquire(&lock);
    const bool room = load_relaxed(&legacies) < legacies_most && legacies_bytes + bytes <= legacies_bytes_most &&
                      thread->generation == slm_fork_generation;
    if (room) {
        slm_list_remove(&thread->link);
        sub_relaxed(&count, !thread->tls->helper);
        thread->tls = &slm_gone_tls;
        thread->legacy = true;
        slm_list_insert_before(threads.next, &thread->link);
        legacies_bytes += bytes;
        thread->left_bytes = bytes;
        thread->left_on = slm_topology_here(0);
        add_relaxed(&legacies, 1);
    }
    slm_lock_release(&lock);
    return room;
}

/* Under the lock. */
static void unlink_legacy(struct slm_thread *thread)
{
    slm_list_remove(&thread->link);
    thread->legacy = false;
    legacies_bytes -= thread->left_bytes;
    const uint32_t left = sub_relaxed(&legacies, 1) - 1;
    if (left < load_relaxed(&legacies_low))
        store_relaxed(&legacies_low, left);
}

/* Under the lock. One of this CPU, whose caches may have it, among the youngest, else the youngest. */
static struct slm_thread *choose_legacy(void)
{
    struct slm_list *at = threads.next;
    struct slm_thread *youngest = slm_container(at, struct slm_thread, link);
    const unsigned here = slm_topology_here(0);
    for (uint32_t i = 0; i < load_relaxed(&legacies) && i < legacies_looked_at; i++, at = at->next) {
        struct slm_thread *thread = slm_container(at, struct slm_thread, link);
        if (thread->left_on == here)
            return thread;
    }
    return youngest;
}

slm_cold struct slm_thread *slm_thread_list_inherit(struct slm_tls *tls)
{
    struct slm_thread *thread = NULL;
    if (load_relaxed(&legacies) == 0)
        return NULL;
    slm_lock_acquire(&lock);
    if (load_relaxed(&legacies) > 0) {
        thread = choose_legacy();
        unlink_legacy(thread);
        thread->tls = tls;
        thread->helper = tls->helper;
        thread->still = 0;
        store_relaxed(&thread->attention, 0);
        slm_shared_store(&tls->self, thread);
        link_in(thread);
    }
    slm_lock_release(&lock);
    return thread;
}

unsigned slm_thread_list_legacies(void)
{
    return load_relaxed(&legacies);
}

slm_seldom unsigned slm_thread_list_surplus(void)
{
    slm_lock_acquire(&lock);
    const unsigned low = load_relaxed(&legacies_low);
    store_relaxed(&legacies_low, load_relaxed(&legacies));
    slm_lock_release(&lock);
    return low;
}

slm_seldom struct slm_thread *slm_thread_list_take_legacy(void)
{
    struct slm_thread *thread = NULL;
    slm_lock_acquire(&lock);
    struct slm_list *at = &threads;
    for (uint32_t i = load_relaxed(&legacies); i > 0; i--)
        at = at->next;
    if (at != &threads) {
        thread = slm_container(at, struct slm_thread, link);
        unlink_legacy(thread);
    }
    slm_lock_release(&lock);
    return thread;
}

static slm_seldom void forget_legacies(void)
{
    store_relaxed(&legacies, 0);
    store_relaxed(&legacies_low, 0);
    legacies_bytes = 0;
}

/* -- named caches, ends ------------------------------------------------------------------------------------------ */

static void cover(struct slm_thread *thread, void *end)
{
    if (slm_thread_tls(thread) != &slm_gone_tls)
        slm_slots_cover(thread, *(const unsigned *)end);
}

/* It may have been cleared meanwhile. */
static void cover_lost(struct slm_thread *thread, void *end)
{
    if (thread->tls)
        slm_slots_cover(thread, *(const unsigned *)end);
}

/* A fork may catch it at any point: `covered` comes last, so that its child begins anew. */
slm_for_few void slm_thread_list_cover(unsigned cache_id)
{
    slm_lock_acquire(&lock);
    const unsigned before = load_relaxed(&covered);
    if (cache_id + 1 >= before) {
        unsigned end = (unsigned)slm_min(slm_align_up(cache_id + 2, SLM_GROUP_SLOTS), SLM_SLOTS);
        slm_slots_cover_idle(before, end);
        each_in(&threads, cover, &end);
        each_in(&lost, cover_lost, &end);
        store_release(&covered, end); /* pairs with the fork */
    }
    slm_lock_release(&lock);
}

void slm_thread_list_remove(struct slm_thread *thread)
{
    slm_lock_acquire(&lock);
    if (thread->generation != slm_fork_generation) { /* a fork has dropped it: only who forked can come here */
        slm_list_init(&lost);
    } else {
        slm_list_remove(&thread->link);
        sub_relaxed(&count, !thread->tls->helper);
    }
    slm_lock_release(&lock);
}

unsigned slm_thread_list_count(void)
{
    return load_relaxed(&count);
}

void slm_thread_list_lock(void)
{
    slm_lock_acquire(&lock);
}

void slm_thread_list_unlock(void)
{
    slm_lock_release(&lock);
}

void slm_thread_list_each(void (*visit)(struct slm_thread *thread, void *context), void *context)
{
    each_in(&threads, visit, context);
}

void slm_thread_list_foreach(void (*visit)(struct slm_thread *thread, void *context), void *context)
{
    slm_thread_list_lock();
    slm_thread_list_each(visit, context);
    slm_thread_list_unlock();
}

/* A list that is not whole may lead in a circle, or to a block that was cleared. */
static slm_seldom void start_empty(void)
{
    uint32_t most = load_relaxed(&count) + helpers_most;
    struct slm_list *last = &threads;
    for (; last->next && last->next != &threads && most > 0; most--)
        last = last->next;
    if (last != &threads) {
        last->next = lost.next;
        lost.next = threads.next;
    }
    slm_list_init(&threads);
    store_relaxed(&slm_orphans, 0);
    store_relaxed(&count, 0);
}

slm_seldom void slm_thread_list_fork_child(struct slm_thread *self)
{
    forget_legacies();
    if (load_relaxed(&lock.word) == 0 && self) {
        if (threads.next != &self->link || threads.prev != &self->link)
            store_relaxed(&slm_orphans, burial_ticks);
        store_relaxed(&count, 0);
        if (self->generation != 0) /* else it was caught before it was linked, and goes on there */
            be_counted(self);
        return;
    }
    start_empty();
    if (self)
        slm_thread_list_add(self);
}

slm_seldom struct slm_thread *slm_thread_list_orphan(void)
{
    for (struct slm_list *at = threads.next; at != &threads; at = at->next) {
        struct slm_thread *thread = slm_container(at, struct slm_thread, link);
        if (slm_thread_tls(thread) == &slm_gone_tls && !(thread->legacy && thread->generation == slm_fork_generation))
            return thread;
    }
    store_relaxed(&slm_orphans, 0);
    return NULL;
}

/* One that is gone without a fork was counted. */
slm_seldom void slm_thread_list_unlink(struct slm_thread *orphan)
{
    slm_list_remove(&orphan->link);
    sub_relaxed(&count, orphan->generation == slm_fork_generation && !orphan->helper);
}
