/* src/base/options.h: the table of options and what SLABMALLOC_OPTIONS may say. Each test sets options in a child. */
#include "unit.h"

#include "base/options.h"

static const char *given; /* to the parser, in the child */
static struct slm_options wanted;
static struct slm_settings wanted_settings;

static void parse_and_compare(void)
{
    slm_options_parse(given);
    require(memcmp(&slm_options, &wanted, sizeof wanted) == 0);
    require(memcmp(&slm_settings, &wanted_settings, sizeof wanted_settings) == 0);
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
    memcpy(&wanted_settings, &slm_settings, sizeof wanted_settings);
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
    assert_int_equal(slm_settings.magazine_bytes, 65536);
    assert_int_equal(slm_settings.thread_bytes, 1048576);
    assert_int_equal(slm_settings.depot_bytes, 1 << 30);
    assert_int_equal(slm_settings.purge_delay_ms, 500);
    assert_int_equal(slm_settings.dirty_bytes, 4194304);
    assert_int_equal(slm_options.worker, 1);
    assert_int_equal(slm_settings.stats, 0);
    assert_int_equal(slm_options.help, 0);
    assert_string_equal(slm_options.stats_file, "");
}

static void numbers_are_set(void **state)
{
    (void)state;
    wanted_settings.purge_delay_ms = 0;
    wanted.worker = 0;
    wanted_settings.stats = 1;
    assert_parses("purge_delay_ms=0,worker=0,stats=1");
    assert_parses(",purge_delay_ms=0,,worker=0,stats=1,");
    assert_parses("purge_delay_ms=7,worker=0,stats=1,purge_delay_ms=00000000000000000000000");
}

static void letters_multiply(void **state)
{
    (void)state;
    wanted_settings.magazine_bytes = 8 << 10;
    wanted_settings.dirty_bytes = 3 << 20;
    wanted_settings.depot_bytes = (uint64_t)5 << 30;
    assert_parses("magazine_bytes=8K,dirty_bytes=3M,depot_bytes=5G");
    assert_parses("magazine_bytes=8k,dirty_bytes=3m,depot_bytes=5g");
}

static void the_last_of_the_same_name_counts(void **state)
{
    (void)state;
    wanted_settings.purge_delay_ms = 3;
    strcpy(wanted.stats_file, "/b");
    assert_parses("purge_delay_ms=1,stats_file=/a,purge_delay_ms=2,stats_file=/b,purge_delay_ms=3");
    assert_warns("purge_delay_ms=1,stats_file=/b,purge_delay_ms=3,purge_delay_ms=x",
                 "slabmalloc: option purge_delay_ms=x: not a number (0 to 3600000, as in 500); using 3\n");
}

static void bounds_are_part_of_the_range(void **state)
{
    (void)state;
    wanted_settings.magazine_bytes = 256;
    wanted_settings.thread_bytes = 1 << 30;
    wanted_settings.depot_bytes = (uint64_t)1 << 40;
    assert_parses("magazine_bytes=256,thread_bytes=1G,depot_bytes=1024G");
}

static void texts_are_set(void **state)
{
    (void)state;
    strcpy(wanted.stats_file, "/tmp/a=b");
    strcpy(wanted.topology, "2x2");
    assert_parses("stats_file=/tmp/a=b,topology=2x2");
}

#define WORKER " (0 to 1, as in 1); using 1\n"
#define MAGAZINE " (256 to 16777216, as in 64K); using 65536\n"
#define DEPOT " (0 to 1099511627776, as in 64M); using 1073741824\n"
#define FILE_OF_STATS " (up to 127 bytes, as in /tmp/figures); using none\n"
#define TOPOLOGY " (up to 15 bytes, as in 2x2); using none\n"

static const struct mistake {
    const char *given, *said;
} bad_values[] = {
    /* no '=', nothing behind it */
    {"worker", "worker: no value" WORKER},
    {"worker=", "worker=: no value" WORKER},
    {"stats_file", "stats_file: no value" FILE_OF_STATS},
    {"stats_file=", "stats_file=: no value" FILE_OF_STATS},
    {"topology=", "topology=: no value" TOPOLOGY},
    /* out of range */
    {"worker=2", "worker=2: too large" WORKER},
    {"magazine_bytes=255", "magazine_bytes=255: too small" MAGAZINE},
    {"magazine_bytes=16777217", "magazine_bytes=16777217: too large" MAGAZINE},
    {"magazine_bytes=17M", "magazine_bytes=17M: too large" MAGAZINE},
    {"magazine_bytes=17m", "magazine_bytes=17m: too large" MAGAZINE},
    {"topology=1234567890123456", "topology=1234567890123456: too long" TOPOLOGY},
    /* more than 64 bits: by digits, by the last of them, by a letter */
    {"depot_bytes=99999999999999999999999999999999", "depot_bytes=99999999999999999999999999999999: too large" DEPOT},
    {"depot_bytes=18446744073709551616", "depot_bytes=18446744073709551616: too large" DEPOT},
    {"depot_bytes=17179869185G", "depot_bytes=17179869185G: too large" DEPOT},
    {"depot_bytes=18014398509481984k", "depot_bytes=18014398509481984k: too large" DEPOT},
    {"magazine_bytes=18446744073709551872", "magazine_bytes=18446744073709551872: too large" MAGAZINE}, /* 2^64+256 */
    /* below 0 */
    {"worker=-1", "worker=-1: negative" WORKER},
    {"magazine_bytes=-64K", "magazine_bytes=-64K: negative" MAGAZINE},
    {"worker=-99999999999999999999", "worker=-99999999999999999999: negative" WORKER},
    /* other than a number, and what stands around one */
    {"magazine_bytes=64q", "magazine_bytes=64q: not a number" MAGAZINE},
    {"magazine_bytes=1T", "magazine_bytes=1T: not a number" MAGAZINE},
    {"magazine_bytes=K", "magazine_bytes=K: not a number" MAGAZINE},
    {"magazine_bytes=-", "magazine_bytes=-: not a number" MAGAZINE},
    {"magazine_bytes=1KK", "magazine_bytes=1KK: not a number" MAGAZINE},
    {"magazine_bytes=64KB", "magazine_bytes=64KB: not a number" MAGAZINE},
    {"magazine_bytes=64K64", "magazine_bytes=64K64: not a number" MAGAZINE},
    {"magazine_bytes=0x1000", "magazine_bytes=0x1000: not a number" MAGAZINE},
    {"magazine_bytes=99999999999999999999x", "magazine_bytes=99999999999999999999x: not a number" MAGAZINE},
    {"worker= 1", "worker= 1: not a number" WORKER},
    {"worker=1 ", "worker=1 : not a number" WORKER},
    {"worker=+1", "worker=+1: not a number" WORKER},
    {"worker=on", "worker=on: not a number" WORKER},
    {"worker==1", "worker==1: not a number" WORKER},
    {"worker=-1x", "worker=-1x: not a number" WORKER},
    /* what would be a second line */
    {"worker=1\nslabmalloc: all is well", "worker=1?slabmalloc: all is well: not a number" WORKER},
};

static void bad_values_are_explained_and_dropped(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_values); i++)
        assert_warns(bad_values[i].given, text("slabmalloc: option %s", bad_values[i].said));
}

static void a_long_value_is_cut(void **state)
{
    (void)state;
    char options[256] = "stats_file=/";
    memset(options + strlen(options), 'x', 127);
    assert_warns(options, text("slabmalloc: option stats_file=/%.*s...: too long" FILE_OF_STATS, 64 - 12,
                               options + strlen("stats_file=/")));
    options[strlen(options) - 1] = 0; /* and this is short enough */
    strcpy(wanted.stats_file, options + strlen("stats_file="));
    assert_parses(options);
}

#define WORKER_7 "slabmalloc: option worker=7: too large (0 to 1, as in 1); using 0\n"

static void the_rest_of_the_text_still_counts(void **state)
{
    (void)state;
    wanted_settings.stats = 1;
    wanted.worker = 0;
    assert_warns("worker=0,nonsense=1,worker=7,stats=1",
                 "slabmalloc: option nonsense: no such option (help=1 lists all)\n" WORKER_7);
}

#define MEANT(name) "no such option, did you mean " name "? (help=1 lists all)\n"
#define NONE "no such option (help=1 lists all)\n"

static const struct mistake unknown[] = {
    {"worke=1", "worke: " MEANT("worker")},
    {"workers=1", "workers: " MEANT("worker")},
    {"sttas=1", "sttas: " MEANT("stats")},
    {"WORKER=1", "WORKER: " MEANT("worker")},
    {" worker=1", " worker: " MEANT("worker")},
    {"stat=1", "stat: " MEANT("stats")},
    {"stats-file=/tmp/a", "stats-file: " MEANT("stats_file")},
    {"purge_delay=1", "purge_delay: " MEANT("purge_delay_ms")},
    {"purge=1", "purge: " MEANT("purge_delay_ms")},
    {"magazinebytes=64K", "magazinebytes: " MEANT("magazine_bytes")},
    {"hlep=1", "hlep: " MEANT("help")},
    {"workmate=1", "workmate: " NONE}, /* four wrong */
    {"hope=1", "hope: " NONE},         /* three of four */
    {"hel=1", "hel: " MEANT("help")},
    {"nonsense=1", "nonsense: " NONE},
    {"nonsense", "nonsense: " NONE},
    {"he=1", "he: " NONE},
    {"=1", "=1: " NONE},
    {"=", "=: " NONE},
};

static void unknown_names_are_told_and_the_nearest_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(unknown); i++)
        assert_warns(unknown[i].given, text("slabmalloc: option %s", unknown[i].said));
}

/* Unit tests are linked with the library in checked form, which is no bench's. */
static void options_of_other_builds_are_told(void **state)
{
    (void)state;
    assert_warns("grow=locked", "slabmalloc: option grow: only in the bench's builds; ignored\n");
    assert_warns("grow", "slabmalloc: option grow: only in the bench's builds; ignored\n");
    assert_warns("grov=1", "slabmalloc: option grov: " NONE);
}

static void long_nonsense_is_one_line(void **state)
{
    (void)state;
    static char nonsense[20000];
    memset(nonsense, 'x', sizeof nonsense - 1);
    given = nonsense;
    const struct outcome outcome = in_child(parse_and_compare);
    assert_int_equal(outcome.status, 0);
    assert_string_equal(outcome.said, text("slabmalloc: option %.*s...: " NONE, 64, nonsense));
}

static void read_environment(void)
{
    setenv("SLABMALLOC_OPTIONS", "purge_delay_ms=123", 1);
    slm_options_read();
    require(slm_settings.purge_delay_ms == 123);
    unsetenv("SLABMALLOC_OPTIONS");
    slm_options_read();
    require(slm_settings.purge_delay_ms == 123);
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

/* The table's rows that a checked build has, which is no bench's. */
#define EVERY true
#define CHECKED true
#define BENCH false
#define NUMBER_ROW(builds, name, standard, least, most, example, sentence)                                           \
    {builds, false, #name, example, offsetof(struct slm_options, name), standard, least, most},
#define SETTING_ROW(builds, name, standard, least, most, example, sentence)                                          \
    {builds, true, #name, example, offsetof(struct slm_settings, name), standard, least, most},
#define TEXT_ROW(builds, name, size, example, sentence) {builds, false, #name, example, 0, 0, 0, 0},
static const struct row {
    bool here, changes;
    const char *name, *example;
    size_t field;
    uint64_t standard, least, most; /* most is 0: a text */
} table[] = {SLM_OPTIONS(NUMBER_ROW, SETTING_ROW, TEXT_ROW)};

static uint64_t *field_of(const struct row *row)
{
    return (uint64_t *)((row->changes ? (char *)&wanted_settings : (char *)&wanted) + row->field);
}

static void numbers_have_their_defaults_and_bounds(void **state)
{
    (void)state;
    for (const struct row *row = table; row < table + COUNT(table); row++) {
        if (!row->here || row->most == 0 || strcmp(row->name, "help") == 0)
            continue;
        begin_with_defaults(state);
        assert_int_equal(*field_of(row), row->standard);
        *field_of(row) = row->least;
        assert_parses(text("%s=%lu", row->name, row->least));
        *field_of(row) = row->most;
        assert_parses(text("%s=%lu", row->name, row->most));
        char above[64];
        snprintf(above, sizeof above, "%s=%lu", row->name, row->most + 1);
        begin_with_defaults(state);
        assert_warns(above, text("slabmalloc: option %s: too large (%lu to %lu, as in %s); using %lu\n", above,
                                 row->least, row->most, row->example, row->standard));
    }
}

/* A row of the table: | `name` | default | range | `example` | sentence | */
static void assert_is_row(const char *row)
{
    char name[64], range[64], example[64], sentence[256], shown[64];
    assert_int_equal(sscanf(row, "| `%63[a-z_]` | %63[^ ] | %63[^|] | `%63[^`]` | %255[^|] |", name, shown, range,
                            example, sentence),
                     5);
    assert_ptr_equal(strchr(sentence, '.') + 2, sentence + strlen(sentence)); /* one, and a space */
}

static void help_is_a_table_in_markdown(void **state)
{
    (void)state;
    struct outcome outcome = in_child(ask_for_help);
    const char *line = strtok(outcome.said, "\n");
    assert_int_equal(outcome.status, 0);
    for (const struct row *row = table; row < table + COUNT(table); row++) {
        if (!row->here)
            continue;
        const char *begins = text("| `%s` | ", row->name);
        assert_non_null(line);
        assert_is_row(line);
        assert_memory_equal(line, begins, strlen(begins));
        line = strtok(NULL, "\n");
    }
    assert_null(line);
}

/* Every example is taken by its own option. */
static void parse_examples(void)
{
    for (const struct row *row = table; row < table + COUNT(table); row++)
        if (row->here)
            slm_options_parse(text("%s=%s", row->name, row->example));
    require(slm_settings.magazine_bytes == 65536 && slm_settings.stats == 1 && slm_options.help == 1);
    require(strcmp(slm_options.stats_file, "/tmp/figures") == 0 && strcmp(slm_options.topology, "2x2") == 0);
}

static void examples_are_good(void **state)
{
    (void)state;
    assert_child_silent(parse_examples);
}

/* -- in flight --------------------------------------------------------------------------------------------------- */

static void assert_answers(const char *command, int error, const char *answer)
{
    char said[160] = "";
    strncpy(said, command, sizeof said - 1);
    assert_int_equal(slm_options_command(said, sizeof said), error);
    assert_string_equal(said, answer);
}

/* What each setting was is there again in the end. */
static void settings_change_and_others_do_not(void **state)
{
    (void)state;
    for (const struct row *row = table; row < table + COUNT(table); row++) {
        if (!row->here || row->most == 0)
            continue;
        char was[64];
        snprintf(was, sizeof was, "%s=%lu", row->name, row->standard);
        assert_answers(row->name, 0, was);
        if (row->changes) {
            char most[64];
            snprintf(most, sizeof most, "%s=%lu", row->name, row->most);
            assert_answers(most, 0, most);
            assert_answers(row->name, 0, most);
            char above[64];
            snprintf(above, sizeof above, "%s=%lu", row->name, row->most + 1);
            assert_answers(above, EINVAL, text("too large (%lu to %lu)", row->least, row->most));
            assert_answers(row->name, 0, most);
        }
        assert_answers(was, row->changes ? 0 : EPERM, row->changes ? was : "");
        assert_answers(row->name, 0, was);
    }
}

static void commands_that_are_wrong(void **state)
{
    (void)state;
    assert_answers("", ENOENT, "");
    assert_answers("=", ENOENT, "");
    assert_answers("=1", ENOENT, "");
    assert_answers("dirty_byte=1", ENOENT, "");
    assert_answers("dirty_bytes,thread_bytes=1M", ENOENT, "");
    assert_answers("grow", ENOENT, ""); /* the bench's */
    assert_answers("stats_file=/tmp/x", EPERM, "");
    assert_answers("thp=off", EPERM, "");
    assert_answers("dirty_bytes=", EINVAL, "no value (0 to 1099511627776)");
    assert_answers("dirty_bytes=1MB", EINVAL, "not a number (0 to 1099511627776)");
    assert_answers("dirty_bytes=1,stats=1", EINVAL, "not a number (0 to 1099511627776)");
    assert_answers("dirty_bytes=-1", EINVAL, "negative (0 to 1099511627776)");
    assert_answers("thread_bytes=1", EINVAL, "too small (4096 to 1073741824)");
    assert_answers("thread_bytes=99999999999999999999", EINVAL, "too large (4096 to 1073741824)");
    assert_answers("dirty_bytes", 0, "dirty_bytes=4194304");
    assert_answers("dirty_bytes=3M", 0, "dirty_bytes=3145728");
    assert_answers("dirty_bytes=4M", 0, "dirty_bytes=4194304");
}

/* The bytes of a command need not end. */
static void commands_stay_within_their_text(void **state)
{
    (void)state;
    char bytes[33];
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(slm_options_command(bytes, 32), ENOENT);
    assert_int_equal(bytes[32], 'x');
    memcpy(bytes, "thread_bytes=1xxxxxxxxxxxxxxxxxxx", 33);
    assert_int_equal(slm_options_command(bytes, 14), EINVAL);
    assert_string_equal(bytes, "too small (40");
    assert_int_equal(bytes[14], 'x');
    strcpy(slm_options.stats_file, "/a/file");
    memcpy(bytes, "stats_file", 11);
    assert_int_equal(slm_options_command(bytes, 14), 0);
    assert_string_equal(bytes, "stats_file=/a");
    slm_options.stats_file[0] = 0;
}

static void show_help_of_changed_options(void)
{
    slm_options_parse("worker=0,stats_file=/tmp/a");
    slm_options_help(STDERR_FILENO);
}

static void help_shows_defaults_whatever_is_set(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(show_help_of_changed_options);
    assert_non_null(strstr(outcome.said, "| `worker` | 1 | 0 to 1 | `1` | "));
    assert_non_null(strstr(outcome.said, "| `stats_file` | none | up to 127 bytes | `/tmp/figures` | "));
}

int main(void)
{
    unsetenv("SLABMALLOC_OPTIONS");
    atomic_store(&slm_settings.sample_bytes, 2 << 20); /* as it was before unit.h switched it off */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_changes_nothing, begin_with_defaults),
        cmocka_unit_test_setup(defaults_are_those_that_the_help_shows, begin_with_defaults),
        cmocka_unit_test_setup(numbers_are_set, begin_with_defaults),
        cmocka_unit_test_setup(letters_multiply, begin_with_defaults),
        cmocka_unit_test_setup(the_last_of_the_same_name_counts, begin_with_defaults),
        cmocka_unit_test_setup(bounds_are_part_of_the_range, begin_with_defaults),
        cmocka_unit_test_setup(numbers_have_their_defaults_and_bounds, begin_with_defaults),
        cmocka_unit_test_setup(texts_are_set, begin_with_defaults),
        cmocka_unit_test_setup(bad_values_are_explained_and_dropped, begin_with_defaults),
        cmocka_unit_test_setup(a_long_value_is_cut, begin_with_defaults),
        cmocka_unit_test_setup(the_rest_of_the_text_still_counts, begin_with_defaults),
        cmocka_unit_test_setup(unknown_names_are_told_and_the_nearest_is_named, begin_with_defaults),
        cmocka_unit_test_setup(options_of_other_builds_are_told, begin_with_defaults),
        cmocka_unit_test_setup(long_nonsense_is_one_line, begin_with_defaults),
        cmocka_unit_test_setup(the_environment_is_read, begin_with_defaults),
        cmocka_unit_test(help_is_a_table_in_markdown),
        cmocka_unit_test(examples_are_good),
        cmocka_unit_test(settings_change_and_others_do_not),
        cmocka_unit_test(commands_that_are_wrong),
        cmocka_unit_test(commands_stay_within_their_text),
        cmocka_unit_test(help_shows_defaults_whatever_is_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
