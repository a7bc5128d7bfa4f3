/* Caches whose objects come from all NUMA nodes: slab_cache_alloc_node, slab_info's rows of nodes; threads on all
 * nodes that free each other's objects, and fork. Promised in include/slabmalloc.h.
 *
 * What a cache promises holds whichever nodes its objects come from and go to: constructed ones stay constructed,
 * zeroed ones are zero, accounts are exact, limits are kept to. As test_node.c on any machine, and in checked builds
 * on simulated ones. */
#include "nodes.h"

enum { MANY = 600, SIZE = 200 };

static void *take_cached(slab_cache *cache, int node)
{
    void *object = slab_cache_alloc_node(cache, node);
    require(object != NULL);
    return opaque(object);
}

/* -- what caches promise ----------------------------------------------------------------------------------------- */

static size_t constructed; /* __atomic: by whatever thread makes a slab; partner: the destructor's */

static void construct(void *object, void *context)
{
    __atomic_fetch_add(&constructed, 1, __ATOMIC_RELAXED);
    require(context == &constructed);
    pattern_fill(object, SIZE, 3);
}

static void destruct(void *object, void *context)
{
    __atomic_fetch_sub(&constructed, 1, __ATOMIC_RELAXED);
    require(context == &constructed && pattern_holds(object, SIZE, 3));
}

static void give_back_elsewhere(void *context)
{
    struct guest *self = context;
    stay(self->number);
    slab_free_bulk(self->count, self->objects);
}

/* A cache's objects from all nodes in turn, freed by threads on several, round after round. */
static void use_on_all_nodes(slab_cache *cache, void (*check)(void *object))
{
    static void *objects[MANY];
    const int nodes = count_nodes();
    for (unsigned round = 0; round < 12; round++) {
        for (unsigned i = 0; i < MANY; i++) {
            objects[i] = take_cached(cache, (int)(i % (unsigned)(nodes + 1)) - 1);
            check(objects[i]);
        }
        struct guest guest = {.number = round, .objects = objects, .count = MANY};
        if (round % 4 == 0)
            slab_cache_free_bulk(cache, MANY, objects);
        else
            run_thread(give_back_elsewhere, &guest);
        require(active(cache) == 0);
    }
    drop(cache);
    require_sums();
}

static void check_constructed(void *object)
{
    require(pattern_holds(object, SIZE, 3));
}

static void constructed_once(const char *argument)
{
    (void)argument;
    const slab_cache_attr attr = {.ctor = construct, .dtor = destruct, .context = &constructed};
    use_on_all_nodes(make_cache("constructed", SIZE, &attr), check_constructed);
    require(constructed == 0);
}

static void check_zero_and_write(void *object)
{
    require(all_zero(object, SIZE));
    memset(object, 0x5a, SIZE);
}

static void zeroed_each_time(const char *argument)
{
    (void)argument;
    const slab_cache_attr attr = {.flags = SLAB_ZERO};
    use_on_all_nodes(make_cache("zeroed", SIZE, &attr), check_zero_and_write);
}

static void check_writable(void *object)
{
    memset(object, 0x5a, SIZE);
}

static void typesafe(const char *argument)
{
    (void)argument;
    const slab_cache_attr attr = {.flags = SLAB_TYPESAFE_BY_EPOCH};
    use_on_all_nodes(make_cache("typesafe", SIZE, &attr), check_writable);
}

static void accounted(const char *argument)
{
    (void)argument;
    const slab_cache_attr attr = {.flags = SLAB_ACCOUNT};
    use_on_all_nodes(make_cache("accounted", SIZE, &attr), check_writable);
}

/* Exactly as many as the limit allows, from whichever nodes, again and again. */
static void limited(const char *argument)
{
    (void)argument;
    static void *objects[MANY + 1];
    const slab_cache_attr attr = {.limit_bytes = MANY * SIZE};
    slab_cache *cache = make_cache("limited", SIZE, &attr);
    for (unsigned round = 0; round < 8; round++) {
        size_t count = 0;
        errno = 0;
        while (count <= MANY &&
               (objects[count] = slab_cache_alloc_node(cache, (int)(count + round) % count_nodes())) != NULL)
            count++;
        require(count == MANY && errno == ENOMEM && active(cache) == MANY);
        struct guest guest = {.number = round, .objects = objects, .count = MANY};
        run_thread(give_back_elsewhere, &guest);
        require(active(cache) == 0);
    }
    drop(cache);
}

/* -- slab_info's rows of nodes ----------------------------------------------------------------------------------- */

struct node_row {
    int node;
    char name[64];
    unsigned long long out, objects, slabs, rounds;
};

/* The rows of nodes that follow the cache's own; returns how many. */
static int read_node_rows(const char *name, struct node_row *rows)
{
    char line[400], first[64];
    int count = 0;
    bool mine = false;
    FILE *file = tmpfile();
    require(slab_info(file) == 0);
    rewind(file);
    require(fgets(line, sizeof line, file) != NULL && fgets(line, sizeof line, file) != NULL); /* the table's head */
    while (fgets(line, sizeof line, file) != NULL) {
        if (line[0] != '#') {
            require(sscanf(line, "%63s", first) == 1);
            mine = strcmp(first, name) == 0;
            continue;
        }
        struct node_row row;
        int end = 0;
        require(sscanf(line, "# node %d %63s %llu %llu %llu %llu %n", &row.node, row.name, &row.out, &row.objects,
                       &row.slabs, &row.rounds, &end) == 6);
        require(line[end] == '\0' && strcmp(row.name, first) == 0 && row.slabs > 0 && count_nodes() > 1);
        if (mine)
            rows[count++] = row;
    }
    fclose(file);
    return count;
}

/* Node n has n + 1 times as many objects as node 0. On a machine with one node there is no such row. */
static void rows_of_nodes(const char *argument)
{
    (void)argument;
    static void *objects[NODES_MAX * (NODES_MAX + 1) / 2 * 100], *kept[NODES_MAX];
    struct node_row rows[NODES_MAX];
    const int nodes = count_nodes();
    size_t count = 0;
    slab_cache *cache = make_own("rows", 1000);
    require(read_node_rows("rows", rows) == 0);
    for (int node = 0; node < nodes; node++) {
        kept[node] = take_cached(cache, node);
        for (int i = 0; i < (node + 1) * 100; i++)
            objects[count++] = take_cached(cache, node);
    }
    for (unsigned round = 0; round < 2; round++) { /* all live; then one on each node */
        const slab_cache_stats stats = figures(cache);
        uint64_t out = 0, total = 0, slabs = 0, rounds = 0;
        require(read_node_rows("rows", rows) == (nodes == 1 ? 0 : nodes));
        for (int node = 0; node < nodes && nodes > 1; node++) {
            require(rows[node].node == node && rows[node].out <= rows[node].objects);
            require(round > 0 || rows[node].out >= (unsigned)(node + 1) * 100);
            require(rows[node].objects == rows[node].slabs * stats.objects_per_slab);
            out += rows[node].out, total += rows[node].objects, slabs += rows[node].slabs,
                rounds += rows[node].rounds;
        }
        require(nodes == 1 || (total == stats.total_objects && slabs == stats.slabs && rounds == stats.depot_rounds));
        require(nodes == 1 || out == stats.active_objects + stats.magazine_rounds);
        give_all(cache, objects, round == 0 ? count : 0);
    }
    give_all(cache, kept, (size_t)nodes);
    drop(cache);
}

/* -- threads on all nodes, and fork ------------------------------------------------------------------------------ */

enum { TABLE = 4000, STEPS = 20000, WORKERS = 8 };

/* Objects on their way from thread to thread; exchanged with acquire and release: a partner's contents are read. */
static struct block *table[TABLE];

static void *make_and_swap(void *argument)
{
    const unsigned number = (unsigned)(uintptr_t)argument;
    const int nodes = count_nodes();
    uint64_t state = number * 7919 + 1;
    stay(number);
    for (unsigned step = 0; step < STEPS; step++) {
        const uint64_t dice = random_next(&state);
        const size_t size = sizeof(struct block) + dice % (dice % 50 == 0 ? 100 * KIB : 1000);
        struct block *block = slab_alloc_node(size, (int)((dice >> 20) % (unsigned)(nodes + 1)) - 1);
        require(block != NULL);
        *block = (struct block){.size = size - sizeof *block, .seed = (unsigned)dice};
        pattern_fill(block + 1, block->size, block->seed);
        block = __atomic_exchange_n(&table[(dice >> 40) % TABLE], block, __ATOMIC_ACQ_REL);
        require(block == NULL || pattern_holds(block + 1, block->size, block->seed));
        free(block);
        if (step % 5000 == 4999)
            slab_purge();
    }
    return NULL;
}

static void threads_on_all_nodes(const char *argument)
{
    (void)argument;
    pthread_t threads[WORKERS];
    const uint64_t live = process_figures().live_bytes;
    for (uintptr_t i = 0; i < WORKERS; i++)
        require(pthread_create(&threads[i], NULL, make_and_swap, (void *)i) == 0);
    for (unsigned i = 0; i < 20; i++) { /* read beside it all; figures that pass for a process's at any time */
        const struct nodes nodes = all_figures();
        for (int node = 0; node < nodes.count; node++)
            require(nodes.of[node].live_bytes < 64 * MIB &&
                    nodes.of[node].slabs_released <= nodes.of[node].slabs_made);
        sleep_ms(5);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        require(pthread_join(threads[i], NULL) == 0);
    require_sums();
    for (unsigned i = 0; i < TABLE; i++)
        free(table[i]);
    slab_purge();
    require_sums();
    require(process_figures().live_bytes - live < 16 * KIB); /* what threads leave to the C library */
    require(count_nodes() == 1 ? process_figures().remote_frees == 0 : process_figures().remote_frees > STEPS);
}

/* The child frees what its parent took from all nodes, takes of its own, and its figures add up. */
static void fork_on_all_nodes(const char *argument)
{
    (void)argument;
    static void *objects[MANY];
    const int nodes = count_nodes();
    for (unsigned i = 0; i < MANY; i++)
        objects[i] = memset(take_from(300, (int)i % nodes), 1, 300);
    const pid_t child = fork();
    if (child == 0) {
        watchdog("the child hangs");
        const uint64_t live = process_figures().live_bytes;
        slab_free_bulk(MANY, objects);
        require(process_figures().live_bytes < live);
        for (unsigned i = 0; i < MANY; i++)
            objects[i] = memset(take_from(5000, (int)i % nodes), 2, 5000);
        require_sums();
        slab_free_bulk(MANY, objects);
        slab_purge();
        require_sums();
        _exit(0);
    }
    require(ended_well(wait_for(child)));
    slab_free_bulk(MANY, objects);
    require_sums();
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"constructed_once", constructed_once},
        {"zeroed_each_time", zeroed_each_time},
        {"typesafe", typesafe},
        {"accounted", accounted},
        {"limited", limited},
        {"rows_of_nodes", rows_of_nodes},
        {"threads_on_all_nodes", threads_on_all_nodes},
        {"fork_on_all_nodes", fork_on_all_nodes},
    };
    if (argc > 1)
        stay(0);
    return run_scenarios("nodes' caches", scenarios, COUNT(scenarios), argc, argv);
}
