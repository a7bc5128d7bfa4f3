/* Restartable sequences (rseq(2); Desnoyers, 2015): short runs of instructions that the kernel starts again when it
 * has interrupted a thread in them. The C library registers each thread, with a record in thread-local storage where
 * the thread announces a sequence and the kernel stores the current CPU. */
#pragma once

#include "base/compiler.h"

/* Offsets of the record's fields from the thread pointer. */
struct slm_rseq {
    ptrdiff_t sequence; /* the address of the descriptor of the sequence that the thread is in */
    ptrdiff_t cpu;      /* the CPU's number, 32 bits; negative where the thread is not registered */
    ptrdiff_t node;     /* the CPU's NUMA node, 32 bits; 0: not told */
    ptrdiff_t cid;      /* the thread's concurrency id: below the number of threads and of CPUs; 0: not told */
};

/* A field of 32 bits of the calling thread's record, once slm_rseq_find has found one. */
int32_t slm_rseq_read(ptrdiff_t field);

/* False: the C library has none, or has been told not to use them, or this architecture is not supported. */
bool slm_rseq_find(struct slm_rseq *rseq);
