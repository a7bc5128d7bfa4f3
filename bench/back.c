/* Memory that goes back, case by case: back CASE [PERCENT]. Each is what people who run servers complain of: a peak,
 * and then a process that needs next to nothing and stays as large as it was. PERCENT (100) of the objects are made.
 *
 *     pool           1,000,000 objects of 1 KiB are made by one thread and freed by another; both are then joined
 *     large_idle     100 objects of 10 MiB are made and freed; the process has one thread
 *     spike          4,000,000 small objects are made and freed by the only thread, which then sleeps
 *     spike_busy     the same, but then the thread replaces a handful of objects every quarter of a second
 *     locked         under mlockall(MCL_FUTURE): 120 MiB in objects of 1 to 40 MiB are made and freed
 *     calloc_sparse  200 tables of 1 MiB from calloc, in memory that was used before; a byte of each is written
 *     vectors        eight vectors grow in turn, an element at a time
 *     core_large     300 objects of 1 MiB are made, all but 20 freed: what a core file would hold now
 *     core_small     the same with 300 MiB in objects of 64 bytes to 2 KiB; the first 20 MiB stay
 *     lives          100,000 threads are born and end, eight at a time; each has made and freed 200 objects
 *     forks          a chain of 40 forks, each process with four threads that have used the heap and sleep
 *
 * Figures: `rss_peak`, `rss_0s` and `rss_Ns`, the resident set in MiB when all is alive, after the last free, and N
 * seconds later; the series @rss has a point every quarter of a second. All bytes of all objects are written, save
 * those of the sparse tables. */
#include "bench.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { SAMPLES_A_SECOND = 4, MAX_SECONDS = 8, MIB = 1 << 20 };

static uint64_t seed = 1;
static unsigned percent = 100;

static double rss_mib(void)
{
    return (double)bench_rss_kib() / 1024;
}

static void *make(size_t bytes)
{
    return memset(bench_check(malloc(bytes)), 1, bytes);
}

static unsigned share_of(unsigned count)
{
    return (unsigned)((uint64_t)count * percent / 100);
}

static void nothing(void) {}

/* Looks at the process's memory for so long. What the process does meanwhile, four times a second, is `meanwhile`. */
static void watch(unsigned seconds, void (*meanwhile)(void))
{
    double samples[MAX_SECONDS * SAMPLES_A_SECOND + 1], begin = bench_seconds(CLOCK_MONOTONIC);
    const unsigned last = seconds * SAMPLES_A_SECOND;
    for (unsigned i = 0; i <= last; i++) {
        bench_sleep_until(begin + (double)i / SAMPLES_A_SECOND);
        samples[i] = rss_mib();
        meanwhile();
    }
    for (unsigned i = 0; i <= last; i++)
        bench_point("rss", (double)i / SAMPLES_A_SECOND, "s", samples[i], "MiB");
    char name[32];
    snprintf(name, sizeof name, "rss_%us", seconds);
    bench_figure("rss_0s", samples[0], "MiB");
    bench_figure(name, samples[last], "MiB");
}

/* -- one thread makes, another frees ------------------------------------------------------------------------ */

static void **pool; /* a list, eldest first */
static pthread_barrier_t all_made;

static void *make_pool(void *unused)
{
    enum { COUNT = 1000000, BYTES = 1024 };
    void **last = NULL;
    for (unsigned i = 0; i < share_of(COUNT); i++) {
        void **object = make(BYTES);
        *object = NULL;
        *(last == NULL ? (void **)&pool : last) = object;
        last = object;
    }
    bench_figure("rss_peak", rss_mib(), "MiB");
    pthread_barrier_wait(&all_made);
    return unused;
}

static void *free_pool(void *unused)
{
    pthread_barrier_wait(&all_made);
    while (pool != NULL) {
        void **next = *pool;
        free(pool);
        pool = next;
    }
    return unused;
}

static void run_pool(void)
{
    pthread_t maker, freer;
    pthread_barrier_init(&all_made, NULL, 2);
    if (pthread_create(&maker, NULL, make_pool, NULL) != 0 || pthread_create(&freer, NULL, free_pool, NULL) != 0)
        bench_die("cannot start two threads");
    pthread_join(maker, NULL);
    pthread_join(freer, NULL);
    watch(5, nothing);
}

/* -- one thread --------------------------------------------------------------------------------------------- */

static void run_large_idle(void)
{
    enum { COUNT = 100, BYTES = 10 * MIB };
    void *objects[COUNT];
    for (unsigned i = 0; i < share_of(COUNT); i++)
        objects[i] = make(BYTES);
    bench_figure("rss_peak", rss_mib(), "MiB");
    for (unsigned i = 0; i < share_of(COUNT); i++)
        free(objects[i]);
    watch(3, nothing);
}

/* What a program does on a timer that has nothing to do. */
static void keep_house(void)
{
    enum { HANDFUL = 16 };
    static void *objects[HANDFUL];
    for (unsigned i = 0; i < HANDFUL; i++) {
        free(objects[i]);
        objects[i] = make(bench_size(&seed, 16, 12));
    }
}

static void spike(void (*meanwhile)(void))
{
    const unsigned count = share_of(4000000);
    void **objects = bench_pages(count * sizeof *objects);
    const double table = rss_mib();
    for (unsigned i = 0; i < count; i++)
        objects[i] = make(16 + bench_random(&seed) % 128);
    bench_figure("rss_peak", rss_mib() - table, "MiB");
    for (unsigned i = 0; i < count; i++)
        free(objects[i]);
    munmap(objects, count * sizeof *objects);
    watch(8, meanwhile);
}

static void run_spike(void)
{
    spike(nothing);
}

static void run_spike_busy(void)
{
    spike(keep_house);
}

/* -- locked memory ------------------------------------------------------------------------------------------ */

/* What is locked may be more than what is used: half a gigabyte has to be allowed, and an allocator may reserve. */
static void lock_memory(void)
{
    enum { WANTED = 512 * MIB };
    struct rlimit limit;
    void *tried =
        mlockall(MCL_FUTURE) != 0 ? MAP_FAILED : mmap(NULL, WANTED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (tried == MAP_FAILED) {
        getrlimit(RLIMIT_MEMLOCK, &limit);
        bench_skip("RLIMIT_MEMLOCK allows %llu KiB of locked memory", (unsigned long long)limit.rlim_cur / 1024);
    }
    munmap(tried, WANTED);
}

static void run_locked(void)
{
    static const struct {
        unsigned count, mib;
    } sets[] = {{20, 1}, {20, 2}, {5, 4}, {1, 40}};
    enum { SETS = sizeof sets / sizeof sets[0], MOST = 20, SMALL = 2000 };
    void *small[SMALL], *objects[SETS][MOST];
    lock_memory();
    for (unsigned i = 0; i < SMALL; i++)
        small[i] = make(bench_size(&seed, 16, 6));
    bench_figure("rss_small", rss_mib(), "MiB");
    for (unsigned set = 0; set < SETS; set++) {
        for (unsigned i = 0; i < sets[set].count; i++)
            objects[set][i] = make((size_t)sets[set].mib * MIB);
    }
    bench_figure("rss_peak", rss_mib(), "MiB");
    for (unsigned set = 0; set < SETS; set++) {
        for (unsigned i = 0; i < sets[set].count; i++)
            free(objects[set][i]);
    }
    watch(2, keep_house);
    for (unsigned i = 0; i < SMALL; i++)
        free(small[i]);
}

/* -- pages that are touched for nothing --------------------------------------------------------------------- */

static void run_calloc_sparse(void)
{
    enum { TABLES = 200, BYTES = MIB };
    char *tables[TABLES];
    for (unsigned i = 0; i < TABLES; i++)
        tables[i] = make(BYTES);
    for (unsigned i = 0; i < TABLES; i++)
        free(tables[i]);
    const double begin = bench_seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < TABLES; i++) {
        tables[i] = bench_check(calloc(1, BYTES));
        tables[i][bench_random(&seed) % BYTES] = 1;
    }
    bench_figure("calloc_cpu", (bench_seconds(CLOCK_PROCESS_CPUTIME_ID) - begin) / TABLES * 1e6, "us");
    bench_figure("rss", rss_mib(), "MiB");
}

static void run_vectors(void)
{
    enum { VECTORS = 8 };
    const size_t elements = share_of(400000);
    uint64_t *vectors[VECTORS] = {NULL};
    unsigned moves = 0;
    const long before = bench_faults();
    for (size_t i = 0; i < elements; i++) {
        for (unsigned v = 0; v < VECTORS; v++) {
            uint64_t *grown = bench_check(realloc(vectors[v], (i + 1) * sizeof *grown));
            moves += grown != vectors[v];
            vectors[v] = grown;
            grown[i] = i;
        }
    }
    bench_figure("faults", (double)(bench_faults() - before), "faults");
    bench_figure("moves", moves, "moves");
}

/* -- a core file -------------------------------------------------------------------------------------------- */

/* No real one is asked for: it may go to a program of the system's, or nowhere. The kernel leaves out pages that are
 * not there, pages of files that the process has not changed, and mappings with MADV_DONTDUMP ("dd" in VmFlags). */
static double core_mib(char *text, size_t size)
{
    long kib = 0, of_mapping = 0;
    bench_read("/proc/self/smaps", text, size);
    for (char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
        line += *line == '\n';
        const size_t length = strcspn(line, "\n");
        if (strncmp(line, "Anonymous:", 10) == 0 || strncmp(line, "Swap:", 5) == 0)
            of_mapping += strtol(strchr(line, ':') + 1, NULL, 10);
        if (strncmp(line, "VmFlags:", 8) == 0) { /* the last line of a mapping */
            kib += memmem(line, length, " dd", 3) == NULL ? of_mapping : 0;
            of_mapping = 0;
        }
    }
    return (double)kib / 1024;
}

/* Pages of the bench's own that no core file holds. */
static void *undumped_pages(size_t bytes)
{
    void *pages = bench_pages(bytes);
    if (madvise(pages, bytes, MADV_DONTDUMP) != 0)
        bench_die("no MADV_DONTDUMP");
    return pages;
}

static void core(size_t smallest, unsigned doublings)
{
    enum { TEXT = 8 * MIB };
    const size_t all = (size_t)share_of(300) * MIB, most = all / smallest + 1;
    void **objects = undumped_pages(most * sizeof *objects);
    char *text = undumped_pages(TEXT);
    size_t count = 0, kept = 0;
    for (size_t made = 0; made < all;) {
        const size_t bytes = doublings == 0 ? smallest : bench_size(&seed, smallest, doublings);
        objects[count++] = make(bytes);
        made += bytes;
        kept += made <= all / 15;
    }
    bench_figure("core_peak", core_mib(text, TEXT), "MiB");
    for (size_t i = kept; i < count; i++)
        free(objects[i]);
    bench_figure("core", core_mib(text, TEXT), "MiB");
}

static void run_core_large(void)
{
    core(MIB, 0);
}

static void run_core_small(void)
{
    core(64, 5);
}

/* -- threads that come and go ------------------------------------------------------------------------------------ */

static void *live(void *ordinal)
{
    enum { COUNT = 200 };
    void *objects[COUNT];
    uint64_t random = (uintptr_t)ordinal;
    for (unsigned i = 0; i < COUNT; i++)
        objects[i] = make(bench_size(&random, 16, 8));
    for (unsigned i = 0; i < COUNT; i++)
        free(objects[i]);
    return NULL;
}

static void run_lives(void)
{
    enum { THREADS = 8 };
    const unsigned count = share_of(100000), early = count / 20;
    pthread_t threads[THREADS];
    double first = 0;
    for (unsigned born = 0; born < count; born += THREADS) {
        for (uintptr_t i = 0; i < THREADS; i++) {
            if (pthread_create(&threads[i], NULL, live, (void *)(born + i)) != 0)
                bench_die("cannot start a thread");
        }
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        if (born <= early)
            first = rss_mib();
    }
    bench_figure("rss_early", first, "MiB");
    bench_figure("rss_last", rss_mib(), "MiB");
    bench_figure("rss_growth", rss_mib() / first, "x");
}

/* -- forks -------------------------------------------------------------------------------------------------- */

enum { FORK_THREADS = 4 };

static atomic_uint asleep;

__attribute__((noreturn)) static void *use_and_sleep(void *ordinal)
{
    enum { OBJECTS = 2000, ROUNDS = 10 };
    void *objects[OBJECTS];
    uint64_t random = (uintptr_t)ordinal;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < OBJECTS; i++)
            objects[i] = make(bench_size(&random, 16, 7));
        for (unsigned i = 0; i < OBJECTS; i++)
            free(objects[i]);
    }
    asleep++;
    syscall(SYS_futex, &asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    for (;;)
        pause();
}

static void start_sleepers(void)
{
    pthread_t threads[FORK_THREADS];
    unsigned now;
    asleep = 0;
    for (uintptr_t i = 0; i < FORK_THREADS; i++) {
        if (pthread_create(&threads[i], NULL, use_and_sleep, (void *)i) != 0)
            bench_die("cannot start thread %u", (unsigned)i);
    }
    while ((now = asleep) < FORK_THREADS)
        syscall(SYS_futex, &asleep, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
}

/* The last of the chain tells; those before it wait for their child, and end as it did. */
static void run_forks(void)
{
    for (unsigned generation = 1;; generation++) {
        int status = 1;
        start_sleepers();
        if (generation == 1)
            bench_figure("rss_first", rss_mib(), "MiB");
        if (generation >= share_of(40))
            break;
        fflush(stdout);
        const pid_t child = fork();
        if (child < 0)
            bench_die("cannot fork");
        if (child == 0)
            continue;
        waitpid(child, &status, 0);
        _exit(status != 0);
    }
    bench_figure("rss_last", rss_mib(), "MiB");
    fflush(stdout);
    _exit(0);
}

/* -- the cases -------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"pool", run_pool},
    {"large_idle", run_large_idle},
    {"spike", run_spike},
    {"locked", run_locked},
    {"calloc_sparse", run_calloc_sparse},
    {"spike_busy", run_spike_busy},
    {"vectors", run_vectors},
    {"core_large", run_core_large},
    {"core_small", run_core_small},
    {"forks", run_forks},
    {"lives", run_lives},
};

int main(int count, char **words)
{
    static char output[1 << 14];
    setvbuf(stdout, output, _IOFBF, sizeof output); /* else stdio takes a buffer from malloc */
    percent = count == 3 ? (unsigned)bench_number(words[2]) : 100;
    for (size_t i = 0; percent > 0 && percent <= 100 && count > 1 && count < 4 && i < sizeof cases / sizeof cases[0];
         i++) {
        if (strcmp(words[1], cases[i].name) == 0) {
            cases[i].run();
            return 0;
        }
    }
    bench_die("usage: back CASE [PERCENT]; the head of back.c lists them");
}
