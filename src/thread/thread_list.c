/* Live threads; see thread_list.h. */
#include "thread/thread_list.h"

enum { helpers_most = 8 }; /* the library's own threads, which are not counted */

static struct slm_lock lock = {.rank = SLM_RANK_THREADS};
static struct slm_list threads = {&threads, &threads};
static _Atomic uint32_t count;
static _Atomic unsigned covered = SLM_NAMED_FIRST + 1; /* named caches have the slots below; written under the lock */

/* After a fork, linked by `next`: the blocks that were in the list. One is that of the thread that forked, which
 * may go on for long before it is in a slow path and links itself again. Which one is not known: all get cursors
 * until then. */
static struct slm_list lost = {&lost, &lost};

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

void slm_thread_list_add(struct slm_thread *thread)
{
    slm_lock_acquire(&lock); /* held by a thread that a fork has lost: the list has started empty then */
    if (thread->generation != 0)
        slm_list_init(&lost); /* it has come back */
    thread->ordinal = add_relaxed(&slm_thread_list_born, 1);
    thread->generation = slm_fork_generation;
    store_relaxed(&thread->recalled, load_relaxed(&slm_thread_recalls));
    slm_slots_cover(thread, load_relaxed(&covered));
    slm_list_insert_before(&threads, &thread->link);
    add_relaxed(&count, !thread->tls->helper);
    slm_lock_release(&lock);
}

/* One that was lost may have been cleared meanwhile. */
static void cover(struct slm_thread *thread, void *end)
{
    if (thread->tls)
        slm_slots_cover(thread, *(const unsigned *)end);
}

/* A fork may catch it at any point: `covered` comes last, so that its child begins anew. */
void slm_thread_list_cover(unsigned cache_id)
{
    slm_lock_acquire(&lock);
    const unsigned before = load_relaxed(&covered);
    if (cache_id + 1 >= before) {
        unsigned end = (unsigned)slm_min(slm_align_up(cache_id + 2, SLM_GROUP_SLOTS), SLM_SLOTS);
        slm_slots_cover_idle(before, end);
        each_in(&threads, cover, &end);
        each_in(&lost, cover, &end);
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

bool slm_thread_list_is_whole(void)
{
    return load_relaxed(&lock.word) == 0;
}

/* A fork copies page by page, while other threads go on: the list may lead from an older block to a newer one, and so
 * in a circle, or to one that was cleared. So no more are visited than there were. */
static uint32_t most_in_child(void)
{
    return load_relaxed(&count) + helpers_most;
}

slm_seldom void slm_thread_list_each_in_child(void (*visit)(struct slm_thread *thread, void *context), void *context)
{
    uint32_t most = most_in_child();
    for (struct slm_list *at = threads.next; at && at != &threads && most > 0; at = at->next, most--) {
        struct slm_thread *thread = slm_container(at, struct slm_thread, link);
        if (thread->tls)
            visit(thread, context);
    }
}

slm_seldom void slm_thread_list_fork_child(void)
{
    struct slm_list *last = &threads;
    for (uint32_t most = most_in_child(); last->next && last->next != &threads && most > 0; most--)
        last = last->next;
    if (last != &threads) {
        last->next = lost.next;
        lost.next = threads.next;
    }
    slm_list_init(&threads);
    store_relaxed(&count, 0);
}
