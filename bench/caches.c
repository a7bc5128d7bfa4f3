/* Objects of one type, on Google Benchmark, named WORKLOAD/VARIANT:
 *
 *     cache_pair/SIZE          an object is made and freed at once
 *     cache_batch/SIZE         1000 objects are made, then freed, the first one first
 *     cache_bulk/SIZE          64 objects are made by one call and freed by one, where the contender has such calls
 *     cache_zeroed/SIZE        pair, of objects that read as zero
 *     cache_constructed/WHAT   pair and batch of a `struct session`: a mutex, a condition and two lists, made ready
 *     cache_accounted/WHAT     pair and batch whose live bytes are counted; `limited`: pair, under a limit as well
 *     cache_handoff/SIZE       one thread makes objects, another one frees them
 *
 * One program a contender is built from this file: CONTENDER is a header that says how an object comes and goes.
 * caches_slab.h has the library's object caches; caches_by_hand.h has malloc (whichever LD_PRELOAD puts in front),
 * GLib's slices and Boost's pools, and does for them by hand what they do not do themselves. A header has
 *
 *     contender                          a type: where objects of one size and kind come from
 *     pool_open(bytes, kind), pool_close(pool)
 *     pool_ways[kind].get, .put          one object
 *     pool_get_bulk, pool_put_bulk       so many at once
 *     pool_is_shared                     threads may use it together; if not, there is no handing over
 *
 * all of it known at compile time, so that the loops below call the contender itself. An iteration is one object's
 * life, as in micro.c, and the first word of each object is written, as there. */
#include "bench.h"
#include "gbench.h"

#include <pthread.h>

enum kind { PLAIN, ZEROED, CONSTRUCTED, ACCOUNTED, LIMITED };
enum { BATCH = 1000, BULK = 64, HANDED = 10000, ACCOUNTED_BYTES = 64, FAR_LIMIT = 1 << 30 };

struct list {
    struct list *next, *previous;
};

/* What a server keeps of a connection, say: costly to make ready, and left as it was made when it is freed. */
struct session {
    uint64_t references;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct list requests, peers;
};

static inline void session_construct(void *object, void *unused)
{
    struct session *session = object;
    (void)unused;
    session->references = 1;
    pthread_mutex_init(&session->lock, NULL);
    pthread_cond_init(&session->idle, NULL);
    session->requests.next = session->requests.previous = &session->requests;
    session->peers.next = session->peers.previous = &session->peers;
}

static inline void session_destruct(void *object, void *unused)
{
    struct session *session = object;
    (void)unused;
    pthread_cond_destroy(&session->idle);
    pthread_mutex_destroy(&session->lock);
}

#include CONTENDER

static void *objects[BATCH];

/* The value is the one that a session's constructor leaves there. */
static inline void *write_head(void *object)
{
    *(uint64_t *)object = 1;
    return object;
}

static void report(struct gbench_state *state, contender *pool)
{
    gbench_set_items_processed(state, gbench_iterations(state));
    pool_close(pool);
}

/* Inlined where the kind is a constant, so that there is no pointer to call through. */
__attribute__((always_inline)) static inline void loop_pair(struct gbench_state *state, enum kind kind, size_t bytes)
{
    contender *pool = pool_open(bytes, kind);
    GBENCH_LOOP (state)
        pool_ways[kind].put(pool, write_head(pool_ways[kind].get(pool)));
    report(state, pool);
}

__attribute__((always_inline)) static inline void loop_batch(struct gbench_state *state, enum kind kind, size_t bytes)
{
    contender *pool = pool_open(bytes, kind);
    GBENCH_LOOP_OF (state, BATCH) {
        for (unsigned i = 0; i < BATCH; i++)
            objects[i] = write_head(pool_ways[kind].get(pool));
        for (unsigned i = 0; i < BATCH; i++)
            pool_ways[kind].put(pool, objects[i]);
    }
    report(state, pool);
}

static void run_pair(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_pair(state, PLAIN, (size_t)gbench_range(state, 0));
}

static void run_batch(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_batch(state, PLAIN, (size_t)gbench_range(state, 0));
}

static void run_bulk(struct gbench_state *state, void *unused)
{
    contender *pool = pool_open((size_t)gbench_range(state, 0), PLAIN);
    (void)unused;
    GBENCH_LOOP_OF (state, BULK) {
        pool_get_bulk(pool, BULK, objects);
        for (unsigned i = 0; i < BULK; i++)
            write_head(objects[i]);
        pool_put_bulk(pool, BULK, objects);
    }
    report(state, pool);
}

static void run_zeroed(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_pair(state, ZEROED, (size_t)gbench_range(state, 0));
}

static void run_constructed_pair(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_pair(state, CONSTRUCTED, sizeof(struct session));
}

static void run_constructed_batch(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_batch(state, CONSTRUCTED, sizeof(struct session));
}

static void run_accounted_pair(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_pair(state, ACCOUNTED, ACCOUNTED_BYTES);
}

static void run_accounted_batch(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_batch(state, ACCOUNTED, ACCOUNTED_BYTES);
}

static void run_limited_pair(struct gbench_state *state, void *unused)
{
    (void)unused;
    loop_pair(state, LIMITED, ACCOUNTED_BYTES);
}

/* In each turn thread 0 makes the objects that thread 1 frees in the next one; both wait for the slower, asleep. The
 * CPU time of both counts, the objects of one. */
static pthread_barrier_t turn_ends;

static void make_some(contender *pool, void **made)
{
    for (unsigned i = 0; i < HANDED; i++)
        made[i] = write_head(pool_ways[PLAIN].get(pool));
}

static void free_some(contender *pool, void **made)
{
    for (unsigned i = 0; i < HANDED; i++)
        pool_ways[PLAIN].put(pool, made[i]);
}

static void run_handoff(struct gbench_state *state, void *unused)
{
    static contender *shared;
    static void *handed[2][HANDED];
    const bool makes = gbench_thread_index(state) == 0;
    unsigned turn = 0;
    (void)unused;
    if (makes)
        shared = pool_open((size_t)gbench_range(state, 0), PLAIN);
    GBENCH_LOOP_OF (state, HANDED) {
        if (makes)
            make_some(shared, handed[turn % 2]);
        else if (turn != 0)
            free_some(shared, handed[(turn - 1) % 2]);
        turn++;
        pthread_barrier_wait(&turn_ends);
    }
    if (!makes)
        return;
    free_some(shared, handed[(turn - 1) % 2]);
    report(state, shared);
}

static void add(const char *name, gbench_function *function, int threads, const int64_t *sizes, size_t count)
{
    struct gbench *bench = gbench_register(name, function, NULL);
    for (size_t i = 0; i < count; i++)
        gbench_arg(bench, sizes[i]);
    if (threads > 1)
        gbench_threads(bench, threads);
}

#define SIZES(...) (const int64_t[]){__VA_ARGS__}, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

int main(int count, char **words)
{
    pthread_barrier_init(&turn_ends, NULL, 2);
    add("cache_pair", run_pair, 1, SIZES(16, 64, 256, 1024, 4096));
    add("cache_batch", run_batch, 1, SIZES(16, 64, 256, 1024, 4096));
    add("cache_bulk", run_bulk, 1, SIZES(16, 256, 4096));
    add("cache_zeroed", run_zeroed, 1, SIZES(64, 1024));
    gbench_register("cache_constructed/pair", run_constructed_pair, NULL);
    gbench_register("cache_constructed/batch", run_constructed_batch, NULL);
    gbench_register("cache_accounted/pair", run_accounted_pair, NULL);
    gbench_register("cache_accounted/batch", run_accounted_batch, NULL);
    gbench_register("cache_accounted/limited", run_limited_pair, NULL);
    if (pool_is_shared)
        add("cache_handoff", run_handoff, 2, SIZES(64, 1024));
    return gbench_main(count, words);
}
