/* Runs a command and writes what the kernel says of it: measure COMMAND [ARG...].
 *
 *   MEASURE_PRELOAD   the command's LD_PRELOAD; empty or not set: none
 *   MEASURE_OUTPUT    the file that gets one line "wall_s cpu_s peak_rss_kib page_faults" in the end
 *
 * CPU seconds and page faults (those that needed no disk) are those of the command and of all its children that it
 * waited for, peak RSS is that of the largest one among them. All come from wait4. The runner could ask getrusage
 * itself, but ru_maxrss of a process remembers the image that it had before exec: forked from Python, every small
 * program would show Python's RSS. This program is smaller than whatever it measures.
 *
 * The exit status is the command's, or 128 + n where signal n killed it. The command has a process group of its own:
 * signals that ask to end are passed on to the group, what the command has left behind in it is killed, and when the
 * runner dies, the command does too. */
#include "bench.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { CANNOT_RUN = 127, KILLED = 128 };

static volatile pid_t command; /* also its group */

static void pass_on(int signal_number)
{
    if (command > 0)
        kill(-command, signal_number);
}

static void pass_signals_on(const sigset_t *signals)
{
    struct sigaction action = {.sa_handler = pass_on, .sa_flags = SA_RESTART, .sa_mask = *signals};
    for (int number = 1; number < NSIG; number++) {
        if (sigismember(signals, number) == 1)
            sigaction(number, &action, NULL);
    }
}

__attribute__((noreturn)) static void run_command(char **words, pid_t parent, const sigset_t *mask)
{
    const char *preload = getenv("MEASURE_PRELOAD");
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the kernel was told */
        _exit(KILLED + SIGKILL);
    unsetenv("LD_PRELOAD");
    if (preload != NULL && preload[0] != '\0')
        setenv("LD_PRELOAD", preload, 1);
    unsetenv("MEASURE_PRELOAD");
    unsetenv("MEASURE_OUTPUT");
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(words[0], words);
    fprintf(stderr, "measure: cannot run %s: %s\n", words[0], strerror(errno));
    _exit(CANNOT_RUN);
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static void write_line(const char *path, double wall, const struct rusage *usage)
{
    FILE *output = fopen(path, "we");
    if (output == NULL)
        bench_die("cannot write %s: %s", path, strerror(errno));
    fprintf(output, "%.6f %.6f %ld %ld\n", wall, seconds_of(usage->ru_utime) + seconds_of(usage->ru_stime),
            usage->ru_maxrss, usage->ru_minflt);
    if (fclose(output) != 0)
        bench_die("cannot write %s: %s", path, strerror(errno));
}

int main(int count, char **words)
{
    const char *path = getenv("MEASURE_OUTPUT");
    const pid_t self = getpid();
    struct rusage usage;
    sigset_t ending, before;
    int status;
    if (count < 2 || path == NULL)
        bench_die("usage: MEASURE_PRELOAD=LIBRARY MEASURE_OUTPUT=FILE measure COMMAND [ARG...]");
    prctl(PR_SET_PDEATHSIG, SIGKILL);

    sigemptyset(&ending);
    sigaddset(&ending, SIGHUP);
    sigaddset(&ending, SIGINT);
    sigaddset(&ending, SIGQUIT);
    sigaddset(&ending, SIGTERM);
    sigprocmask(SIG_BLOCK, &ending, &before); /* none is lost between fork and the note of whom to pass it on to */
    double wall = bench_seconds(CLOCK_MONOTONIC);
    command = fork();
    if (command < 0)
        bench_die("cannot fork: %s", strerror(errno));
    if (command == 0)
        run_command(words + 1, self, &before);
    setpgid(command, command); /* both do it, so that it is done whoever comes first */
    pass_signals_on(&ending);
    sigprocmask(SIG_SETMASK, &before, NULL);

    while (wait4(command, &status, 0, &usage) < 0) {
        if (errno != EINTR)
            bench_die("cannot wait: %s", strerror(errno));
    }
    wall = bench_seconds(CLOCK_MONOTONIC) - wall;
    kill(-command, SIGKILL);
    write_line(path, wall, &usage);
    return WIFSIGNALED(status) ? KILLED + WTERMSIG(status) : WEXITSTATUS(status);
}
