/* Where objects' pages lie, on a machine whose nodes have CPUs, memory or both. Promised:
 *
 * slab_alloc_node and slab_cache_alloc_node    the node that was asked for, whoever asks and whoever writes first;
 * when it is full or has no memory, another, without failing small objects of malloc                      the node of
 * the thread that allocates, whoever writes first, and whatever it has freed before large objects of malloc who
 * writes first decides, page by page, and realloc keeps that
 *
 * also after a move to another node, in the child of a fork, without restartable sequences; and mappings stay few,
 * and a young heap small. */
#include "pages.h"

#include <sys/resource.h>

static const char without_rseq[] = "GLIBC_TUNABLES=glibc.pthread.rseq=0";

/* -- the node that was asked for --------------------------------------------------------------------------------- */

static const size_t small_sizes[] = {16, 100, 1000, 4096, 5000, 20000, 32 * KIB};
static const size_t large_sizes[] = {64 * KIB, MIB, 5 * MIB};

enum { FEW = 4, MANY = 60 };

/* Objects of that size and node, all alive together; then they are freed. */
static void take_and_check(const char *what, size_t size, int node, unsigned many)
{
    void *objects[MANY];
    for (unsigned i = 0; i < many; i++) {
        objects[i] = existing(slab_alloc_node(size, node));
        write_and_check(what, objects[i], size, place_on(node));
    }
    slab_free_bulk(many, objects);
}

static void take_small_of_all_nodes(void *unused)
{
    (void)unused;
    for (int node = 0; node < nodes.count; node++)
        for (size_t s = 0; s < COUNT(small_sizes); s++) {
            take_and_check("fresh", small_sizes[s], node, MANY);
            take_and_check("freed and taken again", small_sizes[s], node, MANY);
            slab_purge();
            take_and_check("after slab_purge", small_sizes[s], node, MANY);
        }
}

static void small_of_a_node(void)
{
    for (int node = 0; node < nodes.count; node++)
        if (nodes.cpu_of[node] >= 0)
            run_on(node, take_small_of_all_nodes, NULL);
}

/* Growing keeps the pages that are there, from 1 MiB on also where it has to move them, and adds such as are. */
static void grow_and_check(size_t size, int node)
{
    char *object = existing(slab_alloc_node(size, node)), *behind = existing(slab_alloc_node(size, node));
    write_pages(object, size);
    if (size >= MIB) {
        object = existing(realloc(object, 2 * size));
        write_and_check("grown", object, 2 * size, place_on(node));
    }
    free(behind);
    free(object);
    take_and_check("where a grown object was", size, node, FEW);
}

static void take_large_of_all_nodes(void *unused)
{
    (void)unused;
    for (int node = 0; node < nodes.count; node++)
        for (size_t s = 0; s < COUNT(large_sizes); s++) {
            take_and_check("fresh", large_sizes[s], node, FEW);
            take_and_check("freed and taken again", large_sizes[s], node, FEW);
            slab_purge();
            take_and_check("after slab_purge", large_sizes[s], node, FEW);
            grow_and_check(large_sizes[s], node);
        }
}

static void large_of_a_node(void)
{
    run_on(nodes.home, take_large_of_all_nodes, NULL);
    run_on(nodes.empty, take_large_of_all_nodes, NULL);
    take_and_check("64 MiB", 64 * MIB, nodes.away, 1);
    take_and_check("64 MiB", 64 * MIB, nodes.bare, 1);
}

/* Writes to a mapping, a step at a time, until the kernel takes from another node than that; how far it came. */
static size_t write_until_elsewhere(char *memory, size_t from, size_t size, size_t step, int node)
{
    for (; from < size; from += step) {
        memory[from] = 1;
        if (node_of_page(memory + from) != node)
            return from;
    }
    return size;
}

/* Fills the node with the pages of a mapping: huge ones, which is quick, as long as there are some; then others.
 * Where the kernel had no huge ones, a step has taken a small page only, and they are all written again. */
static void fill_node(int node, char *memory, size_t size)
{
    const unsigned long mask = 1ul << node;
    if (syscall(SYS_mbind, memory, size, MPOL_PREFERRED, &mask, 64ul, 0u) != 0)
        fail("mbind: %m");
    const size_t filled = write_until_elsewhere(memory, 0, size, HUGE_PAGE, node);
    madvise(memory, size, MADV_NOHUGEPAGE);
    if (write_until_elsewhere(memory, filled < size ? filled + HUGE_PAGE : 0, size, PAGE, node) == size)
        fail("node %d has more than %zu bytes", node, size);
}

static void full_node(void)
{
    const size_t size = 400 * MIB;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap: %m");
    fill_node(nodes.bare, (char *)(((uintptr_t)memory + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1)),
              size - HUGE_PAGE);
    for (unsigned i = 0; i < 2000; i++)
        write_pages(existing(slab_alloc_node(4096, nodes.bare)), 4096);
    write_pages(existing(slab_alloc_node(16 * MIB, nodes.bare)), 16 * MIB);
    char *small = existing(slab_alloc_node(32 * KIB, nodes.bare)),
         *large = existing(slab_alloc_node(MIB, nodes.bare));
    write_pages(small, 32 * KIB);
    write_pages(large, MIB);
    if (node_of_page(large + MIB - PAGE) == nodes.bare)
        fail("node %d was full, and had a page: this shows nothing", nodes.bare);
    munmap(memory, size);
    slab_purge();
    take_and_check("the node has memory again", 300 * KIB, nodes.bare, FEW);
}

static void construct(void *object, void *context)
{
    (void)context;
    memset(object, 1, 3000);
}

static void objects_of_caches(void)
{
    const slab_cache_attr attrs[] = {{.flags = SLAB_NO_MERGE},          {.ctor = construct},
                                     {.flags = SLAB_ACCOUNT},           {.flags = SLAB_ZERO},
                                     {.flags = SLAB_TYPESAFE_BY_EPOCH}, {.limit_bytes = 100 * MIB}};
    void *objects[MANY * 2];
    for (size_t a = 0; a < COUNT(attrs); a++) {
        slab_cache *cache = existing(slab_cache_create("placed", 3000, &attrs[a]));
        for (int round = 0; round < 2; round++)
            for (int node = 0; node < nodes.count; node++) {
                for (unsigned i = 0; i < COUNT(objects); i++) {
                    objects[i] = existing(slab_cache_alloc_node(cache, node));
                    write_and_check("a cache's", objects[i], 3000, place_on(node));
                    memset(objects[i], 1, 3000); /* as the constructor left it */
                }
                slab_cache_free_bulk(cache, COUNT(objects), objects);
            }
        if (slab_cache_destroy(cache) != 0)
            fail("a cache of free objects was not destroyed: %m");
    }
}

/* -- malloc ------------------------------------------------------------------------------------------------------ */

enum { BATCH = 1500 };

static void *batch[BATCH];

static void fill_batch(void *size)
{
    for (unsigned i = 0; i < BATCH; i++)
        batch[i] = existing(malloc(*(size_t *)size));
}

static void free_batch(void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < BATCH; i++)
        free(batch[i]);
}

static void check_batch(const char *what, size_t size, int node)
{
    for (unsigned i = 0; i < BATCH; i++)
        write_and_check(what, batch[i], size, node);
}

/* Allocated on one node, and written first on the other. */
static void small_and_written_elsewhere(void)
{
    const size_t sizes[] = {48, 700, 9000};
    const int here[] = {nodes.home, nodes.away, nodes.empty};
    for (size_t s = 0; s < COUNT(sizes); s++)
        for (size_t n = 0; n < COUNT(here); n++) {
            size_t size = sizes[s];
            pin(pthread_self(), nodes.cpu_of[here[n] == nodes.home ? nodes.away : nodes.home]);
            run_on(here[n], fill_batch, &size);
            check_batch("written elsewhere first", size, place_on(here[n]));
            free_batch(NULL);
        }
}

/* Each node's thread frees what the other's has made, again and again; what they are given stays their node's. */
static void small_after_remote_frees(void)
{
    size_t size = 1200;
    for (unsigned round = 0; round < 8; round++) {
        const bool even = round % 2 == 0;
        run_on(even ? nodes.away : nodes.home, fill_batch, &size);
        check_batch("after frees on another node", size, even ? nodes.away : nodes.home);
        run_on(even ? nodes.home : nodes.away, free_batch, NULL);
    }
    slab_stats stats;
    if (slab_get_stats(&stats, sizeof stats) != 0 || stats.remote_frees < 8 * BATCH)
        fail("%d objects were freed on another node, and %llu were counted", 8 * BATCH,
             (unsigned long long)stats.remote_frees);
}

/* One thread all along, which frees what it made on the node before. */
static void small_after_moves(void)
{
    size_t size = 2000;
    fill_batch(&size);
    for (unsigned round = 0; round < 6; round++) {
        const int node = round % 2 == 0 ? nodes.away : nodes.home;
        free_batch(NULL);
        pin(pthread_self(), nodes.cpu_of[node]);
        fill_batch(&size);
        /* what its magazines had from before, 64 KiB each, and a whole batch behind that */
        for (unsigned i = 200; i < BATCH; i++)
            write_and_check("after a move", batch[i], size, node);
    }
}

struct part {
    char *start;
    size_t size;
};

static void write_part(void *part)
{
    write_pages(((struct part *)part)->start, ((struct part *)part)->size);
}

/* Each node's thread writes its part of an array; huge pages across their borders are the kernel's. */
static void check_parts(const char *what, char *array, size_t part, size_t parts)
{
    for (size_t n = 0; n < parts; n++)
        check_pages(what, array + n * part + HUGE_PAGE, part - 2 * HUGE_PAGE, n % 2 == 0 ? nodes.home : nodes.away);
}

static void large_by_first_touch(void)
{
    enum { PARTS = 4 };
    const size_t part = 8 * MIB;
    for (unsigned round = 0; round < 2; round++) {
        char *array = existing(malloc(PARTS * part));
        for (size_t n = 0; n < PARTS; n++)
            run_on(n % 2 == 0 ? nodes.home : nodes.away, write_part, &(struct part){array + n * part, part});
        check_parts("an array initialised in parallel", array, part, PARTS);
        array = existing(realloc(array, 2 * PARTS * part));
        check_parts("the same, grown", array, part, PARTS);
        run_on(nodes.away, write_part, &(struct part){array + PARTS * part, PARTS * part});
        check_pages("what it grew by", array + PARTS * part + HUGE_PAGE, PARTS * part - HUGE_PAGE, nodes.away);
        void *in_the_way = existing(malloc(100 * KIB));
        array = existing(realloc(array, 3 * PARTS * part));
        check_parts("the same, moved", array, part, PARTS);
        free(in_the_way);
        free(array);
        slab_purge();
    }
}

/* -- fork -------------------------------------------------------------------------------------------------------- */

static bool sums_hold(bool say)
{
    slab_stats stats;
    slab_node_stats sum = {0}, node;
    if (slab_get_stats(&stats, sizeof stats) != 0 || (int)stats.nodes != nodes.count)
        fail("%llu nodes, not %d", (unsigned long long)stats.nodes, nodes.count);
    for (int n = 0; n < nodes.count; n++) {
        if (slab_get_node_stats(n, &node, sizeof node) != 0)
            fail("slab_get_node_stats(%d): %m", n);
        sum.live_bytes += node.live_bytes;
        sum.slabs_made += node.slabs_made;
        sum.slabs_released += node.slabs_released;
        sum.remote_frees += node.remote_frees;
    }
    if (sum.live_bytes == stats.live_bytes && sum.slabs_made == stats.slabs_made &&
        sum.slabs_released == stats.slabs_released && sum.remote_frees == stats.remote_frees)
        return true;
    if (say)
        fprintf(stderr, "the nodes' figures do not add up: %llu of %llu bytes live, %llu of %llu slabs\n",
                (unsigned long long)sum.live_bytes, (unsigned long long)stats.live_bytes,
                (unsigned long long)sum.slabs_made, (unsigned long long)stats.slabs_made);
    return false;
}

/* Figures are exact when the process is quiet, which the library's own worker leaves it from time to time. */
static void check_sums(void)
{
    slab_purge();
    for (unsigned tries = 1; !sums_hold(tries % 500 == 0); tries++) /* what never adds up is said, and hangs */
        usleep(10000);
}

/* The child, on another node than its parent, has a new heap to find there, and frees what it was left. */
static void child_of_a_fork(void)
{
    size_t size = 800;
    pin(pthread_self(), nodes.cpu_of[nodes.home]);
    fill_batch(&size);
    const pid_t child = fork();
    if (child == 0) {
        pin(pthread_self(), nodes.cpu_of[nodes.away]);
        free_batch(NULL);
        fill_batch(&size);
        for (unsigned i = 300; i < BATCH; i++)
            write_and_check("in the child", batch[i], size, nodes.away);
        take_and_check("in the child", 3000, nodes.bare, MANY);
        check_sums();
        _exit(0);
    }
    if (!ended_well(child))
        fail("the child failed");
    check_sums();
    fill_batch(&size);
    check_batch("in the parent", size, nodes.home);
    check_sums();
}

/* -- mappings, and what a young heap takes ----------------------------------------------------------------------- */

static size_t count_mappings(void)
{
    size_t count = 0;
    FILE *file = fopen("/proc/self/maps", "re");
    for (int byte; file != NULL && (byte = fgetc(file)) != EOF;)
        count += byte == '\n';
    fclose(file);
    return count;
}

/* A gigabyte of small objects, none of them written to: what a node has is one mapping, or nearly. */
static void mappings_stay_few(void)
{
    const size_t before = count_mappings(), bytes = 1024 * MIB;
    for (size_t i = 0; i < bytes / (32 * KIB); i++)
        existing(slab_alloc_node(32 * KIB, (int)(i % (size_t)nodes.count)));
    const size_t behind = count_mappings();
    if (behind > before + 1000)
        fail("%zu mappings have become %zu", before, behind);
}

static void use_a_little(void *unused)
{
    (void)unused;
    for (size_t s = 0; s < 40; s++)
        free(memset(existing(malloc(s * 50 + 1)), 1, s * 50 + 1));
}

/* Prints what is resident of its own, when a thread on each node has allocated a little. */
static void young(void)
{
    char line[100];
    long kib = 0;
    for (int node = 0; node < nodes.count; node++)
        if (nodes.cpu_of[node] >= 0)
            run_on(node, use_a_little, NULL);
    FILE *file = fopen("/proc/self/status", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        sscanf(line, "RssAnon: %ld", &kib);
    printf("%ld\n", kib);
}

static long young_heap(void (*prepare)(void))
{
    int ends[2];
    char text[32] = "";
    if (pipe(ends) != 0)
        fail("pipe: %m");
    const pid_t child = launch("young", prepare, NULL, ends[1]);
    close(ends[1]);
    if (read(ends[0], text, sizeof text - 1) <= 0 || !ended_well(child))
        fail("a young process failed");
    close(ends[0]);
    return strtol(text, NULL, 10);
}

static void see_one_node(void)
{
    join_group("one", "0");
}

static void young_heaps_are_small(void)
{
    const long one = young_heap(see_one_node), all = young_heap(NULL);
    fprintf(stderr, "resident: %ld KiB on one node, %ld on %d\n", one, all, nodes.count);
    if (all > one + nodes.count * 256)
        fail("a young heap takes %ld KiB on one node, and %ld on %d", one, all, nodes.count);
}

int main(int argc, char **argv)
{
    static const struct scenario scenarios[] = {
        {"small_of_a_node", small_of_a_node, NULL, NULL},
        {"small_of_a_node, no rseq", small_of_a_node, NULL, without_rseq},
        {"large_of_a_node", large_of_a_node, NULL, NULL},
        {"full_node", full_node, NULL, NULL},
        {"objects_of_caches", objects_of_caches, NULL, NULL},
        {"small_and_written_elsewhere", small_and_written_elsewhere, NULL, NULL},
        {"small_and_written_elsewhere, no rseq", small_and_written_elsewhere, NULL, without_rseq},
        {"small_after_remote_frees", small_after_remote_frees, NULL, NULL},
        {"small_after_moves", small_after_moves, NULL, NULL},
        {"small_after_moves, no rseq", small_after_moves, NULL, without_rseq},
        {"large_by_first_touch", large_by_first_touch, NULL, NULL},
        {"child_of_a_fork", child_of_a_fork, NULL, NULL},
        {"mappings_stay_few", mappings_stay_few, NULL, NULL},
        {"young_heaps_are_small", young_heaps_are_small, NULL, NULL},
    };
    if (argc > 1 && strcmp(argv[1], "young") == 0) {
        look_at_nodes();
        young();
        return 0;
    }
    return run_scenarios(scenarios, COUNT(scenarios), argc, argv);
}
