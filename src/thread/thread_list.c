/* Live threads; see thread_list.h. */
#include "thread/thread_list.h"

static struct slm_lock lock = {.rank = SLM_RANK_THREADS};
static struct slm_list threads = {&threads, &threads};
static _Atomic uint32_t count;
static unsigned covered = SLM_NAMED_FIRST + 1; /* named caches have the slots below this number; under the lock */

_Atomic uint32_t slm_thread_list_born;
_Atomic uint32_t slm_thread_recalls;

void slm_thread_list_add(struct slm_thread *thread)
{
    slm_lock_acquire(&lock); /* held by a thread that a fork has lost: the list has started empty then */
    thread->ordinal = add_relaxed(&slm_thread_list_born, 1);
    thread->generation = slm_fork_generation;
    store_relaxed(&thread->recalled, load_relaxed(&slm_thread_recalls));
    slm_slots_cover(thread, covered);
    slm_list_insert_before(&threads, &thread->link);
    add_relaxed(&count, !thread->tls->helper);
    slm_lock_release(&lock);
}

static void cover(struct slm_thread *thread, void *nothing)
{
    (void)nothing;
    slm_slots_cover(thread, covered);
}

/* The caller's own block may not be in the list, after a fork. */
void slm_thread_list_cover(unsigned cache_id)
{
    slm_lock_acquire(&lock);
    const unsigned before = covered;
    if (cache_id + 1 >= before) {
        covered = (unsigned)slm_min(slm_align_up(cache_id + 2, SLM_GROUP_SLOTS), SLM_SLOTS);
        slm_slots_cover_idle(before, covered);
        slm_thread_list_each(cover, NULL);
    }
    if (slm_tls.self)
        cover(slm_tls.self, NULL);
    slm_lock_release(&lock);
}

void slm_thread_list_remove(struct slm_thread *thread)
{
    if (thread->generation != slm_fork_generation)
        return; /* a fork has dropped it */
    slm_lock_acquire(&lock);
    slm_list_remove(&thread->link);
    sub_relaxed(&count, !thread->tls->helper);
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
    for (struct slm_list *at = threads.next; at != &threads; at = at->next)
        visit(slm_container(at, struct slm_thread, link), context);
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

slm_seldom void slm_thread_list_fork_child(void)
{
    slm_list_init(&threads);
    store_relaxed(&count, 0);
}
