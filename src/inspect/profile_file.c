/* Files of profiles; see profile_file.h. */
#include "inspect/profile_file.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "base/call.h"
#include "base/errno.h"
#include "base/options.h"
#include "base/panic.h"
#include "figures/report.h"
#include "inspect/dump.h"
#include "os/sys.h"

static slm_sparse const struct slm_inspect *described; /* for the handler; set before it is */
static slm_sparse _Atomic uint32_t writer; /* the PID of a process that is at it: fork and vfork copy it */

/* A name for this process's file, and one that nobody else has. */
struct names {
    char whole[sizeof slm_options.profile_file + 16], part[sizeof slm_options.profile_file + 40];
};

static slm_seldom void make_names(struct names *names, uint32_t pid)
{
    struct slm_line line = {0};
    slm_line_add(&line, "%s.%u", slm_options.profile_file, pid);
    memcpy(names->whole, line.text, line.length + 1);
    slm_line_add(&line, ".%lu", slm_sys_entropy(pid));
    memcpy(names->part, line.text, line.length + 1);
}

/* Returns 0 or an errno code. */
static slm_seldom int write_file(const struct names *names, const struct slm_inspect *inspect)
{
    const long file = slm_call(SYS_openat, AT_FDCWD, names->part,
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0600);
    if (file < 0)
        return (int)-file;
    long error = slm_dump_write((int)file, inspect);
    slm_sys_close((int)file);
    if (error == 0)
        error = -slm_call(SYS_renameat2, AT_FDCWD, names->part, AT_FDCWD, names->whole, 0);
    if (error != 0)
        slm_call(SYS_unlinkat, AT_FDCWD, names->part, 0);
    return (int)error;
}

/* A file that may not be so long brings a signal that ends processes: it is taken back unless one was pending. */
static slm_seldom int write_quietly(const struct names *names, const struct slm_inspect *inspect)
{
    static const struct timespec at_once;
    const uint64_t too_long = (uint64_t)1 << (SIGXFSZ - 1);
    uint64_t before = 0, pending = 0;
    slm_call(SYS_rt_sigpending, &pending, sizeof pending);
    slm_call(SYS_rt_sigprocmask, SIG_BLOCK, &too_long, &before, sizeof too_long);
    const int error = write_file(names, inspect);
    if (error == EFBIG && !(pending & too_long))
        slm_call(SYS_rt_sigtimedwait, &too_long, NULL, &at_once, sizeof too_long);
    slm_call(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
    return error;
}

slm_seldom void slm_profile_file_write(const struct slm_inspect *inspect)
{
    uint32_t pid = (uint32_t)slm_call(SYS_getpid), before = load_relaxed(&writer);
    struct names names;
    if (before == pid || !atomic_compare_exchange_strong(&writer, &before, pid))
        return;
    make_names(&names, pid);
    const int error = write_quietly(&names, inspect);
    atomic_compare_exchange_strong(&writer, &pid, 0); /* a child of vfork may have come in between */
    if (error != 0)
        slm_report_refuse("profile_file", slm_options.profile_file, error, "no profile was written");
}

static slm_seldom void on_signal(int number)
{
    (void)number;
    slm_profile_file_write(described);
}

static slm_seldom void refuse_signal(const char *reason)
{
    struct slm_line line = {0};
    slm_line_add(&line, "slabmalloc: option profile_signal=%lu: %s; no profile will be written on it",
                 slm_options.profile_signal, reason);
    slm_line_write(&line, STDERR_FILENO);
}

/* What ends the process, or comes from an instruction that would be repeated for ever. */
static slm_seldom bool is_fatal(int number)
{
    const uint64_t fatal = (uint64_t)1 << SIGILL | (uint64_t)1 << SIGTRAP | (uint64_t)1 << SIGABRT |
                           (uint64_t)1 << SIGBUS | (uint64_t)1 << SIGFPE | (uint64_t)1 << SIGSEGV |
                           (uint64_t)1 << SIGSYS | (uint64_t)1 << SIGKILL | (uint64_t)1 << SIGSTOP;
    return number < 64 && fatal >> number & 1;
}

/* By libc, as the kernel wants its way of returning; others may have put something in its place. */
static slm_seldom void take_signal(int number)
{
    struct sigaction before, action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    memset(&action.sa_mask, 0xff, sizeof action.sa_mask);
    if (is_fatal(number) || sigaction(number, NULL, &before) != 0)
        refuse_signal("not a signal that can be taken");
    else if (before.sa_handler != SIG_DFL)
        refuse_signal(before.sa_handler == SIG_IGN ? "the process ignores it" : "the process handles it");
    else
        sigaction(number, &action, NULL);
}

slm_seldom void slm_profile_file_start(const struct slm_inspect *inspect)
{
    const char *path = slm_options.profile_file;
    slm_keep_errno();
    described = inspect;
    if (!path[0]) {
        refuse_signal("there is no profile_file");
        return;
    }
    const int error = slm_report_folder_error(path);
    if (error != 0)
        slm_report_refuse("profile_file", path, error, "no profile will be written");
    if (slm_options.profile_signal != 0)
        take_signal((int)slm_options.profile_signal);
}
