/* Calls on this CPU's copy, one by one: sums, exchanges, lists, errno; and in a plug-in that has them compiled in
 * (plugin_percpu.c), without which the process goes on.
 *
 * Written in: include/slabmalloc.h ("per-CPU memory"; "what contains it can be unloaded"). What many threads do at
 * once is in test_percpu_threads.c. */
#include "percpu.h"

/* -- one thread -------------------------------------------------------------------------------------------------- */

static void sums(const char *argument)
{
    (void)argument;
    slab_percpu object = make_counter();
    require(slab_percpu_sum_long(object) == 0 && slab_percpu_sum_u64(object) == 0);
    slab_percpu_add_long(object, 5);
    slab_percpu_add_long(object, -12);
    require(slab_percpu_sum_long(object) == -7 && slab_percpu_sum_u64(object) == (uint64_t)-7);
    slab_percpu_add_u64(object, 7);
    slab_percpu_add_long(object, 0);
    require(slab_percpu_sum_long(object) == 0);
    /* values of more than 32 bits, and both ends */
    static const long values[] = {0x123456789abcdef, -0x80000000l, 0x7fffffff, 0x80000000l,
                                  LONG_MAX,          LONG_MIN,     -1,         1};
    uint64_t sum = 0;
    for (size_t i = 0; i < COUNT(values); i++) {
        slab_percpu_add_long(object, values[i]);
        slab_percpu_add_u64(object, (uint64_t)values[i] * 3);
        sum += (uint64_t)values[i] * 4;
        require(slab_percpu_sum_u64(object) == sum && (uint64_t)slab_percpu_sum_long(object) == sum);
    }
    slab_percpu_free(object);
}

/* Copies add up whatever is in them, and beyond the largest number they begin anew. */
static void sums_of_all_copies(const char *argument)
{
    (void)argument;
    slab_percpu object = make_object(64, 64);
    uint64_t *copy, sum = 0;
    slab_percpu_for_each (cpu, copy, object) {
        copy[0] = UINT64_MAX / 2 + 77 * (uint64_t)cpu;
        copy[1] = 1; /* is no part of it */
        sum += copy[0];
    }
    require(slab_percpu_sum_u64(object) == sum && slab_percpu_sum_long(object) == (long)sum);
    slab_percpu_for_each (cpu, copy, object)
        *copy = (uint64_t) - (cpu + 1);
    const long cpus = slab_percpu_cpus();
    require(slab_percpu_sum_long(object) == -cpus * (cpus + 1) / 2);
    slab_percpu_free(object);
}

/* Of an object of a number, how many copies are not zero. */
static size_t changed_copies(slab_percpu object)
{
    size_t changed = 0;
    uintptr_t *copy;
    slab_percpu_for_each (cpu, copy, object)
        changed += *copy != 0;
    return changed;
}

static void clear_copies(slab_percpu object)
{
    uintptr_t *copy;
    slab_percpu_for_each (cpu, copy, object)
        *copy = 0;
}

static void a_change_is_of_one_copy(const char *argument)
{
    (void)argument;
    slab_percpu object = make_object(2 * sizeof(long), 8);
    for (unsigned i = 0; i < 1000; i++) {
        slab_percpu_add_long(object, -1);
        require(changed_copies(object) == 1 && slab_percpu_sum_long(object) == -1);
        clear_copies(object);
        slab_percpu_add_u64(object, 3);
        require(changed_copies(object) == 1 && slab_percpu_sum_u64(object) == 3);
        clear_copies(object);
        require(slab_percpu_xchg(object, 5) == 0);
        require(changed_copies(object) == 1 && slab_percpu_sum_u64(object) == 5);
        clear_copies(object);
        require(slab_percpu_cmpxchg(object, 0, 9) == 0);
        require(changed_copies(object) == 1 && slab_percpu_sum_u64(object) == 9);
        clear_copies(object);
        require(copies_are_zero(object, 2 * sizeof(long)));
    }
    slab_percpu_free(object);
}

/* Each copy holds its number, plus one. */
static int copy_that_is_here(slab_percpu object)
{
    return (int)*(uintptr_t *)slab_percpu_this(object) - 1;
}

static bool by_concurrency_id(void)
{
    const char *options = getenv("SLABMALLOC_OPTIONS");
    return options != NULL && strstr(options, "percpu_cid=1") != NULL;
}

/* 0 where glibc has not registered restartable sequences; not there where it knows of none. */
extern const unsigned __rseq_size __attribute__((weak));

/* Sequences where there are any: a program that is asked to do without, runs without, and no other. */
static void the_way_that_is_had(const char *argument)
{
    (void)argument;
    slab_percpu_free(make_counter());
#ifdef SLAB_PERCPU_SEQUENCES
    const bool registered = &__rseq_size != NULL && __rseq_size != 0;
#else
    const bool registered = false;
#endif
    require((slab_percpu_here.sequence != 0) == registered);
}

/* Where a thread that runs on one CPU alone finds itself, and what its calls change. */
static void the_copy_of_this_cpu(const char *argument)
{
    (void)argument;
    slab_percpu names = make_object(8, 8), counter = make_counter();
    uintptr_t *copy;
    slab_percpu_for_each (cpu, copy, names)
        *copy = (uintptr_t)cpu + 1;
    for (int i = 0, cpu = -1; i < 64; i++) {
        move_to(cpu = cpu_behind(cpu));
        const int here = copy_that_is_here(names);
        require(here >= 0 && here < slab_percpu_cpus());
        require(slab_percpu_this(names) == slab_percpu_ptr(names, here) || by_concurrency_id());
        require(here == cpu || by_concurrency_id());
        long *this_cpus = (long *)slab_percpu_ptr(counter, cpu), before = *this_cpus;
        slab_percpu_add_long(counter, 3);
        require(*this_cpus == before + 3 || by_concurrency_id());
        require(slab_percpu_sum_long(counter) == 3 * (i + 1));
    }
    slab_percpu_free(names);
    slab_percpu_free(counter);
}

static void exchanges(const char *argument)
{
    (void)argument;
    slab_percpu object = make_object(sizeof(uintptr_t), sizeof(uintptr_t));
    uintptr_t *copy;
    slab_percpu_for_each (cpu, copy, object)
        *copy = 10;
    require(slab_percpu_xchg(object, UINTPTR_MAX) == 10);
    require(slab_percpu_sum_u64(object) == 10 * (uint64_t)slab_percpu_cpus() - 11);
    slab_percpu_for_each (cpu, copy, object)
        *copy = UINTPTR_MAX - 1;
    require(slab_percpu_xchg(object, 0) == UINTPTR_MAX - 1);
    slab_percpu_for_each (cpu, copy, object)
        *copy = 20;
    require(slab_percpu_cmpxchg(object, 21, 22) == 20); /* not done */
    require(slab_percpu_cmpxchg(object, 20 | (uintptr_t)1 << 40, 22) == 20);
    require(slab_percpu_sum_u64(object) == 20 * (uint64_t)slab_percpu_cpus());
    require(slab_percpu_cmpxchg(object, 20, (uintptr_t)1 << 40) == 20);
    require(slab_percpu_sum_u64(object) == 20 * (uint64_t)slab_percpu_cpus() - 20 + ((uint64_t)1 << 40));
    slab_percpu_free(object);
}

/* Last in, first out: on one CPU, of all nodes. */
static void a_list_is_a_stack(const char *argument)
{
    (void)argument;
    enum { NODES = 50, ROUNDS = 200 };
    slab_percpu_node nodes[NODES];
    slab_percpu head = make_object(sizeof(void *), sizeof(void *));
    require(slab_percpu_list_pop(head) == NULL);
    if (by_concurrency_id())
        skip_role("a thread's concurrency id may change at any time, so that it finds another list");
    move_to(cpu_behind(-1));
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < NODES; i++)
            slab_percpu_list_push(head, &nodes[i]);
        for (unsigned i = 0; i < NODES; i++)
            require(slab_percpu_list_pop(head) == &nodes[NODES - 1 - i]);
        require(slab_percpu_list_pop(head) == NULL && changed_copies(head) == 0);
    }
    slab_percpu_free(head);
}

/* Whether the node is on top of a CPU's list, which it then is no more; none is on top of an empty one. */
static bool take_off_the_top(slab_percpu_node **tops, const slab_percpu_node *node)
{
    for (int cpu = 0; cpu < slab_percpu_cpus(); cpu++)
        if (tops[cpu] == node) {
            tops[cpu] = node != NULL ? node->next : NULL;
            return true;
        }
    return false;
}

/* Of each CPU's list: wherever the thread was when it pushed, and is when it pops, it finds what lies on top. */
static void lists_are_stacks(const char *argument)
{
    (void)argument;
    enum { NODES = 50, ROUNDS = 200 };
    slab_percpu_node nodes[NODES];
    slab_percpu head = make_object(sizeof(void *), sizeof(void *));
    slab_percpu_node **tops = calloc((size_t)slab_percpu_cpus(), sizeof *tops), **copy;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < NODES; i++)
            slab_percpu_list_push(head, &nodes[i]);
        size_t found = 0;
        slab_percpu_for_each (cpu, copy, head) {
            tops[cpu] = *copy;
            for (const slab_percpu_node *node = *copy; node != NULL; node = node->next, found++)
                require(node->next == NULL || node->next < node);
        }
        require(found == NODES);
        for (unsigned i = 0; i < NODES; i++)
            require(take_off_the_top(tops, slab_percpu_list_pop(head)));
        slab_percpu_for_each (cpu, copy, head)
            require(*copy == tops[cpu]);
        clear_copies(head);
    }
    free(tops);
    slab_percpu_free(head);
}

static void errno_is_kept(const char *argument)
{
    (void)argument;
    slab_percpu object = make_counter(), head = make_object(sizeof(void *), sizeof(void *));
    slab_percpu_node node;
    bool listed = false;
    errno = EDOM;
    for (unsigned i = 0; i < 1000; i++) {
        slab_percpu_add_long(object, 1);
        slab_percpu_add_u64(object, 1);
        slab_percpu_xchg(object, 1);
        slab_percpu_cmpxchg(object, 1, 2);
        slab_percpu_sum_long(object);
        slab_percpu_sum_u64(object);
        if (!listed)
            slab_percpu_list_push(head, &node);
        listed = slab_percpu_list_pop(head) == NULL; /* it may be on the CPU where this thread was before */
        require(slab_percpu_this(object) != NULL && slab_percpu_cpus() > 0);
    }
    require(errno == EDOM);
    slab_percpu_free(object);
    slab_percpu_free(head);
}

/* -- a plug-in that has them compiled in ------------------------------------------------------------------------- */

struct plugin {
    void *library;
    void (*adds)(slab_percpu object, long times);
    const void *(*sequence)(void);
};

static struct plugin open_plugin(void)
{
    char path[PATH_MAX];
    struct plugin plugin;
    plugin.library = dlopen(sibling("libplugin_percpu.so", path, sizeof path), RTLD_NOW | RTLD_LOCAL);
    if (plugin.library == NULL)
        fprintf(stderr, "%s\n", dlerror());
    require(plugin.library != NULL);
    *(void **)&plugin.adds = dlsym(plugin.library, "plugin_adds");
    *(void **)&plugin.sequence = dlsym(plugin.library, "plugin_sequence");
    require(plugin.adds != NULL && plugin.sequence != NULL);
    return plugin;
}

/* The plug-in is gone from memory. */
static void close_plugin(struct plugin plugin)
{
    const uintptr_t page = (uintptr_t)plugin.sequence() & -(uintptr_t)sysconf(_SC_PAGESIZE);
    unsigned char resident;
    require(dlclose(plugin.library) == 0);
    require(mincore((void *)page, 1, &resident) == -1 && errno == ENOMEM);
}

static slab_percpu bumped;
static bool over;

static void *bump(void *nobody)
{
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) { /* set when the plug-in has been closed for the last time */
        for (unsigned i = 0; i < 1000; i++)
            slab_percpu_add_long(bumped, 1);
        sched_yield();
    }
    return nobody;
}

static void nothing(int number)
{
    (void)number;
}

/* The first interruption after dlclose is where the kernel would look for the sequence that was announced last: a
 * signal, or another thread's turn. One in two rounds waits for the latter. */
static void a_plugin_is_unloaded(const char *argument)
{
    (void)argument;
    enum { ROUNDS = 200, TIMES = 100 };
    pthread_t others[4];
    slab_percpu object = make_counter();
    bumped = make_counter();
    require(signal(SIGUSR1, nothing) != SIG_ERR);
    for (size_t i = 0; i < COUNT(others); i++)
        require(pthread_create(&others[i], NULL, bump, NULL) == 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        const struct plugin plugin = open_plugin();
        plugin.adds(object, TIMES);
        close_plugin(plugin);
        if (round % 2 == 0)
            require(raise(SIGUSR1) == 0);
        for (unsigned i = 0; i < 5; i++)
            sched_yield();
    }
    __atomic_store_n(&over, true, __ATOMIC_RELAXED); /* read by the others */
    for (size_t i = 0; i < COUNT(others); i++)
        require(pthread_join(others[i], NULL) == 0);
    require(slab_percpu_sum_long(object) == (long)ROUNDS * TIMES);
    slab_percpu_free(object);
    slab_percpu_free(bumped);
}

/* Each thread uses the plug-in, is moved and interrupted in it, and lives on when it has been closed. */
static struct plugin shared_plugin;
static pthread_barrier_t have_used_it, is_closed;

static void *use_and_live_on(void *number)
{
    for (int i = 0, cpu = (int)(size_t)number; i < 300; i++) {
        shared_plugin.adds(bumped, 1000);
        move_to(cpu = cpu_behind(cpu));
    }
    shared_plugin.adds(bumped, 1);
    pthread_barrier_wait(&have_used_it);
    pthread_barrier_wait(&is_closed);
    for (int i = 0, cpu = (int)(size_t)number; i < 300; i++) {
        slab_percpu_add_long(bumped, 1);
        require(raise(SIGUSR1) == 0);
        move_to(cpu = cpu_behind(cpu));
    }
    return NULL;
}

static void *use_or_close(void *number)
{
    if (number != NULL)
        return use_and_live_on(number);
    pthread_barrier_wait(&have_used_it);
    close_plugin(shared_plugin);
    pthread_barrier_wait(&is_closed);
    return NULL;
}

static void threads_outlive_a_plugin(const char *argument)
{
    (void)argument;
    const unsigned users = 5;
    bumped = make_counter();
    require(signal(SIGUSR1, nothing) != SIG_ERR);
    require(pthread_barrier_init(&have_used_it, NULL, users + 1) == 0);
    require(pthread_barrier_init(&is_closed, NULL, users + 1) == 0);
    shared_plugin = open_plugin();
    run_threads(users + 1, use_or_close);
    require(slab_percpu_sum_long(bumped) == users * (300 * 1000 + 1 + 300));
    slab_percpu_free(bumped);
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"sums", sums},
        {"sums_of_all_copies", sums_of_all_copies},
        {"a_change_is_of_one_copy", a_change_is_of_one_copy},
        {"the_way_that_is_had", the_way_that_is_had},
        {"the_copy_of_this_cpu", the_copy_of_this_cpu},
        {"exchanges", exchanges},
        {"a_list_is_a_stack", a_list_is_a_stack},
        {"lists_are_stacks", lists_are_stacks},
        {"errno_is_kept", errno_is_kept},
        {"a_plugin_is_unloaded", a_plugin_is_unloaded},
        {"threads_outlive_a_plugin", threads_outlive_a_plugin},
    };
    return run_scenarios("calls on this CPU's copy", scenarios, COUNT(scenarios), argc, argv);
}
