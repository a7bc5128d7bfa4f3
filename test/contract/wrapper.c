/* A library that stands in front of libc's pthread_create, or of another one's, as tools and runtimes do.
 * test_thread_births.c preloads it. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>

unsigned wrapped_creations(void);

static unsigned creations;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    __typeof__(pthread_create) *next = (__typeof__(pthread_create) *)(uintptr_t)dlsym(RTLD_NEXT, "pthread_create");
    __atomic_add_fetch(&creations, 1, __ATOMIC_RELAXED);
    return next(thread, attributes, run, argument);
}

unsigned wrapped_creations(void)
{
    return creations;
}
