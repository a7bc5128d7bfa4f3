/* What is remembered of files: this program's own one, which has the symbol, and no note. */
#include "test.h"

#include <fcntl.h>
#include <unistd.h>

#include "inspect_symbol.h"

const char slab_inspect[64] = "found";
extern const char __ehdr_start; /* the linker's: where the file begins */

static bool look(uint64_t budget)
{
    struct inspect_symbol symbol;
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    bool found = inspect_symbol_find(file, &symbol, &budget);
    close(file);
    if (found)
        assert_int_equal(symbol.value - symbol.start, slab_inspect - &__ehdr_start);
    return found;
}

/* One process has used up what may be read for it: the next one's is a new one. */
static void that_there_was_no_budget_is_not_remembered(void **state)
{
    (void)state;
    assert_false(look(0));
    assert_false(look(100));
    assert_true(look((uint64_t)1 << 30));
    assert_true(look(0)); /* that is */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(that_there_was_no_budget_is_not_remembered),
    };
    elf_version(EV_CURRENT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
