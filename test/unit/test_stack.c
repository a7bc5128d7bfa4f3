/* src/sample/stack.h: each kind of stack is captured, in both forms, and nothing is read that cannot be.
 * test_stack_words.c has what an image is made of. */
#include "stacks.h"

#include <link.h>
#include <ucontext.h>

#include "os/background.h"

enum { DEPTH = 12, HANDLER_BYTES = 16 << 10 };

/* -- the threads' own stacks ------------------------------------------------------------------------------------- */

/* Which form slm_stacks_here makes: by tables, once there are stacks enough. */
static enum slm_stack_kind expected = SLM_STACK_IMAGE;

static struct walk {
    const void *returns[DEPTH + 1];
    uint32_t number;
    size_t extra; /* bytes that each function has for itself */
} walks[8];

static union slm_stack_record captured[COUNT(walks)]; /* the same, as an image */

/* Each function notes where it returns to; the innermost one captures. */
static __attribute__((noinline)) int go_down(struct walk *walk, int depth)
{
    char *room = __builtin_alloca(walk->extra + 16);
    memset(room, depth, walk->extra + 16);
    __asm__ volatile("" ::"r"(room) : "memory");
    walk->returns[depth] = __builtin_return_address(0);
    if (depth > 0) {
        const int below = go_down(walk, depth - 1);
        __asm__ volatile("" ::"r"(room) : "memory"); /* lest the call be a jump */
        return below;
    }
    capture(&captured[walk - walks], no_registers, __builtin_frame_address(0));
    walk->number = slm_stacks_here();
    return room[0];
}

/* Each of the return addresses lies above the one before. */
static void check_walk(const struct slm_stack *stack, const struct walk *walk)
{
    long at = 0;
    for (int depth = 0; depth <= DEPTH; depth++) {
        const long next = offset_of(stack, at, walk->returns[depth]);
        require(next >= at);
        at = next + 1;
    }
}

/* They follow each other. */
static void check_frames(const struct slm_stack *stack, const struct walk *walk)
{
    unsigned at = 0;
    require(stack->registers == 0 && stack->words > DEPTH + 1);
    while (at < stack->words && stack->values[at] != (uintptr_t)walk->returns[0])
        at++;
    require(at == 1 && stack->words - at > DEPTH);
    for (int depth = 0; depth <= DEPTH; depth++)
        require(stack->values[at + (unsigned)depth] == (uintptr_t)walk->returns[depth]);
}

/* What was kept is what lies there. */
static void compare_words(const struct slm_stack *stack, const uint64_t *pointer)
{
    require(stack->words > 0);
    for (unsigned i = 0; i < stack->words; i++) {
        const uint16_t offset = slm_stack_offsets(stack)[i];
        const uint64_t value = stack->values[stack->registers + i];
        require(pointer[offset & ~SLM_STACK_RELATIVE] ==
                value + (offset & SLM_STACK_RELATIVE ? address(pointer) : 0));
    }
}

static void *walk_down(void *number)
{
    struct walk *walk = &walks[(uintptr_t)number];
    (void)go_down(walk, DEPTH);
    check_walk(&captured[walk - walks].stack, walk);
    require(walk->number != 0);
    const struct slm_stack *stored = slm_stack_of(walk->number);
    require(stored->kind == expected);
    if (expected == SLM_STACK_FRAMES) {
        check_frames(stored, walk);
    } else {
        check_form(stored);
        check_walk(stored, walk);
    }
    return number;
}

static void *walk_whole(void *number)
{
    (void)walk_down(number);
    require(!captured[(uintptr_t)number].stack.cut);
    require(expected == SLM_STACK_IMAGE || !slm_stack_of(walks[(uintptr_t)number].number)->cut);
    return number;
}

static void capture_main_stack(void **state)
{
    (void)state;
    (void)walk_whole(NULL);
    static union slm_stack_record record;
    const void *pointer = __builtin_frame_address(0);
    capture(&record, no_registers, pointer);
    compare_words(&record.stack, pointer);
}

static void capture_threads(void **state)
{
    (void)state;
    on_threads(8, walk_whole);
}

static void *walk_far(void *number)
{
    struct walk *walk = &walks[0];
    walk->extra = 1500;
    (void)go_down(walk, DEPTH);
    walk->extra = 0;
    require(captured[walk - walks].stack.cut && captured[walk - walks].stack.covered == SLM_STACK_WINDOW);
    require(offset_of(&captured[walk - walks].stack, 0, walk->returns[5]) > 0);
    return number;
}

static void cut_long_stacks(void **state)
{
    (void)state;
    (void)walk_far(NULL);
    on_threads(1, walk_far);
}

/* -- other stacks ------------------------------------------------------------------------------------------------ */

static ucontext_t outside, inside;

static void run_coroutine(void)
{
    (void)walk_down(NULL);
}

static void on_stack(char *bottom, size_t bytes)
{
    require(getcontext(&inside) == 0);
    inside.uc_stack.ss_sp = bottom;
    inside.uc_stack.ss_size = bytes;
    inside.uc_link = &outside;
    makecontext(&inside, run_coroutine, 0);
    require(swapcontext(&outside, &inside) == 0);
}

/* In turn: the memory behind the stack cannot be read, is not there, or is another's; the stack is an object's. */
static void *run_coroutines(void *number)
{
    enum { BYTES = 8 * PAGE };
    char *memory = pages(8);
    on_stack(memory, BYTES);
    require(munmap(memory + BYTES, PAGE) == 0);
    on_stack(memory, BYTES);
    on_stack(memory, BYTES - 3 * PAGE - 16);
    munmap(memory, BYTES);
    on_stack(memory = malloc(BYTES), BYTES);
    free(memory);
    return number;
}

static void capture_coroutines(void **state)
{
    (void)state;
    (void)run_coroutines(NULL);
    on_threads(1, run_coroutines);
}

/* Another thread maps and unmaps what lies behind the stack. */
static char *neighbour;
static _Atomic bool enough;

static void *come_and_go(void *nothing)
{
    while (!load_relaxed(&enough)) {
        require(mmap(neighbour, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                neighbour);
        memset(neighbour, 1, PAGE);
        require(munmap(neighbour, PAGE) == 0);
    }
    return nothing;
}

static void survive_neighbours(void **state)
{
    (void)state;
    union slm_stack_record record;
    pthread_t thread;
    char *memory = pages(3);
    neighbour = memory + 2 * PAGE;
    assert_int_equal(munmap(neighbour, 2 * PAGE), 0);
    store_relaxed(&enough, false);
    assert_int_equal(pthread_create(&thread, NULL, come_and_go, NULL), 0);
    for (unsigned long i = 0; i < scaled(5000); i++) {
        capture(&record, no_registers, memory + 2 * PAGE - 64 - i % 64 * WORD);
        capture(&record, no_registers, memory + i % 64 * WORD);
        require(record.stack.covered >= 2 * PAGE - i % 64 * WORD);
    }
    store_relaxed(&enough, true);
    pthread_join(thread, NULL);
    munmap(memory, 2 * PAGE);
}

/* A handler on a stack of its own, which ends where nothing can be read. */
static volatile sig_atomic_t handled;

static void handle(int signal)
{
    (void)signal;
    (void)walk_down(NULL);
    handled++;
}

static void *take_signal(void *number)
{
    char *memory = pages(HANDLER_BYTES / PAGE);
    const stack_t own = {.ss_sp = memory, .ss_size = HANDLER_BYTES}, none = {.ss_flags = SS_DISABLE};
    const struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    require(sigaltstack(&own, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    const sig_atomic_t before = handled;
    require(raise(SIGUSR1) == 0 && handled == before + 1);
    require(sigaltstack(&none, NULL) == 0);
    munmap(memory, HANDLER_BYTES + PAGE);
    return number;
}

/* It takes all registers to leave a handler's frame, which is left to tools. */
static void capture_in_handlers(void **state)
{
    (void)state;
    const enum slm_stack_kind before = expected;
    expected = SLM_STACK_IMAGE;
    (void)take_signal(NULL);
    on_threads(1, take_signal);
    expected = before;
}

/* A thread on as little stack as there may be. */
static void run_on_little_stack(void **state)
{
    (void)state;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16 << 10);
    assert_int_equal(pthread_create(&thread, &attributes, walk_down, NULL), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}

/* A thread's stack and a coroutine's, both the program's, with a page between them that cannot be read. */
enum { STACK_PAGES = 16, COROUTINE_PAGES = 8 };

static void *run_below_own_stack(void *bottom)
{
    on_stack(bottom, COROUTINE_PAGES * PAGE);
    return bottom;
}

static void know_own_stack(void **state)
{
    (void)state;
    const size_t hole = (COROUTINE_PAGES + 1) * PAGE;
    char *memory = pages(COROUTINE_PAGES + 1 + STACK_PAGES);
    pthread_attr_t attributes;
    pthread_t thread;
    assert_int_equal(mprotect(memory + hole - PAGE, PAGE, PROT_NONE), 0);
    pthread_attr_init(&attributes);
    assert_int_equal(pthread_attr_setstack(&attributes, memory + hole, STACK_PAGES * PAGE), 0);
    assert_int_equal(pthread_create(&thread, &attributes, run_below_own_stack, memory), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    munmap(memory, hole + (STACK_PAGES + 1) * PAGE);
}

/* A stack of the program's below a thread's, with nothing between them that cannot be read: but for a while, as
 * another thread sees to. */
enum { BELOW_PAGES = 2 };

static void *close_and_open(void *page)
{
    while (!load_relaxed(&enough))
        require(mprotect(page, PAGE, PROT_NONE) == 0 && mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
    return page;
}

static void *capture_below(void *bottom)
{
    union slm_stack_record record;
    for (unsigned long i = 0; i < scaled(20000); i++)
        capture(&record, no_registers, (char *)bottom + PAGE + i % 64 * WORD);
    return bottom;
}

static void run_above(void *(*function)(void *), char *bottom)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    require(pthread_attr_setstack(&attributes, bottom + BELOW_PAGES * PAGE, STACK_PAGES * PAGE) == 0);
    require(pthread_create(&thread, &attributes, function, bottom) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}

static void survive_neighbours_below_threads(void **state)
{
    (void)state;
    pthread_t thread;
    char *memory = pages(BELOW_PAGES + STACK_PAGES);
    store_relaxed(&enough, false);
    assert_int_equal(pthread_create(&thread, NULL, close_and_open, memory + (BELOW_PAGES - 1) * PAGE), 0);
    run_above(capture_below, memory - PAGE);
    store_relaxed(&enough, true);
    pthread_join(thread, NULL);
    munmap(memory, (BELOW_PAGES + STACK_PAGES + 1) * PAGE);
}

/* -- sandboxes --------------------------------------------------------------------------------------------------- */

/* What is a thread's own is all that is read where the kernel may not copy. */
static void *tell_own_stack(void *bottom)
{
    union slm_stack_record record;
    capture(&record, no_registers, (char *)bottom + 64);
    require(record.stack.covered == PAGE - 64 && record.stack.cut);
    return walk_whole(NULL);
}

static void tell_own_stacks(void)
{
    static const long calls[] = {SYS_process_vm_readv};
    pthread_attr_t attributes;
    pthread_t thread;
    forbid_calls(false, calls, COUNT(calls));
    for (unsigned i = 0; i < 2; i++) {
        run_above(tell_own_stack, pages(BELOW_PAGES + STACK_PAGES));
        on_threads(2, walk_whole);
        pthread_attr_init(&attributes);
        require(pthread_attr_setguardsize(&attributes, 0) == 0);
        require(pthread_create(&thread, &attributes, walk_whole, NULL) == 0);
        pthread_join(thread, NULL);
        pthread_attr_destroy(&attributes);
    }
}

/* The page that the stack pointer is in, and no call. */
static void keep_to_page(void)
{
    static const long calls[] = {SYS_process_vm_readv, SYS_rt_sigprocmask, SYS_prctl, SYS_gettid, SYS_getpid};
    union slm_stack_record record;
    char *memory = pages(4);
    *(uint64_t *)(void *)(memory + 2 * PAGE - 16) = address(keep_to_page);
    *(uint64_t *)(void *)(memory + 2 * PAGE) = address(keep_to_page);
    forbid_calls(true, calls, COUNT(calls));
    capture(&record, no_registers, memory + PAGE + 64);
    require(record.stack.covered == PAGE - 64 && record.stack.cut && record.stack.words == 1);
    capture(&record, no_registers, __builtin_frame_address(0)); /* the first thread's needs none */
    require(!record.stack.cut);
    require(slm_stacks_here() != 0);
}

/* Who has not announced a filter may not know the call by which the kernel copies. */
static void copy_nothing(void)
{
    static const long calls[] = {SYS_process_vm_readv};
    union slm_stack_record record;
    char *memory = pages(4);
    forbid_calls(false, calls, COUNT(calls));
    capture(&record, no_registers, memory + PAGE + 64);
    require(record.stack.covered == PAGE - 64 && record.stack.cut);
    on_threads(2, walk_down);
}

static void stay_in_sandboxes(void **state)
{
    (void)state;
    assert_child_silent(keep_to_page);
    assert_child_silent(copy_nothing);
    assert_child_silent(tell_own_stacks);
}

/* -- by tables --------------------------------------------------------------------------------------------------- */

/* Others have what images may have. */
static int fill_images(void **state)
{
    static union slm_stack_record record;
    (void)state;
    record.stack.kind = SLM_STACK_FRAMES;
    record.stack.words = SLM_STACK_WORDS;
    for (uint32_t i = 0; load_relaxed(&slm_stacks_bytes) < SLM_STACKS_IMAGES; i++) {
        record.stack.values[0] = record.stack.hash = i;
        if (slm_stacks_intern(&record.stack) == 0)
            return -1;
    }
    expected = SLM_STACK_FRAMES;
    return 0;
}

static void call_walk(void)
{
    (void)walk_down(NULL);
}

/* Code that no file has: it calls its first argument. */
typedef void unknown_code(void (*function)(void), const void *frame);

#ifdef __x86_64__
enum { BEHIND_CALL = 6 };
static const uint8_t with_frame_pointer[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
static const uint8_t without[] = {0x48, 0x83, 0xec, 0x08, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x08, 0xc3};
static const uint8_t with_data[] = {0x55, 0x48, 0x89, 0xf5, 0xff, 0xd7, 0x5d, 0xc3}; /* it has `frame` in rbp */

static unknown_code *make_code(const uint8_t *bytes, size_t count)
{
    uint8_t *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(code != MAP_FAILED);
    memcpy(code, bytes, count);
    require(mprotect(code, PAGE, PROT_READ | PROT_EXEC) == 0);
    return (unknown_code *)(uintptr_t)code;
}

/* With a frame pointer and without. */
static void go_through_unknown_code(void **state)
{
    (void)state;
    unknown_code *code = make_code(with_frame_pointer, sizeof with_frame_pointer);
    code(call_walk, NULL);
    const struct slm_stack *stack = slm_stack_of(walks[0].number);
    unsigned at = 0;
    while (at < stack->words && stack->values[at] != address(code) + BEHIND_CALL)
        at++;
    assert_true(at + 2 < stack->words && !stack->cut); /* it goes on to this function, and to its callers */
    assert_true(stack->values[at + 1] - address(go_through_unknown_code) < 1000);
    munmap((void *)(uintptr_t)code, PAGE);
    code = make_code(without, sizeof without);
    code(call_walk, NULL);
    munmap((void *)(uintptr_t)code, PAGE);
}

struct parts {
    uintptr_t base, code, tables, tables_end; /* of the file that begins at `base` */
};

static int find_parts(struct dl_phdr_info *file, size_t bytes, void *found)
{
    struct parts *parts = found;
    (void)bytes;
    if (file->dlpi_addr != parts->base)
        return 0;
    for (unsigned i = 0; i < file->dlpi_phnum; i++)
        if (file->dlpi_phdr[i].p_type == PT_GNU_EH_FRAME)
            parts->tables = file->dlpi_addr + file->dlpi_phdr[i].p_vaddr;
    for (unsigned i = 0; i < file->dlpi_phnum; i++) {
        const uintptr_t start = file->dlpi_addr + file->dlpi_phdr[i].p_vaddr, length = file->dlpi_phdr[i].p_memsz;
        if (file->dlpi_phdr[i].p_type == PT_LOAD && (file->dlpi_phdr[i].p_flags & PF_X))
            parts->code = start + length / 2;
        if (file->dlpi_phdr[i].p_type == PT_LOAD && parts->tables - start < length)
            parts->tables_end = start + length;
    }
    return 1;
}

/* Where the code has something else in that register, what lies there may be an address in a file that another thread
 * closes. Here the file's tables cannot be read. */
static void survive_closed_files(void **state)
{
    (void)state;
    void *library = dlopen("libresolv.so.2", RTLD_NOW);
    struct link_map *map;
    if (!library)
        skip();
    require(dlinfo(library, RTLD_DI_LINKMAP, &map) == 0);
    struct parts parts = {.base = map->l_addr};
    require(dl_iterate_phdr(find_parts, &parts) == 1 && parts.code && parts.tables && parts.tables_end);
    void *page = (void *)(parts.tables & ~(uintptr_t)(PAGE - 1));
    const size_t bytes = parts.tables_end - (uintptr_t)page;
    const uint64_t frame[] = {0, parts.code};
    unknown_code *code = make_code(with_data, sizeof with_data);
    require(mprotect(page, bytes, PROT_NONE) == 0);
    code(call_walk, frame);
    require(mprotect(page, bytes, PROT_READ) == 0);
    const struct slm_stack *stack = slm_stack_of(walks[0].number);
    assert_true(stack->cut && stack->values[stack->words - 1] == parts.code);
    munmap((void *)(uintptr_t)code, PAGE);
    dlclose(library);
}
#else
static void go_through_unknown_code(void **state)
{
    (void)state;
    skip();
}

static void survive_closed_files(void **state)
{
    (void)state;
    skip();
}
#endif

/* More frames than there is room for. */
static __attribute__((noinline)) uint32_t go_deep(int depth)
{
    const uint32_t number = depth > 0 ? go_deep(depth - 1) : slm_stacks_here();
    __asm__ volatile("");
    return number;
}

static void cut_deep_stacks(void **state)
{
    (void)state;
    const struct slm_stack *stack = slm_stack_of(go_deep(1000));
    assert_non_null(stack);
    assert_true(stack->kind == SLM_STACK_FRAMES && stack->words == SLM_STACK_WORDS && stack->cut);
    assert_true(stack->values[5] == stack->values[SLM_STACK_WORDS - 1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capture_main_stack),
        cmocka_unit_test(capture_threads),
        cmocka_unit_test(cut_long_stacks),
        cmocka_unit_test(capture_coroutines),
        cmocka_unit_test(survive_neighbours),
        cmocka_unit_test(capture_in_handlers),
        cmocka_unit_test(run_on_little_stack),
        cmocka_unit_test(know_own_stack),
        cmocka_unit_test(survive_neighbours_below_threads),
        cmocka_unit_test(stay_in_sandboxes),
    };
    const struct CMUnitTest again[] = {
        cmocka_unit_test(capture_main_stack),      cmocka_unit_test(capture_threads),
        cmocka_unit_test(capture_coroutines),      cmocka_unit_test(run_on_little_stack),
        cmocka_unit_test(capture_in_handlers),     cmocka_unit_test(stay_in_sandboxes),
        cmocka_unit_test(go_through_unknown_code), cmocka_unit_test(survive_closed_files),
        cmocka_unit_test(cut_deep_stacks),
    };
    const int failed = cmocka_run_group_tests(tests, start_library, NULL);
    return failed ? failed : cmocka_run_group_tests(again, fill_images, NULL);
}
