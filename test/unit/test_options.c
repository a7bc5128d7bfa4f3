/* src/base/options.h: the table of options and what SLABMALLOC_OPTIONS may say. Each test sets options in a child. */
#include "unit.h"

#include "base/options.h"

static const char *given; /* to the parser, in the child */
static struct slm_options wanted;

static void parse_and_compare(void)
{
    slm_options_parse(given);
    require(memcmp(&slm_options, &wanted, sizeof wanted) == 0);
}

/* The text gives the options in `wanted`, without a word. */
static void assert_parses(const char *options)
{
    given = options;
    assert_child_silent(parse_and_compare);
}

/* The text is warned of in exactly these words, and gives the options in `wanted`. */
static void assert_warns(const char *options, const char *warning)
{
    given = options;
    const struct outcome outcome = in_child(parse_and_compare);
    assert_string_equal(outcome.said, warning);
    assert_int_equal(outcome.status, 0);
}

static int begin_with_defaults(void **state)
{
    (void)state;
    wanted = slm_options;
    return 0;
}

static void nothing_changes_nothing(void **state)
{
    (void)state;
    assert_parses(NULL);
    assert_parses("");
    assert_parses(",,,");
}

static void defaults_are_those_that_the_help_shows(void **state)
{
    (void)state;
    assert_int_equal(slm_options.magazine_bytes, 65536);
    assert_int_equal(slm_options.thread_bytes, 1048576);
    assert_int_equal(slm_options.depot_bytes, 2097152);
    assert_int_equal(slm_options.purge_delay_ms, 500);
    assert_int_equal(slm_options.dirty_bytes, 33554432);
    assert_int_equal(slm_options.worker, 1);
    assert_int_equal(slm_options.stats, 0);
    assert_int_equal(slm_options.help, 0);
    assert_string_equal(slm_options.stats_file, "");
}

static void numbers_are_set(void **state)
{
    (void)state;
    wanted.purge_delay_ms = 0;
    wanted.worker = 0;
    wanted.stats = 1;
    assert_parses("purge_delay_ms=0,worker=0,stats=1");
    assert_parses(",purge_delay_ms=0,,worker=0,stats=1,");
    assert_parses("purge_delay_ms=7,worker=0,stats=1,purge_delay_ms=00000000000000000000000"); /* the last counts */
}

static void letters_multiply(void **state)
{
    (void)state;
    wanted.magazine_bytes = 8 << 10;
    wanted.dirty_bytes = 3 << 20;
    wanted.depot_bytes = (uint64_t)5 << 30;
    assert_parses("magazine_bytes=8K,dirty_bytes=3M,depot_bytes=5G");
}

static void bounds_are_part_of_the_range(void **state)
{
    (void)state;
    wanted.magazine_bytes = 256;
    wanted.thread_bytes = 1 << 30;
    wanted.depot_bytes = (uint64_t)1 << 40;
    assert_parses("magazine_bytes=256,thread_bytes=1G,depot_bytes=1024G");
}

static void texts_are_set(void **state)
{
    (void)state;
    strcpy(wanted.stats_file, "/tmp/a=b");
    strcpy(wanted.topology, "2x2");
    assert_parses("stats_file=/tmp/a=b,topology=2x2");
}

#define BAD "slabmalloc: bad value in SLABMALLOC_OPTIONS, default kept: "

static void bad_values_are_warned_of_and_dropped(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "worker",
        "worker=",
        "worker=2",
        "worker=-1",
        "worker= 1",
        "worker=1 ",
        "worker=on",
        "magazine_bytes=255",
        "magazine_bytes=1T",
        "magazine_bytes=K",
        "magazine_bytes=1KK",
        "magazine_bytes=1k",
        "magazine_bytes=17M",
        "stats_file=",
        "topology=",
        "topology=1234567890123456",
        "depot_bytes=18446744073709551616",
        "depot_bytes=17179869185G",
        "depot_bytes=99999999999999999999999999999999",
    };
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_warns(bad[i], text(BAD "%s\n", bad[i]));
}

static void the_rest_of_the_text_still_counts(void **state)
{
    (void)state;
    wanted.stats = 1;
    wanted.worker = 0;
    assert_warns("stats=1,worker=7,nonsense=1,worker=0",
                 BAD "worker=7\nslabmalloc: unknown option in SLABMALLOC_OPTIONS: nonsense=1\n");
}

static void unknown_names_are_warned_of(void **state)
{
    (void)state;
    static const char *const unknown[] = {"worke=1", "workers=1", "WORKER=1", " worker=1", "=1", "="};
    for (size_t i = 0; i < COUNT(unknown); i++)
        assert_warns(unknown[i], text("slabmalloc: unknown option in SLABMALLOC_OPTIONS: %s\n", unknown[i]));
}

static void long_nonsense_is_one_line(void **state)
{
    (void)state;
    static char nonsense[20000];
    memset(nonsense, 'x', sizeof nonsense - 1);
    given = nonsense;
    const struct outcome outcome = in_child(parse_and_compare);
    assert_int_equal(outcome.status, 0);
    assert_ptr_equal(strchr(outcome.said, '\n'), outcome.said + strlen(outcome.said) - 1);
}

static void read_environment(void)
{
    setenv("SLABMALLOC_OPTIONS", "purge_delay_ms=123", 1);
    slm_options_read();
    require(slm_options.purge_delay_ms == 123);
    unsetenv("SLABMALLOC_OPTIONS");
    slm_options_read();
    require(slm_options.purge_delay_ms == 123);
}

static void the_environment_is_read(void **state)
{
    (void)state;
    assert_child_silent(read_environment);
}

static void ask_for_help(void)
{
    setenv("SLABMALLOC_OPTIONS", "help=1", 1);
    slm_options_read();
}

/* A row of the table: | `name` | default | range | sentence | */
static void assert_is_row(const char *row)
{
    char name[64], range[64], sentence[256], shown[64];
    assert_int_equal(sscanf(row, "| `%63[a-z_]` | %63[^|] | %63[^|] | %255[^|] |", name, shown, range, sentence), 4);
    assert_non_null(strstr(sentence, "."));
}

static void help_is_a_table_in_markdown(void **state)
{
    (void)state;
    struct outcome outcome = in_child(ask_for_help);
    unsigned rows = 0;
    for (char *row = strtok(outcome.said, "\n"); row; row = strtok(NULL, "\n"), rows++)
        assert_is_row(row);
    assert_int_equal(outcome.status, 0);
    assert_int_equal(rows, slm_checked ? 15 : 14);
}

int main(void)
{
    unsetenv("SLABMALLOC_OPTIONS");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_changes_nothing, begin_with_defaults),
        cmocka_unit_test_setup(defaults_are_those_that_the_help_shows, begin_with_defaults),
        cmocka_unit_test_setup(numbers_are_set, begin_with_defaults),
        cmocka_unit_test_setup(letters_multiply, begin_with_defaults),
        cmocka_unit_test_setup(bounds_are_part_of_the_range, begin_with_defaults),
        cmocka_unit_test_setup(texts_are_set, begin_with_defaults),
        cmocka_unit_test_setup(bad_values_are_warned_of_and_dropped, begin_with_defaults),
        cmocka_unit_test_setup(the_rest_of_the_text_still_counts, begin_with_defaults),
        cmocka_unit_test_setup(unknown_names_are_warned_of, begin_with_defaults),
        cmocka_unit_test_setup(long_nonsense_is_one_line, begin_with_defaults),
        cmocka_unit_test_setup(the_environment_is_read, begin_with_defaults),
        cmocka_unit_test(help_is_a_table_in_markdown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
