/* A stress test of epochs and deferred free: epochs MODE [OPTION...], where MODE is one of
 *
 *   --torture    readers look at objects that writers replace and retire in every way there is, in the manner of the
 *                kernel's rcutorture (epochs_torture.c)
 *   --calls      slab_epoch_call keeps its order and its promises, slab_epoch_barrier waits for all (epochs_calls.c)
 *   --no-blocks  no memory is to be had for retired pointers; the library must have been built with checkers
 *                (epochs_blocks.c)
 *
 * All random numbers follow from the seed; the interleaving does not. What is wrong is one line on standard error,
 * and the exit status says of what kind it is: enum found in at_work.h. Here are the program and its end. */
#include "epochs.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../audit_arch.h"

/* -- failing ----------------------------------------------------------------------------------------------------- */

/* An object whose memory has been unmapped while somebody looks at it. Elsewhere it is a crash as any other. */
static void say_what_is_gone(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    const char *last = is_doing();
    if (last != NULL && strcmp(last, "checking an object") == 0)
        fail(FOUND_BROKEN, "broken: the memory at %p is gone", info->si_addr);
    signal(signal_number, SIG_DFL); /* and the access is made once more */
}

static void install_handlers(void)
{
    const struct sigaction gone = {.sa_sigaction = say_what_is_gone, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGSEGV, &gone, NULL) != 0 || sigaction(SIGBUS, &gone, NULL) != 0)
        fail(FOUND_WRONG, "%s", strerror(errno));
}

/* -- time -------------------------------------------------------------------------------------------------------- */

void spin_for(double seconds)
{
    const double end = now_in_seconds() + seconds;
    while (now_in_seconds() < end)
        continue;
}

/* -- membarrier -------------------------------------------------------------------------------------------------- */

void forbid_membarrier(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_HERE, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {COUNT(filter), filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        fail(FOUND_WRONG, "no filter: %s", strerror(errno));
}

/* Start anew on a kernel without it, or stay, if that has happened. */
static void live_without_membarrier(void)
{
    if (syscall(SYS_membarrier, 0, 0, 0) == -1 && errno == ENOSYS)
        return;
    forbid_membarrier();
    execv("/proc/self/exe", options.words);
    fail(FOUND_WRONG, "exec: %s", strerror(errno));
}

/* -- the program ------------------------------------------------------------------------------------------------- */

static const struct mode modes[] = {
    {"torture", "readers look at objects that writers replace and retire in every way", run_torture},
    {"calls", "calls behind grace periods keep their order, barriers wait for all", run_calls},
    {"no-blocks", "no memory is to be had for retired pointers (a library with checkers)", run_no_blocks},
    {NULL, NULL, NULL},
};

static const struct program program = {
    .name = "epochs",
    .about = "A stress test of epochs and deferred free.",
    .modes = modes,
    .knows = KNOWS_RETIRES | KNOWS_FORKS | KNOWS_MEMBARRIER | KNOWS_UNTIL_FOUND,
    .least_threads = 2,
};

int main(int count, char **words)
{
    options.seconds = 10;
    options.threads = 8;
    options.retires = 10000000;
    const struct mode *mode = parse_options(&program, count, words);
    begin_work(program.name, options.seed);
    if (options.membarrier != NULL && strcmp(options.membarrier, "never") == 0)
        live_without_membarrier();
    printf("epochs: %s, seed %" PRIu64 "\n", mode->name, options.seed);
    fflush(stdout);
    install_handlers();
    start_work(1, 0);
    mode->run();
    printf("epochs: %s, nothing wrong (seed %" PRIu64 ")\n", mode->name, options.seed);
    return FOUND_NOTHING;
}
