/* src/inspect/profile_file.h: a file of this process's own, whole or not there; signals that are taken, and those
 * that are left alone. */
#include "unit.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/atomic.h"
#include "base/panic.h"
#include "inspect/profile_file.h"

static char folder[] = "/tmp/slabmalloc-test_profile_file-XXXXXX";

static int make_folder(void **state)
{
    return mkdtemp(folder) && chdir(folder) == 0 ? start_library(state) : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

static void set_options(const char *path, uint64_t number)
{
    strcpy(slm_options.profile_file, path);
    slm_options.profile_signal = number;
}

static const char *own_name(void)
{
    return text("profile.%d", (int)getpid());
}

static unsigned files_here(void)
{
    unsigned count = 0;
    DIR *here = opendir(".");
    for (struct dirent *entry; (entry = readdir(here));)
        count += entry->d_name[0] != '.';
    closedir(here);
    return count;
}

/* The file is there, alone, and a core dump; it goes. */
static void require_profile(void)
{
    struct stat stat;
    Elf64_Ehdr header;
    const int file = open(own_name(), O_RDONLY | O_NOFOLLOW);
    require(file >= 0 && files_here() == 1);
    require(fstat(file, &stat) == 0 && S_ISREG(stat.st_mode) && (stat.st_mode & 0777) == 0600);
    require(read(file, &header, sizeof header) == sizeof header && header.e_type == ET_CORE);
    close(file);
    unlink(own_name());
}

static void write_one(void)
{
    set_options("profile", 0);
    umask(0);
    errno = 4711;
    slm_profile_file_write(&slab_inspect);
    require(errno == 4711);
    require_profile();
    slm_profile_file_write(&slab_inspect);
    require_profile();
}

static void a_profile_is_a_file_of_its_own(void **state)
{
    (void)state;
    assert_child_silent(write_one);
}

static void write_over_a_link(void)
{
    set_options("profile", 0);
    require(mkdir("other", 0700) == 0 && symlink("other/file", own_name()) == 0);
    slm_profile_file_write(&slab_inspect);
    require(rmdir("other") == 0); /* it is empty */
    require_profile();
}

static void what_stands_there_is_replaced(void **state)
{
    (void)state;
    assert_child_silent(write_over_a_link);
}

static void write_nowhere(void)
{
    slm_stderr_remember();
    set_options("nowhere/profile", 0);
    slm_profile_file_start(&slab_inspect);
    slm_profile_file_write(&slab_inspect);
    require(files_here() == 0);
}

/* The signal that comes with it is taken back. */
static void write_too_much(void)
{
    const struct rlimit few = {1000, 1000};
    slm_stderr_remember();
    set_options("profile", 0);
    signal(SIGXFSZ, SIG_DFL);
    require(setrlimit(RLIMIT_FSIZE, &few) == 0);
    slm_profile_file_write(&slab_inspect);
    require(files_here() == 0);
}

static void assert_says(void (*run)(void), const char *said)
{
    const struct outcome outcome = in_child(run);
    assert_string_equal(outcome.said, said);
    assert_int_equal(outcome.status, 0);
}

static void what_cannot_be_written_is_told_and_leaves_nothing(void **state)
{
    (void)state;
    assert_says(write_nowhere,
                "slabmalloc: option profile_file=nowhere/profile: there is no such folder; no profile will "
                "be written\n"
                "slabmalloc: option profile_file=nowhere/profile: there is no such folder; no profile was "
                "written\n");
    assert_says(write_too_much,
                "slabmalloc: option profile_file=profile: it may not be so long; no profile was written\n");
}

/* -- signals ----------------------------------------------------------------------------------------------------- */

static void take_a_signal(void)
{
    struct sigaction action;
    set_options("profile", SIGUSR2);
    slm_profile_file_start(&slab_inspect);
    require(sigaction(SIGUSR2, NULL, &action) == 0 && action.sa_flags & SA_RESTART);
    errno = 4711;
    raise(SIGUSR2);
    require(errno == 4711);
    require_profile();
    const pid_t child = fork();
    if (child == 0) {
        raise(SIGUSR2);
        require_profile();
        _exit(0);
    }
    int status;
    require(waitpid(child, &status, 0) == child && status == 0);
    set_options("profile", SIGRTMAX);
    slm_profile_file_start(&slab_inspect);
    raise(SIGRTMAX);
    require_profile();
}

static void a_signal_is_taken_in_children_too(void **state)
{
    (void)state;
    assert_child_silent(take_a_signal);
}

static volatile unsigned handled;

static void handle(int number)
{
    (void)number;
    handled++;
}

static void leave_signals_alone(void)
{
    slm_stderr_remember();
    signal(SIGUSR1, handle);
    set_options("profile", SIGUSR1);
    slm_profile_file_start(&slab_inspect);
    raise(SIGUSR1);
    require(handled == 1);
    signal(SIGUSR1, SIG_IGN);
    slm_profile_file_start(&slab_inspect);
    raise(SIGUSR1);
    static const int untakable[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGABRT, 32};
    for (size_t i = 0; i < COUNT(untakable); i++) {
        set_options("profile", (uint64_t)untakable[i]);
        slm_profile_file_start(&slab_inspect);
    }
    set_options("", SIGUSR2);
    slm_profile_file_start(&slab_inspect);
    struct sigaction action;
    require(sigaction(SIGUSR2, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
    require(files_here() == 0);
}

#define REFUSED(number, why)                                                                                         \
    "slabmalloc: option profile_signal=" number ": " why "; no profile will be written on it\n"

static void signals_that_are_used_are_left_alone(void **state)
{
    (void)state;
    const char *cannot = "not a signal that can be taken";
    char said[2048] = REFUSED("10", "the process handles it") REFUSED("10", "the process ignores it");
    static const char *const untakable[] = {"9", "19", "11", "7", "6", "32"};
    for (size_t i = 0; i < COUNT(untakable); i++)
        strcat(said, text(REFUSED("%s", "%s"), untakable[i], cannot));
    strcat(said, REFUSED("12", "there is no profile_file"));
    assert_says(leave_signals_alone, said);
}

/* One more signal in the middle is one too many, in whatever thread it comes. */
static _Atomic bool stop;

static void *raise_often(void *number)
{
    while (!load_relaxed(&stop))
        require((number ? kill(getpid(), SIGUSR1) : raise(SIGUSR1)) == 0);
    return number;
}

static void take_many_signals(void)
{
    pthread_t threads[3];
    set_options("profile", SIGUSR1);
    slm_profile_file_start(&slab_inspect);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_create(&threads[i], NULL, raise_often, (void *)(uintptr_t)i) == 0);
    for (unsigned i = 0; i < scaled(200); i++)
        slm_profile_file_write(&slab_inspect);
    store_relaxed(&stop, true);
    for (unsigned i = 0; i < COUNT(threads); i++)
        require(pthread_join(threads[i], NULL) == 0);
    require_profile();
}

static void signals_that_come_together_harm_nothing(void **state)
{
    (void)state;
    assert_child_silent(take_many_signals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_profile_is_a_file_of_its_own),
        cmocka_unit_test(what_stands_there_is_replaced),
        cmocka_unit_test(what_cannot_be_written_is_told_and_leaves_nothing),
        cmocka_unit_test(a_signal_is_taken_in_children_too),
        cmocka_unit_test(signals_that_are_used_are_left_alone),
        cmocka_unit_test(signals_that_come_together_harm_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
