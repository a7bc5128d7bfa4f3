/* Storing stacks; see stacks.h. */
#include "sample/stacks.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/errno.h"
#include "base/options.h"
#include "page/area.h"
#include "page/demand.h"
#include "page/metadata.h"
#include "sync/fork.h"

enum { UNIT = 64 }; /* of metadata */

slm_sampled_state _Atomic uint64_t *_Atomic slm_stacks_buckets;
slm_sampled_state _Atomic uint64_t slm_stacks_bytes;
slm_sampled_state struct slm_sample_counts slm_sample_counts;

/* -- the table --------------------------------------------------------------------------------------------------- */

static slm_sampling _Atomic uint64_t *make_buckets(void)
{
    enum { BYTES = SLM_STACK_BUCKETS * sizeof(uint64_t) };
    _Atomic uint64_t *none = NULL, *made = slm_metadata_alloc(BYTES);
    if (!made)
        return NULL;
    memset(made, 0, BYTES);
    /* The release pairs with buckets and with tools; the acquire with another thread's release. */
    if (atomic_compare_exchange_strong(&slm_stacks_buckets, &none, made))
        return made;
    slm_metadata_free(made, BYTES);
    return none;
}

static _Atomic uint64_t *buckets(void)
{
    _Atomic uint64_t *made = load_acquire(&slm_stacks_buckets); /* pairs with make_buckets */
    return made ? made : make_buckets();
}

slm_sampling struct slm_stack *slm_stack_of(uint32_t number)
{
    return number == 0 ? NULL : (struct slm_stack *)(void *)(slm_range.metadata + (size_t)(number - 1) * UNIT);
}

static slm_sampling uint32_t number_of(const struct slm_stack *stack)
{
    return (uint32_t)((size_t)((const char *)stack - slm_range.metadata) / UNIT + 1);
}

static size_t bytes_of(const struct slm_stack *stack)
{
    return slm_align_up(offsetof(struct slm_stack, values) + slm_stack_value_bytes(stack), UNIT);
}

static slm_sampling bool is_equal(const struct slm_stack *a, const struct slm_stack *b)
{
    return a->hash == b->hash && a->kind == b->kind && a->registers == b->registers && a->words == b->words &&
           a->relative == b->relative && memcmp(a->values, b->values, slm_stack_value_bytes(a)) == 0;
}

/* The stack that is equal, from `first` to the one before `last`. */
static slm_sampling struct slm_stack *find(uint64_t first, uint64_t last, const struct slm_stack *wanted)
{
    while (first != last) {
        struct slm_stack *stack = (struct slm_stack *)(uintptr_t)first;
        if (is_equal(stack, wanted))
            return stack;
        first = stack->next;
    }
    return NULL;
}

/* -- storing ----------------------------------------------------------------------------------------------------- */

/* Of the newest piece that is for stacks alone: the address of what is free, and in the lowest eight bits how many
 * units that is. 0: there is none. */
static slm_sampled_state _Atomic uint64_t room;
enum { ROOM_UNITS = 255 };

/* A stack stays for ever. One that came while the program was at work, among metadata of that work, would keep a page
 * from being purged when all around it is free (page/metadata.h). So all but a small program's few lie together. What
 * a piece has left that is too short for the next stack is lost. */
static slm_sampling struct slm_stack *make_room(size_t bytes, uint64_t all_bytes)
{
    const uint64_t units = bytes / UNIT, few_bytes = 4096;
    uint64_t at = load_relaxed(&room);
    if (all_bytes <= few_bytes || units > ROOM_UNITS)
        return slm_metadata_alloc(bytes);
    for (;;) {
        const bool is_new = (at & ROOM_UNITS) < units;
        void *piece = is_new ? slm_metadata_alloc((size_t)ROOM_UNITS * UNIT) : NULL;
        if (is_new && !piece)
            return NULL;
        const uint64_t from = is_new ? (uint64_t)(uintptr_t)piece << 8 | ROOM_UNITS : at;
        if (atomic_compare_exchange_strong(&room, &at, from + (bytes << 8) - units)) /* pairs with itself */
            return (struct slm_stack *)(uintptr_t)(from >> 8); /* NOLINT(performance-no-int-to-ptr) */
        if (is_new)
            slm_metadata_free(piece, (size_t)ROOM_UNITS * UNIT);
    }
}

static slm_sampling struct slm_stack *make(const struct slm_stack *model)
{
    const size_t bytes = bytes_of(model);
    const uint64_t most = (SLM_STACKS_BYTES << (slm_options.guard ? 3 : 0)) + slm_demand_used() / 1024;
    const uint64_t all_bytes = add_relaxed(&slm_stacks_bytes, bytes) + bytes;
    struct slm_stack *made = NULL;
    if (all_bytes <= most && (made = make_room(bytes, all_bytes))) {
        memcpy(made, model, offsetof(struct slm_stack, values) + slm_stack_value_bytes(model));
        made->number = number_of(made);
    } else {
        sub_relaxed(&slm_stacks_bytes, bytes);
        add_relaxed(&slm_sample_counts.stack_losses, 1);
    }
    return made;
}

static slm_sampling void drop(struct slm_stack *stack)
{
    const size_t bytes = bytes_of(stack);
    slm_metadata_free(stack, bytes);
    sub_relaxed(&slm_stacks_bytes, bytes);
}

slm_sampling uint32_t slm_stacks_intern(const struct slm_stack *stack)
{
    _Atomic uint64_t *table = buckets();
    if (!table) {
        add_relaxed(&slm_sample_counts.stack_losses, 1);
        return 0;
    }
    _Atomic uint64_t *bucket = &table[stack->hash % SLM_STACK_BUCKETS];
    uint64_t first = load_acquire(bucket); /* pairs with the release below */
    struct slm_stack *known = find(first, 0, stack), *made;
    if (known)
        return known->number;
    if (!(made = make(stack)))
        return 0;
    for (uint64_t seen = first;; seen = first) { /* release: pairs with the acquire above, and with tools */
        made->next = first;
        if (atomic_compare_exchange_strong_explicit(bucket, &first, (uintptr_t)made, memory_order_acq_rel,
                                                    memory_order_acquire))
            return made->number;
        if ((known = find(first, seen, stack))) {
            drop(made);
            return known->number;
        }
    }
}

/* -- where the caller is ----------------------------------------------------------------------------------------- */

/* The first thread captures on its stack, as long as that is short. Others may have little left of theirs, a
 * coroutine or a signal handler: their records lie here. So many may capture at the same moment; more are as those
 * for whose stacks there is no room. */
enum { RECORDS = 4 };
static slm_sparse struct {
    _Atomic uint64_t user; /* 0: nobody; else the thread, and the process's count of forks */
    union slm_stack_record record;
} records[RECORDS];

static slm_sampling bool pays_tables(void)
{
    static slm_sampled_state _Atomic uint32_t captured;
    const uint32_t before = load_relaxed(&captured);
    if (before < SLM_STACKS_FEW) /* threads that race may lose some */
        store_relaxed(&captured, before + 1);
    return before == SLM_STACKS_FEW || load_relaxed(&slm_stacks_bytes) >= SLM_STACKS_IMAGES;
}

static slm_sampling bool claim(_Atomic uint64_t *user)
{
    const uint64_t mine = (uint64_t)(uintptr_t)&errno << 16 | (uint16_t)slm_fork_generation; /* errno is a thread's */
    uint64_t before = load_relaxed(user);
    const uint64_t other = before ^ mine;
    /* A thread that a fork has lost has none; this one may be in a handler that has forked. */
    const bool is_free = before == 0 || ((uint16_t)other != 0 && other >> 16 != 0);
    /* acquire: pairs with the release in slm_stacks_of_registers */
    return is_free &&
           atomic_compare_exchange_strong_explicit(user, &before, mine, memory_order_acquire, memory_order_relaxed);
}

static slm_sampling uint32_t capture(union slm_stack_record *record, const uint64_t *registers,
                                     const void *stack_pointer)
{
    slm_stack_capture(record, registers, stack_pointer, pays_tables());
    return slm_stacks_intern(&record->stack);
}

static slm_sampling __attribute__((noinline)) uint32_t capture_on_stack(const uint64_t *registers,
                                                                        const void *stack_pointer)
{
    union slm_stack_record record;
    return capture(&record, registers, stack_pointer);
}

slm_sampling uint32_t slm_stacks_of_registers(const uint64_t *registers, const void *stack_pointer)
{
    slm_keep_errno();
    if (slm_stack_is_roomy(stack_pointer))
        return capture_on_stack(registers, stack_pointer);
    for (unsigned i = 0; i < RECORDS; i++) {
        union slm_stack_record *record = &records[i].record;
        if (!claim(&records[i].user))
            continue;
        const uint32_t number = capture(record, registers, stack_pointer);
        store_release(&records[i].user, 0); /* pairs with claim */
        return number;
    }
    add_relaxed(&slm_sample_counts.stack_losses, 1);
    return 0;
}

/* The registers as the caller has them when this returns, in the order of SLM_STACK_REGISTER_NUMBERS. */
#ifdef __x86_64__
__asm__(".pushsection slm_sampling, \"ax\", %progbits\n\t"
        ".globl slm_stacks_here\n\t.hidden slm_stacks_here\n\t.type slm_stacks_here, %function\nslm_stacks_here:\n\t"
        ".cfi_startproc\n\t"
        "push %r15\n\t.cfi_adjust_cfa_offset 8\n\t"
        "push %r14\n\t.cfi_adjust_cfa_offset 8\n\t"
        "push %r13\n\t.cfi_adjust_cfa_offset 8\n\t"
        "push %r12\n\t.cfi_adjust_cfa_offset 8\n\t"
        "push %rbp\n\t.cfi_adjust_cfa_offset 8\n\t"
        "push %rbx\n\t.cfi_adjust_cfa_offset 8\n\t"
        "push 48(%rsp)\n\t.cfi_adjust_cfa_offset 8\n\t"
        "mov %rsp, %rdi\n\t"
        "lea 64(%rsp), %rsi\n\t"
        "call slm_stacks_of_registers\n\t"
        "add $56, %rsp\n\t.cfi_adjust_cfa_offset -56\n\t"
        "ret\n\t"
        ".cfi_endproc\n\t.size slm_stacks_here, . - slm_stacks_here\n\t.popsection");
#elif defined(__aarch64__)
__asm__(".pushsection slm_sampling, \"ax\", %progbits\n\t"
        ".globl slm_stacks_here\n\t.hidden slm_stacks_here\n\t.type slm_stacks_here, %function\nslm_stacks_here:\n\t"
        ".cfi_startproc\n\t"
        "sub sp, sp, #96\n\t.cfi_adjust_cfa_offset 96\n\t"
        "str x30, [sp]\n\t.cfi_offset 30, -96\n\t"
        "stp x19, x20, [sp, #8]\n\t"
        "stp x21, x22, [sp, #24]\n\t"
        "stp x23, x24, [sp, #40]\n\t"
        "stp x25, x26, [sp, #56]\n\t"
        "stp x27, x28, [sp, #72]\n\t"
        "str x29, [sp, #88]\n\t"
        "mov x0, sp\n\t"
        "add x1, sp, #96\n\t"
        "bl slm_stacks_of_registers\n\t"
        "ldr x30, [sp]\n\t.cfi_restore 30\n\t"
        "add sp, sp, #96\n\t.cfi_adjust_cfa_offset -96\n\t"
        "ret\n\t"
        ".cfi_endproc\n\t.size slm_stacks_here, . - slm_stacks_here\n\t.popsection");
#else
uint32_t slm_stacks_here(void)
{
    return 0;
}
#endif

/* -- counts ------------------------------------------------------------------------------------------------------ */

slm_sampling void slm_stack_count(struct slm_stack *stack, uint64_t objects_1024, uint64_t bytes)
{
    add_relaxed(&stack->samples, 1);
    add_relaxed(&stack->objects_1024, objects_1024);
    add_relaxed(&stack->bytes, bytes);
    add_relaxed(&stack->live_samples, 1);
    add_relaxed(&stack->live_objects_1024, objects_1024);
    add_relaxed(&stack->live_bytes, bytes);
}

slm_sampling void slm_stack_count_free(struct slm_stack *stack, uint64_t objects_1024, uint64_t bytes)
{
    sub_relaxed(&stack->live_samples, 1);
    sub_relaxed(&stack->live_objects_1024, objects_1024);
    sub_relaxed(&stack->live_bytes, bytes);
}

slm_sampling void slm_stack_count_growth(struct slm_stack *stack, uint64_t bytes)
{
    add_relaxed(&stack->bytes, bytes);
    add_relaxed(&stack->live_bytes, bytes);
}

slm_seldom void slm_stacks_check(void)
{
    _Atomic uint64_t *table = load_relaxed(&slm_stacks_buckets);
    uint64_t bytes = 0;
    for (unsigned i = 0; table && i < SLM_STACK_BUCKETS; i++) {
        for (uint64_t at = load_relaxed(&table[i]); at;) {
            const struct slm_stack *stack = (const struct slm_stack *)(uintptr_t)at;
            slm_assert(stack->hash % SLM_STACK_BUCKETS == i && slm_stack_of(stack->number) == stack);
            slm_assert(find(stack->next, 0, stack) == NULL);
            bytes += bytes_of(stack);
            at = stack->next;
        }
    }
    slm_assert(bytes == load_relaxed(&slm_stacks_bytes));
    (void)bytes;
}
