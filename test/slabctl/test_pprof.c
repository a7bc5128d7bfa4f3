/* tools/slabctl/pprof.h: what is written is read, differences are right, and no file does harm. */
#include "test.h"

#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "pprof.h"

static size_t function(struct pprof *profile, const char *name)
{
    struct pprof_function function = {intern_text(&profile->texts, name), intern_text(&profile->texts, name),
                                      intern_text(&profile->texts, "a.c"), 0};
    return pprof_add_function(profile, &function);
}

static uint64_t location(struct pprof *profile, size_t mapping, uint64_t address, const char *name)
{
    struct pprof_line line = {function(profile, name), 12};
    return pprof_add_location(profile, mapping, address, &line, 1);
}

static size_t mapping(struct pprof *profile, uint64_t start, const char *file)
{
    struct pprof_mapping mapping = {start, start + 0x10000, 0x1000, intern_text(&profile->texts, file),
                                    intern_text(&profile->texts, "0123abcd")};
    return pprof_add_mapping(profile, &mapping);
}

static void sample(struct pprof *profile, uint64_t inner, uint64_t outer, double bytes)
{
    const uint64_t stack[] = {inner, outer};
    const double values[PPROF_VALUES] = {bytes / 10, 2 * bytes, bytes / 20, bytes};
    pprof_add_sample(profile, stack, outer ? 2 : 1, values);
}

/* Two stacks in a program that lies at `base`. */
static void make(struct pprof *profile, uint64_t base, double first, double second)
{
    pprof_init(profile);
    size_t program = mapping(profile, base, "/bin/program");
    uint64_t a = location(profile, program, base + 0x10, "a"),
             main_of = location(profile, program, base + 0x20, "main");
    uint64_t b = location(profile, program, base + 0x30, "b");
    if (first > 0)
        sample(profile, a, main_of, first);
    sample(profile, b, main_of, second);
    profile->period = 4096;
    profile->time_ns = 1700000000000000000;
}

static int written(struct pprof *profile)
{
    int file = memfd_create("profile", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_true(pprof_write(profile, file));
    assert_int_equal(lseek(file, 0, SEEK_SET), 0);
    return file;
}

/* The value of the sample whose innermost function has this name. */
static double value_of(const struct pprof *profile, const char *name, enum pprof_value value)
{
    double sum = 0;
    for (size_t i = 0; i < profile->sample_count; i++) {
        const struct pprof_sample *at = &profile->samples[i];
        const struct pprof_location *place = &profile->locations[profile->stacks[at->first_location] - 1];
        size_t id = profile->lines[place->first_line].function;
        if (strcmp(pprof_text(profile, profile->functions[id - 1].name), name) == 0)
            sum += at->values[value];
    }
    return sum;
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct pprof profile, again;
    make(&profile, 0x400000, 1000, 2000);
    int file = written(&profile);
    pprof_init(&again);
    assert_null(pprof_read(&again, file));
    close(file);
    assert_int_equal(again.sample_count, 2);
    assert_int_equal(again.location_count, 3);
    assert_int_equal(again.mapping_count, 1);
    assert_int_equal(again.mappings[0].start, 0x400000);
    assert_int_equal(again.mappings[0].end, 0x410000);
    assert_int_equal(again.mappings[0].offset, 0x1000);
    assert_string_equal(pprof_text(&again, again.mappings[0].build_id), "0123abcd");
    assert_near(value_of(&again, "a", ALLOC_OBJECTS), 100, 0);
    assert_near(value_of(&again, "a", ALLOC_SPACE), 2000, 0);
    assert_near(value_of(&again, "a", INUSE_OBJECTS), 50, 0);
    assert_near(value_of(&again, "b", INUSE_SPACE), 2000, 0);
    assert_int_equal(again.lines[0].line, 12);
    pprof_free(&profile);
    pprof_free(&again);
}

static void equal_things_are_one(void **state)
{
    (void)state;
    struct pprof profile;
    make(&profile, 0x400000, 1000, 2000);
    size_t locations = profile.location_count, functions = profile.function_count;
    uint64_t again = location(&profile, 1, 0x400010, "a");
    assert_int_equal(again, 1);
    assert_int_equal(pprof_find_location(&profile, 1, 0x400010), 1);
    assert_int_equal(pprof_find_location(&profile, 1, 0x400011), 0);
    sample(&profile, 1, 2, 500);
    assert_int_equal(profile.sample_count, 2);
    assert_int_equal(profile.location_count, locations);
    assert_int_equal(profile.function_count, functions);
    assert_near(value_of(&profile, "a", INUSE_SPACE), 1500, 0);
    pprof_free(&profile);
}

/* The process was started anew meanwhile, and lies elsewhere; there is a stack that has gone, and one that is new. */
static void differences_are_by_place(void **state)
{
    (void)state;
    struct pprof old, new, read;
    make(&old, 0x400000, 1000, 2000);
    uint64_t library = location(&old, mapping(&old, 0x7f0000, "/lib/gone.so"), 0x7f0100, "gone");
    sample(&old, library, 0, 300);
    uint64_t jit = location(&old, 0, 0xdead, "0xdead");
    sample(&old, jit, 0, 70);
    make(&new, 0x500000, 0, 2500);
    uint64_t fresh = location(&new, 1, 0x500040, "fresh");
    sample(&new, fresh, 0, 40);
    pprof_subtract(&new, &old);
    int file = written(&new);
    pprof_init(&read);
    assert_null(pprof_read(&read, file));
    close(file);
    assert_near(value_of(&read, "a", INUSE_SPACE), -1000, 0);
    assert_near(value_of(&read, "b", INUSE_SPACE), 500, 0);
    assert_near(value_of(&read, "b", ALLOC_SPACE), 1000, 0);
    assert_near(value_of(&read, "gone", INUSE_SPACE), -300, 0);
    assert_near(value_of(&read, "0xdead", INUSE_SPACE), -70, 0);
    assert_near(value_of(&read, "fresh", INUSE_SPACE), 40, 0);
    assert_int_equal(read.mapping_count, 2);
    pprof_free(&old);
    pprof_free(&new);
    pprof_free(&read);
}

static void what_has_not_changed_is_left_out(void **state)
{
    (void)state;
    struct pprof old, new, read;
    make(&old, 0x400000, 1000, 2000);
    make(&new, 0x400000, 1000.2, 2001);
    pprof_subtract(&new, &old);
    int file = written(&new);
    pprof_init(&read);
    assert_null(pprof_read(&read, file));
    close(file);
    assert_int_equal(read.sample_count, 1);
    assert_near(value_of(&read, "b", INUSE_SPACE), 1, 0);
    pprof_free(&old);
    pprof_free(&new);
    pprof_free(&read);
}

static void texts_are_utf8(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"plain", "plain"},
        {"gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"},
        {"\xf0\x9f\x99\x82", "\xf0\x9f\x99\x82"},
        {"a\xff\xfe", "a??"},
        {"\xc3", "?"},
        {"\xe2\x82", "??"},
        {"\xc0\xaf", "??"},
        {"\xe0\x80\x80", "???"},
        {"\xed\xa0\x80", "???"},
        {"\xf4\x90\x80\x80", "????"},
        {"\xf0\x80", "??"},
    };
    struct pprof profile;
    pprof_init(&profile);
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_string_equal(pprof_text(&profile, pprof_add_text(&profile, rows[i][0])), rows[i][1]);
    pprof_free(&profile);
}

static void values_are_rounded(void **state)
{
    (void)state;
    assert_int_equal(pprof_rounded(1.5), 2);
    assert_int_equal(pprof_rounded(-1.4), -1);
    assert_true(pprof_rounded(1e300) > INT64_MAX / 2);
    assert_true(pprof_rounded(-1e300) < INT64_MIN / 2);
}

/* -- other files ---------------------------------------------------------------------------------------------- */

static const char *read_bytes(const void *bytes, size_t count, bool zipped)
{
    int file = memfd_create("profile", MFD_CLOEXEC);
    if (zipped) {
        gzFile out = gzdopen(dup(file), "wb1");
        assert_int_equal(gzwrite(out, bytes, (unsigned)count), count);
        assert_int_equal(gzclose(out), Z_OK);
    } else {
        assert_int_equal(write(file, bytes, count), count);
    }
    lseek(file, 0, SEEK_SET);
    struct pprof profile;
    pprof_init(&profile);
    const char *wrong = pprof_read(&profile, file);
    pprof_free(&profile);
    close(file);
    return wrong;
}

static void other_files_are_told(void **state)
{
    (void)state;
    assert_non_null(read_bytes("", 0, false));
    assert_non_null(read_bytes("heap profile: 1: 2 [ 1: 2] @ heapprofile\n", 41, false));
    assert_non_null(read_bytes("\x1f\x8b\x08 and so on", 13, false));
    assert_non_null(read_bytes("", 0, true));
    assert_non_null(read_bytes("text", 4, true));
}

/* Each byte of a profile, changed or the last: it is read or refused. */
static void broken_files_do_no_harm(void **state)
{
    (void)state;
    struct pprof profile;
    make(&profile, 0x400000, 1000, 2000);
    int file = written(&profile);
    unsigned char bytes[4096];
    gzFile in = gzdopen(dup(file), "rb");
    int count = gzread(in, bytes, sizeof bytes);
    gzclose(in);
    close(file);
    assert_true(count > 100 && count < (int)sizeof bytes);
    assert_null(read_bytes(bytes, (size_t)count, true));
    for (int i = 0; i < count; i++) {
        unsigned char was = bytes[i];
        for (unsigned bit = 0; bit < 8; bit++) {
            bytes[i] = (unsigned char)(was ^ 1u << bit);
            read_bytes(bytes, (size_t)count, true);
        }
        bytes[i] = was;
        read_bytes(bytes, (size_t)i, true);
    }
    pprof_free(&profile);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),  cmocka_unit_test(equal_things_are_one),
        cmocka_unit_test(differences_are_by_place), cmocka_unit_test(what_has_not_changed_is_left_out),
        cmocka_unit_test(texts_are_utf8),           cmocka_unit_test(values_are_rounded),
        cmocka_unit_test(other_files_are_told),     cmocka_unit_test(broken_files_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
