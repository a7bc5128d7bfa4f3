/* src/sample/stack.h where the C library does not tell which addresses belong to files: here the linker takes its
 * call away. Whatever may be an address is kept, but for those of the library's own range. */
#include "unit.h"

#include "sample/code.h"
#include "sample/stacks.h"

static int variable = 1;

static void know_no_files(void **state)
{
    (void)state;
    struct slm_code code = {.known = 0};
    assert_int_equal(slm_code_of(&code, (uintptr_t)know_no_files), SLM_CODE_UNKNOWN);
    assert_int_equal(slm_code_of(&code, (uintptr_t)&variable), SLM_CODE_UNKNOWN);
}

static void keep_what_may_be_code(void **state)
{
    (void)state;
    const uint64_t registers[SLM_STACK_REGISTERS] = {(uintptr_t)keep_what_may_be_code};
    union slm_stack_record record;
    uint64_t *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *volatile object = malloc(10);
    assert_true(words != MAP_FAILED);
    words[1] = (uintptr_t)&variable;
    words[2] = (uintptr_t)object;
    words[3] = (uintptr_t)keep_what_may_be_code;
    words[4] = 12;
    words[5] = UINT64_MAX;
    slm_stack_capture(&record, registers, words, false);
    assert_true(record.stack.words >= 2);
    assert_int_equal(record.stack.values[SLM_STACK_REGISTERS], words[1]);
    assert_int_equal(record.stack.values[SLM_STACK_REGISTERS + 1], words[3]);
    for (unsigned i = 2; i < record.stack.words; i++) /* of the memory that happens to lie behind */
        assert_true((slm_stack_offsets(&record.stack)[i] & ~SLM_STACK_RELATIVE) >= 4096 / 8);
    munmap(words, 4096);
    free(object);
}

static void capture_all_the_same(void **state)
{
    (void)state;
    assert_non_null(slm_stack_of(slm_stacks_here()));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(know_no_files),
        cmocka_unit_test(keep_what_may_be_code),
        cmocka_unit_test(capture_all_the_same),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
