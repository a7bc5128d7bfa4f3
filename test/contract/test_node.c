/* NUMA nodes, as far as the library's own figures tell: slab_alloc_node, slab_get_node_stats and
 * slab_stats.remote_frees. Promised in include/slabmalloc.h.
 *
 * Whatever a machine is like, an object of a node is an object like any other, node by node the figures add up to the
 * process's, and an object that comes back on another node is counted, once, and is found by whoever looks for free
 * objects. Where pages really lie only a kernel with several nodes can say: test/vm/placement.c asks one. On machines
 * with one node every promise holds with node 0 alone; checked builds run this on simulated ones, too. */
#include "nodes.h"

enum { MANY = 500 };

#define SMALL_MAX (32 * KIB)

/* -- arguments --------------------------------------------------------------------------------------------------- */

static void bad_nodes(const char *argument)
{
    (void)argument;
    const int count = count_nodes();
    const int bad[] = {count, count + 1, -2, -3, 1 << 16, INT_MAX, INT_MIN};
    const size_t sizes[] = {0, 1, 100, SMALL_MAX, 64 * KIB, MIB, SIZE_MAX};
    slab_node_stats stats;
    slab_cache *cache = make_own("nodes", 72);
    for (size_t i = 0; i < COUNT(bad); i++) {
        for (size_t s = 0; s < COUNT(sizes); s++) {
            errno = 0;
            require(slab_alloc_node(opaque_size(sizes[s]), bad[i]) == NULL && errno == EINVAL);
        }
        errno = 0;
        require(slab_cache_alloc_node(cache, bad[i]) == NULL && errno == EINVAL);
        errno = 0;
        require(slab_get_node_stats(bad[i], &stats, sizeof stats) == -1 && errno == EINVAL);
    }
    errno = 0;
    require(slab_get_node_stats(-1, &stats, sizeof stats) == -1 && errno == EINVAL);
    errno = 0;
    require(slab_get_node_stats(0, NULL, sizeof stats) == -1 && errno == EINVAL);
    errno = 0;
    require(slab_get_node_stats(0, &stats, 0) == -1 && errno == EINVAL);
    drop(cache);
}

/* A program that knows of less gets that much, and not a byte behind it is touched. */
static void figures_of_an_older_program(const char *argument)
{
    (void)argument;
    unsigned char bytes[sizeof(slab_node_stats) + 1];
    free(malloc(1));
    for (size_t size = 1; size <= sizeof(slab_node_stats); size++) {
        memset(bytes, 0xa5, sizeof bytes);
        errno = 4711;
        require(slab_get_node_stats(0, (slab_node_stats *)(void *)bytes, size) == 0 && errno == 4711);
        for (size_t i = size; i < sizeof bytes; i++)
            require(bytes[i] == 0xa5);
    }
    slab_node_stats all = node_figures(0);
    require(slab_get_node_stats(0, (slab_node_stats *)(void *)bytes, 8) == 0);
    require(memcmp(bytes, &all.live_bytes, 8) == 0);
}

/* Before anything else has been allocated: any call may be a program's first. */
static void the_first_call(const char *argument)
{
    (void)argument;
    free(memset(take_from(100, 0), 1, 100));
    require_sums();
}

/* -- objects like any other -------------------------------------------------------------------------------------- */

static void free_in_some_way(void *object, unsigned way)
{
    switch (way % 6) {
    case 0:
        free(object);
        break;
    case 1:
        slab_free_bulk(1, &object);
        break;
    case 2:
        slab_free_deferred(object);
        break;
    case 3:
        slab_free_nolock(object);
        break;
    case 4:
        slab_free(object);
        break;
    default:
        free(opaque(realloc(object, 500)));
    }
}

static void objects_like_any_other(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {0,        1,         16,     24, 100, 1000, 4096, 5000, SMALL_MAX, SMALL_MAX + 1,
                            64 * KIB, 300 * KIB, 3 * MIB};
    enum { EACH = 6 };
    void *objects[EACH];
    const uint64_t live = process_figures().live_bytes;
    for (int node = -1; node < count_nodes(); node++)
        for (size_t s = 0; s < COUNT(sizes); s++) {
            for (unsigned i = 0; i < EACH; i++) {
                errno = 4711;
                objects[i] = take_from(sizes[s], node);
                require(errno == 4711 && is_aligned(objects[i], NATURAL_ALIGNMENT));
                require(malloc_usable_size(objects[i]) >= sizes[s]);
                pattern_fill(objects[i], sizes[s], i);
            }
            for (unsigned i = 0; i < EACH; i++) {
                require(pattern_holds(objects[i], sizes[s], i));
                free_in_some_way(objects[i], i);
            }
        }
    slab_epoch_barrier();
    require(process_figures().live_bytes == live);
}

/* Contents, growth and shrinking stay what they are, on whatever node the result lies. */
static void realloc_takes_them(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {100, 40, 5000, 40 * KIB, 2 * MIB, 9 * MIB, MIB, 300};
    for (int node = 0; node < count_nodes(); node++)
        for (size_t first = 0; first < COUNT(sizes); first++) {
            unsigned char *bytes = take_from(sizes[first], node);
            size_t size = sizes[first];
            pattern_fill(bytes, size, 7);
            for (size_t s = 0; s < COUNT(sizes); s++) {
                const size_t kept = size < sizes[s] ? size : sizes[s];
                require((bytes = realloc(bytes, size = sizes[s])) != NULL && pattern_holds(bytes, kept, 7));
                pattern_fill(bytes, size, 7);
            }
            free(bytes);
        }
}

static void too_much(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4096, (size_t)PTRDIFF_MAX + 1, (size_t)PTRDIFF_MAX};
    for (int node = -1; node < count_nodes(); node++)
        for (size_t i = 0; i < COUNT(sizes); i++) {
            errno = 0;
            require(slab_alloc_node(opaque_size(sizes[i]), node) == NULL && errno == ENOMEM);
        }
}

/* Every node's addresses come to an end together; then, and not before, it says so, and goes on when some
 * are free. */
static void without_memory(const char *argument)
{
    (void)argument;
    const struct rlimit limit = {2048 * MIB, 2048 * MIB};
    const size_t sizes[] = {SMALL_MAX, MIB};
    static void *objects[70000];
    require(setrlimit(RLIMIT_AS, &limit) == 0);
    for (int node = 0; node < count_nodes(); node++)
        for (size_t s = 0; s < COUNT(sizes); s++) {
            size_t count = 0;
            errno = 0;
            while (count < COUNT(objects) && (objects[count] = slab_alloc_node(sizes[s], node)) != NULL)
                count++;
            require(errno == ENOMEM && count * sizes[s] > 1024 * MIB && count < COUNT(objects));
            for (size_t i = 0; i < count; i++)
                free(objects[i]);
            free(take_from(sizes[s], node));
        }
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

/* A small object counts for its node, a large one for the node of who allocated it. */
static void objects_count_for_nodes(const char *argument)
{
    (void)argument;
    const size_t sizes[] = {16, 200, 4000, SMALL_MAX, SMALL_MAX + 1, MIB};
    static void *objects[MANY];
    const int here = node_here();
    for (int node = -1; node < count_nodes(); node++)
        for (size_t s = 0; s < COUNT(sizes); s++) {
            const size_t many = sizes[s] > SMALL_MAX ? 10 : MANY;
            const bool as_malloc = node < 0;
            const struct nodes before = all_figures();
            int64_t bytes = 0;
            for (size_t i = 0; i < many; i++) {
                objects[i] = take_from(sizes[s], node);
                bytes += (int64_t)malloc_usable_size(objects[i]);
            }
            require_live(&before, as_malloc ? here : node, bytes);
            slab_free_bulk(many, objects);
            slab_purge();
            require_live(&before, 0, 0);
        }
    require_sums();
}

static void live_on_my_node(void *context)
{
    struct guest *self = context;
    stay(self->number);
    free(malloc(1));
    self->node = node_here();
    void *objects[MANY], *large = NULL;
    int64_t bytes = 0;
    const struct nodes before = all_figures();
    for (unsigned i = 0; i < MANY; i++) {
        objects[i] = i % 2 ? malloc(300) : take_from(300, -1);
        bytes += (int64_t)malloc_usable_size(objects[i]);
    }
    large = malloc(2 * MIB);
    bytes += (int64_t)malloc_usable_size(large);
    require_live(&before, self->node, bytes);
    slab_free_bulk(MANY, objects);
    free(opaque(large));
    slab_free_bulk(self->count, self->objects);
    require_remote_frees(&before, self->node, self->count - self->count / (size_t)before.count);
}

/* What a thread has counts for its node; what it frees of each node's objects counts there, if it is another's. */
static void threads_count_for_nodes(const char *argument)
{
    (void)argument;
    static struct guest guests[THREADS];
    static void *objects[NODES_MAX * 20];
    const int count = count_nodes();
    unsigned reached[NODES_MAX] = {0};
    uint64_t remote = 0;
    free(malloc(1)); /* who has done that is a thread that counts */
    for (unsigned i = 0; i < THREADS; i++) {
        const struct nodes before = all_figures();
        guests[i] = (struct guest){.number = i, .objects = objects, .count = (size_t)count * 20};
        for (size_t n = 0; n < guests[i].count; n++)
            objects[n] = take_from(300, (int)n % count);
        park(&guests[i].parked, live_on_my_node, NULL, &guests[i]);
        for (int node = 0; node < count; node++)
            require(node_figures(node).threads == before.of[node].threads + (node == guests[i].node));
        reached[guests[i].node]++;
        remote += guests[i].count - guests[i].count / (size_t)count;
        require_sums();
    }
    require(count == 1 || reached[0] < THREADS);
    for (unsigned i = 0; i < THREADS; i++)
        unpark(&guests[i].parked);
    require(process_figures().threads == 1 && process_figures().remote_frees == remote);
    require_sums();
}

/* -- frees on another node --------------------------------------------------------------------------------------- */

static void free_all_in_one_way(void **objects, slab_cache *cache, unsigned way)
{
    if (way == 1)
        slab_free_bulk(MANY, objects);
    else if (way == 3)
        slab_cache_free_bulk(cache, MANY, objects);
    for (unsigned i = 0; i < MANY; i++)
        if (way == 0 || way == 4)
            free(objects[i]);
        else if (way == 2)
            slab_cache_free(cache, objects[i]);
        else if (way == 5)
            slab_free_nolock(objects[i]);
        else if (way == 6)
            free(opaque(realloc(objects[i], 2 * SMALL_MAX)));
}

/* Exactly those that are small and of another node, whatever call frees them. */
static void remote_frees_by_each_call(const char *argument)
{
    (void)argument;
    enum { WAYS = 7 };
    static void *objects[MANY];
    const int here = node_here();
    const slab_cache_attr accounted = {.flags = SLAB_ACCOUNT};
    slab_cache *caches[] = {make_own("own", 200), make_cache("accounted", 200, &accounted)};
    for (int node = 0; node < count_nodes(); node++)
        for (unsigned way = 0; way < 2 * WAYS; way++) {
            slab_cache *cache = caches[way / WAYS];
            const bool of_cache = way >= WAYS || way % WAYS == 2 || way % WAYS == 3 || way % WAYS == 4;
            const struct nodes before = all_figures();
            for (unsigned i = 0; i < MANY; i++)
                objects[i] = of_cache ? slab_cache_alloc_node(cache, node) : take_from(200, node);
            free_all_in_one_way(objects, cache, way % WAYS);
            require_remote_frees(&before, here, node == here ? 0 : MANY);
            free(take_from(MIB, node));
            require_remote_frees(&before, here, node == here ? 0 : MANY);
        }
    slab_purge();
    require(active(caches[0]) == 0 && active(caches[1]) == 0);
    drop(caches[0]);
    drop(caches[1]);
    require_sums();
}

static uint64_t slabs_of(int node)
{
    const slab_node_stats stats = node_figures(node);
    return stats.slabs_made - stats.slabs_released;
}

/* Objects that are freed on another node come back to their own, and are used again: its slabs do not become more. */
static void remote_frees_go_home(const char *argument)
{
    (void)argument;
    enum { OBJECTS = 20000, SIZE = 256, NEEDED = OBJECTS * SIZE / (64 * KIB) };
    static void *objects[OBJECTS];
    for (int node = 0; node < count_nodes(); node++) {
        const uint64_t before = slabs_of(node);
        for (unsigned round = 0; round < 20; round++) {
            for (unsigned i = 0; i < OBJECTS; i++)
                objects[i] = take_from(SIZE, node);
            slab_free_bulk(OBJECTS, objects);
        }
        require(slabs_of(node) <= before + 2 * NEEDED);
    }
    slab_purge();
    require_sums();
}

static void free_objects(void *context)
{
    struct guest *self = context;
    stay(self->number);
    for (size_t i = 0; i < self->count; i++)
        free(self->objects[i]);
}

/* Counted from a thread's first call on: all but those of its own node, whichever that is. */
static void threads_that_only_free(const char *argument)
{
    (void)argument;
    static void *objects[NODES_MAX * 100];
    const size_t nodes = (size_t)count_nodes(), count = nodes * 100;
    for (unsigned i = 0; i < 8; i++) {
        const uint64_t before = process_figures().remote_frees;
        for (size_t n = 0; n < count; n++)
            objects[n] = take_from(300, (int)(n % nodes));
        struct guest guest = {.number = i, .objects = objects, .count = count};
        run_thread(free_objects, &guest);
        require(process_figures().remote_frees == before + count - 100);
    }
}

/* What threads have of other nodes' objects is found by whoever looks for a cache's free ones. */
static void shrinking_finds_remote_frees(const char *argument)
{
    (void)argument;
    static struct guest guests[THREADS];
    static void *objects[THREADS][MANY];
    slab_cache *cache = make_own("shrunk", 1000);
    for (unsigned i = 0; i < THREADS; i++)
        for (unsigned n = 0; n < MANY; n++)
            require((objects[i][n] = slab_cache_alloc_node(cache, (int)n % count_nodes())) != NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        guests[i] = (struct guest){.number = i, .objects = objects[i], .count = i == 0 ? MANY - 1 : MANY};
        park(&guests[i].parked, free_objects, NULL, &guests[i]);
    }
    require(active(cache) == 1);
    require_busy(cache, "slabmalloc: slab_cache_destroy: shrunk has 1 live object\n");
    slab_cache_free(cache, objects[0][MANY - 1]);
    slab_cache_shrink(cache);
    const slab_cache_stats stats = figures(cache);
    require(stats.active_objects == 0 && stats.magazine_rounds <= THREADS + 1 && stats.depot_rounds == 0);
    require(stats.slabs <= stats.magazine_rounds);
    drop(cache);
    for (unsigned i = 0; i < THREADS; i++)
        unpark(&guests[i].parked);
    require_sums();
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"the_first_call", the_first_call},
        {"bad_nodes", bad_nodes},
        {"figures_of_an_older_program", figures_of_an_older_program},
        {"objects_like_any_other", objects_like_any_other},
        {"realloc_takes_them", realloc_takes_them},
        {"too_much", too_much},
        {"without_memory", without_memory},
        {"objects_count_for_nodes", objects_count_for_nodes},
        {"threads_count_for_nodes", threads_count_for_nodes},
        {"remote_frees_by_each_call", remote_frees_by_each_call},
        {"remote_frees_go_home", remote_frees_go_home},
        {"threads_that_only_free", threads_that_only_free},
        {"shrinking_finds_remote_frees", shrinking_finds_remote_frees},
    };
    if (argc > 1)
        stay(0);
    return run_scenarios("nodes", scenarios, COUNT(scenarios), argc, argv);
}
