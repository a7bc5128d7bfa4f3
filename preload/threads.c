/* pthread_create(3) and C11's thrd_create(3) go through the library, so that each thread is armed before its function
 * runs (process/lifecycle.h). The thread is libc's, and what begins it leaves no frame on its stack. The archive has
 * neither call, as a static program could not find libc's behind it. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <threads.h>

#include "heap/slow.h"
#include "process/lifecycle.h"
#include "process/worker.h"

/* What a new thread is to do. */
struct task {
    void *(*function)(void *);
    void *argument;
    _Atomic bool in_use;
};

/* For the first so many that have not begun yet: a thread has no magazine to put its task into when it begins. */
static struct task ready[8];

static slm_cold struct task *make_task(void)
{
    for (size_t i = 0; i < sizeof ready / sizeof ready[0]; i++)
        if (!atomic_exchange(&ready[i].in_use, true)) /* acquire: pairs with drop_task */
            return &ready[i];
    return slm_alloc_slow(sizeof(struct task));
}

static slm_cold void drop_task(struct task *task)
{
    if ((uintptr_t)task - (uintptr_t)ready < sizeof ready)
        store_release(&task->in_use, false); /* pairs with make_task */
    else
        slm_free_slow(task, "free");
}

/* In the new thread. The call at its end is a jump. */
static slm_cold void *begin(void *made)
{
    struct task *task = made;
    void *(*const function)(void *) = task->function;
    void *const argument = task->argument;
    slm_thread_begin();
    drop_task(task);
    return function(argument);
}

/* A program with a malloc of its own needs no worker, nor does one in which a tool has put its own in the place of
 * ours, as valgrind does. Neither brings a thread of the library to life, unless it uses the library's own calls. */
static slm_cold bool is_used(void)
{
    extern slm_hidden __typeof__(malloc) slm_own_malloc; /* preload/malloc.c */
    __typeof__(malloc) *own = slm_own_malloc;
    slm_hide_value(own); /* the compiler takes it for another function */
    if (load_relaxed(&slm_thread_list_born) == 0 && malloc == own) {
        void *volatile object = malloc(1); /* perhaps the program has not allocated yet */
        free(object);
    }
    return load_relaxed(&slm_thread_list_born) > 0;
}

static slm_cold int create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                           void *argument)
{
    static _Atomic(__typeof__(pthread_create) *) libc_create;
    slm_always_read static const char name[] = "pthread_create";
    if (!load_relaxed(&libc_create)) /* a constructor before ours may be the first */
        store_relaxed(&libc_create, (__typeof__(pthread_create) *)(uintptr_t)dlsym(RTLD_NEXT, name));
    slm_process_started();
    struct task *task = make_task();
    if (!task)
        return EAGAIN;
    task->function = function;
    task->argument = argument;
    slm_worker_thread_comes(is_used(), create);
    int error;
    do
        error = load_relaxed(&libc_create)(thread, attributes, begin, task);
    while (error && slm_worker_thread_failed());
    if (error)
        drop_task(task);
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
