/* The C library's registration; see rseq.h. glibc has exported its place since 2.35; the names are weak, so that the
 * library loads where they are missing. ThreadSanitizer sees no sequence: its builds do without. */
#include "os/rseq.h"

#if defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__)) && !defined(__SANITIZE_THREAD__) &&           \
    __has_include(<sys/rseq.h>)
#include <sys/auxv.h>
#include <sys/rseq.h>

#pragma weak __rseq_offset
#pragma weak __rseq_size

/* What linux/rseq.h of newer kernels says. */
enum { CPU_OFFSET = 4, SEQUENCE_OFFSET = 8, NODE_OFFSET = 20, NODE_END = 24, CID_OFFSET = 24, CID_END = 28 };
enum { AUX_FEATURE_SIZE = 27 };

static_assert(offsetof(struct rseq, cpu_id) == CPU_OFFSET && offsetof(struct rseq, rseq_cs) == SEQUENCE_OFFSET,
              "the kernel's record");

/* The kernel takes no record of less than 32 bytes, and fills in what it knows of: node and concurrency id are there,
 * if the kernel has them (6.3), whatever the C library says of its own use of the record in __rseq_size. */
slm_seldom bool slm_rseq_find(struct slm_rseq *rseq)
{
    if (!&__rseq_offset || !&__rseq_size || __rseq_size == 0)
        return false;
    *rseq = (struct slm_rseq){.sequence = __rseq_offset + SEQUENCE_OFFSET,
                              .cpu = __rseq_offset + CPU_OFFSET,
                              .node = getauxval(AUX_FEATURE_SIZE) >= NODE_END ? __rseq_offset + NODE_OFFSET : 0,
                              .cid = getauxval(AUX_FEATURE_SIZE) >= CID_END ? __rseq_offset + CID_OFFSET : 0};
    return true;
}

int32_t slm_rseq_read(ptrdiff_t field)
{
#ifdef __x86_64__ /* clang knows no thread pointer there */
    int32_t value;
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(value) : "r"(field));
    return value;
#else
    return *(const volatile int32_t *)((const char *)__builtin_thread_pointer() + field);
#endif
}
#else
slm_seldom bool slm_rseq_find(struct slm_rseq *rseq)
{
    (void)rseq;
    return false;
}

slm_seldom int32_t slm_rseq_read(ptrdiff_t field)
{
    (void)field;
    return -1;
}
#endif
