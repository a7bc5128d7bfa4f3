/* Capturing a call stack without an unwinder, a lock, a signal or a fault.
 *
 *     stack pointer                                        16 KiB above           the stack's end
 *     v                                                    v                      v
 *     | words of the callers' frames ....................  | .................... |
 *       kept: code of files; higher places in this stack;    kept: what frame pointers lead to
 *             what lies behind such a place
 *
 * Optimised code has no frame pointers, so a tool unwinds later, by the tables in the files. For that it needs the
 * registers and few of the stack's words. Unwinding tables find a frame from the stack pointer, or from a frame pointer
 * that was saved: a place in the stack above the word itself. Beyond that they need return addresses: code of a file,
 * or, in compiled-at-run-time code, the word behind a saved frame pointer. Everything else is left out, and what can
 * be told by comparisons goes first, as most words are small numbers and objects of the heap.
 *
 * What is kept goes into a bounded record (base/inspect.h). Frame pointers alone would not do: the library has none,
 * nor have most of the libraries that call it, and a chain that leads around such a function looks whole. But where
 * they lead on behind the 16 KiB, what they lead to is kept as well.
 *
 * What is read can be read. There are three kinds of stacks (certain_bytes):
 *   - The first thread's ends at __libc_stack_end. The kernel leaves at least 1 MiB below it to the stack.
 *   - A thread's ends below its descriptor in the C library. If each page up to there can be read, then it is this thread's: below
 *     a thread's stack lies a page that cannot.
 *   - Another stack (of a coroutine, of signal handlers) may end anywhere, and what lies behind it may be unmapped at
 *     any time. The rest of the page that the stack pointer is in is certain; the kernel copies what is above.
 * System calls are made for the last two alone, and where no sandbox is near; else the page has to do.
 *
 * Any thread, a signal handler too. With its record it takes less than 6 KiB of stack. */
#pragma once

#include "base/inspect.h"

enum {
    SLM_STACK_WINDOW = 16 << 10,
    SLM_STACK_WORDS = 256,
    SLM_STACK_VALUES = SLM_STACK_REGISTERS + SLM_STACK_WORDS + SLM_STACK_WORDS / 4, /* with the offsets */
};

/* A stack, with all the room that it may need. */
struct slm_stack_record {
    struct slm_stack stack;
    uint64_t values[SLM_STACK_VALUES];
};

/* Which of the registers is the frame pointer, where there is one. */
#ifdef __x86_64__
enum { SLM_STACK_FRAME_POINTER = 2 };
#else
enum { SLM_STACK_FRAME_POINTER = 11 };
#endif

/* How many bytes values and offsets have. */
slm_inline size_t slm_stack_value_bytes(const struct slm_stack *stack)
{
    return (size_t)(stack->registers + stack->words) * sizeof(uint64_t) +
           (stack->kind == SLM_STACK_IMAGE ? (size_t)stack->words * sizeof(uint16_t) : 0);
}

slm_inline const uint16_t *slm_stack_offsets(const struct slm_stack *stack)
{
    return (const uint16_t *)(const void *)(stack->values + stack->registers + stack->words);
}

/* `registers` as a frame has them that goes on at the first one, its program counter, with that stack pointer. All but
 * number, next and the counts are filled in. */
void slm_stack_capture(struct slm_stack_record *record, const uint64_t *registers, const void *stack_pointer);
