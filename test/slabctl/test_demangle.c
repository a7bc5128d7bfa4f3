/* tools/slabctl/demangle.h: names as people write them, and as short as a terminal needs them. */
#include "test.h"

#include <time.h>

#include "demangle.h"

static void demangles(const char *name, const char *expected)
{
    char *text = demangle(name);
    assert_string_equal(text, expected);
    free(text);
}

static void names_are_demangled(void **state)
{
    (void)state;
    demangles("zmalloc", "zmalloc");
    demangles("_Znwm", "operator new(unsigned long)");
    demangles("_ZN5store6insertEm", "store::insert(unsigned long)");
    demangles("_ZN4core3ptr9drop_fast17h0123456789abcdefE", "core::ptr::drop_fast");
    demangles("_Znonsense", "_Znonsense");
    demangles("_Z", "_Z");
    demangles("", "");
}

/* Each argument is a pair of the one before: the name would have 2^60 of them. */
static void a_name_that_doubles_itself_ends(void **state)
{
    (void)state;
    char name[1024] = "_Z1fSt4pairIiiE";
    for (unsigned i = 0; i < 36; i++) {
        char part[32], digit = (char)(i - 1 < 10 ? '0' + i - 1 : 'A' + i - 11);
        if (i == 0)
            snprintf(part, sizeof part, "S_IS0_S0_E");
        else
            snprintf(part, sizeof part, "S_IS%c_S%c_E", digit, digit);
        strcat(name, part);
    }
    char *text = demangle(name);
    assert_true(strlen(text) <= 4096);
    free(text);
}

static void a_long_name_is_cut(void **state)
{
    (void)state;
    char *name = malloc(100000);
    memset(name, 'x', 99999);
    name[99999] = '\0';
    char *text = demangle(name);
    assert_int_equal(strlen(text), 4096);
    free(text);
    free(name);
}

static void names_are_shortened(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t width;
        const char *expected;
    } rows[] = {
        {"zmalloc", 80, "zmalloc"},
        {"zmalloc", 5, "zma.."},
        {"operator new(unsigned long)", 80, "operator new"},
        {"a::b(int, char const*) const", 80, "a::b"},
        {"a::b(int) const::{lambda(int)#1}::operator()(int) const", 80, "a::b::{lambda}::operator()"},
        {"std::map<int, std::string>::insert(int)", 80, "std::map<int, std::string>::insert"},
        {"std::map<int, std::string>::insert(int)", 20, "std::map<>::insert"},
        {"std::map<int, std::string>::insert(int)", 12, "std::map<>.."},
        {"void fill<int>(int)", 80, "fill<int>"},
        {"std::vector<int, std::allocator<int> > make<int>(int)", 80, "make<int>"},
        {"(anonymous namespace)::f(int)", 80, "(anonymous namespace)::f"},
        {"a::operator<<(std::ostream&, a const&)", 80, "a::operator<<"},
        {"a::operator<(a const&)", 80, "a::operator<"},
        {"a::operator->() const", 80, "a::operator->"},
        {"a::operator int() const", 80, "a::operator int"},
        {"f<(a::kind)2>(int)", 80, "f<2>"},
        {"foo(int) [clone .part.0]", 80, "foo"},
        {"f(", 80, "f"},
        {"f<", 1, "f"},
        {"<", 0, ""},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char out[128];
        name_shorten(rows[i].name, out, rows[i].width);
        if (strcmp(out, rows[i].expected) != 0)
            print_message("%s\n", rows[i].name);
        assert_string_equal(out, rows[i].expected);
    }
}

static void any_name_is_shortened(void **state)
{
    (void)state;
    static const char letters[] = "ab<>(){}:- ,&*operatorlambda(anonymous namespace)[clone";
    struct chance chance = {11};
    for (unsigned round = 0; round < 50000; round++) {
        char name[64], out[64];
        size_t length = chance_next(&chance) % sizeof name;
        for (size_t i = 0; i < length; i++)
            name[i] = letters[chance_next(&chance) % (sizeof letters - 1)];
        name[length ? length - 1 : 0] = '\0';
        size_t width = chance_next(&chance) % 60;
        name_shorten(name, out, width);
        assert_true(strlen(out) <= width);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_demangled),   cmocka_unit_test(a_name_that_doubles_itself_ends),
        cmocka_unit_test(a_long_name_is_cut),    cmocka_unit_test(names_are_shortened),
        cmocka_unit_test(any_name_is_shortened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
