/* Capturing a call stack without a lock, an allocation, a signal or a fault, in one of two forms (base/inspect.h).
 *
 * Frames: the return addresses. The files' unwinding tables lead from one to the next (sample/tables.h); in code that
 * no file has, as it was made at run time, frame pointers do. Frame pointers alone would not do: neither the library
 * has them nor most others that call it, and a chain that leads around their functions looks whole.
 *
 * An image: what a tool needs to do the same later, where that takes more than is known here, or where tables are not
 * to be touched. These are the registers and few of the stack's words.
 *
 *     stack pointer                                  16 KiB above                stack's end
 *     v                                              v                           v
 *     | words of the callers' frames ............... | ......................... |
 *       kept: code of files; higher places in          kept: where frame pointers lead
 *       this stack, and what lies behind one
 *
 * Return addresses are code of files. A saved frame pointer is a higher place in the stack than its own, and behind
 * it lies a return address, perhaps into code that no file has. All other words are left out. Most are small numbers
 * and objects of the heap, which comparisons tell. An image has five times the size of frames, and what earlier calls
 * have left on the stack makes images of one place differ.
 *
 * Whatever is read can be read. There are three kinds of stacks (certain_bytes):
 *   - The first thread's ends at __libc_stack_end. The kernel leaves at least 1 MiB below it to the stack.
 *   - A thread's ends below its descriptor in the C library, which has a note of where it begins. Without, another
 *     that lies below might be taken for it: some stacks have no page between them that cannot be read.
 *   - Another stack (of a coroutine, of signal handlers) may end anywhere, and what lies behind it may be unmapped at
 *     any time. The rest of the page that the stack pointer is in is certain; the kernel copies what is above.
 * System calls are made for the last two alone, and where no sandbox is near; else that page has to do.
 *
 * Any thread, a signal handler too. Its caller may have little stack left, so what is long lies in the record: that
 * is better not on the stack. */
#pragma once

#include "base/inspect.h"

enum {
    SLM_STACK_WINDOW = 16 << 10,
    SLM_STACK_WORDS = 256,
    SLM_STACK_VALUES = SLM_STACK_REGISTERS + SLM_STACK_WORDS + SLM_STACK_WORDS / 4, /* with the offsets */
    SLM_STACK_WORK = 2560,
};

/* A stack, with all the room that it may need, and what it takes to capture it. */
union slm_stack_record {
    struct slm_stack stack;
    struct {
        uint64_t words[offsetof(struct slm_stack, values) / sizeof(uint64_t) + SLM_STACK_VALUES];
        uint64_t work[SLM_STACK_WORK / sizeof(uint64_t)];
    } room;
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

/* Is it on the first thread's stack, of which little is in use? No limit leaves that less than 128 KiB. */
bool slm_stack_is_roomy(const void *stack_pointer);

/* `registers` are those of a frame that goes on at the first of them, its program counter, with that stack pointer.
 * All but number, next and the counts are filled in. */
void slm_stack_capture(union slm_stack_record *record, const uint64_t *registers, const void *stack_pointer,
                       bool by_tables);
