/* For tests of stacks: capturing one, and looking into its image. */
#pragma once

#include "forbidden.h"

#include "sample/stacks.h"

enum { WORD = 8, PAGE = 4096 };

#define address(of) ((uint64_t)(uintptr_t)(of))

static const uint64_t no_registers[SLM_STACK_REGISTERS];

/* The index of the word that was kept of that offset; -1: it was not. */
static inline int index_of(const struct slm_stack *stack, size_t offset)
{
    for (unsigned i = 0; i < stack->words; i++)
        if ((slm_stack_offsets(stack)[i] & ~SLM_STACK_RELATIVE) == offset)
            return (int)i;
    return -1;
}

static inline bool is_kept(const struct slm_stack *stack, size_t offset, bool relative, uint64_t value)
{
    const int at = index_of(stack, offset);
    return at >= 0 && stack->values[stack->registers + at] == value &&
           ((slm_stack_offsets(stack)[at] & SLM_STACK_RELATIVE) != 0) == relative;
}

/* The offset of the first word with that value from `first` on; -1: there is none. */
static inline long offset_of(const struct slm_stack *stack, long first, const void *value)
{
    for (unsigned i = 0; i < stack->words; i++)
        if (stack->values[stack->registers + i] == (uintptr_t)value && slm_stack_offsets(stack)[i] >= first)
            return slm_stack_offsets(stack)[i];
    return -1;
}

static inline void check_form(const struct slm_stack *stack)
{
    require(stack->kind == SLM_STACK_IMAGE && stack->registers == SLM_STACK_REGISTERS);
    require(stack->words <= SLM_STACK_WORDS && stack->covered <= SLM_STACK_WINDOW && stack->covered % WORD == 0);
    for (unsigned i = 1; i < stack->words; i++) /* in their order */
        require((slm_stack_offsets(stack)[i - 1] & ~SLM_STACK_RELATIVE) <
                (slm_stack_offsets(stack)[i] & ~SLM_STACK_RELATIVE));
}

static inline void capture(union slm_stack_record *record, const uint64_t *registers, const void *pointer)
{
    memset(record, 0xa5, sizeof *record);
    errno = EDOM;
    slm_stack_capture(record, registers, pointer, false);
    require(errno == EDOM);
    check_form(&record->stack);
}

/* Memory of which that many pages can be read, and the one behind cannot. */
static inline char *pages(size_t count)
{
    char *made = mmap(NULL, (count + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(made != MAP_FAILED && mprotect(made + count * PAGE, PAGE, PROT_NONE) == 0);
    return made;
}
