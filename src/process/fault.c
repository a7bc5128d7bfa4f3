/* Lines about guarded objects; see fault.h. */
#include "process/fault.h"

#include <fcntl.h>
#include <signal.h>
#include <ucontext.h>

#include "base/bits.h"
#include "base/call.h"
#include "base/errno.h"
#include "base/panic.h"
#include "depot/cache.h"
#include "os/background.h"
#include "os/sys.h"
#include "sample/code.h"
#include "sample/stacks.h"

enum { FRAMES = 24, CALL_BYTES = 8 };

slm_sparse struct slm_inspect_fault slm_fault_facts;

static slm_once struct sigaction before;

/* -- stacks ------------------------------------------------------------------------------------------------------ */

/* Do these bytes end with a call? */
static slm_seldom bool ends_with_call(const unsigned char *bytes)
{
#ifdef __x86_64__
    bool call = bytes[CALL_BYTES - 5] == 0xe8;
    for (unsigned length = 2; length < CALL_BYTES; length++)
        call |= bytes[CALL_BYTES - length] == 0xff && (bytes[CALL_BYTES - length + 1] & 0x38) == 0x10;
    return call;
#elif defined(__aarch64__)
    const uint32_t last =
        (uint32_t)bytes[4] | (uint32_t)bytes[5] << 8 | (uint32_t)bytes[6] << 16 | (uint32_t)bytes[7] << 24;
    return last >> 26 == 0x25 || (last & 0xfefff800u) == 0xd63f0000u; /* bl; blr, and with a check of the pointer */
#else
    (void)bytes;
    return true;
#endif
}

/* The kernel reads it, as the file may be gone. Where that cannot be asked each is one. */
static slm_seldom bool is_return_address(uint64_t address)
{
    unsigned char bytes[CALL_BYTES];
    const bool may_ask = slm_background_begin() && !slm_sys_is_filtered();
    const bool is =
        !may_ask || (slm_sys_copy(bytes, (const void *)(uintptr_t)(address - CALL_BYTES), CALL_BYTES) == CALL_BYTES &&
                     ends_with_call(bytes));
    slm_background_end();
    return is;
}

/* The program's own path, as the loader has none for it. */
static slm_seldom const char *program_path(void)
{
    static slm_sparse char path[256];
    if (!path[0]) {
        const long length = slm_call(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path - 1);
        path[length > 0 ? length : 0] = 0;
    }
    return path[0] ? path : "program";
}

/* Is it this library's, where that is a file of its own? */
static slm_seldom bool is_own(const char *path, uintptr_t moved)
{
    const char *own_path;
    uintptr_t own_moved;
    return path[0] && slm_code_file((uintptr_t)program_path, &own_path, &own_moved) && moved == own_moved;
}

/* " FILE" if it is another one than before, and " ADDRESS" of the call before. False: it is the library's. */
static slm_seldom bool add_frame(struct slm_line *line, uint64_t address, uintptr_t *last)
{
    const char *path = "";
    uintptr_t moved = 0;
    const bool known = slm_code_file(address, &path, &moved);
    path = path ? path : "";
    if (known && is_own(path, moved))
        return false;
    if (known && moved + 1 != *last)
        slm_line_add(line, " %s", path[0] ? path : program_path());
    *last = known ? moved + 1 : 0;
    slm_line_add(line, " %p", (void *)(uintptr_t)(address - 1 - moved));
    return true;
}

static slm_seldom void add_frames(struct slm_line *line, const struct slm_stack *stack)
{
    const uint16_t *offsets = slm_stack_offsets(stack);
    const bool image = stack->kind == SLM_STACK_IMAGE;
    uintptr_t last = 0;
    unsigned frames = add_frame(line, stack->values[0], &last);
    for (unsigned i = 0; i < stack->words && frames < FRAMES; i++) {
        const uint64_t value = stack->values[stack->registers + i];
        if (!image || (!(offsets[i] & SLM_STACK_RELATIVE) && is_return_address(value)))
            frames += add_frame(line, value, &last);
    }
}

static slm_seldom void tell_stack(const char *what, uint32_t thread, uint32_t number)
{
    const struct slm_stack *stack = slm_stack_of(number);
    struct slm_line line = {0};
    if (thread == 0 && !stack)
        return;
    slm_line_add(&line, "slabmalloc: it was %s by thread %u at:", what, thread);
    if (stack)
        add_frames(&line, stack);
    else
        slm_line_text(&line, " a place that was not kept");
    slm_line_write(&line, STDERR_FILENO);
}

/* For tools, and the lines but for the last one. */
static slm_seldom void tell_stacks(const struct slm_guard *guard, const void *address)
{
    slm_fault_facts.object = (uintptr_t)guard->object;
    slm_fault_facts.bytes = guard->large.usable;
    slm_fault_facts.stack = guard->stack;
    slm_fault_facts.thread = guard->thread;
    slm_fault_facts.end_stack = guard->end_stack;
    slm_fault_facts.end_thread = guard->end_thread;
    slm_fault_facts.address = (uintptr_t)address;
    tell_stack("allocated", guard->thread, guard->stack);
    tell_stack("freed", guard->end_thread, guard->end_stack);
}

static slm_seldom const char *cache_name(const struct slm_guard *guard)
{
    const struct slm_cache *cache = guard->cache < SLM_CACHE_IDS ? slm_cache_of(guard->cache) : NULL;
    return cache ? cache->first.cache_name : NULL;
}

_Noreturn slm_seldom void slm_fault_refuse(const struct slm_guard *guard, const void *pointer, const char *call,
                                           const char *what)
{
    tell_stacks(guard, pointer);
    slm_panic(call, pointer, what, cache_name(guard), guard->large.usable);
}

/* -- the signal -------------------------------------------------------------------------------------------------- */

static slm_seldom const char *kind_of_access(const void *context)
{
#if defined(__x86_64__) && defined(REG_ERR)
    return ((const ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2 ? "a write" : "a read";
#else
    (void)context;
    return "an access";
#endif
}

/* "a write 3 bytes behind an object of 40 bytes at 0x... (thread 4711)" */
static slm_seldom void tell_access(const struct slm_guard *guard, const char *address, const void *context)
{
    const char *end = guard->object + guard->large.usable, *name = cache_name(guard);
    const bool is_before = address < guard->object, is_behind = address >= end;
    const bool is_free = slm_guard_kind(guard) == SLM_SPAN_GUARDED_FREE;
    const size_t distance =
        (size_t)(is_before ? guard->object - address : address - (is_behind ? end : guard->object));
    struct slm_line line = {0};
    tell_stacks(guard, address);
    slm_line_add(&line, "slabmalloc: %s %lu bytes %s %s of ", kind_of_access(context), distance,
                 is_before   ? "before"
                 : is_behind ? "behind"
                             : "into",
                 is_free ? "a freed object" : "an object");
    if (name)
        slm_line_add(&line, "cache %s", name);
    else
        slm_line_add(&line, "%lu bytes", guard->large.usable);
    slm_line_add(&line, " at %p (thread %u)", (void *)guard->object, slm_sys_thread_id());
    slm_line_last(&line);
}

/* The default action follows from the access, once that is repeated; what was merely sent is sent again. */
static slm_seldom void fall_back(siginfo_t *info)
{
    sigaction(SIGSEGV, &before, NULL);
    if (info->si_code <= 0)
        slm_call(SYS_rt_tgsigqueueinfo, slm_call(SYS_getpid), slm_call(SYS_gettid), SIGSEGV, info);
}

static slm_seldom void handle(int number, siginfo_t *info, void *context)
{
    slm_keep_errno();
    const struct slm_guard *guard = info->si_code == SEGV_ACCERR ? slm_guard_at(info->si_addr) : NULL;
    if (guard)
        tell_access(guard, info->si_addr, context);
    if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)
        fall_back(info);
    else if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(number, info, context);
    else
        before.sa_handler(number);
}

slm_seldom void slm_fault_start(void)
{
    struct sigaction wanted = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (sigaction(SIGSEGV, NULL, &before) != 0)
        return;
    wanted.sa_mask = before.sa_mask;
    sigaction(SIGSEGV, &wanted, NULL);
}
