/* A stress test of per-CPU memory: percpu MODE [--seconds S] [--threads N] [--adds N] [--seed X] [--forks], where
 * MODE is one of
 *
 *   --storm   threads add, exchange, push and pop, while they are moved from CPU to CPU and interrupted by handlers
 *             that do the same: nothing may be lost (percpu_storm.c, percpu_nodes.c)
 *   --alloc   threads allocate and free objects and look at all their copies (percpu_alloc.c)
 *
 * --forks: the process forks all the time, and its children do the same in small. --atomics: the C library does not
 * register restartable sequences.
 *
 * All random numbers follow from the seed; the interleaving does not. What is wrong is one line on standard error,
 * and the exit status says of what kind it is: enum found in at_work.h. Here are the options and the end. */
#include "percpu.h"

#include <getopt.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct options options = {.seconds = 10, .threads = 8, .adds = 1000000000};

/* -- failing ----------------------------------------------------------------------------------------------------- */

/* A node that was unmapped or overwritten, a copy that is not mapped. */
static void say_what_is_gone(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    fail(FOUND_BROKEN, "broken: there is no memory at %p", info->si_addr);
}

static void install_handlers(void)
{
    const struct sigaction gone = {.sa_sigaction = say_what_is_gone, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGSEGV, &gone, NULL) != 0 || sigaction(SIGBUS, &gone, NULL) != 0)
        fail(FOUND_WRONG, "%s", strerror(errno));
}

/* -- what may fail ----------------------------------------------------------------------------------------------- */

pthread_t start_thread(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    const int error = pthread_create(&thread, NULL, run, argument);
    if (error != 0)
        fail(FOUND_WRONG, "no thread: %s", strerror(error));
    return thread;
}

void await_child(pid_t child)
{
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        fail(FOUND_WRONG, "no child: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) != FOUND_NOTHING)
        fail((enum found)WEXITSTATUS(status), "in child %d", (int)child);
    if (status != 0)
        fail(FOUND_WRONG, "child %d: wait status %#x", (int)child, (unsigned)status);
}

slab_percpu make_object(size_t size, size_t align)
{
    const int kept = errno;
    const slab_percpu object = slab_percpu_alloc(size, align);
    if (object == NULL)
        fail(FOUND_WRONG, "no object of %zu bytes, aligned to %zu: %s", size, align, strerror(errno));
    if (errno != kept)
        fail(FOUND_WRONG, "allocating has set errno to %d", errno);
    return object;
}

slab_stats figures(void)
{
    slab_stats stats;
    if (slab_get_stats(&stats, sizeof stats) != 0)
        fail(FOUND_WRONG, "no figures: %s", strerror(errno));
    return stats;
}

/* -- the program ------------------------------------------------------------------------------------------------- */

static const struct mode {
    const char *name;
    void (*run)(void);
} modes[] = {{"storm", run_storm}, {"alloc", run_alloc}};

/* Start anew with a C library that is told to leave them, or stay, if that has happened. */
static void live_without_sequences(char **words)
{
    static const char none[] = "glibc.pthread.rseq=0";
    const char *tunables = getenv("GLIBC_TUNABLES");
    if (tunables != NULL && strcmp(tunables, none) == 0)
        return;
    if (setenv("GLIBC_TUNABLES", none, 1) == 0)
        execv("/proc/self/exe", words);
    fail(FOUND_WRONG, "exec: %s", strerror(errno));
}

/* The mode that is wanted, NULL if there is none. */
static const struct mode *parse_options(int count, char **words)
{
    static const struct option names[] = {
        {"storm", no_argument, NULL, 0},
        {"alloc", no_argument, NULL, 0},
        {"seconds", required_argument, NULL, 's'},
        {"threads", required_argument, NULL, 't'},
        {"adds", required_argument, NULL, 'a'},
        {"seed", required_argument, NULL, 'x'},
        {"forks", no_argument, NULL, 'f'},
        {"atomics", no_argument, NULL, 'o'},
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
        else if (letter == 'a')
            options.adds = strtoull(optarg, NULL, 10);
        else if (letter == 'x')
            options.seed = strtoull(optarg, NULL, 10);
        else if (letter == 'f')
            options.forks = true;
        else if (letter == 'o')
            live_without_sequences(words);
        else
            return NULL;
    }
    return optind == count && options.threads > 0 && options.threads <= MAX_THREADS ? mode : NULL;
}

int main(int count, char **words)
{
    const struct mode *mode = parse_options(count, words);
    if (mode == NULL) {
        fprintf(stderr,
                "usage: %s --storm|--alloc [--seconds S] [--threads N, up to %d] [--adds N] [--seed X] [--forks]"
                " [--atomics]\n",
                words[0], MAX_THREADS);
        return FOUND_USAGE;
    }
    printf("percpu: %s, seed %" PRIu64 "\n", mode->name, options.seed);
    fflush(stdout);
    begin_work("percpu", options.seed);
    install_handlers();
    start_work(1, 0);
    mode->run();
    printf("percpu: %s, nothing wrong (seed %" PRIu64 ")\n", mode->name, options.seed);
    return FOUND_NOTHING;
}
