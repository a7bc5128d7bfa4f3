/* src/sample/tables.h: from frame to frame as the C library's unwinder goes, and with tables that are not what they
 * should be. */
#include "forbidden.h"
#include "unwound.h"

#include "sample/tables.h"

enum { PAGE = 4096 };

/* -- as another unwinder has it ---------------------------------------------------------------------------------- */

/* Functions with frames of many kinds. Each does something after the call, lest it be a jump. */
static volatile int zero;

static __attribute__((noinline)) int plain(int (*next)(void))
{
    return next() + zero;
}

static __attribute__((noinline)) int with_array(void)
{
    volatile char room[3000];
    room[zero] = 1;
    return plain(compare) + room[zero];
}

static __attribute__((noinline)) int with_length(void)
{
    char *volatile room = __builtin_alloca((size_t)zero + 100);
    return with_array() + (room != NULL);
}

static __attribute__((noinline)) int aligned(void)
{
    volatile int numbers[64] __attribute__((aligned(64)));
    numbers[zero] = 1;
    return with_length() + numbers[zero];
}

static __attribute__((noinline)) int aligned_with_length(void)
{
    volatile int numbers[16] __attribute__((aligned(128)));
    char *volatile room = __builtin_alloca((size_t)zero + 100);
    numbers[zero] = 1;
    return aligned() + numbers[zero] + (room != NULL);
}

static __attribute__((noinline)) int with_many(int a, int b, int c, int d, int e, int f, int g, int h, int i)
{
    const int more = aligned_with_length();
    return more + a * b + c * d + e * f + g * h + i;
}

static __attribute__((noinline)) int variadic(int count, ...)
{
    va_list list;
    va_start(list, count);
    const int first = va_arg(list, int);
    va_end(list);
    return first + with_many(zero, zero, zero, zero, zero, zero, zero, zero, zero);
}

static int frames_found;

static int by_order(const void *a, const void *b)
{
    if (frames_found == 0)
        frames_found = variadic(2, zero, zero);
    return *(const int *)a - *(const int *)b;
}

/* Through a function of libc. */
static void *through_libc(void *nothing)
{
    int numbers[3] = {3, 1, 2};
    frames_found = 0;
    qsort(numbers, 3, sizeof numbers[0], by_order);
    require(frames_found > 8);
    return nothing;
}

static void go_up_alike(void **state)
{
    (void)state;
    fill_images();
    for (unsigned i = 0; i < 3; i++)
        (void)through_libc(NULL);
    on_threads(1, through_libc);
}

/* -- tables that lie --------------------------------------------------------------------------------------------- */

/* A copy of this program's tables between pages that cannot be read, to its first byte and to its last. */
static struct slm_code_file original, copied;
static char *place;
static size_t room;
static struct slm_tables_window window;

static void copy_tables(void)
{
    struct slm_code code = {.known = 0};
    const struct slm_code_file *file = slm_code_of_frame(&code, (uintptr_t)copy_tables, true);
    require(file && file->table_bytes > 0);
    original = copied = *file;
    room = slm_align_up(file->table_bytes, PAGE);
    place = mmap(NULL, room + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(place != MAP_FAILED && mprotect(place, PAGE, PROT_NONE) == 0);
    require(mprotect(place + PAGE + room, PAGE, PROT_NONE) == 0);
    copied.segment = (uintptr_t)place + PAGE + room - file->table_bytes;
    copied.tables = copied.segment + (file->tables - file->segment);
    memcpy((void *)copied.segment, (void *)file->segment, file->table_bytes);
}

/* Everything in the tables is relative. */
static uintptr_t moved(uintptr_t address)
{
    return address - original.segment + copied.segment;
}

static void compare_steps(const struct slm_step *a, const struct slm_step *b)
{
    require(a->kind == b->kind && a->how == b->how && a->base == b->base);
    require(a->frame == b->frame && a->back == b->back);
}

static void read_the_same(void **state)
{
    (void)state;
    unsigned found = 0;
    for (uintptr_t address = original.code; address < original.code + original.code_bytes; address += 3) {
        const struct slm_step step = slm_tables_step(&original, address, &window);
        const struct slm_step again = slm_tables_step(&original, address, &window),
                              copy = slm_tables_step(&copied, moved(address), &window);
        compare_steps(&step, &again);
        compare_steps(&step, &copy);
        found += step.kind == SLM_STEP_STACK || step.kind == SLM_STEP_FRAME;
    }
    require(found > original.code_bytes / 3 / 2);
    require(slm_tables_step(&original, 0, &window).kind == SLM_STEP_NONE);
}

/* Through the kernel, where the file may be closed. Nothing of it is remembered yet: these addresses are others. */
static void read_through_kernel(void **state)
{
    (void)state;
    struct slm_code_file closable = copied;
    closable.held = false;
    const uintptr_t first = original.code + 1, step_bytes = slm_max(original.code_bytes / scaled(2000), 3) / 3 * 3;
    for (uintptr_t address = first; address < original.code + original.code_bytes; address += step_bytes) {
        const struct slm_step copy = slm_tables_step(&closable, moved(address), &window),
                              step = slm_tables_step(&original, address, &window);
        compare_steps(&step, &copy);
    }
}

/* It is gone before they are read. */
static void miss_closed_file(void **state)
{
    (void)state;
    struct slm_code_file closed = copied;
    char *memory = mmap(NULL, copied.table_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED && munmap(memory, copied.table_bytes) == 0);
    closed.held = false;
    closed.segment = (uintptr_t)memory;
    closed.tables = closed.segment + (copied.tables - copied.segment);
    assert_int_equal(slm_tables_step(&closed, closed.segment + 100, &window).kind, SLM_STEP_LOST);
}

/* The kernel may not be asked: then this is no frame that anything is known of. */
static void copy_nothing(void)
{
    static const long calls[] = {SYS_process_vm_readv};
    struct slm_code_file closable = copied;
    closable.held = false;
    forbid_calls(false, calls, COUNT(calls));
    require(slm_tables_step(&closable, moved((uintptr_t)copy_nothing + 1), &window).kind == SLM_STEP_LOST);
    require(slm_tables_step(&copied, moved((uintptr_t)copy_nothing + 1), &window).kind >= SLM_STEP_STACK);
}

static void keep_to_sandbox(void **state)
{
    (void)state;
    assert_child_silent(copy_nothing);
}

/* Whatever they say, nothing beyond them is read: it would fault. */
static void survive_lies(void **state)
{
    (void)state;
    uint64_t seed = 1;
    char *bytes = (char *)copied.segment;
    const size_t header = copied.tables - copied.segment;
    for (unsigned long i = 0; i < scaled(20000); i++) {
        const size_t from = random_below(&seed, 4) == 0 ? header : random_below(&seed, copied.table_bytes);
        const size_t length = 1 + random_below(&seed, 24);
        for (size_t k = from; k < from + length && k < copied.table_bytes; k++)
            bytes[k] = (char)random_below(&seed, 3) == 0 ? (char)0xff : (char)random_below(&seed, 256);
        copied.tables = copied.segment + header + (i % 7 == 0 ? random_below(&seed, 64) : 0);
        copied.held = i % 16 != 0;
        for (unsigned k = 0; k < 20; k++)
            (void)slm_tables_step(&copied, moved(original.code + random_below(&seed, original.code_bytes)), &window);
        if (i % 50 == 49)
            memcpy(bytes, (void *)original.segment, copied.table_bytes);
    }
}

/* Tables that end early, right before what cannot be read. */
static void survive_cuts(void **state)
{
    (void)state;
    uint64_t seed = 1;
    const size_t header = original.tables - original.segment, most = original.table_bytes - header;
    for (unsigned long i = 0; i < scaled(600); i++) {
        copied.table_bytes = header + (i < 100 ? i : random_below(&seed, most));
        copied.segment = (uintptr_t)place + PAGE + room - copied.table_bytes;
        copied.tables = copied.segment + header;
        memcpy((void *)copied.segment, (void *)original.segment, copied.table_bytes);
        for (unsigned k = 0; k < 400; k++)
            (void)slm_tables_step(&copied, moved(original.code + random_below(&seed, original.code_bytes)), &window);
    }
}

/* -- what tables say --------------------------------------------------------------------------------------------- */

#ifdef __x86_64__
void known_steps(void);
__asm__(".pushsection .text\n\t.type known_steps, %function\nknown_steps:\n\t.cfi_startproc\n\t"
        "nop\n\t.cfi_def_cfa_offset 64\n\t"                       /* 1 */
        "nop\n\t.cfi_offset %rbp, -32\n\t"                        /* 2 */
        "nop\n\t.cfi_remember_state\n\t.cfi_def_cfa %rbp, 16\n\t" /* 3 */
        "nop\n\t.cfi_restore %rbp\n\t"                            /* 4 */
        "nop\n\t.cfi_restore_state\n\t"                           /* 5 */
        "nop\n\t.cfi_escape 0x0f, 3, 0x76, 0x78, 0x06\n\t"        /* 6: the base lies at rbp - 8 */
        "nop\n\t.cfi_escape 0x10, 6, 2, 0x76, 0x10\n\t"           /* 7: rbp at rbp + 16 */
        "nop\n\t.cfi_def_cfa %r10, 0\n\t"                         /* 8 */
        "nop\n\t.cfi_def_cfa %rsp, 24\n\t.cfi_undefined %rip\n\t" /* 9 */
        "nop\n\t.cfi_endproc\n\t.size known_steps, . - known_steps\n\t.popsection");

static void read_rules(void **state)
{
    (void)state;
    static const struct slm_step steps[] = {
        {SLM_STEP_STACK, SLM_STEP_SAME, 8, 0, -8},
        {SLM_STEP_STACK, SLM_STEP_SAME, 64, 0, -8},
        {SLM_STEP_STACK, SLM_STEP_AT_BASE, 64, -32, -8},
        {SLM_STEP_FRAME, SLM_STEP_AT_BASE, 16, -32, -8},
        {SLM_STEP_FRAME, SLM_STEP_SAME, 16, 0, -8},
        {SLM_STEP_STACK, SLM_STEP_AT_BASE, 64, -32, -8},
        {SLM_STEP_INDIRECT, SLM_STEP_AT_BASE, -8, -32, -8},
        {SLM_STEP_INDIRECT, SLM_STEP_AT_FRAME, -8, 16, -8},
        {.kind = SLM_STEP_MORE},
        {.kind = SLM_STEP_END},
    };
    for (unsigned i = 0; i < 2 * COUNT(steps); i++) {
        const struct slm_step *wanted = &steps[i % COUNT(steps)];
        const struct slm_step step = slm_tables_step(&original, (uintptr_t)known_steps + i % COUNT(steps), &window);
        assert_int_equal(step.kind, wanted->kind);
        if (step.kind < SLM_STEP_STACK)
            continue;
        assert_true(step.how == wanted->how && step.base == wanted->base && step.back == wanted->back);
        assert_true(step.how == SLM_STEP_SAME || step.frame == wanted->frame);
    }
}
#else
static void read_rules(void **state)
{
    (void)state;
    skip();
}
#endif

int main(void)
{
    copy_tables();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(go_up_alike),      cmocka_unit_test(keep_to_sandbox), cmocka_unit_test(read_through_kernel),
        cmocka_unit_test(miss_closed_file), cmocka_unit_test(read_the_same),   cmocka_unit_test(survive_lies),
        cmocka_unit_test(survive_cuts),     cmocka_unit_test(read_rules),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
