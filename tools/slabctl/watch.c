/* Does work in a child, and gives it up when it hangs.
 *
 *     slabctl --- fork ---> child, which reads memory, opens files, prints into files in memory
 *        | every TICK_MS: does it sleep, and has it run since?
 *        | at its end: what is in these files goes to standard output and error
 *
 * A process can make whoever reads it wait, in its memory (userfaultfd) or in a file that it has mapped (FUSE), and
 * a reader in such a file does not even obey SIGKILL. So nobody waits for a child that was given up, and it has
 * neither standard output nor error: whoever reads these to their end would wait for it. */
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "message.h"
#include "process.h"

enum { TICK_MS = 50, PART_LIMITS = 5 };

/* Written by the child, read by the tool at each tick; nothing else depends on them. */
static struct shared {
    _Atomic unsigned steps;
    _Atomic bool paused;
} * shared; /* NULL: nobody watches */

void watch_step(void)
{
    if (shared)
        shared->steps++;
}

void watch_pause(void)
{
    if (shared)
        shared->paused = true;
}

void watch_resume(void)
{
    if (shared)
        shared->paused = false;
}

void *watch_memory(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        fail("no memory for %zu bytes", bytes);
    return at;
}

/* -- output --------------------------------------------------------------------------------------------------- */

static struct {
    bool known, is_terminal;
    unsigned columns;
} output;

static void output_look(void)
{
    struct winsize size;
    if (output.known)
        return;
    output.known = true;
    output.is_terminal = isatty(STDOUT_FILENO);
    output.columns = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

bool output_is_terminal(void)
{
    output_look();
    return output.is_terminal;
}

unsigned output_columns(void)
{
    output_look();
    return output.columns;
}

const char *output_error(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return NULL;
    return errno ? strerror(errno) : "not all of it could be written";
}

void output_flush(void)
{
    const char *error = output_error();
    if (error)
        fail("standard output: %s", error);
}

int file_behind_standard(int file)
{
    int moved = file < 0 ? -1 : fcntl(file, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (file >= 0)
        close(file);
    return moved;
}

static bool all_write(int to, const char *bytes, ssize_t count)
{
    for (ssize_t written; count > 0; bytes += written, count -= written) {
        written = write(to, bytes, (size_t)count);
        if (written < 0 && errno != EINTR)
            return false;
        if (written < 0)
            written = 0;
    }
    return true;
}

bool file_copy(int from, int to)
{
    char bytes[16384];
    ssize_t count;
    for (off_t at = 0; (count = pread(from, bytes, sizeof bytes, at)) > 0; at += count)
        if (!all_write(to, bytes, count))
            return false;
    return count == 0;
}

/* -- the child ------------------------------------------------------------------------------------------------ */

struct child {
    pid_t pid;
    int out, err; /* what it prints */
    int end;      /* of a pipe that ends with it */
    clockid_t clock;
    uint64_t used_ns, part_ns; /* its processor time; how long its part has slept or run */
    unsigned slept_ms, steps;
};

static void child_close(const struct child *child)
{
    const int files[] = {child->out, child->err, child->end};
    for (unsigned i = 0; i < 3; i++)
        if (files[i] >= 0)
            close(files[i]);
}

/* It ends with the tool, also where that is killed. */
static _Noreturn void child_work(const struct child *child, pid_t tool, void (*work)(void *input), void *input)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != tool) /* it was killed before */
        _exit(EXIT_COULD_NOT);
    if (dup2(child->out, STDOUT_FILENO) < 0 || dup2(child->err, STDERR_FILENO) < 0)
        _exit(EXIT_COULD_NOT);
    child_close(child);
    work(input);
    output_flush();
    exit(fails_later() ? EXIT_COULD_NOT : EXIT_DONE);
}

static bool child_start(struct child *child, void (*work)(void *input), void *input)
{
    int ends[2] = {-1, -1};
    pid_t tool = getpid();
    *child = (struct child){.out = file_behind_standard(memfd_create("output", MFD_CLOEXEC)),
                            .err = file_behind_standard(memfd_create("errors", MFD_CLOEXEC))};
    bool has_pipe = pipe2(ends, O_CLOEXEC) == 0;
    child->end = file_behind_standard(ends[0]);
    ends[1] = file_behind_standard(ends[1]);
    signal(SIGCHLD, SIG_DFL); /* else nobody says how it ends */
    child->pid = -1;
    if (has_pipe && child->out >= 0 && child->err >= 0 && child->end >= 0 && ends[1] >= 0)
        child->pid = fork();
    if (child->pid == 0)
        child_work(child, tool, work, input);
    if (ends[1] >= 0)
        close(ends[1]);
    /* Where nobody can see whether it hangs, it ends: what it has done is not to be done twice. */
    if (child->pid > 0 && clock_getcpuclockid(child->pid, &child->clock) != 0)
        kill(child->pid, SIGKILL);
    if (child->pid > 0)
        return true;
    child_close(child);
    return false;
}

/* Once a tick. One that wants to run, and does not as others do, is not asleep. */
static bool child_hangs(struct child *child, unsigned limit_ms, bool stepwise)
{
    struct timespec used;
    struct process_stat stat;
    struct problem problem;
    if (clock_gettime(child->clock, &used) != 0 || !process_stat_read(child->pid, &stat, &problem))
        return false;
    uint64_t used_ns = (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
    unsigned steps = shared->steps;
    bool asleep = used_ns == child->used_ns && (stat.state == 'S' || stat.state == 'D') && !shared->paused;
    if (steps != child->steps)
        child->part_ns = 0;
    child->part_ns += asleep ? TICK_MS * 1000000ull : used_ns - child->used_ns;
    child->slept_ms = asleep ? child->slept_ms + TICK_MS : 0;
    child->steps = steps;
    child->used_ns = used_ns;
    return child->slept_ms >= limit_ms || (stepwise && child->part_ns >= limit_ms * PART_LIMITS * 1000000ull);
}

/* The pipe says so at once; but a process that the child has left behind may have it, too. */
static bool child_has_ended(const struct child *child)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid;
}

struct watch_end watch_run(void (*work)(void *input), void *input, unsigned limit_ms, bool stepwise)
{
    struct child child;
    struct watch_end end = {0};
    output_look();
    fflush(stdout);
    shared = watch_memory(sizeof *shared);
    if (!child_start(&child, work, input)) {
        work(input);
        output_flush();
        end.code = fails_later() ? EXIT_COULD_NOT : EXIT_DONE;
        end.said = true;
        return end;
    }
    struct pollfd ended = {.fd = child.end, .events = POLLIN};
    while (poll(&ended, 1, TICK_MS) <= 0 && !child_has_ended(&child) && !end.hung)
        end.hung = child_hangs(&child, limit_ms, stepwise);
    int status = 0;
    if (end.hung)
        kill(child.pid, SIGKILL);
    else
        while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR)
            ;
    end.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    end.code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    end.steps = shared->steps;
    end.said = lseek(child.err, 0, SEEK_END) > 0;
    if ((!end.hung || stepwise) && !file_copy(child.out, STDOUT_FILENO))
        fail("standard output: %s", strerror(errno));
    file_copy(child.err, STDERR_FILENO);
    child_close(&child);
    munmap(shared, sizeof *shared);
    shared = NULL;
    return end;
}
