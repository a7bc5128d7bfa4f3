/* pthread_create(3) and C11's thrd_create(3) go through the library, so that each thread is armed before its function
 * runs (process/lifecycle.h). The thread is libc's, and what begins it leaves no frame on its stack. The archive has
 * neither call, as a static program could not find libc's behind it. Builds for sanitizers have theirs. */
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <threads.h>

#include "heap/slow.h"
#include "process/lifecycle.h"

struct task {
    void *(*function)(void *);
    void *argument;
};

/* In the new thread. The call at its end is a jump. */
static slm_cold void *begin(void *made)
{
    const struct task task = *(struct task *)made;
    slm_thread_begin();
    slm_free_slow(made, "free");
    return task.function(task.argument);
}

static slm_cold int create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                           void *argument)
{
    static _Atomic(__typeof__(pthread_create) *) libc_create;
    if (!load_relaxed(&libc_create)) /* a constructor before ours may be the first */
        store_relaxed(&libc_create, (__typeof__(pthread_create) *)(uintptr_t)dlsym(RTLD_NEXT, "pthread_create"));
    slm_process_started();
    struct task *task = slm_alloc_slow(sizeof *task);
    if (!task)
        return EAGAIN;
    *task = (struct task){function, argument};
    const int error = load_relaxed(&libc_create)(thread, attributes, begin, task);
    if (error)
        slm_free_slow(task, "free");
    return error;
}

slm_public slm_cold int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attributes,
                                       void *(*function)(void *), void *restrict argument)
{
    return create(thread, attributes, function, argument);
}

/* As libc does it. An int is returned in a part of the register where a pointer would be, and thrd_join looks at
 * that part. */
slm_public slm_seldom int thrd_create(thrd_t *thread, thrd_start_t function, void *argument)
{
    const int error = create(thread, NULL, (void *(*)(void *))(uintptr_t)function, argument);
    if (error == 0)
        return thrd_success;
    return error == ENOMEM ? thrd_nomem : thrd_error;
}
#endif
