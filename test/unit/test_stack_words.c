/* src/sample/stack.h: which registers and words an image has. test_stack.c has the kinds of stacks. */
#include "stacks.h"

static int variable = 1;

static void keep_what_unwinding_needs(void **state)
{
    (void)state;
    union slm_stack_record record;
    char *memory = pages(3), *other = pages(1);
    void *volatile object = malloc(100);
    uint64_t *words = (void *)(memory + PAGE - 64); /* most of it lies beyond the first page */
    const uint64_t place = address(words), code = address(keep_what_unwinding_needs);
    words[1] = 7;
    words[2] = code;
    words[3] = address(object);
    words[4] = address(&variable);
    words[5] = place + 50 * WORD; /* a frame pointer, and a place in no file behind it */
    words[6] = address(other);
    words[7] = place + 2 * WORD; /* below the word */
    words[8] = place + 50 * WORD + 1;
    words[9] = UINT64_MAX;
    words[10] = (uint64_t)1 << 63 | code;
    words[11] = address(other);
    words[12] = 0xffffffffff600000u; /* the kernel's */
    words[13] = place + SLM_STACK_WINDOW + 64;
    words[14] = place - 64;
    words[15] = 65535;
    words[700] = code + 1;
    words[701] = place + 702 * WORD;
    capture(&record, no_registers, words);
    const struct slm_stack *stack = &record.stack;
    assert_true(is_kept(stack, 2, false, code) && is_kept(stack, 5, true, 50 * WORD));
    assert_true(is_kept(stack, 6, false, address(other)));
    assert_true(is_kept(stack, 700, false, code + 1) && is_kept(stack, 701, true, 702 * WORD));
    assert_int_equal(stack->words, 5);
    assert_int_equal(stack->covered, 2 * PAGE + 64);
    munmap(memory, 4 * PAGE);
    munmap(other, 2 * PAGE);
    free(object);
}

static void keep_registers_alike(void **state)
{
    (void)state;
    union slm_stack_record record;
    char *memory = pages(1);
    uint64_t registers[SLM_STACK_REGISTERS] = {address(keep_registers_alike) + 4, address(memory) + 16, 12345};
    void *volatile object = malloc(100);
    registers[3] = address(object);
    registers[4] = address(&variable);
    registers[5] = address(malloc);
    registers[6] = address(memory);
    capture(&record, registers, memory);
    const uint64_t *values = record.stack.values;
    assert_int_equal(values[0], registers[0]);
    assert_true(values[1] == 16 && values[2] == 0 && values[3] == 0 && values[4] == 0 && values[6] == 0);
    assert_int_equal(values[5], registers[5]);
    assert_int_equal(record.stack.relative, 1 << 1 | 1 << 6);
    munmap(memory, 2 * PAGE);
    free(object);
}

/* Equal contents are equal wherever they lie, however much lies behind. */
static void be_equal_anywhere(void **state)
{
    (void)state;
    union slm_stack_record records[2];
    for (unsigned i = 0; i < 2; i++) {
        char *memory = pages(2 + i);
        uint64_t *words = (void *)(memory + PAGE + 512 * i), *object = malloc(50 * (i + 1));
        words[3] = address(words + 40);
        words[4] = address(be_equal_anywhere);
        words[5] = address(object);
        words[6] = i;
        capture(&records[i], no_registers, words);
        free(object);
        munmap(memory, (3 + i) * PAGE);
    }
    assert_int_equal(records[0].stack.words, 2);
    assert_int_equal(records[0].stack.hash, records[1].stack.hash);
    assert_int_equal(records[0].stack.relative, records[1].stack.relative);
    assert_memory_equal(records[0].stack.values, records[1].stack.values, slm_stack_value_bytes(&records[0].stack));
}

static void stop_when_full(void **state)
{
    (void)state;
    static union slm_stack_record record; /* what would be left of it on the stack fills others */
    char *memory = pages(4);
    uint64_t *words = (void *)memory;
    for (unsigned i = 0; i < 2 * SLM_STACK_WORDS; i++)
        words[2 * i] = address(stop_when_full);
    capture(&record, no_registers, words);
    assert_int_equal(record.stack.words, SLM_STACK_WORDS);
    assert_int_equal(record.stack.covered, 2 * SLM_STACK_WORDS * WORD);
    assert_int_equal(record.stack.cut, 1);
    munmap(memory, 5 * PAGE);
}

/* Frame pointers that lead on above the window; not to what is not code's. */
static void *follow_frame_pointers(void *number)
{
    enum { APART = 300, LINKS = 12, BROKEN = 10 };
    uint64_t words[APART * LINKS + 2], registers[SLM_STACK_REGISTERS] = {0};
    union slm_stack_record record;
    memset(words, 0, sizeof words);
    for (unsigned i = 0; i < LINKS; i++) {
        words[i * APART] = address(&words[(i + 1) * APART]);
        words[i * APART + 1] = i == BROKEN ? 1 : address(follow_frame_pointers) + i;
        words[i * APART + 7] = address(follow_frame_pointers); /* no frame's */
    }
    registers[SLM_STACK_FRAME_POINTER] = address(words);
    capture(&record, registers, words);
    require(record.stack.cut && record.stack.covered == SLM_STACK_WINDOW);
    const unsigned window = SLM_STACK_WINDOW / WORD;
    for (unsigned i = 0; i < LINKS; i++) {
        const bool inside = i * APART < window;
        require(is_kept(&record.stack, i * APART, true, (i + 1) * APART * WORD) == (inside || i < BROKEN));
        require(is_kept(&record.stack, i * APART + 1, false, words[i * APART + 1]) == (i < BROKEN));
        require(is_kept(&record.stack, i * APART + 7, false, words[i * APART + 7]) == inside);
    }
    registers[SLM_STACK_FRAME_POINTER] = 1; /* data */
    capture(&record, registers, words);
    require(index_of(&record.stack, 8 * APART) < 0);
    words[8 * APART] = address(words); /* a circle */
    registers[SLM_STACK_FRAME_POINTER] = address(words);
    capture(&record, registers, words);
    require(is_kept(&record.stack, 8 * APART + 1, false, words[8 * APART + 1]));
    require(index_of(&record.stack, 9 * APART) < 0);
    return number;
}

static void go_on_by_frame_pointers(void **state)
{
    (void)state;
    (void)follow_frame_pointers(NULL);
    on_threads(1, follow_frame_pointers);
}

/* -- registers as the caller has them ---------------------------------------------------------------------------- */

#ifdef __x86_64__
/* Calls slm_stacks_here with these values in rbx, rbp, r12 to r15, and says what is in them then. */
uint32_t call_with(const uint64_t *wanted, uint64_t *after);
__asm__(".pushsection .text\n\t.type call_with, %function\ncall_with:\n\t"
        "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\tpush %rsi\n\t"
        "mov (%rdi), %rbx\n\tmov 8(%rdi), %rbp\n\tmov 16(%rdi), %r12\n\tmov 24(%rdi), %r13\n\t"
        "mov 32(%rdi), %r14\n\tmov 40(%rdi), %r15\n\t"
        "call slm_stacks_here\n\t"
        "pop %rsi\n\t"
        "mov %rbx, (%rsi)\n\tmov %rbp, 8(%rsi)\n\tmov %r12, 16(%rsi)\n\tmov %r13, 24(%rsi)\n\t"
        "mov %r14, 32(%rsi)\n\tmov %r15, 40(%rsi)\n\t"
        "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\tret\n\t"
        ".size call_with, . - call_with\n\t.popsection");

/* rbp is data; what points into files or into this stack is kept. */
static void take_callers_registers(void **state)
{
    (void)state;
    uint64_t local[4] = {0}, after[6] = {0};
    void *volatile object = malloc(10);
    const uint64_t wanted[6] = {address(take_callers_registers),
                                0x3039,
                                address(object),
                                address(&local[0]),
                                address(&local[3]),
                                address(&variable)};
    const struct slm_stack *stack = slm_stack_of(call_with(wanted, after));
    assert_non_null(stack);
    assert_memory_equal(after, wanted, sizeof after);
    const uint64_t *values = stack->values;
    assert_true(values[0] - address(call_with) < 200);
    assert_int_equal(values[1], wanted[0]);
    assert_true(values[2] == 0 && values[3] == 0 && values[6] == 0);
    assert_int_equal(stack->relative, 1 << 4 | 1 << 5);
    assert_int_equal(values[5] - values[4], 3 * WORD);
    free(object);
}
#else
static void take_callers_registers(void **state)
{
    (void)state;
    skip();
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keep_what_unwinding_needs), cmocka_unit_test(keep_registers_alike),
        cmocka_unit_test(be_equal_anywhere),         cmocka_unit_test(stop_when_full),
        cmocka_unit_test(go_on_by_frame_pointers),   cmocka_unit_test(take_callers_registers),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
