/* A library for LD_PRELOAD that stands in front of libc and allocates in the calls that it hooks, as registration
 * caches of RDMA libraries, tracers and faked clocks do. In each thread a hook leaves alone what it calls itself. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#undef _FILE_OFFSET_BITS /* else mmap is the name of mmap64 here */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { KEPT = 64, MEDIUM_EACH = 8, ARGUMENTS = 6 };

unsigned long hooks_called(void);

static __thread bool inside __attribute__((tls_model("initial-exec")));
static unsigned long called;
static char *kept[KEPT];

unsigned long hooks_called(void)
{
    return __atomic_load_n(&called, __ATOMIC_RELAXED);
}

/* HOOKED in the environment, read where the loader keeps it, names the only call that is hooked. */
static bool is_hooked(const char *name)
{
    for (char **at = environ; at != NULL && *at != NULL; at++)
        if (strncmp(*at, "HOOKED=", strlen("HOOKED=")) == 0)
            return strcmp(*at + strlen("HOOKED="), name) == 0;
    return true;
}

/* Objects of all sizes are replaced by others, which other threads may have allocated. */
static void hook(const char *name)
{
    if (inside || !is_hooked(name))
        return;
    inside = true;
    const unsigned long turn = __atomic_fetch_add(&called, 1, __ATOMIC_RELAXED);
    const size_t size = turn % MEDIUM_EACH == 0 ? 100000 + turn % KEPT * 4096 : 48 + turn % KEPT * 40;
    char *object = malloc(size);
    object[0] = object[size - 1] = 1;
    free(__atomic_exchange_n(&kept[turn % KEPT], object, __ATOMIC_ACQ_REL));
    inside = false;
}

static void *real(const char *name)
{
    const bool before = inside;
    inside = true;
    void *function = dlsym(RTLD_NEXT, name);
    inside = before;
    return function;
}

long syscall(long number, ...)
{
    static long (*next)(long, ...);
    va_list values;
    long value[ARGUMENTS];
    va_start(values, number);
    for (unsigned i = 0; i < ARGUMENTS; i++)
        value[i] = va_arg(values, long);
    va_end(values);
    hook("syscall");
    if (next == NULL)
        *(void **)&next = real("syscall");
    return next(number, value[0], value[1], value[2], value[3], value[4], value[5]);
}

void *mmap(void *address, size_t length, int access, int flags, int file, off_t offset)
{
    hook("mmap");
    return (void *)syscall(SYS_mmap, address, length, (long)access, (long)flags, (long)file, offset);
}

void *mmap64(void *address, size_t length, int access, int flags, int file, off_t offset)
{
    return mmap(address, length, access, flags, file, offset);
}

void *mremap(void *address, size_t before, size_t after, int flags, ...)
{
    va_list values;
    va_start(values, flags);
    void *to = va_arg(values, void *);
    va_end(values);
    hook("mremap");
    return (void *)syscall(SYS_mremap, address, before, after, (long)flags, to);
}

int munmap(void *address, size_t length)
{
    hook("munmap");
    return (int)syscall(SYS_munmap, address, length);
}

int madvise(void *address, size_t length, int advice)
{
    hook("madvise");
    return (int)syscall(SYS_madvise, address, length, (long)advice);
}

int mprotect(void *address, size_t length, int access)
{
    hook("mprotect");
    return (int)syscall(SYS_mprotect, address, length, (long)access);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    hook("clock_gettime");
    return (int)syscall(SYS_clock_gettime, (long)clock, now);
}

#ifdef __x86_64__ /* elsewhere it tells the page size, without which there is no malloc */
unsigned long getauxval(unsigned long type)
{
    static unsigned long (*next)(unsigned long);
    hook("getauxval");
    if (next == NULL)
        *(void **)&next = real("getauxval");
    return next(type);
}
#endif

int pthread_key_create(pthread_key_t *key, void (*destructor)(void *))
{
    static int (*next)(pthread_key_t *, void (*)(void *));
    hook("pthread_key_create");
    if (next == NULL)
        *(void **)&next = real("pthread_key_create");
    return next(key, destructor);
}

int pthread_setspecific(pthread_key_t key, const void *value)
{
    static int (*next)(pthread_key_t, const void *);
    hook("pthread_setspecific");
    if (next == NULL)
        *(void **)&next = real("pthread_setspecific");
    return next(key, value);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    hook("pthread_create");
    if (next == NULL)
        *(void **)&next = real("pthread_create");
    return next(thread, attributes, start, argument);
}
