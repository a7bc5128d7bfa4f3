/* A hash table that is read without a lock, while others insert, replace and delete, and while it grows.
 *
 *     hash_table [--seconds N] [--rwlock]
 *
 * Buckets are singly linked lists of nodes, and a node never changes once it can be found: a replacement is another
 * node. So a reader that walks a list finds whole nodes, whatever happens around it. The one question is when a node
 * that was taken out may be freed: readers may stand on it. That is answered by epochs: readers walk inside a
 * section, and writers do not free a node but retire it (slab_free_deferred_head), and it is freed when all sections
 * are over that were open then. Neither waits for the other.
 *
 *     reader                                      writer, under its stripe's lock
 *
 *     slab_epoch_enter                            insert:   node->next = first
 *     table = current           (acquire)                   first = node       (release)
 *     node = table's bucket     (acquire)         replace:  new->next = old->next
 *     walk along next           (acquire)                   link to old = new  (release)
 *     use the value                                         retire old
 *     slab_epoch_leave                            delete:   link to node = node->next, retire node
 *
 * A node that was taken out keeps its `next`, so that a reader who stands on it finds its way. Which may be a way
 * past nodes that are taken out meanwhile, too: these wait for the same reader.
 *
 * Growing. A node is in one list at a time, so the larger table gets copies. All stripes are locked, so no writer is
 * about; readers go on in the old table, whose lists nobody touches, until the new one is published with a release.
 * Then the old nodes and the old array, a large object, are retired. A reader that has found the old table goes on
 * with it to the end of its section, and misses only what happens after it began. (Triplett, McKenney and Walpole,
 * "Resizable, Scalable, Concurrent Hash Tables via Relativistic Programming", USENIX ATC 2011, do without copies.)
 *
 * Writers of one bucket exclude each other by one of STRIPES locks. That is a power of two no larger than any table,
 * so a bucket's stripe is the same in all tables: a writer locks the stripe, and only then looks for the current
 * table, which cannot change until it unlocks.
 *
 * The program. One thread fills the table, which grows ten times, while one reader for each CPU looks up what is
 * there. Then there are one reader, and one for each CPU, beside a writer of 20,000 updates a second, as for a table
 * that is read mostly; then one reader, and a writer for each CPU that does what it can. A key in 32 comes and goes;
 * the others must always be found. A node's words follow from its key and version, and readers check them all: a node
 * that was freed too early is found out. At last all nodes are deleted; their cache can only be destroyed if each one
 * has been freed.
 *
 * --rwlock: the same with one pthread_rwlock in place of sections and stripes, and with nodes freed at once. Readers
 * do not exclude each other there, but each of them writes to the lock, whose cache line goes from CPU to CPU. */
#define _GNU_SOURCE 1

#include <pthread.h>
#include <sched.h>
#include <slabmalloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    KEYS = 1 << 16,
    STRIPES = 64,
    LEAST_BUCKETS = STRIPES,
    COMING_AND_GOING = 32, /* a key in so many */
    WORDS = 8,
    THREADS_MOST = 64,
    UPDATES_A_MS = 20
};

struct node {
    _Atomic(struct node *) next;
    uint64_t key, version;
    uint64_t words[WORDS]; /* follow from key and version */
    slab_epoch_head head;  /* the library's, from when the node is retired */
};

struct table {
    uint64_t buckets; /* a power of two */
    _Atomic(struct node *) first[];
};

static _Atomic(struct table *) current;
static struct {
    _Alignas(64) pthread_mutex_t mutex;
} stripes[STRIPES];

static slab_cache *nodes;
static _Atomic uint64_t filled; /* keys below it have been inserted */
static _Atomic bool over;

static bool uses_rwlock;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP; /* which starves no writer */

static void give_up(const char *what)
{
    fprintf(stderr, "hash_table: %s\n", what);
    exit(1);
}

/* A mixing of all bits, so that neighbouring keys lie in different buckets. */
static uint64_t mix(uint64_t bits)
{
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    return bits ^ bits >> 31;
}

static uint64_t random_next(uint64_t *state)
{
    return mix(*state += 0x9e3779b97f4a7c15u);
}

static uint64_t word_of(const struct node *node, unsigned i)
{
    return (node->key + (node->version << 20) + i) * 0x9e3779b97f4a7c15u;
}

/* -- with sections and retiring, or with a lock and freeing ---------------------------------------------------- */

static void begin_reading(void)
{
    if (uses_rwlock)
        pthread_rwlock_rdlock(&rwlock);
    else
        slab_epoch_enter();
}

static void end_reading(void)
{
    if (uses_rwlock)
        pthread_rwlock_unlock(&rwlock);
    else
        slab_epoch_leave();
}

static void begin_writing(unsigned stripe)
{
    if (uses_rwlock)
        pthread_rwlock_wrlock(&rwlock);
    else
        pthread_mutex_lock(&stripes[stripe].mutex);
}

static void end_writing(unsigned stripe)
{
    if (uses_rwlock)
        pthread_rwlock_unlock(&rwlock);
    else
        pthread_mutex_unlock(&stripes[stripe].mutex);
}

/* A node has room for a head: then nothing is ever waited for, which with a stripe locked would be others' time. */
static void retire_node(struct node *node)
{
    if (uses_rwlock)
        slab_cache_free(nodes, node);
    else
        slab_free_deferred_head(node, &node->head);
}

static void retire_table(struct table *table)
{
    if (uses_rwlock)
        free(table);
    else
        slab_free_deferred(table);
}

/* -- the table ------------------------------------------------------------------------------------------------- */

static struct node *make_node(uint64_t key, uint64_t version)
{
    struct node *node = slab_cache_alloc(nodes);
    if (!node)
        give_up("no memory");
    node->key = key;
    node->version = version;
    for (unsigned i = 0; i < WORDS; i++)
        node->words[i] = word_of(node, i);
    return node;
}

static struct table *make_table(uint64_t buckets)
{
    struct table *table = calloc(1, sizeof *table + buckets * sizeof table->first[0]);
    if (!table)
        give_up("no memory");
    table->buckets = buckets;
    return table;
}

static _Atomic(struct node *) *bucket_of(struct table *table, uint64_t key)
{
    return &table->first[mix(key) & (table->buckets - 1)];
}

static unsigned stripe_of(uint64_t key)
{
    return mix(key) & (STRIPES - 1);
}

/* Inside a section, or under the stripe's lock. The node is good until that ends. */
static struct node *find(uint64_t key)
{
    struct table *table = atomic_load_explicit(&current, memory_order_acquire);
    struct node *node = atomic_load_explicit(bucket_of(table, key), memory_order_acquire);
    while (node && node->key != key)
        node = atomic_load_explicit(&node->next, memory_order_acquire);
    return node;
}

/* Under the stripe's lock: the pointer that leads to the node, or the one behind the list's last. */
static _Atomic(struct node *) *link_to(uint64_t key)
{
    _Atomic(struct node *) *link = bucket_of(atomic_load_explicit(&current, memory_order_relaxed), key);
    for (struct node *node; (node = atomic_load_explicit(link, memory_order_relaxed)) && node->key != key;)
        link = &node->next;
    return link;
}

/* Insert the node, or let it take the place of the one that has its key. */
static void put(struct node *node)
{
    const unsigned stripe = stripe_of(node->key);
    begin_writing(stripe);
    _Atomic(struct node *) *link = link_to(node->key);
    struct node *old = atomic_load_explicit(link, memory_order_relaxed);
    struct node *next = old ? atomic_load_explicit(&old->next, memory_order_relaxed) : NULL;
    atomic_store_explicit(&node->next, next, memory_order_relaxed);
    atomic_store_explicit(link, node, memory_order_release); /* from here on readers find the new one */
    if (old)
        retire_node(old);
    end_writing(stripe);
}

static bool take_out(uint64_t key)
{
    const unsigned stripe = stripe_of(key);
    begin_writing(stripe);
    _Atomic(struct node *) *link = link_to(key);
    struct node *old = atomic_load_explicit(link, memory_order_relaxed);
    if (old) {
        struct node *next = atomic_load_explicit(&old->next, memory_order_relaxed);
        atomic_store_explicit(link, next, memory_order_release);
        retire_node(old);
    }
    end_writing(stripe);
    return old != NULL;
}

/* The node's copy, in a table that nobody knows yet. */
static void copy_node(const struct node *node, struct table *table)
{
    struct node *copy = make_node(node->key, node->version);
    _Atomic(struct node *) *first = bucket_of(table, node->key);
    atomic_store_explicit(&copy->next, atomic_load_explicit(first, memory_order_relaxed), memory_order_relaxed);
    atomic_store_explicit(first, copy, memory_order_relaxed);
}

static void copy_all(struct table *from, struct table *to)
{
    for (uint64_t i = 0; i < from->buckets; i++)
        for (struct node *node = from->first[i]; node; node = node->next)
            copy_node(node, to);
}

static void retire_all(struct table *table)
{
    for (uint64_t i = 0; i < table->buckets; i++)
        for (struct node *node = table->first[i], *next; node; node = next) {
            next = node->next; /* from the next line on the node may be gone */
            retire_node(node);
        }
    retire_table(table);
}

static void lock_all(void)
{
    for (unsigned i = 0; i < (uses_rwlock ? 1 : STRIPES); i++)
        begin_writing(i);
}

static void unlock_all(void)
{
    for (unsigned i = 0; i < (uses_rwlock ? 1 : STRIPES); i++)
        end_writing(i);
}

/* One thread does. Writers wait for the copying, readers do not. */
static void grow(void)
{
    lock_all();
    struct table *old = atomic_load_explicit(&current, memory_order_relaxed);
    struct table *larger = make_table(old->buckets * 2);
    copy_all(old, larger);
    atomic_store_explicit(&current, larger, memory_order_release);
    unlock_all();
    retire_all(old);
}

/* -- threads --------------------------------------------------------------------------------------------------- */

struct worker {
    _Alignas(64) _Atomic uint64_t done; /* lookups, or updates: counted by its thread, for others to look at */
    uint64_t random;
    bool is_paced;
    double cpu_seconds;
};

/* The thread's CPU time, or a time of day. */
static double seconds_on(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* The node, and all of it, is the reader's until the end of the section. */
static void look_up(uint64_t key)
{
    begin_reading();
    const struct node *node = find(key);
    if (node && node->key != key)
        give_up("a node has another key");
    for (unsigned i = 0; node && i < WORDS; i++)
        if (node->words[i] != word_of(node, i))
            give_up("a node is not whole: it was freed under its reader");
    end_reading();
    if (!node && key % COMING_AND_GOING != 0)
        give_up("a key that is always there was not found");
}

static uint64_t count_one(struct worker *worker)
{
    const uint64_t done = atomic_load_explicit(&worker->done, memory_order_relaxed);
    atomic_store_explicit(&worker->done, done + 1, memory_order_relaxed);
    return done;
}

static void *keep_reading(void *argument)
{
    struct worker *worker = argument;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        const uint64_t keys = atomic_load_explicit(&filled, memory_order_acquire);
        if (keys == 0)
            continue;
        look_up(random_next(&worker->random) % keys);
        count_one(worker);
    }
    worker->cpu_seconds = seconds_on(CLOCK_THREAD_CPUTIME_ID);
    return NULL;
}

static void update(uint64_t key, uint64_t version)
{
    if (key % COMING_AND_GOING != 0 || !take_out(key))
        put(make_node(key, version));
}

static void *keep_writing(void *argument)
{
    struct worker *worker = argument;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        const uint64_t done = count_one(worker);
        update(random_next(&worker->random) % KEYS, done);
        if (worker->is_paced && done % UPDATES_A_MS == 0)
            usleep(1000);
    }
    return NULL;
}

static void *fill(void *argument)
{
    struct worker *worker = argument;
    for (uint64_t key = 0; key < KEYS; key++) {
        put(make_node(key, 0));
        atomic_store_explicit(&filled, key + 1, memory_order_release);
        if (key >= atomic_load_explicit(&current, memory_order_relaxed)->buckets)
            grow();
        if (count_one(worker) % 256 == 0)
            usleep(1000); /* so that readers see tables of all sizes */
    }
    return NULL;
}

/* -- measuring ------------------------------------------------------------------------------------------------- */

static uint64_t waiting_bytes(void)
{
    slab_stats stats;
    slab_get_stats(&stats, sizeof stats);
    return stats.deferred_bytes;
}

struct phase {
    unsigned readers, writers;
    void *(*write)(void *);
    bool is_paced;
    double seconds; /* or until the table is full */
};

struct crew {
    pthread_t threads[THREADS_MOST];
    struct worker workers[THREADS_MOST];
};

static void start(struct crew *crew, unsigned n, void *(*run)(void *), bool is_paced)
{
    for (unsigned i = 0; i < n; i++) {
        struct worker *worker = &crew->workers[i];
        atomic_store_explicit(&worker->done, 0, memory_order_relaxed);
        worker->random = (uintptr_t)worker;
        worker->is_paced = is_paced;
        if (pthread_create(&crew->threads[i], NULL, run, &crew->workers[i]) != 0)
            give_up("no thread");
    }
}

static bool has_done_anything(const struct crew *crew, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (atomic_load_explicit(&crew->workers[i].done, memory_order_relaxed) > 0)
            return true;
    return false;
}

struct done {
    uint64_t done;
    double cpu_seconds;
};

/* What they have done, and the CPU time that it took them. */
static struct done join(struct crew *crew, unsigned n)
{
    struct done sum = {0, 0};
    for (unsigned i = 0; i < n; i++) {
        pthread_join(crew->threads[i], NULL);
        sum.done += crew->workers[i].done;
        sum.cpu_seconds += crew->workers[i].cpu_seconds;
    }
    return sum;
}

static bool is_done(const struct phase *phase, double seconds)
{
    return phase->write == fill ? atomic_load_explicit(&filled, memory_order_relaxed) == KEYS
                                : seconds >= phase->seconds;
}

/* Until the phase is done, and on a busy machine until somebody has had a turn, whenever that is. Prints a line;
 * returns the nanoseconds of CPU time that a lookup took. */
static double measure(const char *name, const struct phase *phase)
{
    static struct crew readers, writers;
    uint64_t most_waiting = 0;
    const double begin = seconds_on(CLOCK_MONOTONIC);
    atomic_store_explicit(&over, false, memory_order_relaxed);
    start(&readers, phase->readers, keep_reading, false);
    start(&writers, phase->writers, phase->write, phase->is_paced);
    while (!is_done(phase, seconds_on(CLOCK_MONOTONIC) - begin) || !has_done_anything(&readers, phase->readers) ||
           !has_done_anything(&writers, phase->writers)) {
        const uint64_t waiting = waiting_bytes();
        most_waiting = waiting > most_waiting ? waiting : most_waiting;
        usleep(2000);
    }
    atomic_store_explicit(&over, true, memory_order_relaxed);
    const struct done wrote = join(&writers, phase->writers), read = join(&readers, phase->readers);
    const double seconds = seconds_on(CLOCK_MONOTONIC) - begin, ns = read.cpu_seconds / (double)read.done * 1e9;
    printf("%-24s %6.2f M lookups/s, %4.0f ns of CPU each; %7.1f k updates/s; %7.1f KiB waited at most\n", name,
           (double)read.done / seconds * 1e-6, ns, (double)wrote.done / seconds * 1e-3, (double)most_waiting / 1024);
    return ns;
}

static void measure_all(double seconds)
{
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    const unsigned cpus = CPU_COUNT(&set) < THREADS_MOST ? (unsigned)CPU_COUNT(&set) : THREADS_MOST;
    char names[3][40];
    snprintf(names[0], sizeof names[0], "filling, readers: %u", cpus);
    snprintf(names[1], sizeof names[1], "readers: %u", cpus);
    snprintf(names[2], sizeof names[2], "readers: 1, writers: %u", cpus);
    measure(names[0], &(struct phase){cpus, 1, fill, false, 0});
    const double one = measure("readers: 1", &(struct phase){1, 1, keep_writing, true, seconds / 3});
    const double all = measure(names[1], &(struct phase){cpus, 1, keep_writing, true, seconds / 3});
    measure(names[2], &(struct phase){1, cpus, keep_writing, false, seconds / 3});
    printf("%s: %u readers on as many CPUs look up %.2f times as much as one\n",
           uses_rwlock ? "with a pthread_rwlock" : "without a lock", cpus, cpus * one / all);
}

static double seconds_of(int count, char **words)
{
    int seconds = 3;
    for (int i = 1; i < count; i++)
        if (strcmp(words[i], "--rwlock") == 0)
            uses_rwlock = true;
        else if (strcmp(words[i], "--seconds") == 0 && i + 1 < count)
            seconds = atoi(words[++i]);
        else
            seconds = 0;
    if (seconds <= 0)
        give_up("usage: hash_table [--seconds N] [--rwlock]");
    return seconds;
}

int main(int count, char **words)
{
    const double seconds = seconds_of(count, words);
    for (unsigned i = 0; i < STRIPES; i++)
        pthread_mutex_init(&stripes[i].mutex, NULL);
    nodes = slab_cache_create("node", sizeof(struct node), NULL);
    if (!nodes)
        give_up("no cache");
    atomic_store(&current, make_table(LEAST_BUCKETS));
    measure_all(seconds);
    if (atomic_load(&current)->buckets != KEYS)
        give_up("the table has not grown");
    retire_all(atomic_load(&current)); /* nobody looks for anything any more */
    slab_epoch_barrier();
    if (waiting_bytes() != 0)
        give_up("something still waits behind slab_epoch_barrier");
    if (slab_cache_destroy(nodes) != 0)
        give_up("nodes are left");
    return 0;
}
