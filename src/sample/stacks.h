/* Call stacks, each stored once, and what was allocated from each.
 *
 *     slm_stacks_buckets -> | list | list | ... |     by hash; SLM_STACK_BUCKETS (base/inspect.h)
 *                               `-> stack -> stack      metadata; a stack's number is its place there
 *
 * A stack is written whole before it enters its list, by compare-exchange at the head. It neither changes nor leaves;
 * only its counts change. So readers need no lock, a tool reads them from outside, and a child of fork has all that
 * were in a list; what was on its way there is lost to it.
 *
 * All stacks together have at most SLM_STACKS_BYTES (with guard=1, where there are those of frees, eight times as
 * many) and a 1024th of what is in use. What does not fit is counted.
 *
 * Any thread that may allocate metadata (page/metadata.h): no lock of rank METADATA or above is held, and none was
 * when a signal handler came that asks. */
#pragma once

#include "sample/stack.h"

#define SLM_STACKS_BYTES ((uint64_t)64 << 10)

/* While stacks have less than this, and few were captured, they are kept as images: a small program's few ones are
 * not worth the pages of the files' tables, which would be resident from then on. Frames take less time. */
#define SLM_STACKS_IMAGES ((uint64_t)16 << 10)
enum { SLM_STACKS_FEW = 128 };

extern slm_hidden _Atomic uint64_t *_Atomic slm_stacks_buckets; /* NULL: there is no stack yet */
extern slm_hidden struct slm_sample_counts slm_sample_counts;   /* of records, too: see sample/samples.h */
extern slm_hidden _Atomic uint64_t slm_stacks_bytes;            /* that stacks have */

/* The number of the caller's stack, from its caller's return address on; 0: none was kept. errno is kept. */
uint32_t slm_stacks_here(void);

/* What it jumps to, with the registers in their order and the stack pointer as they are for its caller. */
uint32_t slm_stacks_of_registers(const uint64_t *registers, const void *stack_pointer);

/* The number of such a stack, which is stored if it is new; 0: there is no room. */
uint32_t slm_stacks_intern(const struct slm_stack *stack);

/* NULL for 0. The number is of a stack that was stored. */
struct slm_stack *slm_stack_of(uint32_t number);

/* An object was sampled, which stands for so many 1024ths of objects and so many bytes; it was freed. */
void slm_stack_count(struct slm_stack *stack, uint64_t objects_1024, uint64_t bytes);
void slm_stack_count_free(struct slm_stack *stack, uint64_t objects_1024, uint64_t bytes);

/* Live ones have become longer by so many bytes, modulo 2^64: shorter, too. It counts as allocated. */
void slm_stack_count_growth(struct slm_stack *stack, uint64_t bytes);

/* Checked builds: each stack lies in the list of its hash, once, with its number; their bytes add up. Nobody stores
 * any meanwhile. */
void slm_stacks_check(void);
