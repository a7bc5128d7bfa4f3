/* Shows images to libdwfl as threads, one after the other. */
#include "unwind.h"

#include <stdlib.h>
#include <string.h>

enum { WORD = sizeof(uint64_t), WORDS_MOST = STACK_COVERED_MOST / WORD };

#ifdef __x86_64__
enum { STACK_POINTER = 7 }; /* DWARF's number */
#else
enum { STACK_POINTER = 31 };
#endif

/* No process has a mapping there, and so no address of the target's is taken for one of the image's. */
static const uint64_t BASE = (uint64_t)1 << 62;

struct unwinder {
    struct modules *modules;
    const struct stack *stack;
    const char *problem; /* NULL: images can be unwound */
    bool missed;         /* a word that is not in the image was asked for */
    uint64_t *frames;
    size_t count;
    /* From BASE on, and which of them the image has; 0 between images. */
    uint64_t words[WORDS_MOST];
    bool present[WORDS_MOST];
};

static const uint8_t register_numbers[] = SLM_STACK_REGISTER_NUMBERS;

/* The thread has a number only. */
enum { THREAD = 1 };

static pid_t next_thread(Dwfl *dwfl, void *arg, void **thread_arg)
{
    (void)dwfl;
    if (*thread_arg)
        return 0;
    *thread_arg = arg;
    return THREAD;
}

static bool get_thread(Dwfl *dwfl, pid_t thread, void *arg, void **thread_arg)
{
    (void)dwfl;
    *thread_arg = arg;
    return thread == THREAD;
}

/* Words of the image, which has more behind what was covered where frame pointers led to it; else what cannot have
 * changed: tables in the mapped files. */
static bool memory_read(Dwfl *dwfl, Dwarf_Addr address, Dwarf_Word *result, void *arg)
{
    (void)dwfl;
    struct unwinder *unwinder = arg;
    uint64_t distance = address - BASE;
    if (distance < STACK_COVERED_MOST) {
        bool has = distance < unwinder->stack->covered || unwinder->present[distance / WORD];
        *result = unwinder->words[distance / WORD];
        unwinder->missed |= !has;
        return has && distance % WORD == 0;
    }
    const struct mapping *mapping = target_mapping_at(unwinder->modules->target, address);
    return mapping && mapping->readable && !mapping->writable && mapping->path &&
           target_read(unwinder->modules->target, address, result, sizeof *result);
}

static uint64_t register_value(const struct stack *stack, unsigned which)
{
    return stack->values[which] + (stack->relative >> which & 1 ? BASE : 0);
}

static bool set_initial_registers(Dwfl_Thread *thread, void *arg)
{
    const struct stack *stack = ((struct unwinder *)arg)->stack;
    Dwarf_Word base = BASE;
    bool set = dwfl_thread_state_registers(thread, STACK_POINTER, 1, &base);
    for (unsigned i = 1; i < sizeof register_numbers && i < stack->registers && set; i++) {
        Dwarf_Word value = register_value(stack, i);
        set = dwfl_thread_state_registers(thread, register_numbers[i], 1, &value);
    }
    dwfl_thread_state_register_pc(thread, register_value(stack, 0));
    return set;
}

static const Dwfl_Thread_Callbacks thread_callbacks = {.next_thread = next_thread,
                                                       .get_thread = get_thread,
                                                       .memory_read = memory_read,
                                                       .set_initial_registers = set_initial_registers};

struct unwinder *unwinder_open(struct modules *modules)
{
    struct unwinder *unwinder = memory(NULL, 1, sizeof *unwinder);
    memset(unwinder, 0, sizeof *unwinder);
    unwinder->modules = modules;
    if (!modules->count)
        unwinder->problem = "none of the mapped files is to be had";
    else if (!dwfl_attach_state(modules->dwfl, NULL, THREAD, &thread_callbacks, unwinder))
        unwinder->problem = dwfl_errmsg(-1);
    return unwinder;
}

const char *unwinder_problem(const struct unwinder *unwinder)
{
    return unwinder->problem;
}

void unwinder_close(struct unwinder *unwinder)
{
    free(unwinder);
}

/* The innermost frame goes on where a call returns to, as the others do; what a signal has interrupted does not. */
static int frame_take(Dwfl_Frame *frame, void *arg)
{
    struct unwinder *unwinder = arg;
    Dwarf_Addr pc;
    bool activation;
    if (!dwfl_frame_pc(frame, &pc, &activation) || pc <= 1)
        return DWARF_CB_ABORT;
    if (unwinder->count == FRAMES_MOST) {
        unwinder->missed = true;
        return DWARF_CB_ABORT;
    }
    bool returns = !activation || unwinder->count == 0;
    unwinder->frames[unwinder->count++] = returns ? pc - 1 : pc;
    return DWARF_CB_OK;
}

/* Sets the image's words, or clears them. */
static void words_set(struct unwinder *unwinder, const struct stack *stack, bool set)
{
    for (unsigned i = 0; i < stack->words; i++) {
        uint16_t offset = stack->offsets[i];
        uint64_t value = stack->values[stack->registers + i] + (offset & SLM_STACK_RELATIVE ? BASE : 0);
        unwinder->words[offset & ~SLM_STACK_RELATIVE] = set ? value : 0;
        unwinder->present[offset & ~SLM_STACK_RELATIVE] = set;
    }
}
static_assert(SLM_STACK_RELATIVE <= WORDS_MOST, "each offset lies in the words");

/* Whether the stack goes on behind the frames. An image mostly ends where a word is missing, with the outermost
 * frame, unless the library says that there was more. Without a word that is missing, an error tells of code that has
 * no unwind tables and no frame pointer. And no stack begins in code of which no file is known. */
static bool goes_on(const struct unwinder *unwinder, bool error)
{
    if (unwinder->count == FRAMES_MOST)
        return unwinder->missed;
    if (unwinder->missed ? unwinder->stack->cut : error)
        return true;
    return error && unwinder->count && !modules_at(unwinder->modules, unwinder->frames[unwinder->count - 1], NULL);
}

size_t unwind(struct unwinder *unwinder, const struct stack *stack, uint64_t frames[FRAMES_MOST], bool *cut)
{
    *cut = stack->cut;
    if (stack->kind == SLM_STACK_FRAMES) {
        size_t count = stack->words < FRAMES_MOST ? stack->words : FRAMES_MOST;
        for (size_t i = 0; i < count; i++)
            frames[i] = stack->values[i] - 1;
        *cut |= count < stack->words;
        return count;
    }
    if (unwinder->problem) {
        *cut = true;
        return 0;
    }
    unwinder->stack = stack;
    unwinder->frames = frames;
    unwinder->count = 0;
    unwinder->missed = false;
    words_set(unwinder, stack, true);
    bool error = dwfl_getthread_frames(unwinder->modules->dwfl, THREAD, frame_take, unwinder) < 0;
    words_set(unwinder, stack, false);
    *cut = goes_on(unwinder, error);
    return unwinder->count;
}
