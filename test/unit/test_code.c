/* src/sample/code.h: which addresses are code of a loaded file. */
#include "forbidden.h"

#include <link.h>

#include "os/background.h"
#include "sample/code.h"

static int variable = 1;

static enum slm_code_kind kind_of(const void *address)
{
    struct slm_code code = {.known = 0};
    const enum slm_code_kind kind = slm_code_of(&code, (uintptr_t)address);
    require(slm_code_of(&code, (uintptr_t)address) == kind); /* which it has remembered */
    return kind;
}

static void *function_of_libc(void)
{
    void *function = dlsym(RTLD_NEXT, "qsort");
    require(function);
    return function;
}

/* Code is told from data in the program and in a library; what lies in no file is neither. */
static void tell_code(void **state)
{
    (void)state;
    int local = 0;
    char *volatile object = malloc(100);
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(page != MAP_FAILED);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(kind_of((void *)(uintptr_t)tell_code), SLM_CODE_YES);
        assert_int_equal(kind_of(function_of_libc()), SLM_CODE_YES);
        assert_int_equal(kind_of(&variable), SLM_CODE_DATA);
        assert_int_equal(kind_of("a text"), SLM_CODE_DATA);
        assert_int_equal(kind_of(dlsym(RTLD_NEXT, "environ")), SLM_CODE_DATA);
        assert_int_equal(kind_of(&local), SLM_CODE_NONE);
        assert_int_equal(kind_of(object), SLM_CODE_NONE);
        assert_int_equal(kind_of(page), SLM_CODE_NONE);
    }
    munmap(page, 4096);
    free(object);
}

/* One capture's memory holds more addresses than it has places for. */
static void forget_in_time(void **state)
{
    (void)state;
    struct slm_code code = {.known = 0};
    const uintptr_t own = (uintptr_t)forget_in_time, libc = (uintptr_t)function_of_libc();
    for (uintptr_t page = 1; page < 5000; page++) {
        require(slm_code_of(&code, page << 32) == SLM_CODE_NONE);
        require(slm_code_of(&code, page % 2 ? own : libc) == SLM_CODE_YES);
    }
}

static void follow_files(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        void *library = dlopen("libresolv.so.2", RTLD_NOW);
        if (!library)
            skip();
        struct link_map *map = NULL;
        require(dlinfo(library, RTLD_DI_LINKMAP, &map) == 0);
        const void *dynamic = map->l_ld;
        require(kind_of(dynamic) == SLM_CODE_DATA);
        dlclose(library);
        if (!dlopen("libresolv.so.2", RTLD_NOW | RTLD_NOLOAD))
            require(kind_of(dynamic) == SLM_CODE_NONE);
    }
}

/* Nothing is asked of the kernel then: all of a library may be code. What is the program's is known all the same. */
static void ask_nothing(void)
{
    slm_background_forbid();
    require(kind_of((void *)(uintptr_t)ask_nothing) == SLM_CODE_YES);
    require(kind_of(&variable) == SLM_CODE_DATA);
    require(kind_of(function_of_libc()) == SLM_CODE_YES);
    require(kind_of(dlsym(RTLD_NEXT, "environ")) == SLM_CODE_YES);
    require(kind_of(malloc(1)) == SLM_CODE_NONE);
}

/* Who has not announced a filter may not know the call by which the kernel copies. */
static void copy_nothing(void)
{
    static const long calls[] = {SYS_process_vm_readv};
    forbid_calls(false, calls, COUNT(calls));
    require(kind_of(function_of_libc()) == SLM_CODE_YES);
    require(kind_of(dlsym(RTLD_NEXT, "environ")) == SLM_CODE_YES);
}

static void keep_to_sandbox(void **state)
{
    (void)state;
    assert_child_silent(ask_nothing);
    assert_child_silent(copy_nothing);
}

/* A file in which a frame goes on is known with its unwinding tables, even where it was looked at for another reason
 * before, when the kernel could not be asked. */
static void know_tables(void)
{
    const uintptr_t own = (uintptr_t)know_tables, libc = (uintptr_t)function_of_libc();
    refuse_call(SYS_process_vm_readv, EPERM, 0); /* announced */
    require(kind_of((void *)libc) == SLM_CODE_YES && kind_of(&variable) == SLM_CODE_DATA);
    struct slm_code code = {.known = 0};
    const struct slm_code_file *file = slm_code_of_frame(&code, own, true);
    require(file && own - file->start < file->bytes && own - file->code < file->code_bytes);
    require(file->tables - file->segment < file->table_bytes);
    file = slm_code_of_frame(&code, libc, true);
    require(file && file->table_bytes == 0);
    require(slm_code_of_frame(&code, (uintptr_t)&code, true) == NULL);
}

/* The same where no sandbox is announced. */
static void know_tables_of_libc(void)
{
    struct slm_code code = {.known = 0};
    const uintptr_t libc = (uintptr_t)function_of_libc();
    for (unsigned i = 0; i < 2; i++) {
        const struct slm_code_file *file = slm_code_of_frame(&code, libc, true);
        require(file && file->tables - file->segment < file->table_bytes);
        require(libc - file->code < file->code_bytes && file->code_bytes < file->bytes);
        code = (struct slm_code){.known = 0};
    }
}

static void find_tables(void **state)
{
    (void)state;
    assert_child_silent(know_tables);
    assert_child_silent(know_tables_of_libc);
}

/* Who can be closed is not held by a frame that was guessed; it is by the thread's. */
static void hold_files(void **state)
{
    (void)state;
    void *library = dlopen("libresolv.so.2", RTLD_NOW);
    if (!library)
        skip();
    struct link_map *map = NULL;
    require(dlinfo(library, RTLD_DI_LINKMAP, &map) == 0);
    for (unsigned sure = 0; sure < 2; sure++) {
        struct slm_code code = {.known = 0};
        const struct slm_code_file *file = slm_code_of_frame(&code, (uintptr_t)map->l_ld, sure);
        require(file && file->held == sure && file->tables - file->segment < file->table_bytes);
        require(slm_code_of_frame(&code, (uintptr_t)hold_files, sure)->held);
        require(slm_code_of_frame(&code, (uintptr_t)function_of_libc(), sure)->held);
        require(slm_code_of_frame(&code, (uintptr_t)map->l_ld, false)->held == sure);
    }
    dlclose(library);
}

/* Threads that look for the same files at once, whose places they write. */
static void *look(void *number)
{
    for (unsigned i = 0; i < 20000; i++) {
        struct slm_code code = {.known = 0};
        require(slm_code_of(&code, (uintptr_t)look) == SLM_CODE_YES);
        require(slm_code_of(&code, (uintptr_t)&variable) == SLM_CODE_DATA);
        require(slm_code_of(&code, (uintptr_t)&code) == SLM_CODE_NONE);
    }
    return number;
}

static void look_at_once(void **state)
{
    (void)state;
    on_threads(4, look);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keep_to_sandbox), /* first: nothing is remembered yet */
        cmocka_unit_test(find_tables),     cmocka_unit_test(hold_files),     cmocka_unit_test(look_at_once),
        cmocka_unit_test(tell_code),       cmocka_unit_test(forget_in_time), cmocka_unit_test(follow_files),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
