/* The C library's registration; see rseq.h. glibc has exported its offset since 2.35; the names are weak, so that the
 * library loads where they are missing. ThreadSanitizer does not understand sequences: its builds do without. */
#include "os/rseq.h"

#if defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__)) && !defined(__SANITIZE_THREAD__) &&           \
    __has_include(<sys/rseq.h>)
#include <sys/auxv.h>
#include <sys/rseq.h>

#define HAS_SEQUENCES
#pragma weak __rseq_offset
#pragma weak __rseq_size

/* As in linux/rseq.h of newer kernels. */
enum { CPU_OFFSET = 4, SEQUENCE_OFFSET = 8, NODE_OFFSET = 20, NODE_END = 24, CID_OFFSET = 24, CID_END = 28 };
enum { AUX_FEATURE_SIZE = 27 };

static_assert(offsetof(struct rseq, cpu_id) == CPU_OFFSET && offsetof(struct rseq, rseq_cs) == SEQUENCE_OFFSET,
              "the kernel's record");
#endif

/* The kernel accepts no record shorter than 32 bytes, and fills in the fields that it supports: node and concurrency
 * id are there, if the kernel has them (6.3), whatever size the C library states in __rseq_size. */
slm_cold bool slm_rseq_find(struct slm_rseq *rseq)
{
#ifdef HAS_SEQUENCES
    if (&__rseq_offset && &__rseq_size && __rseq_size != 0) {
        *rseq = (struct slm_rseq){.sequence = __rseq_offset + SEQUENCE_OFFSET,
                                  .cpu = __rseq_offset + CPU_OFFSET,
                                  .node = getauxval(AUX_FEATURE_SIZE) >= NODE_END ? __rseq_offset + NODE_OFFSET : 0,
                                  .cid = getauxval(AUX_FEATURE_SIZE) >= CID_END ? __rseq_offset + CID_OFFSET : 0};
        return true;
    }
#endif
    (void)rseq;
    return false;
}

int32_t slm_rseq_read(ptrdiff_t field)
{
    int32_t value = -1;
#if !defined(HAS_SEQUENCES)
    (void)field;
#elif defined(__x86_64__) /* clang knows no thread pointer there */
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(value) : "r"(field));
#else
    value = *(const volatile int32_t *)((const char *)__builtin_thread_pointer() + field);
#endif
    return value;
}
