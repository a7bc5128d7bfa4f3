/* slabmalloc: per-CPU memory, a part of slabmalloc.h, which includes it.
 *
 * One object with a copy for every CPU that this machine may ever have: counters that all threads increment and any
 * thread can add up, free lists, statistics. As with the kernel's alloc_percpu, one offset is valid on every CPU, a
 * copy's address is a shift and an addition, and objects of all sizes lie side by side in the same cache lines. The
 * pages of a CPU's copies are on its NUMA node and are allocated on first use (the kernel's alloc_percpu as
 * Thirumalai rewrote it in 2005; Desnoyers, "Restartable sequences", 2015). */
#ifndef SLABMALLOC_PERCPU_H
#define SLABMALLOC_PERCPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A per-CPU object: an opaque handle, not an address that can be dereferenced; slab_percpu_ptr and slab_percpu_this
 * give the addresses of its copies. For sparse it is in an address space of its own. */
#ifdef __CHECKER__
#define SLAB_PERCPU __attribute__((noderef, address_space(__slab_percpu)))
#else
#define SLAB_PERCPU
#endif
typedef struct slab_percpu_object SLAB_PERCPU *slab_percpu;

/* An object of `size` bytes, 1 to 32 KiB, zero on every CPU, its copies aligned to `align`, a power of two up to the
 * system's page (less than 4 counts as 4). Copies of different objects may share a cache line; a line holds copies of
 * one CPU only. NULL and EINVAL: invalid size or alignment; NULL and ENOMEM: no memory, and nothing was allocated.
 * Only pages of copies that are written to take memory; 64 KiB of addresses per CPU are mapped at a time. Any thread,
 * not in signal handlers; takes a lock. The first call reads a file of /sys. */
slab_percpu slab_percpu_alloc(size_t size, size_t align);

/* Free it on all CPUs; NULL is ignored. Anything that is not a live per-CPU object ends the process with a message.
 * The caller must make sure that no copy is in use. Any thread, not in signal handlers; takes a lock. */
void slab_percpu_free(slab_percpu object);

/* A field of an object that is a structure, for the calls below (not to be freed):
 * slab_percpu_add_long(slab_percpu_field(object, struct hits, misses), 1). */
#define slab_percpu_field(object, type, field) ((slab_percpu)((uintptr_t)(object) + offsetof(type, field)))

/* The number of copies: one for each possible CPU, online or not. Valid CPU numbers are 0 to this minus 1. Constant
 * for the life of the process; 0 if the system does not report it: then allocation fails. Any thread; signal handlers
 * too, if the process has allocated before. */
int slab_percpu_cpus(void);

/* The copy of CPU `cpu` (with the option percpu_cid: of the thread with that concurrency id). The copy may be in use
 * by another thread, which does not wait. Any thread, signal handlers too. */
void *slab_percpu_ptr(slab_percpu object, int cpu);

/* The copy of the CPU that the calling thread is on. The thread may be on another CPU before it looks at the copy:
 * the pointer stays valid, but two threads may then change the same copy at once. Suitable for reading, for atomic
 * operations, and where exactness does not matter; the calls below are exact. Any thread, signal handlers too. */
void *slab_percpu_this(slab_percpu object);

/* Updates of the current CPU's copy. Each is made on one CPU, whatever interrupts or moves the thread: none is lost.
 * Where the C library has registered restartable sequences (glibc 2.35 and later; Linux on x86-64 and arm64) they
 * take a few instructions, none of them atomic; elsewhere an atomic operation on the copy of the CPU that the thread
 * was on (GLIBC_TUNABLES=glibc.pthread.rseq=0 forces that). A process uses one of the two throughout. Another CPU's
 * copy may be read at the same time, atomically; changing it through slab_percpu_ptr at the same time loses updates,
 * atomic or not. Not ordered against other CPUs. Any thread, signal handlers too; but not threads that were made
 * without the C library, or have taken restartable sequences away from it, nor the child of a vfork: the kernel does
 * not know their sequences. A debugger that steps through one by instructions never lets it finish: step over it, or
 * turn sequences off.
 *
 * The object must begin with a value of the call's type (long, uint64_t, a pointer), and so have at least its size
 * and alignment. */
void slab_percpu_add_long(slab_percpu object, long value);
void slab_percpu_add_u64(slab_percpu object, uint64_t value);

/* Store `value`; returns the previous value. */
uintptr_t slab_percpu_xchg(slab_percpu object, uintptr_t value);

/* Store `value` if the current value is `expected`; returns the previous value, `expected` if it was stored. */
uintptr_t slab_percpu_cmpxchg(slab_percpu object, uintptr_t expected, uintptr_t value);

/* A stack for each CPU. The object is its head, a pointer, which starts as NULL, an empty stack. Nodes belong to the
 * caller and are part of the objects that are pushed. Pop returns the node that was pushed last on this CPU (without
 * sequences: usually); NULL: the stack is empty, or appears to be for a moment. A popped node may be freed at once;
 * unmapped only where its page cannot be absent (swapped out, or marked by NUMA balancing). Visit other CPUs' stacks
 * only while no thread pushes or pops. */
typedef struct slab_percpu_node {
    struct slab_percpu_node *next;
} slab_percpu_node;
void slab_percpu_list_push(slab_percpu head, slab_percpu_node *node);
slab_percpu_node *slab_percpu_list_pop(slab_percpu head);

/* The sum of all copies, read one after another: exact while no thread adds; never less than what had been added
 * before the call, if nothing is ever subtracted. Wraps around. Any thread, signal handlers too. */
long slab_percpu_sum_long(slab_percpu object);
uint64_t slab_percpu_sum_u64(slab_percpu object);

/* Iterate over all CPUs: `copy`, a pointer variable of the caller's, is set to each copy, `cpu` to the CPU's number;
 * for example slab_percpu_for_each(cpu, hits, object) total += hits->misses. */
#define slab_percpu_for_each(cpu, copy, object)                                                                      \
    for (int cpu = 0, cpu##_end = slab_percpu_cpus(); /* NOLINT(bugprone-macro-parentheses): a name */               \
         (cpu) < cpu##_end && ((copy) = (__typeof__(copy))slab_percpu_ptr((object), (cpu)), 1); (cpu)++)

/* Inline versions of the calls above; define SLAB_NO_INLINE for real calls (as gcc's -masm=intel requires). What
 * follows is not part of the interface, but stays as it is for programs that were compiled with it. Each copy lies 64
 * KiB after that of the preceding CPU; the copy of "CPU -1", which the handle itself points to, is never mapped. */
#define SLAB_PERCPU_SHIFT 16
struct slab_percpu_here {
    ptrdiff_t sequence; /* offset from the thread pointer of the field that announces a sequence; 0: no sequences */
    ptrdiff_t index;    /* the same for the copy's index, 32 bits */
};
extern struct slab_percpu_here slab_percpu_here;
void slab_percpu_add_slow(slab_percpu object, uint64_t value);
void *slab_percpu_this_slow(slab_percpu object);

#if defined(__GNUC__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))
#define SLAB_PERCPU_SEQUENCES 1
/* A restartable sequence: once it is announced, its instructions from 772 to 773 run undisturbed on one CPU, or the
 * kernel sends the thread to 774, and it starts again. 771 is the descriptor that announces it (struct rseq_cs of
 * linux/rseq.h). The kernel looks at it whenever it has interrupted the thread, so the field is cleared at the end:
 * the code that contains the descriptor may be unloaded. */
#define SLAB_PERCPU_DESCRIPTOR                                                                                       \
    ".pushsection __rseq_cs, \"aw?\"\n\t.balign 32\n771:\t.long 0, 0\n\t.quad 772f, 773f - 772f, 774f\n\t"           \
    ".popsection\n770:\t"
#ifdef __x86_64__
#define SLAB_PERCPU_BEGIN SLAB_PERCPU_DESCRIPTOR "leaq 771b(%%rip), %%rax\n\tmovq %%rax, %%fs:(%[sequence])\n772:\t"
#define SLAB_PERCPU_INDEX "movl %%fs:(%[index]), %%eax\n\tshlq $16, %%rax\n\t"
#define SLAB_PERCPU_COPY "65536(%[object],%%rax)"
#define SLAB_PERCPU_END                                                                                              \
    "773:\tmovq $0, %%fs:(%[sequence])\n\t"                                                                          \
    ".subsection 1\n\t.byte 0x0f, 0xb9, 0x3d\n\t.long 0x53053053\n774:\tjmp 770b\n\t.previous\n"
#define SLAB_PERCPU_INPUTS [object] "r"(object), [sequence] "r"(sequence), [index] "r"(index)
#define SLAB_PERCPU_LOAD(to, offset)                                                                                 \
    __asm__("movq " offset "(%1), %0" : "=r"(to) : "r"(&slab_percpu_here), "r"(object))
#define SLAB_PERCPU_CLOBBERS "rax", "cc", "memory"
#else
#define SLAB_PERCPU_BEGIN                                                                                            \
    SLAB_PERCPU_DESCRIPTOR "adrp x16, 771b\n\tadd x16, x16, :lo12:771b\n\tstr x16, %[sequence]\n772:\t"
#define SLAB_PERCPU_INDEX "ldr w16, %[index]\n\tadd x16, %[object], x16, lsl #16\n\tadd x16, x16, #16, lsl #12\n\t"
#define SLAB_PERCPU_COPY "[x16]"
#define SLAB_PERCPU_END "773:\tstr xzr, %[sequence]\n\t.subsection 1\n\t.inst 0xd428bc00\n774:\tb 770b\n\t.previous\n"
#define SLAB_PERCPU_INPUTS                                                                                           \
    [object] "r"(object), [sequence] "Q"(*(void **)slab_percpu_at(sequence)),                                        \
        [index] "Q"(*(unsigned *)slab_percpu_at(index))
#define SLAB_PERCPU_LOAD(to, offset)                                                                                 \
    __asm__("ldr %0, [%1, #" offset "]" : "=r"(to) : "r"(&slab_percpu_here), "r"(object))
#define SLAB_PERCPU_CLOBBERS "x16", "x17", "cc", "memory"
extern __inline__ __attribute__((gnu_inline, always_inline)) void *slab_percpu_at(ptrdiff_t offset)
{
    return (char *)__builtin_thread_pointer() + offset;
}
#endif

/* slab_percpu_here is constant once there is an object, so compilers may read it once before a loop: the input is the
 * object, and there is no "memory" clobber. */
#define SLAB_PERCPU_SETTLED                                                                                          \
    ptrdiff_t sequence, index;                                                                                       \
    SLAB_PERCPU_LOAD(sequence, "0");                                                                                 \
    SLAB_PERCPU_LOAD(index, "8")

extern __inline__ __attribute__((gnu_inline, always_inline)) unsigned slab_percpu_index(void)
{
    unsigned index;
#ifdef __x86_64__
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(index) : "r"(slab_percpu_here.index));
#else
    index = *(volatile unsigned *)slab_percpu_at(slab_percpu_here.index);
#endif
    return index;
}

extern __inline__ __attribute__((gnu_inline, always_inline)) void slab_percpu_add_word(slab_percpu object,
                                                                                       uint64_t value)
{
    SLAB_PERCPU_SETTLED;
    if (__builtin_expect(sequence == 0, 0)) {
        slab_percpu_add_slow(object, value);
        return;
    }
#ifdef __x86_64__
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX "addq %[value], " SLAB_PERCPU_COPY "\n" SLAB_PERCPU_END
                     :
                     : SLAB_PERCPU_INPUTS, [value] "er"(value)
                     : SLAB_PERCPU_CLOBBERS);
#else
    __asm__ volatile(SLAB_PERCPU_BEGIN SLAB_PERCPU_INDEX "ldr x17, " SLAB_PERCPU_COPY
                                                         "\n\tadd x17, x17, %[value]\n\tstr x17, " SLAB_PERCPU_COPY
                                                         "\n" SLAB_PERCPU_END
                     :
                     : SLAB_PERCPU_INPUTS, [value] "r"(value)
                     : SLAB_PERCPU_CLOBBERS);
#endif
}
#endif

#if defined(SLAB_PERCPU_SEQUENCES) && !defined(SLAB_NO_INLINE)
extern __inline__ __attribute__((gnu_inline)) void *slab_percpu_ptr(slab_percpu object, int cpu)
{
    return (char *)(uintptr_t)object + (((size_t)cpu + 1) << SLAB_PERCPU_SHIFT);
}

extern __inline__ __attribute__((gnu_inline)) void *slab_percpu_this(slab_percpu object)
{
    if (__builtin_expect(slab_percpu_here.sequence == 0, 0))
        return slab_percpu_this_slow(object);
    return slab_percpu_ptr(object, (int)slab_percpu_index());
}

extern __inline__ __attribute__((gnu_inline)) void slab_percpu_add_long(slab_percpu object, long value)
{
    slab_percpu_add_word(object, (uint64_t)value);
}

extern __inline__ __attribute__((gnu_inline)) void slab_percpu_add_u64(slab_percpu object, uint64_t value)
{
    slab_percpu_add_word(object, value);
}
#endif

#ifdef __cplusplus
}
#endif

#endif
