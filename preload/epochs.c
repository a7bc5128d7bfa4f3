/* Read sections for programs; include/slabmalloc.h has the contract, sync/epoch.h the way it works. */
#include <slabmalloc.h>
#include <stdlib.h>

#include "heap/lifecycle.h"
#include "sync/epoch.h"

/* A thread that is not known to the epochs yet comes to life first, if it can, so that its exit is noticed. */
static slm_slow void enter_slow(void)
{
    if (!slm_epoch_known() && slm_tls.state != SLM_THREAD_LIVE) {
        struct slm_thread *thread = slm_thread_enter(true);
        if (thread)
            slm_thread_leave(thread);
    }
    slm_process_watch_forks();
    slm_epoch_enter_slow(slm_thread_exit_expected());
}

slm_public void slab_epoch_enter(void)
{
    if (unlikely(!slm_epoch_enter()))
        enter_slow();
}

slm_public void slab_epoch_leave(void)
{
    if (unlikely(!slm_epoch_leave()))
        slm_epoch_leave_slow();
}

slm_public void slab_epoch_synchronize(void)
{
    slm_epoch_synchronize();
}

slm_public bool slab_epoch_poll(void)
{
    return slm_epoch_poll();
}

slm_public void slab_epoch_barrier(void)
{
    slm_epoch_synchronize();
}

slm_public void slab_epoch_call(slab_epoch_head *head, void (*function)(slab_epoch_head *head))
{
    slm_epoch_synchronize();
    function(head);
}

slm_public void slab_free_deferred(void *ptr)
{
    slm_epoch_synchronize();
    free(ptr);
}

slm_public void slab_free_deferred_head(void *ptr, slab_epoch_head *head)
{
    (void)head;
    slab_free_deferred(ptr);
}

slm_public void slab_free_deferred_bulk(size_t n, void *const ptrs[])
{
    for (size_t i = 0; i < n; i++)
        slab_free_deferred(ptrs[i]);
}
