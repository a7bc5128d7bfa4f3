/* What the tests of restartable sequences share: the calling thread's record, as the kernel has it, found without the
 * library's own code. */
#pragma once

#include "unit.h"

#include <sched.h>

#include "os/rseq.h"

extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned __rseq_size __attribute__((weak));

/* linux/rseq.h, of which older systems have none. */
enum { RSEQ_BYTES = 32, RSEQ_UNREGISTER = 1 };
#ifdef __aarch64__
#define RSEQ_SIGNATURE 0xd428bc00u
#else
#define RSEQ_SIGNATURE 0x53053053u
#endif

static inline char *thread_pointer(void)
{
#ifdef __x86_64__
    char *pointer;
    __asm__("movq %%fs:0, %0" : "=r"(pointer));
    return pointer;
#elif defined(__aarch64__)
    return __builtin_thread_pointer();
#else
    return NULL;
#endif
}

/* Has the C library registered this process's threads, and may the library use it? ThreadSanitizer does not
 * see it. */
static inline bool rseq_is_there(void)
{
#if !defined(__SANITIZE_THREAD__) && (defined(__x86_64__) || defined(__aarch64__))
    return &__rseq_size && __rseq_size > 0;
#else
    return false;
#endif
}

/* A setting of the C library's: this process is to do without. */
static inline bool rseq_is_unwanted(void)
{
    const char *tunables = getenv("GLIBC_TUNABLES");
    return tunables && strstr(tunables, "glibc.pthread.rseq=0");
}

/* Take the calling thread's registration away; for children that end soon. */
static inline void unregister_rseq(void)
{
    require(syscall(SYS_rseq, thread_pointer() + __rseq_offset, RSEQ_BYTES, RSEQ_UNREGISTER, RSEQ_SIGNATURE) == 0);
}

/* Run on one CPU after the other of those that this process may use, `most` of them. */
static inline void on_cpus(unsigned most, void (*run)(unsigned cpu))
{
    cpu_set_t allowed, one;
    require(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE && most > 0; cpu++)
        if (CPU_ISSET(cpu, &allowed)) {
            most--;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            require(sched_setaffinity(0, sizeof one, &one) == 0);
            run(cpu);
        }
    require(sched_setaffinity(0, sizeof allowed, &allowed) == 0);
}

static inline void on_each_cpu(void (*run)(unsigned cpu))
{
    on_cpus(CPU_SETSIZE, run);
}
