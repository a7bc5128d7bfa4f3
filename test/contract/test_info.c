/* The calls that inform and tune: mallinfo, mallinfo2, mallopt, malloc_trim, malloc_stats, malloc_info; what libc
 * allocates for its callers, which they free; and the last message, where debuggers look for it.
 *
 * Written in: mallinfo(3), mallopt(3), malloc_trim(3), malloc_stats(3), malloc_info(3); strdup(3), getline(3),
 * asprintf(3), getcwd(3), realpath(3), scandir(3), open_memstream(3), regcomp(3). That __abort_msg has the message of
 * an abort is a habit of glibc's, on which apport and gdb's users rely. */
#include "common.h"

#include <dirent.h>
#include <locale.h>
#include <netdb.h>
#include <regex.h>
#include <search.h>
#include <sys/mman.h>
#include <wchar.h>

/* Blocks that hold together bytes of memory, all of it touched. */
static void **make_blocks(size_t count, size_t size)
{
    void **blocks = malloc(count * sizeof *blocks);
    require(blocks != NULL);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = malloc(size);
        require(blocks[i] != NULL);
        memset(blocks[i], 0x77, size);
    }
    return blocks;
}

static void free_blocks(void **blocks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
    free(blocks);
}

/* -- mallinfo ---------------------------------------------------------------------------------------------------- */

static void test_uordblks_follows_allocations(void **state)
{
    (void)state;
    const size_t sizes[] = {32, 100, 1000, 5000, 40000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t count = 20 * MIB / sizes[i];
        size_t before = mallinfo2().uordblks;
        void **blocks = make_blocks(count, sizes[i]);
        size_t during = mallinfo2().uordblks;
        free_blocks(blocks, count);
        size_t after = mallinfo2().uordblks;
        assert_true(during >= before + count * sizes[i] - MIB);
        assert_true(during <= before + 2 * 20 * MIB + MIB);
        assert_true(after <= before + 2 * MIB);
    }
}

static void test_large_blocks_are_counted(void **state)
{
    (void)state;
    size_t before = in_use();
    void *block = malloc(100 * MIB);
    size_t during = in_use();
    free(block);
    size_t after = in_use();
    assert_true(during >= before + 100 * MIB && during <= before + 110 * MIB);
    assert_true(after <= before + 2 * MIB);
}

static void *make_ten_mib(void *argument)
{
    (void)argument;
    return make_blocks(10 * KIB, KIB);
}

static void test_other_threads_are_counted(void **state)
{
    (void)state;
    size_t before = in_use();
    void *made[4];
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, make_ten_mib, NULL), 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], &made[i]), 0);
    size_t during = in_use();
    for (unsigned i = 0; i < 4; i++)
        free_blocks(made[i], 10 * KIB);
    size_t after = in_use();
    assert_true(during >= before + 39 * MIB && during <= before + 80 * MIB);
    assert_true(after <= before + 4 * MIB);
}

static void test_the_figures_agree(void **state)
{
    (void)state;
    void **blocks = make_blocks(10000, 200);
    for (size_t i = 0; i < 10000; i += 2) {
        free(blocks[i]);
        blocks[i] = NULL;
    }
    struct mallinfo2 wide = mallinfo2();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo narrow = mallinfo();
#pragma GCC diagnostic pop
    assert_true(wide.arena + wide.hblkhd >= wide.uordblks);
    assert_true(wide.fordblks > 0);
    assert_true(narrow.uordblks > 0 && narrow.arena >= 0 && narrow.fordblks > 0);
    assert_true(labs((long)narrow.uordblks - (long)wide.uordblks) < (long)(256 * KIB));
    assert_true(labs((long)narrow.arena - (long)wide.arena) < (long)(256 * KIB));
    free_blocks(blocks, 10000);
}

/* -- mallopt ----------------------------------------------------------------------------------------------------- */

static void role_mallopt(const char *argument)
{
    (void)argument;
    const int parameters[][2] = {
        {M_MXFAST, 64},
        {M_TRIM_THRESHOLD, 256 * 1024},
        {M_TOP_PAD, 64 * 1024},
        {M_MMAP_MAX, 1000},
        {M_MMAP_THRESHOLD, 64 * 1024},
        {M_CHECK_ACTION, 3},
        {M_ARENA_TEST, 2},
        {M_ARENA_MAX, 4},
        {M_PERTURB, 0xA5},
        {M_TRIM_THRESHOLD, -1},
        {M_MXFAST, 0},
    };
    for (size_t i = 0; i < COUNT(parameters); i++) {
        require(mallopt(parameters[i][0], parameters[i][1]) == 1);
        exercise();
    }
    for (size_t size = 1; size < MIB; size *= 3) {
        free(memset(malloc(size), 1, size));
        void *block = calloc(1, size);
        require(all_zero(block, size));
        free(block);
    }
}

/* mallopt(M_MMAP_MAX, 0) and the like before everything else is the first line of many servers. */
static void test_mallopt_takes_glibcs_parameters(void **state)
{
    (void)state;
    assert_role_succeeds("mallopt", NULL);
}

/* -- malloc_trim ------------------------------------------------------------------------------------------------- */

static void role_trim(const char *argument)
{
    size_t size = strtoul(argument, NULL, 10);
    size_t count = 80 * MIB / size;
    do_without_huge_pages();
    size_t before = rss_kib();
    void **blocks = make_blocks(count, size);
    void *last = malloc(100);
    size_t peak = rss_kib();
    require(peak > before + count * size / KIB - KIB);
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
    size_t freed = rss_kib();
    errno = 0;
    int trimmed = malloc_trim(0);
    size_t after = rss_kib();
    require(trimmed == 0 || trimmed == 1);
    require(trimmed == 1 || freed < after + 10 * KIB);
    require(after < before + 20 * KIB + count * sizeof *blocks / KIB);
    require(malloc_trim(16 * MIB) >= 0 && malloc_trim(SIZE_MAX) >= 0);
    free(blocks);
    free(last);
    exercise();
}

static void test_malloc_trim_gives_memory_back(void **state)
{
    (void)state;
    static const char *const sizes[] = {"64", "1000", "10000", "100000", "4000000"};
    for (size_t i = 0; i < COUNT(sizes); i++)
        assert_role_succeeds("trim", &(struct launch){.argument = sizes[i]});
}

static void role_trim_while_busy(const char *argument)
{
    (void)argument;
    struct churner churners[3];
    bool stop = false;
    churners_start(churners, COUNT(churners), 0, &stop);
    for (unsigned i = 0; i < scaled(100); i++) {
        int trimmed = malloc_trim(0);
        require(trimmed == 0 || trimmed == 1);
        require(mallinfo2().uordblks < (size_t)1 << 40);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
}

static void test_trim_and_mallinfo_beside_busy_threads(void **state)
{
    (void)state;
    assert_role_succeeds("trim-while-busy", NULL);
}

/* -- malloc_stats ------------------------------------------------------------------------------------------------ */

static void role_stats(const char *argument)
{
    (void)argument;
    void **blocks = make_blocks(1000, 1000);
    malloc_stats();
    exercise();
    malloc_stats();
    free_blocks(blocks, 1000);
}

static void test_malloc_stats_prints_on_standard_error(void **state)
{
    (void)state;
    FILE *output = tmpfile(), *error = tmpfile();
    assert_role_succeeds("stats", &(struct launch){.output_fd = fileno(output), .error_fd = fileno(error)});
    rewind(output);
    rewind(error);
    char text[8192];
    size_t length = fread(text, 1, sizeof text - 1, error);
    text[length] = '\0';
    assert_non_null(strpbrk(text, "123456789"));
    assert_int_equal(fread(text, 1, sizeof text, output), 0);
    fclose(output);
    fclose(error);
}

/* -- malloc_info ------------------------------------------------------------------------------------------------- */

static const char *const xml_parsers[] = {
    "xmllint --noout %s 2>&1",
    "python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' %s 2>&1",
    "perl -MXML::Parser -e 'XML::Parser->new->parsefile($ARGV[0])' %s 2>&1",
};
static const char *const xml_parser_probes[] = {
    "command -v xmllint >/dev/null 2>&1",
    "python3 -c 'import xml.dom.minidom' >/dev/null 2>&1",
    "perl -MXML::Parser -e 1 >/dev/null 2>&1",
};

/* Skips the test where there is none. */
static void check_that_a_parser_accepts(const char *xml, size_t length)
{
    char path[] = "/tmp/malloc_info.XXXXXX", command[300];
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, xml, length) == (ssize_t)length);
    close(fd);
    int status = -1;
    for (size_t i = 0; i < COUNT(xml_parsers) && status == -1; i++)
        if (system(xml_parser_probes[i]) == 0) {
            snprintf(command, sizeof command, xml_parsers[i], path);
            status = system(command);
        }
    unlink(path);
    if (status == -1) {
        print_message("skipped: neither xmllint nor python3 nor perl with XML::Parser is here\n");
        skip();
    }
    assert_int_equal(status, 0);
}

/* What malloc_info prints while there is something to tell of; to be freed. */
static char *print_info(size_t *length)
{
    void **blocks = make_blocks(3000, 700);
    void *large = malloc(30 * MIB);
    char *text = NULL;
    FILE *memory = open_memstream(&text, length);
    assert_int_equal(malloc_info(0, memory), 0);
    fclose(memory);
    free(large);
    free_blocks(blocks, 3000);
    return text;
}

static void test_malloc_info_has_an_element(void **state)
{
    (void)state;
    size_t length;
    char *text = print_info(&length);
    assert_int_equal(strncmp(text, "<malloc", 7), 0);
    assert_non_null(strstr(text, "</malloc>"));
    free(text);
}

static void test_malloc_info_is_xml(void **state)
{
    (void)state;
    size_t length;
    char *text = print_info(&length);
    check_that_a_parser_accepts(text, length);
    free(text);
}

/* Behind what glibc has: what is sampled. */
static void role_sampled(const char *argument)
{
    (void)argument;
    unsigned long interval, samples, bytes;
    void **blocks = make_blocks(1000, 1000);
    char *text = NULL;
    size_t length;
    FILE *memory = open_memstream(&text, &length);
    require(malloc_info(0, memory) == 0);
    fclose(memory);
    const char *element = strstr(text, "<sampling ");
    require(element != NULL && strstr(text, "</heap>") < element);
    require(sscanf(element, "<sampling interval=\"%lu\" samples=\"%lu\" estimated_bytes=\"%lu\"/>\n</malloc>",
                   &interval, &samples, &bytes) == 3);
    require(interval == 1 && samples >= 1000 && bytes >= 1000 * 1000 && bytes < 1100 * 1000);
    malloc_stats();
    free(text);
    free_blocks(blocks, 1000);
}

static void test_samples_are_told(void **state)
{
    (void)state;
    skip_on_glibc("it samples nothing");
    char text[8192];
    unsigned long interval, samples, bytes;
    FILE *error = tmpfile();
    assert_role_succeeds(
        "sampled", &(struct launch){.environment = {"SLABMALLOC_OPTIONS=sample_bytes=1"}, .error_fd = fileno(error)});
    rewind(error);
    text[fread(text, 1, sizeof text - 1, error)] = '\0';
    fclose(error);
    const char *lines = strstr(text, "sampled, one in  =");
    assert_non_null(lines);
    assert_int_equal(sscanf(lines, "sampled, one in  = %lu bytes\nlive samples     = %lu\nestimated live   = %lu\n",
                            &interval, &samples, &bytes),
                     3);
    assert_true(interval == 1 && samples >= 1000 && bytes >= 1000 * 1000);
}

/* malloc_info(3) says -1 and errno, glibc returns EINVAL itself: neither is 0, and nothing is written. */
static void test_malloc_info_refuses_options(void **state)
{
    (void)state;
    FILE *file = tmpfile();
    assert_int_not_equal(malloc_info(1, file), 0);
    assert_int_equal(ftell(file), 0);
    fclose(file);
}

/* A stream whose buffer and whose writer allocate: figures must not be printed under a lock of the allocator's. */
static ssize_t allocating_write(void *cookie, const char *data, size_t size)
{
    (void)data;
    for (unsigned i = 0; i < 20; i++)
        free_blocks(make_blocks(10, 50 + i * 300), 10);
    *(size_t *)cookie += size;
    return (ssize_t)size;
}

static void role_info_into_allocating_stream(const char *argument)
{
    (void)argument;
    watchdog("malloc_info hangs when the stream allocates");
    struct churner churners[2];
    bool stop = false;
    size_t written = 0;
    churners_start(churners, COUNT(churners), 0, &stop);
    FILE *stream = fopencookie(&written, "w", (cookie_io_functions_t){.write = allocating_write});
    setvbuf(stream, NULL, _IONBF, 0);
    for (unsigned i = 0; i < 10; i++)
        require(malloc_info(0, stream) == 0);
    fclose(stream);
    require(written > 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    churners_join(churners, COUNT(churners));
}

static void test_malloc_info_into_a_stream_that_allocates(void **state)
{
    (void)state;
    assert_role_succeeds("info-into-allocating-stream", NULL);
}

/* -- what libc allocates, we free -------------------------------------------------------------------------------- */

static void check_strings(void)
{
    char *copy = strdup("a string"), *part = strndup("another string", 7), *printed = NULL;
    assert_true(asprintf(&printed, "%0999d", 7) == 999);
    wchar_t *wide = wcsdup(L"wide");
    assert_true(malloc_usable_size(copy) >= 9 && malloc_usable_size(printed) >= 1000);
    copy = realloc(copy, 5000);
    assert_string_equal(copy, "a string");
    free(copy);
    free(part);
    free(printed);
    free(wide);
}

static void check_paths(void)
{
    char *directory = getcwd(NULL, 0), *path = realpath("/proc/self/../self", NULL), *resolved;
    assert_true(directory != NULL && path != NULL);
    resolved = canonicalize_file_name("/");
    assert_string_equal(resolved, "/");
    free(directory);
    free(path);
    free(resolved);
    struct dirent **entries = NULL;
    int count = scandir("/", &entries, NULL, alphasort);
    assert_true(count > 2);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
}

static void check_streams(void)
{
    char *line = malloc(1);
    size_t capacity = 1;
    FILE *file = fopen("/proc/self/maps", "r");
    while (getline(&line, &capacity, file) > 0)
        assert_true(malloc_usable_size(line) >= capacity);
    fclose(file);
    free(line);
    char *word = NULL;
    assert_int_equal(sscanf("word and more", "%ms", &word), 1);
    assert_string_equal(word, "word");
    free(word);
}

static void check_tables(void)
{
    regex_t expression;
    assert_int_equal(regcomp(&expression, "(a|b)*c{2,5}[^d-z]+", REG_EXTENDED), 0);
    assert_int_equal(regexec(&expression, "ababcc1", 0, NULL, 0), 0);
    regfree(&expression);
    struct hsearch_data table;
    memset(&table, 0, sizeof table);
    assert_true(hcreate_r(1000, &table) != 0);
    hdestroy_r(&table);
    locale_t locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    freelocale(duplocale(locale));
    freelocale(locale);
    struct addrinfo *addresses = NULL;
    assert_int_equal(getaddrinfo("127.0.0.1", "80", NULL, &addresses), 0);
    freeaddrinfo(addresses);
}

static void test_what_libc_allocates_we_free(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 50; i++) {
        check_strings();
        check_paths();
        check_streams();
        check_tables();
    }
}

/* -- the last message -------------------------------------------------------------------------------------------- */

struct abort_message {
    unsigned size;
    char text[];
};

static struct abort_message **abort_message;
static int kept_stderr;

static void compare_messages(int number)
{
    char said[1024] = "";
    const ssize_t length = pread(STDERR_FILENO, said, sizeof said - 1, 0);
    (void)number;
    dup2(kept_stderr, STDERR_FILENO);
    require(length > 1 && said[length - 1] == '\n');
    require(*abort_message != NULL && strcmp((*abort_message)->text, said) == 0);
    _exit(0);
}

static void role_abort_message(const char *argument)
{
    const int file = memfd_create("messages", 0);
    char on_stack[64];
    (void)argument;
    abort_message = (struct abort_message **)dlsym(RTLD_DEFAULT, "__abort_msg");
    if (abort_message == NULL)
        skip_role("libc has no __abort_msg");
    setenv("LIBC_FATAL_STDERR_", "1", 1); /* or glibc before 2.37 writes to the terminal */
    kept_stderr = dup(STDERR_FILENO);
    require(file >= 0 && kept_stderr >= 0 && dup2(file, STDERR_FILENO) == STDERR_FILENO);
    signal(SIGABRT, compare_messages);
    free(opaque(on_stack));
    require(!"free of what malloc has not given ends the process");
}

static void test_the_last_message_is_left_for_debuggers(void **state)
{
    (void)state;
    assert_role_succeeds("abort-message", NULL);
}

int main(int argc, char **argv)
{
    static const struct role roles[] = {{"mallopt", role_mallopt},
                                        {"trim", role_trim},
                                        {"trim-while-busy", role_trim_while_busy},
                                        {"stats", role_stats},
                                        {"info-into-allocating-stream", role_info_into_allocating_stream},
                                        {"sampled", role_sampled},
                                        {"abort-message", role_abort_message}};
    if (argc > 1)
        return play_role(roles, COUNT(roles), argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uordblks_follows_allocations),
        cmocka_unit_test(test_large_blocks_are_counted),
        cmocka_unit_test(test_other_threads_are_counted),
        cmocka_unit_test(test_the_figures_agree),
        cmocka_unit_test(test_mallopt_takes_glibcs_parameters),
        cmocka_unit_test(test_malloc_trim_gives_memory_back),
        cmocka_unit_test(test_trim_and_mallinfo_beside_busy_threads),
        cmocka_unit_test(test_malloc_stats_prints_on_standard_error),
        cmocka_unit_test(test_malloc_info_has_an_element),
        cmocka_unit_test(test_malloc_info_is_xml),
        cmocka_unit_test(test_malloc_info_refuses_options),
        cmocka_unit_test(test_samples_are_told),
        cmocka_unit_test(test_malloc_info_into_a_stream_that_allocates),
        cmocka_unit_test(test_what_libc_allocates_we_free),
        cmocka_unit_test(test_the_last_message_is_left_for_debuggers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
