/* What the tests of per-CPU memory share.
 *
 * Each test is a scenario in a process of its own (see caches.h). The build runs each program three times: as it
 * is, with GLIBC_TUNABLES=glibc.pthread.rseq=0, where every change is an atomic operation, and with
 * SLABMALLOC_OPTIONS=percpu_cid=1, where the kernel's concurrency id is the number of a thread's copy. What
 * include/slabmalloc.h promises holds in all three; nothing here counts on which copy a CPU has, but where it
 * says so. */
#ifndef CONTRACT_PERCPU_H
#define CONTRACT_PERCPU_H

#include "caches.h"

#include <sched.h>

#define LARGEST (32 * KIB)

/* -- objects ----------------------------------------------------------------------------------------------------- */

static inline slab_percpu make_object(size_t size, size_t align)
{
    slab_percpu object = slab_percpu_alloc(size, align);
    require(object != NULL);
    return object;
}

static inline slab_percpu make_counter(void)
{
    return make_object(sizeof(long), sizeof(long));
}

/* A copy's address behind that of the CPU before. */
static inline ptrdiff_t distance_of_copies(slab_percpu object)
{
    return (char *)slab_percpu_ptr(object, 1) - (char *)slab_percpu_ptr(object, 0);
}

/* Every copy has a pattern of its own. */
static inline void fill_copies(slab_percpu object, size_t size, unsigned seed)
{
    unsigned char *copy;
    slab_percpu_for_each (cpu, copy, object)
        pattern_fill(copy, size, seed + 7 * (unsigned)cpu);
}

static inline bool copies_hold(slab_percpu object, size_t size, unsigned seed)
{
    bool whole = true;
    unsigned char *copy;
    slab_percpu_for_each (cpu, copy, object)
        whole &= pattern_holds(copy, size, seed + 7 * (unsigned)cpu);
    return whole;
}

static inline bool copies_are_zero(slab_percpu object, size_t size)
{
    bool zero = true;
    unsigned char *copy;
    slab_percpu_for_each (cpu, copy, object)
        zero &= all_zero(copy, size);
    return zero;
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

static inline bool same_percpu_figures(slab_stats one, slab_stats other)
{
    return one.percpu_objects == other.percpu_objects && one.percpu_bytes == other.percpu_bytes &&
           one.percpu_mapped_bytes == other.percpu_mapped_bytes &&
           one.percpu_metadata_bytes == other.percpu_metadata_bytes;
}

/* KiB of memory of its own that this process has, exactly, in swap or not: what it has written to, and on some
 * machines what it has only read. */
static inline size_t own_kib(void)
{
    char text[4096];
    if (!read_proc("/proc/self/smaps_rollup", text, sizeof text))
        skip_role("the kernel does not add up a process's pages (/proc/self/smaps_rollup)");
    return number_behind(text, "\nAnonymous:") + number_behind(text, "\nSwap:");
}

/* -- threads and CPUs -------------------------------------------------------------------------------------------- */

/* The CPUs that this process may use, as they were at the first call. */
static inline const cpu_set_t *usable_cpus(void)
{
    static cpu_set_t usable;
    if (CPU_COUNT(&usable) == 0)
        require(sched_getaffinity(0, sizeof usable, &usable) == 0);
    return &usable;
}

/* The next usable CPU behind `cpu`, the first one again behind the last. */
static inline int cpu_behind(int cpu)
{
    const cpu_set_t *usable = usable_cpus();
    do
        cpu = (cpu + 1) % CPU_SETSIZE;
    while (!CPU_ISSET((size_t)cpu, usable));
    return cpu;
}

/* The calling thread runs on this CPU alone. */
static inline void move_to(int cpu)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    require(sched_setaffinity(0, sizeof one, &one) == 0);
}

/* Runs `work` in so many threads, which get their numbers, and waits for them. */
static inline void run_threads(size_t count, void *(*work)(void *number))
{
    pthread_t threads[16];
    require(count <= COUNT(threads));
    usable_cpus(); /* asked before any thread has moved */
    for (size_t i = 0; i < count; i++)
        require(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (size_t i = 0; i < count; i++)
        require(pthread_join(threads[i], NULL) == 0);
}

#endif
