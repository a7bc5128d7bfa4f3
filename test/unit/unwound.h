/* For tests of frames that are found by tables: the same as another unwinder has them. */
#pragma once

#include "unit.h"

#include <unwind.h>

#include "sample/stacks.h"

enum { FRAMES = 64 };

struct trace {
    uintptr_t addresses[FRAMES];
    unsigned count;
};

static inline _Unwind_Reason_Code note_frame(struct _Unwind_Context *context, void *given)
{
    struct trace *trace = given;
    if (trace->count < FRAMES && _Unwind_GetIP(context))
        trace->addresses[trace->count++] = _Unwind_GetIP(context);
    return _URC_NO_REASON;
}

/* From here on stacks are found by tables: others have what images may have. */
static inline void fill_images(void)
{
    static union slm_stack_record record;
    record.stack.kind = SLM_STACK_FRAMES;
    record.stack.words = SLM_STACK_WORDS;
    for (uint32_t i = 0; load_relaxed(&slm_stacks_bytes) < SLM_STACKS_IMAGES; i++) {
        record.stack.values[0] = record.stack.hash = i;
        require(slm_stacks_intern(&record.stack) != 0);
    }
}

/* Capture, and compare all frames from the caller on. */
static __attribute__((noinline, unused)) int compare(void)
{
    struct trace trace = {.count = 0};
    const struct slm_stack *stack = slm_stack_of(slm_stacks_here());
    _Unwind_Backtrace(note_frame, &trace);
    require(stack && stack->kind == SLM_STACK_FRAMES && stack->registers == 0 && !stack->cut);
    require(trace.count == stack->words);
    for (unsigned i = 1; i < stack->words; i++)
        require(stack->values[i] == trace.addresses[i]);
    return (int)stack->words;
}
