/* A stress test of epochs and deferred free: epochs MODE [--seconds S] [--threads N] [--retires N] [--seed X]
 * [--forks] [--membarrier never|until-half], where MODE is one of
 *
 *   --torture    readers look at objects that writers replace and retire in every way there is, in the manner of the
 *                kernel's rcutorture (epochs_torture.c)
 *   --calls      slab_epoch_call keeps its order and its promises, slab_epoch_barrier waits for all (epochs_calls.c)
 *   --no-blocks  no memory is to be had for retired pointers; the library must have been built with checkers
 *                (epochs_blocks.c)
 *
 * --forks: the torture's process forks all the time. --membarrier never: the kernel does not know membarrier(2), from
 * before the program's start; until-half: a filter takes it away in the middle of the torture.
 *
 * All random numbers follow from the seed; the interleaving does not. What is wrong is one line on standard error,
 * and the exit status says of what kind it is: enum found in at_work.h. Here are the options and the end. */
#include "epochs.h"

#include <getopt.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct options options = {.seconds = 10, .threads = 8, .retires = 10000000};

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

#if defined __x86_64__
#define AUDIT_ARCH_HERE AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define AUDIT_ARCH_HERE AUDIT_ARCH_AARCH64
#else
#error "name this architecture for seccomp"
#endif

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
static void live_without_membarrier(char **words)
{
    if (syscall(SYS_membarrier, 0, 0, 0) == -1 && errno == ENOSYS)
        return;
    forbid_membarrier();
    execv("/proc/self/exe", words);
    fail(FOUND_WRONG, "exec: %s", strerror(errno));
}

/* -- the program ------------------------------------------------------------------------------------------------- */

slab_stats figures(void)
{
    slab_stats stats;
    if (slab_get_stats(&stats, sizeof stats) != 0)
        fail(FOUND_WRONG, "no figures: %s", strerror(errno));
    return stats;
}

static const struct mode {
    const char *name;
    void (*run)(void);
} modes[] = {{"torture", run_torture}, {"calls", run_calls}, {"no-blocks", run_no_blocks}};

static bool parse_membarrier(const char *word, char **words)
{
    if (strcmp(word, "never") == 0)
        live_without_membarrier(words);
    else if (strcmp(word, "until-half") == 0)
        options.filter_late = true;
    else
        return false;
    return true;
}

/* The mode that is wanted, NULL if there is none. */
static const struct mode *parse_options(int count, char **words)
{
    static const struct option names[] = {
        {"torture", no_argument, NULL, 0},
        {"calls", no_argument, NULL, 0},
        {"no-blocks", no_argument, NULL, 0},
        {"seconds", required_argument, NULL, 's'},
        {"threads", required_argument, NULL, 't'},
        {"retires", required_argument, NULL, 'r'},
        {"seed", required_argument, NULL, 'x'},
        {"forks", no_argument, NULL, 'f'},
        {"membarrier", required_argument, NULL, 'm'},
        {NULL, 0, NULL, 0},
    };
    const struct mode *mode = NULL;
    int letter, index = 0;
    options.seed = (uint64_t)time(NULL) * 1000 + (uint64_t)getpid();
    while ((letter = getopt_long(count, words, "", names, &index)) != -1) {
        if (letter == 0)
            mode = &modes[index]; /* they stand first, in the same order */
        else if (letter == 's')
            options.seconds = strtod(optarg, NULL);
        else if (letter == 't')
            options.threads = (unsigned)strtoul(optarg, NULL, 10);
        else if (letter == 'r')
            options.retires = strtoull(optarg, NULL, 10);
        else if (letter == 'x')
            options.seed = strtoull(optarg, NULL, 10);
        else if (letter == 'f')
            options.forks = true;
        else if (letter != 'm' || !parse_membarrier(optarg, words))
            return NULL;
    }
    return optind == count && options.threads > 1 && options.threads <= MAX_THREADS ? mode : NULL;
}

int main(int count, char **words)
{
    const struct mode *mode = parse_options(count, words);
    if (mode == NULL) {
        fprintf(stderr,
                "usage: %s --torture|--calls|--no-blocks [--seconds S] [--threads N, 2 to %d] [--retires N]"
                " [--seed X] [--forks] [--membarrier never|until-half]\n",
                words[0], MAX_THREADS);
        return FOUND_USAGE;
    }
    printf("epochs: %s, seed %" PRIu64 "\n", mode->name, options.seed);
    fflush(stdout);
    begin_work("epochs", options.seed);
    install_handlers();
    start_work(1, 0);
    mode->run();
    printf("epochs: %s, nothing wrong (seed %" PRIu64 ")\n", mode->name, options.seed);
    return FOUND_NOTHING;
}
