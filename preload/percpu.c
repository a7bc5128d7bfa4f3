/* Per-CPU memory for programs. include/slabmalloc.h has the contract; percpu/percpu.h and percpu/here.h explain the
 * implementation. The header's inline calls are also defined here, for callers that do not inline them. */
#ifndef SLAB_NO_INLINE
#define SLAB_NO_INLINE
#endif
#include <slabmalloc.h>

#include "base/errno.h"
#include "base/panic.h"
#include "page/charge.h"
#include "process/give_back.h"
#include "process/lifecycle.h"
#include "process/worker.h"
#include "percpu/here.h"
#include "percpu/percpu.h"

static _Noreturn slm_seldom void refuse(slab_percpu object, const char *call)
{
    slm_panic(call, (const void *)object, "NULL is no per-CPU object", NULL, 0);
}

/* NULL, or a field of it. What a program has inline does not look. */
#define CHECK(object, call)                                                                                          \
    if (unlikely((uintptr_t)(object) < (uintptr_t)1 << SLAB_PERCPU_SHIFT))                                           \
    refuse(object, call)

static_assert(SLAB_PERCPU_SHIFT == SLM_PERCPU_PIECE_SHIFT, "the distance between copies");

/* A block of all copies is needed. */
static __attribute__((noinline)) slm_seldom slab_percpu alloc_again(size_t size, size_t align)
{
    const size_t bytes = (size_t)slm_percpu_cpus() << SLM_PERCPU_PIECE_SHIFT;
    slab_percpu object = slm_give_back_for(bytes) ? slm_percpu_alloc(size, align) : NULL;
    if (!object)
        errno = slm_charge_refused();
    return object;
}

static slab_percpu alloc(size_t size, size_t align)
{
    slab_percpu object = slm_percpu_alloc(size, align);
    return likely(object || errno != ENOMEM) ? object : alloc_again(size, align);
}

slm_public slab_percpu slab_percpu_alloc(size_t size, size_t align)
{
    if (slm_process_started())
        return slm_errno_if(NULL, alloc(size, align));
    errno = ENOMEM;
    return NULL;
}

slm_public void slab_percpu_free(slab_percpu object)
{
    slm_keep_errno();
    if (!slm_process_started())
        return;
    slm_percpu_free(object);
    slm_worker_note_freed();
}

slm_public int slab_percpu_cpus(void)
{
    slm_keep_errno();
    return slm_process_started() ? (int)slm_percpu_cpus() : 0;
}

slm_public void *slab_percpu_ptr(slab_percpu object, int cpu)
{
    CHECK(object, "slab_percpu_ptr");
    return slm_here_copy_of(object, (unsigned)cpu);
}

slm_public void *slab_percpu_this_slow(slab_percpu object)
{
    CHECK(object, "slab_percpu_this");
    return slm_here_copy(object);
}

slm_public void *slab_percpu_this(slab_percpu object)
{
    CHECK(object, "slab_percpu_this");
    return slm_here_copy(object);
}

slm_public void slab_percpu_add_slow(slab_percpu object, uint64_t value)
{
    CHECK(object, "slab_percpu_add");
    slm_here_add(object, value);
}

#ifndef SLAB_PERCPU_SEQUENCES
#define slab_percpu_add_word slm_here_add
#endif

slm_public void slab_percpu_add_long(slab_percpu object, long value)
{
    CHECK(object, "slab_percpu_add_long");
    slab_percpu_add_word(object, (uint64_t)value);
}

slm_public void slab_percpu_add_u64(slab_percpu object, uint64_t value)
{
    CHECK(object, "slab_percpu_add_u64");
    slab_percpu_add_word(object, value);
}

slm_public uintptr_t slab_percpu_xchg(slab_percpu object, uintptr_t value)
{
    CHECK(object, "slab_percpu_xchg");
    return slm_here_exchange(object, value);
}

slm_public uintptr_t slab_percpu_cmpxchg(slab_percpu object, uintptr_t expected, uintptr_t value)
{
    CHECK(object, "slab_percpu_cmpxchg");
    return slm_here_compare_exchange(object, expected, value);
}

slm_public void slab_percpu_list_push(slab_percpu head, slab_percpu_node *node)
{
    CHECK(head, "slab_percpu_list_push");
    slm_here_push(head, node);
}

slm_public slab_percpu_node *slab_percpu_list_pop(slab_percpu head)
{
    CHECK(head, "slab_percpu_list_pop");
    return slm_here_pop(head);
}

static uint64_t sum(slab_percpu object, const char *call)
{
    CHECK(object, call);
    const int cpus = slab_percpu_cpus();
    uint64_t all = 0;
    for (int cpu = 0; cpu < cpus; cpu++)
        all += __atomic_load_n((const uint64_t *)slm_here_copy_of(object, (unsigned)cpu), __ATOMIC_RELAXED);
    return all;
}

slm_public uint64_t slab_percpu_sum_u64(slab_percpu object)
{
    return sum(object, "slab_percpu_sum_u64");
}

/* Wraps as the copies do. */
slm_public long slab_percpu_sum_long(slab_percpu object)
{
    return (long)sum(object, "slab_percpu_sum_long");
}
