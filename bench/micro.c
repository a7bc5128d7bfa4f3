/* The micro benches: one thread in a loop, on Google Benchmark, named WORKLOAD/VARIANT.
 *
 *     pair/SIZE          an object is made and freed at once
 *     batch_ORDER/SIZE   1000 objects are made, then freed: the last one first (lifo), the first one first (fifo), or
 *                        in one fixed random order
 *     churn/PROGRAM      a population of objects of the sizes that a real program asked for (bench/data/sizes), of
 *                        which a random one is replaced again and again
 *     churn_long/PROGRAM the same, for seconds and always as often: the process's CPU seconds compare
 *     calloc/SIZE        a population of zeroed objects, the oldest of which is replaced
 *     realloc_grow/HOW   buffers that grow: see there
 *     aligned/ALIGNMENT  1000 objects of 1 to 1024 bytes are made, at that alignment, then freed
 *     large/KIB          a population of 16 large objects, the oldest of which is replaced
 *     huge/MIB           a huge object is made and freed at once
 *
 * An iteration is one operation: an object's malloc together with its free, or one realloc. So `cpu_time` is the
 * CPU's nanoseconds an operation, and `items_per_second` operations a second of CPU time. What is counted has the
 * writes in it that stand below, as programs make an object to write to it; they are the same for every allocator,
 * but the memory that they meet is not, and neither is the price of its first touch. All calls go through the PLT and
 * are not known to the compiler (-fno-builtin).
 *
 * Tables of sizes and orders are drawn before the clock starts and lie in static memory. Google Benchmark makes some
 * objects of its own between the loops, none inside of them. */
#include "bench.h"
#include "gbench.h"
#include "sizes.h"

enum {
    BATCH = 1000,
    MOST_OBJECTS = 10000,
    CHURN_BYTES = 64 << 20, /* a population has fewer objects where it would be larger than that */
    CALLOC_BYTES = 4 << 20, /* likewise */
    ALIGNED_MOST = 1024,    /* bytes */
    LARGE_OBJECTS = 16,
    PAGE = 4096,
    LINE = 64,
    VICTIMS = 65521, /* a prime, so that sizes and victims of a churn do not come round together */
    APPENDS = 1024,  /* lengths drawn, of 1 to MOST_APPENDED bytes */
    MOST_APPENDED = 64,
    TEXT_BYTES = 16 << 10,
    DOUBLINGS = 16, /* from 16 bytes to 1 MiB */
    BUFFERS = 256,
    BUFFER_STEPS = 64, /* of a line each */
    LONG_CHURN = 400000000
};

static void *objects[MOST_OBJECTS];

/* The least that a program does with a new object. */
static inline void *write_head(void *object, size_t bytes)
{
    if (bytes >= sizeof(uint64_t))
        *(uint64_t *)object = bytes;
    else
        *(char *)object = 1;
    return object;
}

/* A byte at each multiple of `step`. */
static inline void *write_every(size_t step, void *object, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += step)
        ((char *)object)[at] = 1;
    return object;
}

static void free_objects(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        free(objects[i]);
}

static void report(struct gbench_state *state)
{
    gbench_set_items_processed(state, gbench_iterations(state));
}

static void run_pair(struct gbench_state *state, void *unused)
{
    const size_t bytes = (size_t)gbench_range(state, 0);
    (void)unused;
    GBENCH_LOOP (state)
        free(write_head(malloc(bytes), bytes));
    report(state);
}

/* The orders of freeing are tables all three, so that the loop is the same. */
static uint16_t lifo[BATCH], fifo[BATCH], random_order[BATCH];

static void draw_orders(void)
{
    uint64_t random = 1;
    for (unsigned i = 0; i < BATCH; i++) {
        const unsigned other = (unsigned)(bench_random(&random) % (i + 1));
        fifo[i] = (uint16_t)i;
        lifo[i] = (uint16_t)(BATCH - 1 - i);
        random_order[i] = random_order[other];
        random_order[other] = (uint16_t)i;
    }
}

static void run_batch(struct gbench_state *state, void *order_of_freeing)
{
    const size_t bytes = (size_t)gbench_range(state, 0);
    const uint16_t *order = order_of_freeing;
    GBENCH_LOOP_OF (state, BATCH) {
        for (unsigned i = 0; i < BATCH; i++)
            objects[i] = write_head(malloc(bytes), bytes);
        for (unsigned i = 0; i < BATCH; i++)
            free(objects[order[i]]);
    }
    report(state);
}

/* A program whose sizes are known; loaded when its turn comes. */
struct program {
    const char *name;
    struct sizes sizes;
};

static void run_churn(struct gbench_state *state, void *of_program)
{
    static uint16_t victims[VICTIMS];
    struct program *program = of_program;
    uint64_t random = 2;
    if (program->sizes.draws == NULL)
        sizes_load(program->name, &program->sizes);
    const double most = CHURN_BYTES / program->sizes.mean;
    const unsigned count = most < MOST_OBJECTS ? (unsigned)most : MOST_OBJECTS;
    for (unsigned i = 0; i < VICTIMS; i++)
        victims[i] = (uint16_t)(bench_random(&random) % count);

    uint64_t draw = 0;
    unsigned next = 0;
    for (; draw < count; draw++)
        objects[draw] = write_head(malloc(sizes_draw(&program->sizes, draw)), 1);
    GBENCH_LOOP (state) {
        const size_t bytes = sizes_draw(&program->sizes, draw++);
        void **victim = &objects[victims[next]];
        free(*victim);
        *victim = write_head(malloc(bytes), bytes);
        next = next + 1 < VICTIMS ? next + 1 : 0;
    }
    free_objects(count);
    report(state);
}

/* A word in every second line is written, as in a hash table that gets filled: the next calloc here has to clear. */
static void run_calloc(struct gbench_state *state, void *unused)
{
    const size_t bytes = (size_t)gbench_range(state, 0);
    const size_t most = CALLOC_BYTES / bytes;
    const unsigned count = most < MOST_OBJECTS ? (unsigned)most : MOST_OBJECTS;
    unsigned oldest = 0;
    (void)unused;
    for (unsigned i = 0; i < count; i++)
        objects[i] = write_every(2 * LINE, calloc(1, bytes), bytes);
    GBENCH_LOOP (state) {
        free(objects[oldest]);
        objects[oldest] = write_every(2 * LINE, calloc(1, bytes), bytes);
        oldest = oldest + 1 < count ? oldest + 1 : 0;
    }
    free_objects(count);
    report(state);
}

/* A text that grows to 16 KiB by pieces of 1 to 64 bytes, each of which is written; then it is freed. */
static void run_append(struct gbench_state *state, void *unused)
{
    static uint8_t pieces[APPENDS];
    uint64_t random = 3;
    size_t length = 0;
    unsigned next = 0;
    char *text = NULL;
    (void)unused;
    for (unsigned i = 0; i < APPENDS; i++)
        pieces[i] = (uint8_t)(1 + bench_random(&random) % MOST_APPENDED);
    GBENCH_LOOP (state) {
        const size_t piece = pieces[next++ % APPENDS];
        text = realloc(text, length + piece);
        memset(text + length, 'a', piece);
        length += piece;
        if (length > TEXT_BYTES) {
            free(text);
            text = NULL;
            length = 0;
        }
    }
    free(text);
    report(state);
}

/* A vector that is full at 16 bytes, 32 ... 512 KiB and doubles; a byte of each new line is written. */
static void run_doubling(struct gbench_state *state, void *unused)
{
    (void)unused;
    GBENCH_LOOP_OF (state, DOUBLINGS) {
        size_t bytes = 16;
        char *vector = write_head(malloc(bytes), bytes);
        for (unsigned i = 0; i < DOUBLINGS; i++, bytes *= 2) {
            vector = realloc(vector, 2 * bytes);
            write_every(LINE, vector + bytes, bytes);
        }
        free(vector);
    }
    report(state);
}

/* 256 buffers, each of which in its turn grows by 64 bytes, to 4 KiB: what lies behind a buffer is mostly another. */
static void run_many(struct gbench_state *state, void *unused)
{
    (void)unused;
    GBENCH_LOOP_OF (state, BUFFERS * BUFFER_STEPS) {
        memset(objects, 0, BUFFERS * sizeof objects[0]);
        for (size_t bytes = 0; bytes < BUFFER_STEPS * LINE; bytes += LINE) {
            for (unsigned i = 0; i < BUFFERS; i++) {
                objects[i] = realloc(objects[i], bytes + LINE);
                ((char *)objects[i])[bytes] = 1;
            }
        }
        free_objects(BUFFERS);
    }
    report(state);
}

static void run_aligned(struct gbench_state *state, void *unused)
{
    static uint16_t sizes[BATCH];
    const size_t alignment = (size_t)gbench_range(state, 0);
    uint64_t random = 4;
    uintptr_t all_bits = 0;
    (void)unused;
    for (unsigned i = 0; i < BATCH; i++)
        sizes[i] = (uint16_t)(1 + bench_random(&random) % ALIGNED_MOST);
    GBENCH_LOOP_OF (state, BATCH) {
        for (unsigned i = 0; i < BATCH; i++) {
            if (posix_memalign(&objects[i], alignment, sizes[i]) != 0)
                bench_die("posix_memalign fails");
            write_head(objects[i], sizes[i]);
            all_bits |= (uintptr_t)objects[i];
        }
        free_objects(BATCH);
    }
    if (all_bits % alignment != 0)
        gbench_skip_with_error(state, "an object is not aligned");
    report(state);
}

/* The first byte of each page is written. */
static void run_large(struct gbench_state *state, void *unused)
{
    const size_t bytes = (size_t)gbench_range(state, 0) << 10;
    unsigned oldest = 0;
    (void)unused;
    for (unsigned i = 0; i < LARGE_OBJECTS; i++)
        objects[i] = write_every(PAGE, malloc(bytes), bytes);
    GBENCH_LOOP (state) {
        free(objects[oldest]);
        objects[oldest] = write_every(PAGE, malloc(bytes), bytes);
        oldest = (oldest + 1) % LARGE_OBJECTS;
    }
    free_objects(LARGE_OBJECTS);
    report(state);
}

/* A byte of each page is written for 4 MiB, of every sixteenth page for more: those stand for sparse tables. */
static void run_huge(struct gbench_state *state, void *unused)
{
    const int64_t mib = gbench_range(state, 0);
    const size_t bytes = (size_t)mib << 20, step = mib <= 4 ? PAGE : 16 * PAGE;
    (void)unused;
    GBENCH_LOOP (state)
        free(write_every(step, malloc(bytes), bytes));
    report(state);
}

static void add(const char *name, gbench_function *function, void *user, const int64_t *args, size_t count)
{
    struct gbench *bench = gbench_register(name, function, user);
    for (size_t i = 0; i < count; i++)
        gbench_arg(bench, args[i]);
}

#define ARGS(...) (const int64_t[]){__VA_ARGS__}, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

/* Not all that are recorded, as each takes its time. */
static void add_churns(void)
{
    static const char *const names[] = {"cc1plus", "mariadb", "nginx",   "perl",  "postgres",
                                        "python",  "redis",   "rocksdb", "sqlite"};
    static struct program programs[sizeof names / sizeof *names];
    char name[64];
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        programs[i].name = names[i];
        snprintf(name, sizeof name, "churn/%s", names[i]);
        gbench_register(name, run_churn, &programs[i]);
    }
    static struct program redis = {.name = "redis"};
    gbench_set_iterations(gbench_register("churn_long/redis", run_churn, &redis), LONG_CHURN);
}

int main(int count, char **words)
{
    draw_orders();
    add("pair", run_pair, NULL, ARGS(16, 64, 256, 1024, 8192));
    add("batch_lifo", run_batch, lifo, ARGS(16, 64, 256, 1024, 4096));
    add("batch_fifo", run_batch, fifo, ARGS(16, 64, 256, 1024, 4096));
    add("batch_random", run_batch, random_order, ARGS(16, 64, 256, 1024, 4096));
    add_churns();
    add("calloc", run_calloc, NULL, ARGS(64, 1024, 16384, 262144));
    gbench_register("realloc_grow/append", run_append, NULL);
    gbench_register("realloc_grow/doubling", run_doubling, NULL);
    gbench_register("realloc_grow/many", run_many, NULL);
    add("aligned", run_aligned, NULL, ARGS(16, 64, 4096));
    add("large", run_large, NULL, ARGS(64, 256, 1024));
    add("huge", run_huge, NULL, ARGS(4, 32, 128));
    return gbench_main(count, words);
}
