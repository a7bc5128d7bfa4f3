/* Writers replace objects that readers look at without a lock: what does freeing behind readers cost?
 *
 *     epochs --contender NAME [--size BYTES] [--writers N] [--readers N] [--seconds S] [--slots N]
 *
 * A writer makes an object, fills it, exchanges it for the one in a random slot of a table, and retires that one. A
 * reader enters a section, looks at the object in a random slot, and leaves. The contenders:
 *
 *     slab          malloc and slab_free_deferred         epochs_slab.h
 *     slab_head     malloc and slab_free_deferred_head
 *     slab_cache    an object cache and slab_free_deferred
 *     call_rcu      malloc, and free from call_rcu        epochs_urcu.h: userspace RCU, the flavour with membarrier
 *     defer_rcu     malloc, and free from defer_rcu
 *     malloc_free   malloc, and free at once: the floor
 *
 * Where objects are freed at once nobody can look at them: those readers read the table's slot as all others do, so
 * that writers pay for sharing it, and then look at an object of another table, which nobody writes.
 *
 * Two programs are built from this file: `epochs` links the library, so that all of them run over its malloc;
 * `epochs_malloc` does not, and runs the last three over whichever malloc LD_PRELOAD puts in front.
 *
 * Counted is the CPU time of the process from the start until the last object that was retired has been freed, less
 * that of the readers and of the main thread, which watches: so it is that of the writers and of whatever thread the
 * contender has to help it. The peak of the resident set is that of the whole run, less what was resident before the
 * table was filled and less the bytes of the objects in the table: what waits, and what the allocator adds.
 *
 * All words of an object but its head's are alike. A reader that finds them different has found one that was freed
 * too early, and ends the run. */
#include "bench.h"

#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { MAX_THREADS = 64, TURNS = 64, HEAD_WORDS = 2, MIN_BYTES = 32, SAMPLE_MS = 2, LINE_WORDS = 8 };

/* The head is what some contenders want of an object, and lies in all of them. */
struct object {
    uint64_t mark;
    void *head[HEAD_WORDS];
    uint64_t body[];
};

typedef _Atomic(struct object *) slot; /* release of the exchange pairs with the readers' acquire */

struct thread {
    pthread_t handle;
    uint64_t random, turns; /* turns: its own until it has ended */
};

struct contender {
    const char *name;
    void *(*make)(void);
    void (*write)(struct thread *self), (*read)(struct thread *self); /* until they are told to stop */
    void (*open)(void);                                               /* once, before the first object */
    void (*writer_begins)(void), (*writer_ends)(void);                /* at the end all that it retired is freed */
    void (*reader_begins)(void), (*reader_ends)(void);
    void (*watch)(void);            /* now and then */
    void (*report)(double seconds); /* figures that it alone has */
    bool reads_apart;               /* its readers look at objects that nobody frees */
};

static const struct contender *contender;
static size_t object_bytes = 128, slots = 4096;
static slot *table, *apart; /* apart: of objects that nobody frees */
static atomic_bool stop_writing, stop_reading;
static pthread_barrier_t start;

static void nothing(void) {}

static void nothing_to_report(double seconds)
{
    (void)seconds;
}

// -- the loops ------------------------------------------------------------------------------------------------------

static inline void *fill(void *object, uint64_t value)
{
    return memset(bench_check(object), (int)(value & UINT8_MAX), object_bytes);
}

static inline size_t random_slot(uint64_t number)
{
    return ((number >> 32) * slots) >> 32;
}

static inline const struct object *find(size_t i)
{
    return atomic_load_explicit(&table[i], memory_order_acquire);
}

static inline const struct object *find_apart(size_t i)
{
    find(i);
    return atomic_load_explicit(&apart[i], memory_order_relaxed);
}

/* A word of each cache line, the last one too; not the head's, which changes when an object is retired. */
static inline void look_at(const struct object *object)
{
    const volatile uint64_t *words = (const volatile uint64_t *)object;
    const size_t count = object_bytes / sizeof *words;
    const uint64_t mark = words[0];
    bool alike = words[count - 1] == mark;
    for (size_t i = LINE_WORDS; i < count; i += LINE_WORDS)
        alike &= words[i] == mark;
    if (!alike)
        bench_die("%s: a reader has found an object that was freed too early", contender->name);
}

/* Inlined where the functions are constants, so that there is no pointer to call through. */
__attribute__((always_inline)) static inline void write_with(struct thread *self, void *(*make)(void),
                                                             void (*retire)(struct object *))
{
    uint64_t random = self->random, turns = 0;
    while (!atomic_load_explicit(&stop_writing, memory_order_relaxed)) {
        for (unsigned i = 0; i < TURNS; i++) {
            const uint64_t number = bench_random(&random);
            struct object *object = fill(make(), number);
            retire(atomic_exchange_explicit(&table[random_slot(number)], object, memory_order_acq_rel));
        }
        turns += TURNS;
    }
    self->turns = turns;
}

__attribute__((always_inline)) static inline void read_with(struct thread *self, void (*enter)(void),
                                                            void (*leave)(void),
                                                            const struct object *(*find_in)(size_t))
{
    uint64_t random = self->random, turns = 0;
    while (!atomic_load_explicit(&stop_reading, memory_order_relaxed)) {
        for (unsigned i = 0; i < TURNS; i++) {
            const size_t chosen = random_slot(bench_random(&random));
            enter();
            look_at(find_in(chosen));
            leave();
        }
        turns += TURNS;
    }
    self->turns = turns;
}

// -- the contenders -------------------------------------------------------------------------------------------------

static inline void *make_by_malloc(void)
{
    return malloc(object_bytes);
}

static inline void retire_at_once(struct object *object)
{
    free(object);
}

static void write_malloc_free(struct thread *self)
{
    write_with(self, make_by_malloc, retire_at_once);
}

static void read_without_section(struct thread *self)
{
    read_with(self, nothing, nothing, find_apart);
}

static const struct contender malloc_free = {
    .name = "malloc_free",
    .make = make_by_malloc,
    .write = write_malloc_free,
    .read = read_without_section,
    .open = nothing,
    .writer_begins = nothing,
    .writer_ends = nothing,
    .reader_begins = nothing,
    .reader_ends = nothing,
    .watch = nothing,
    .report = nothing_to_report,
    .reads_apart = true,
};

#ifdef BY_SLAB
#include "epochs_slab.h"
#endif
#ifdef BY_URCU
#include "epochs_urcu.h"
#endif

static const struct contender *const contenders[] = {
    &malloc_free,
#ifdef BY_SLAB
    &slab,        &slab_head,    &slab_cached,
#endif
#ifdef BY_URCU
    &by_call_rcu, &by_defer_rcu,
#endif
};

static const struct contender *find_contender(const char *name)
{
    for (size_t i = 0; i < sizeof contenders / sizeof contenders[0]; i++) {
        if (strcmp(contenders[i]->name, name) == 0)
            return contenders[i];
    }
    if (strcmp(name, "call_rcu") == 0 || strcmp(name, "defer_rcu") == 0) {
        fputs("skip: built without userspace RCU: install liburcu-dev, remove the build folder\n", stderr);
        exit(0);
    }
    bench_die("no contender %s in this program", name);
}

// -- the run --------------------------------------------------------------------------------------------------------

static slot *fill_table(void)
{
    slot *filled = bench_pages(slots * sizeof *filled);
    for (size_t i = 0; i < slots; i++)
        atomic_init(&filled[i], fill(contender->make(), i));
    return filled;
}

static void *run_writer(void *self)
{
    contender->writer_begins();
    pthread_barrier_wait(&start);
    contender->write(self);
    contender->writer_ends();
    return NULL;
}

static void *run_reader(void *self)
{
    contender->reader_begins();
    pthread_barrier_wait(&start);
    contender->read(self);
    contender->reader_ends();
    return NULL;
}

static void start_threads(struct thread *threads, unsigned count, void *(*run)(void *), uint64_t seed)
{
    for (unsigned i = 0; i < count; i++) {
        threads[i].random = seed + i;
        if (pthread_create(&threads[i].handle, NULL, run, &threads[i]) != 0)
            bench_die("cannot start a thread");
    }
}

/* Waits for them, and returns their turns. */
static double join_threads(struct thread *threads, unsigned count)
{
    double turns = 0;
    for (unsigned i = 0; i < count; i++) {
        pthread_join(threads[i].handle, NULL);
        turns += (double)threads[i].turns;
    }
    return turns;
}

/* CPU seconds so far of all threads but the readers and this one. */
static double cpu_without(const struct thread *readers, unsigned count)
{
    double seconds = bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - bench_seconds(CLOCK_THREAD_CPUTIME_ID);
    for (unsigned i = 0; i < count; i++) {
        clockid_t clock;
        if (pthread_getcpuclockid(readers[i].handle, &clock) != 0)
            bench_die("cannot ask for a reader's CPU time");
        seconds -= bench_seconds(clock);
    }
    return seconds;
}

static void watch_until(double end)
{
    for (double now; (now = bench_seconds(CLOCK_MONOTONIC)) < end;) {
        const double next = now + SAMPLE_MS / 1e3;
        contender->watch();
        bench_sleep_until(next < end ? next : end);
    }
}

static void run(unsigned writer_count, unsigned reader_count, double seconds)
{
    static struct thread writers[MAX_THREADS], readers[MAX_THREADS];
    contender->open();
    apart = contender->reads_apart ? fill_table() : NULL;
    const long resident_before = bench_rss_kib();
    table = fill_table();
    pthread_barrier_init(&start, NULL, writer_count + reader_count + 1);
    start_threads(writers, writer_count, run_writer, 1);
    start_threads(readers, reader_count, run_reader, 1 + MAX_THREADS);

    pthread_barrier_wait(&start);
    double cpu = cpu_without(readers, reader_count);
    const double begin = bench_seconds(CLOCK_MONOTONIC);
    watch_until(begin + seconds);
    atomic_store(&stop_writing, true);
    const double written_for = bench_seconds(CLOCK_MONOTONIC) - begin;
    const double retires = join_threads(writers, writer_count);
    cpu = cpu_without(readers, reader_count) - cpu;
    contender->watch();
    atomic_store(&stop_reading, true);
    const double read_for = bench_seconds(CLOCK_MONOTONIC) - begin;
    const double reads = join_threads(readers, reader_count);

    const double live_kib = (double)(slots * object_bytes) / 1024;
    bench_figure("cpu", cpu / retires * 1e9, "ns/retire");
    bench_figure("retires", retires / written_for / 1e6, "Mretires/s");
    if (reader_count > 0)
        bench_figure("reads", reads / read_for / 1e6, "Mreads/s");
    bench_figure("peak_rss_over_live", ((double)(bench_peak_rss_kib() - resident_before) - live_kib) / 1024, "MiB");
    contender->report(read_for);
    bench_objects(retires);
    printf("live set: %.1f MiB; the last retired object was freed %.1f ms after the writers were stopped\n",
           live_kib / 1024, (read_for - written_for) * 1e3);
}

int main(int count, char **words)
{
    static const struct option options[] = {
        {"contender", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 'b'},
        {"writers", required_argument, NULL, 'w'},
        {"readers", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 's'},
        {"slots", required_argument, NULL, 'n'},
        {NULL, 0, NULL, 0},
    };
    uint64_t writers = 1, readers = 2;
    double seconds = 2;
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
        if (option == 'c')
            contender = find_contender(optarg);
        else if (option == 'b')
            object_bytes = bench_number(optarg);
        else if (option == 'w')
            writers = bench_number(optarg);
        else if (option == 'r')
            readers = bench_number(optarg);
        else if (option == 's')
            seconds = bench_decimal(optarg);
        else if (option == 'n')
            slots = bench_number(optarg);
        else
            exit(2);
    }
    if (contender == NULL || optind != count)
        bench_die("usage: %s --contender NAME [--size BYTES] [--writers N] [--readers N] [--seconds S] [--slots N]",
                  words[0]);
    if (object_bytes < MIN_BYTES || object_bytes % sizeof(uint64_t) != 0)
        bench_die("objects have at least %d bytes, and whole words", MIN_BYTES);
    if (writers == 0 || writers > MAX_THREADS || readers > MAX_THREADS)
        bench_die("1 to %d writers, 0 to %d readers", MAX_THREADS, MAX_THREADS);
    if (slots == 0 || slots > UINT32_MAX)
        bench_die("1 to %u slots", UINT32_MAX);
    run((unsigned)writers, (unsigned)readers, seconds);
    return 0;
}
