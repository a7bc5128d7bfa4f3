/* src/sample/tables.h and code.h where a plug-in is loaded anew: in place of the old one comes one that has the same
 * addresses, whose frames have other lengths. */
#include "unwound.h"

typedef void call_back(void (*function)(void));

static char **modules;
static unsigned compared;

static void check_stack(void)
{
    require(compare() > 4);
    compared++;
}

/* In turn. */
static void load_both(char *const *names)
{
    void *place = NULL;
    compared = 0;
    for (unsigned i = 0; i < 6; i++) {
        void *module = dlopen(names[i % 2], RTLD_NOW);
        require(module);
        call_back *function = (call_back *)(uintptr_t)dlsym(module, "reloaded_call");
        require(function);
        place = place ? place : (void *)(uintptr_t)function;
        const bool same = place == (void *)(uintptr_t)function;
        function(check_stack);
        dlclose(module);
        if (!same) {
            print_message("the system loads it elsewhere\n");
            skip();
        }
    }
    assert_int_equal(compared, 6);
}

static void know_by_build_id(void **state)
{
    (void)state;
    load_both(&modules[0]);
}

static void know_without(void **state)
{
    (void)state;
    load_both(&modules[2]);
}

static int start(void **state)
{
    const int failed = start_library(state);
    fill_images();
    return failed;
}

int main(int count, char **arguments)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(know_by_build_id),
        cmocka_unit_test(know_without),
    };
    require(count == 5);
    modules = arguments + 1;
    return cmocka_run_group_tests(tests, start, NULL);
}
