/* Live threads; see thread_list.h. */
#include "thread/thread_list.h"

static struct slm_lock lock = {.rank = SLM_RANK_THREADS};
static struct slm_list threads = {&threads, &threads};
static _Atomic uint32_t count;

_Atomic uint32_t slm_thread_list_born;
_Atomic uint32_t slm_thread_recalls;

void slm_thread_list_add(struct slm_thread *thread)
{
    slm_lock_acquire(&lock); /* held by a thread that a fork has lost: the list has started empty then */
    thread->ordinal = add_relaxed(&slm_thread_list_born, 1);
    thread->generation = slm_fork_generation;
    store_relaxed(&thread->recalled, load_relaxed(&slm_thread_recalls));
    slm_list_insert_before(&threads, &thread->link);
    add_relaxed(&count, !thread->tls->helper);
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
