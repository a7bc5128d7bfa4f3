/* A stress test of per-CPU memory: percpu MODE [OPTION...], where MODE is one of
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

#include <signal.h>
#include <unistd.h>

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

/* -- the program ------------------------------------------------------------------------------------------------- */

static const struct mode modes[] = {
    {"storm", "threads add, exchange, push and pop, moved and interrupted: nothing may be lost", run_storm},
    {"alloc", "threads allocate and free objects and look at all their copies", run_alloc},
    {NULL, NULL, NULL},
};

static const struct program program = {
    .name = "percpu",
    .about = "A stress test of per-CPU memory.",
    .modes = modes,
    .knows = KNOWS_ADDS | KNOWS_FORKS | KNOWS_ATOMICS | KNOWS_UNTIL_FOUND,
    .least_threads = 1,
};

/* Start anew with a C library that is told to leave them, or stay, if that has happened. */
static void live_without_sequences(void)
{
    static const char none[] = "glibc.pthread.rseq=0";
    const char *tunables = getenv("GLIBC_TUNABLES");
    if (tunables != NULL && strcmp(tunables, none) == 0)
        return;
    if (setenv("GLIBC_TUNABLES", none, 1) == 0)
        execv("/proc/self/exe", options.words);
    fail(FOUND_WRONG, "exec: %s", strerror(errno));
}

int main(int count, char **words)
{
    options.seconds = 10;
    options.threads = 8;
    options.adds = 1000000000;
    const struct mode *mode = parse_options(&program, count, words);
    begin_work(program.name, options.seed);
    if (options.atomics)
        live_without_sequences();
    printf("percpu: %s, seed %" PRIu64 "\n", mode->name, options.seed);
    fflush(stdout);
    install_handlers();
    start_work(1, 0);
    mode->run();
    printf("percpu: %s, nothing wrong (seed %" PRIu64 ")\n", mode->name, options.seed);
    return FOUND_NOTHING;
}
