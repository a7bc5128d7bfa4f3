/* Read sections and deferred free for programs. include/slabmalloc.h has the contract; sync/epoch.h and
 * heap/deferred.h explain the implementation. The header's inline calls are also defined here, for callers that do
 * not inline them: pointers to functions, other languages. */
#ifndef SLAB_NO_INLINE
#define SLAB_NO_INLINE
#endif
#include <slabmalloc.h>

#include "base/errno.h"
#include "base/panic.h"
#include "heap/deferred.h"
#include "process/lifecycle.h"
#include "sync/epoch.h"

static_assert(sizeof(slab_epoch_head) == sizeof(struct slm_epoch_head), "the same two words");
static_assert(offsetof(struct slab_epoch_reader, section) == offsetof(struct slm_epoch_reader, section) &&
                  offsetof(struct slab_epoch_reader, started) == offsetof(struct slm_epoch_reader, started),
              "the layout that the header's inline calls assume");

/* A thread without an epoch record first comes to life, if it never did, so that its exit is noticed. */
static slm_slow void enter_slow(void)
{
    slm_keep_errno();
    if (slm_epoch_known()) {
        slm_epoch_enter_slow(false);
        return;
    }
    struct slm_thread *thread = slm_thread_enter(true);
    if (thread)
        slm_thread_leave(thread);
    slm_process_watch_forks();
    slm_epoch_enter_slow(slm_thread_exit_expected());
}

slm_public void slab_epoch_enter_slow(void)
{
    enter_slow();
}

slm_public void slab_epoch_leave_slow(void)
{
    slm_epoch_leave_slow();
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
    slm_keep_errno();
    slm_epoch_synchronize("slab_epoch_synchronize");
}

slm_public bool slab_epoch_poll(void)
{
    slm_keep_errno();
    return slm_deferred_poll();
}

slm_public void slab_epoch_barrier(void)
{
    slm_keep_errno();
    slm_deferred_barrier();
}

slm_public void slab_epoch_call(slab_epoch_head *head, void (*function)(slab_epoch_head *head))
{
    if (!head || !function)
        slm_panic("slab_epoch_call", head, "no head, or no function", NULL, 0);
    slm_keep_errno();
    slm_deferred_call((struct slm_epoch_head *)head, (void (*)(struct slm_epoch_head *))function);
}

slm_public void slab_free_deferred(void *ptr)
{
    slm_defer(ptr, NULL);
}

slm_public void slab_free_deferred_head(void *ptr, slab_epoch_head *head)
{
    slm_defer(ptr, (struct slm_epoch_head *)head);
}

slm_public void slab_free_deferred_bulk(size_t n, void *const ptrs[])
{
    for (size_t i = 0; i < n; i++)
        slm_defer(ptrs[i], NULL);
}
