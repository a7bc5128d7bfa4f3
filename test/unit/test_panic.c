/* src/base/panic.h: lines without memory, warnings, and the end of the process. */
#include "unit.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/panic.h"

static void texts_numbers_and_pointers_make_a_line(void **state)
{
    (void)state;
    struct slm_line line = {0};
    slm_line_text(&line, "a");
    slm_line_text(&line, "");
    slm_line_number(&line, 0);
    slm_line_text(&line, " ");
    slm_line_number(&line, UINT64_MAX);
    slm_line_text(&line, " ");
    slm_line_add(&line, "%p%p%p", (void *)0x7f00beef, NULL, (void *)UINTPTR_MAX);
    slm_line_add(&line, " %s, %u: %lu%s", "b", UINT32_MAX, UINT64_MAX, "");
    const char *made = "a0 18446744073709551615 0x7f00beef0x00xffffffffffffffff b, 4294967295: 18446744073709551615";
    assert_int_equal(line.length, strlen(made));
    assert_memory_equal(line.text, made, line.length);
}

static void write_long_line(void)
{
    struct slm_line line = {0};
    for (unsigned i = 0; i < 300; i++)
        slm_line_text(&line, "0123456789");
    slm_line_number(&line, 1234567890);
    slm_line_add(&line, "%p", (void *)&line);
    errno = EDOM;
    slm_line_write(&line, STDERR_FILENO);
    require(errno == EDOM);
}

static void what_does_not_fit_is_cut_off(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(write_long_line);
    const size_t length = strlen(outcome.said);
    assert_int_equal(outcome.status, 0);
    assert_true(length > 500 && length <= sizeof((struct slm_line *)0)->text);
    assert_int_equal(outcome.said[length - 1], '\n');
    for (size_t i = 0; i < length - 1; i++)
        assert_int_equal(outcome.said[i], '0' + (int)(i % 10));
}

static void write_where_nothing_can_be_written(void)
{
    struct slm_line line = {0};
    slm_line_text(&line, "unheard");
    errno = 0;
    slm_line_write(&line, -1);
    require(errno == 0);
}

static void a_closed_descriptor_does_no_harm(void **state)
{
    (void)state;
    assert_child_silent(write_where_nothing_can_be_written);
}

static void warn(void)
{
    slm_warn("it rains", NULL);
    errno = EDOM;
    slm_warn("it rains: ", "cats");
    require(errno == EDOM);
}

static void a_warning_is_a_line_and_the_process_goes_on(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(warn);
    assert_int_equal(outcome.status, 0);
    assert_string_equal(outcome.said, "slabmalloc: it rains\nslabmalloc: it rains: cats\n");
}

static int memory_file(void)
{
    const int file = memfd_create("file", 0);
    require(file >= 0);
    return file;
}

static void look_at_descriptors(void)
{
    slm_stderr_remember(); /* the pipe to the parent */
    const int same = dup(STDERR_FILENO), file = memory_file();
    errno = EDOM;
    require(slm_stderr_is(STDERR_FILENO) && slm_stderr_is(same));
    require(!slm_stderr_is(file) && !slm_stderr_is(-1));
    dup2(file, STDERR_FILENO);
    require(!slm_stderr_is(STDERR_FILENO) && slm_stderr_is(same));
    close(STDERR_FILENO);
    require(!slm_stderr_is(STDERR_FILENO));
    dup2(same, STDERR_FILENO);
    require(slm_stderr_is(STDERR_FILENO));
    require(errno == EDOM);
}

static void standard_error_is_known_again(void **state)
{
    (void)state;
    assert_child_silent(look_at_descriptors);
}

/* Of the same device: only the inode tells. */
static void look_at_files(void)
{
    const int one = memory_file(), other = memory_file();
    dup2(one, STDERR_FILENO);
    slm_stderr_remember();
    require(slm_stderr_is(one) && !slm_stderr_is(other));
    close(STDERR_FILENO);
    slm_stderr_remember();
    require(!slm_stderr_is(one) && !slm_stderr_is(STDERR_FILENO));
}

static void files_are_told_apart(void **state)
{
    (void)state;
    assert_child_silent(look_at_files);
}

static void warn_over(int file)
{
    require(dup2(file, STDERR_FILENO) == STDERR_FILENO);
    errno = EDOM;
    slm_warn("it rains", NULL);
    slm_line_write(&(struct slm_line){1, "x"}, STDERR_FILENO);
    require(errno == EDOM);
}

static void warn_where_others_are(void)
{
    int pipe_ends[2], socket_ends[2];
    char said[100];
    const int file = memory_file(), log = memory_file();
    require(pipe(pipe_ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, socket_ends) == 0);
    dup2(log, STDERR_FILENO);
    slm_stderr_remember();
    warn_over(file);
    warn_over(socket_ends[0]);
    require(lseek(file, 0, SEEK_END) == 0 && read(socket_ends[1], said, sizeof said) == -1);
    warn_over(pipe_ends[1]);
    require(read(pipe_ends[0], said, sizeof said) > 0);
    require(lseek(log, 0, SEEK_END) == 0);
    warn_over(log);
    require(lseek(log, 0, SEEK_END) == (off_t)strlen("slabmalloc: it rains\nx\n"));
}

static void files_of_the_program_get_no_warning(void **state)
{
    (void)state;
    assert_child_silent(warn_where_others_are);
}

/* What a program opens after its log has been removed may get the log's inode; when it was made differs. */
static void warn_over_a_new_file_with_the_inode(void)
{
    char path[] = "/tmp/slabmalloc-panic-XXXXXX";
    struct statx before, after;
    int file = mkstemp(path);
    require(file >= 0 && dup2(file, STDERR_FILENO) == STDERR_FILENO);
    require(statx(file, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &before) == 0);
    slm_stderr_remember();
    require(slm_stderr_is(file));
    do {
        require(unlink(path) == 0 && close(file) == 0 && close(STDERR_FILENO) == 0);
        usleep(1000);
        file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
        require(file >= 0 && dup2(file, STDERR_FILENO) == STDERR_FILENO);
        require(statx(file, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &after) == 0);
        if (after.stx_ino != before.stx_ino || !(after.stx_mask & STATX_BTIME))
            break; /* this file system does not do it, or does not tell */
    } while (memcmp(&after.stx_btime, &before.stx_btime, sizeof after.stx_btime) == 0);
    unlink(path);
    warn_over(file);
    const bool told = after.stx_mask & STATX_BTIME || after.stx_ino != before.stx_ino;
    require(lseek(file, 0, SEEK_END) == (told ? 0 : (off_t)strlen("slabmalloc: it rains\nx\n")));
}

static void a_new_file_with_the_inode_gets_no_warning(void **state)
{
    (void)state;
    assert_int_equal(in_child(warn_over_a_new_file_with_the_inode).status, 0);
}

static void warn_nobody(void)
{
    int ends[2];
    require(pipe(ends) == 0 && signal(SIGPIPE, SIG_DFL) != SIG_ERR && close(ends[0]) == 0);
    warn_over(ends[1]);
}

static void a_warning_that_nobody_reads_does_no_harm(void **state)
{
    (void)state;
    assert_int_equal(in_child(warn_nobody).status, 0);
}

static void warn_without_stderr(void)
{
    int ends[2];
    char said;
    close(STDERR_FILENO);
    slm_stderr_remember();
    require(pipe2(ends, O_NONBLOCK) == 0);
    warn_over(ends[1]);
    require(read(ends[0], &said, 1) == -1);
}

static void without_standard_error_nothing_is_written(void **state)
{
    (void)state;
    assert_child_silent(warn_without_stderr);
}

static void panic_of_cache(void)
{
    slm_panic("free", (void *)0x1230, "double free of an object", "fruit", 64);
}

static void panic_of_size(void)
{
    slm_panic("realloc", NULL, "strange object", NULL, 48);
}

static void panic_of_neither(void)
{
    slm_panic("free", (void *)0x1230, "strange", NULL, 0);
}

static void panic_short(void)
{
    slm_panic(NULL, (void *)0x1230, "no memory", NULL, 0);
}

static int file_of_panic;

static void panic_over_a_file(void)
{
    slm_stderr_remember();
    dup2(file_of_panic, STDERR_FILENO);
    panic_short();
}

static void the_last_line_goes_where_standard_error_is(void **state)
{
    (void)state;
    char said[100] = "";
    file_of_panic = memory_file();
    const struct outcome outcome = in_child(panic_over_a_file);
    assert_int_equal(outcome.signal, SIGABRT);
    assert_string_equal(outcome.said, "");
    assert_true(pread(file_of_panic, said, sizeof said - 1, 0) > 0);
    assert_string_equal(said, text("slabmalloc: no memory (thread %d)\n", (int)outcome.process));
    close(file_of_panic);
}

static void a_panic_is_one_line_and_the_end(void **state)
{
    (void)state;
    assert_child_aborts(panic_of_cache, "slabmalloc: free(0x1230): double free of an object of cache fruit");
    assert_child_aborts(panic_of_size, "slabmalloc: realloc(0x0): strange object of 48 bytes");
    assert_child_aborts(panic_of_neither, "slabmalloc: free(0x1230): strange");
    assert_child_aborts(panic_short, "slabmalloc: no memory");
}

static void *panic_in_a_thread(void *nothing)
{
    (void)nothing;
    dprintf(STDERR_FILENO, "slabmalloc: no memory (thread %d)\n", (int)gettid());
    panic_short();
    return NULL;
}

static void panic_elsewhere(void)
{
    on_threads(1, panic_in_a_thread);
}

static void a_panic_names_its_thread(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(panic_elsewhere);
    const size_t half = strlen(outcome.said) / 2;
    assert_int_equal(outcome.signal, SIGABRT);
    assert_true(half > 0);
    assert_memory_equal(outcome.said, outcome.said + half, half);
    assert_null(strstr(outcome.said, text("(thread %d)", (int)outcome.process)));
}

/* As glibc's own code and gdb know it. */
struct abort_message {
    unsigned mapped_bytes;
    char text[];
};

static struct abort_message **abort_message;

static void look_at_abort_message(int number)
{
    const struct abort_message *message = *abort_message;
    (void)number;
    require(message && message->mapped_bytes == 0);
    require(write(STDERR_FILENO, message->text, strlen(message->text)) > 0);
}

static void panic_handled(void)
{
    signal(SIGABRT, look_at_abort_message);
    panic_of_cache();
}

static void debuggers_find_the_line(void **state)
{
    (void)state;
    abort_message = dlsym(RTLD_DEFAULT, "__abort_msg");
    if (!abort_message) {
        print_message("for glibc\n");
        skip();
    }
    assert_null(*abort_message);
    const struct outcome outcome = in_child(panic_handled);
    const size_t half = strlen(outcome.said) / 2;
    assert_int_equal(outcome.signal, SIGABRT);
    assert_true(half > 0);
    assert_memory_equal(outcome.said, outcome.said + half, half);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_numbers_and_pointers_make_a_line),
        cmocka_unit_test(what_does_not_fit_is_cut_off),
        cmocka_unit_test(a_closed_descriptor_does_no_harm),
        cmocka_unit_test(a_warning_is_a_line_and_the_process_goes_on),
        cmocka_unit_test(standard_error_is_known_again),
        cmocka_unit_test(files_are_told_apart),
        cmocka_unit_test(files_of_the_program_get_no_warning),
        cmocka_unit_test(without_standard_error_nothing_is_written),
        cmocka_unit_test(a_new_file_with_the_inode_gets_no_warning),
        cmocka_unit_test(a_warning_that_nobody_reads_does_no_harm),
        cmocka_unit_test(the_last_line_goes_where_standard_error_is),
        cmocka_unit_test(a_panic_is_one_line_and_the_end),
        cmocka_unit_test(a_panic_names_its_thread),
        cmocka_unit_test(debuggers_find_the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
