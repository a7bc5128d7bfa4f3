/* Object caches: creating them, what their objects are, bulk and node calls, merging.
 *
 * Written in: include/slabmalloc.h. Promised are objects of the size and alignment asked for that overlap with no
 * other, that free(), realloc() and malloc_usable_size() take as well; EINVAL for every argument that is none; all
 * or nothing for bulk; one set of slabs for caches of the same rounded size and alignment, unless an attribute
 * forbids it. */
#include "caches.h"

/* -- creating ---------------------------------------------------------------------------------------------------- */

static void a_life(const char *argument)
{
    (void)argument;
    slab_cache *cache = make_cache("point", 24, NULL);
    void *one = take(cache), *two = take(cache);
    require(one != two);
    pattern_fill(one, 24, 1);
    pattern_fill(two, 24, 2);
    require(pattern_holds(one, 24, 1) && pattern_holds(two, 24, 2));
    slab_cache_free(cache, one);
    slab_cache_free(cache, NULL);
    free(two);
    require(active(cache) == 0);
    drop(cache);
    require(slab_cache_destroy(NULL) == 0);
}

static void constructor(void *object, void *context)
{
    (void)object;
    (void)context;
}

static void bad_arguments(const char *argument)
{
    (void)argument;
    static const struct {
        const char *name;
        size_t size;
        slab_cache_attr attr;
    } bad[] = {
        {NULL, 24, {0}},
        {"", 24, {0}},
        {"bad", 0, {0}},
        {"bad", MIB + 1, {0}},
        {"bad", SIZE_MAX, {0}},
        {"bad", 24, {.align = 3}},
        {"bad", 24, {.align = 24}},
        {"bad", 24, {.align = 4097}},
        {"bad", 24, {.align = 2 * MIB}},
        {"bad", 24, {.align = SIZE_MAX}},
        {"bad", 24, {.align = (size_t)1 << 63}},
        {"bad", 24, {.flags = 1u << 5}},
        {"bad", 24, {.flags = 1u << 31}},
        {"bad", 24, {.flags = ~0u}},
        {"bad", 24, {.magazine_rounds = 255}},
        {"bad", 24, {.magazine_rounds = UINT_MAX}},
        {"bad", 24, {.flags = SLAB_ZERO, .ctor = constructor}},
        {"bad", 24, {.flags = SLAB_ZERO | SLAB_TYPESAFE_BY_EPOCH}},
    };
    uint64_t caches = process_figures().caches;
    for (size_t i = 0; i < COUNT(bad); i++) {
        errno = 0;
        slab_cache *cache = slab_cache_create(bad[i].name, bad[i].size, &bad[i].attr);
        if (cache != NULL || errno != EINVAL)
            fprintf(stderr, "row %zu: %p, errno %d\n", i, (void *)cache, errno);
        require(cache == NULL && errno == EINVAL);
    }
    require(process_figures().caches == caches);
}

static void arguments_at_the_border(const char *argument)
{
    (void)argument;
    static const struct {
        size_t size;
        slab_cache_attr attr;
    } good[] = {
        {1, {0}},
        {MIB, {0}},
        {1, {.align = 1}},
        {1, {.align = MIB}},
        {MIB, {.align = MIB}},
        {24, {.magazine_rounds = 1}},
        {24, {.magazine_rounds = 254}},
        {24, {.limit_bytes = SIZE_MAX}},
        {24, {.flags = SLAB_NO_MERGE | SLAB_ZERO | SLAB_CACHELINE_ALIGN | SLAB_ACCOUNT}},
        {24, {.flags = SLAB_TYPESAFE_BY_EPOCH | SLAB_ACCOUNT, .ctor = constructor}},
        {24, {.flags = SLAB_ZERO, .dtor = constructor}},
        {MIB, {.magazine_rounds = 254, .limit_bytes = 3 * MIB}},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        slab_cache *cache = make_cache("good", good[i].size, &good[i].attr);
        void *objects[3];
        take_all(cache, objects, COUNT(objects));
        for (unsigned n = 0; n < COUNT(objects); n++)
            pattern_fill(objects[n], good[i].size, n);
        for (unsigned n = 0; n < COUNT(objects); n++)
            require(pattern_holds(objects[n], good[i].size, n));
        give_all(cache, objects, COUNT(objects));
        drop(cache);
    }
}

/* A copy of the first 63 characters; two of the same name are two caches. */
static void names(const char *argument)
{
    (void)argument;
    char name[200];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    slab_cache *one = make_own(name, 40), *two = make_own(name, 40);
    require(one != two);
    memset(name, 'x', sizeof name - 1);
    slab_cache_stats stats = figures(one);
    require(strlen(stats.name) == 63 && strspn(stats.name, "n") == 63);
    void *object = take(one);
    require(active(one) == 1 && active(two) == 0);
    slab_cache_free(one, object);
    drop(one);
    slab_cache_free(two, take(two));
    drop(two);
}

/* -- objects ----------------------------------------------------------------------------------------------------- */

enum { MANY = 200 };

/* So many objects that there are some of them, and some slabs of small ones. */
static size_t count_for(size_t size)
{
    size_t count = 256 * KIB / size;
    return count < 3 ? 3 : count > MANY ? MANY : count;
}

/* All bytes that an object says it has are its own. */
static void check_objects(slab_cache *cache, size_t size, size_t align)
{
    void *objects[MANY];
    size_t count = count_for(size);
    uint64_t before = active(cache);
    for (unsigned i = 0; i < count; i++) {
        objects[i] = take(cache);
        require(is_aligned(objects[i], align));
        require(malloc_usable_size(objects[i]) >= size);
        pattern_fill(objects[i], malloc_usable_size(objects[i]), i);
    }
    require(active(cache) == before + count);
    for (unsigned i = 0; i < count; i++)
        require(pattern_holds(objects[i], malloc_usable_size(objects[i]), i));
    for (unsigned i = 0; i < count; i++)
        if (i % 2 == 0)
            free(objects[i]);
        else
            slab_cache_free(cache, objects[i]);
    require(active(cache) == before);
}

/* Objects follow each other at the size rounded up to the alignment, which is at least 8. */
static void check_geometry(slab_cache *cache, size_t size, size_t align)
{
    slab_cache_stats stats = figures(cache);
    size_t step = align < 8 ? 8 : align, object_size = (size + step - 1) & ~(step - 1);
    require(stats.object_size == object_size);
    require(stats.objects_per_slab > 0 && stats.objects_per_slab * object_size <= stats.bytes_per_slab);
}

static const size_t sizes[] = {
    1,     2,     3,     7,     8,     9,     12,    15,    17,     24,     31,     33,     40,      63,
    65,    100,   127,   200,   500,   513,   1000,  1023,  2000,   4095,   4096,   4097,   8200,    10000,
    16383, 32767, 32768, 32769, 40000, 65535, 65536, 65537, 100000, 131073, 262144, 500000, MIB - 1, MIB,
};

static void sizes_and_alignments(const char *argument)
{
    (void)argument;
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t align = 1; align <= 4096; align *= 2) {
            const slab_cache_attr attr = {.align = align};
            slab_cache *cache = make_cache("aligned", sizes[i], &attr);
            check_geometry(cache, sizes[i], align);
            check_objects(cache, sizes[i], align);
            drop(cache);
        }
}

static void large_alignments(const char *argument)
{
    (void)argument;
    const size_t some[] = {1, 100, 5000, 65537, 300000};
    for (size_t i = 0; i < COUNT(some); i++)
        for (size_t align = 8192; align <= MIB; align *= 2) {
            const slab_cache_attr attr = {.align = align};
            slab_cache *cache = make_cache("aligned", some[i], &attr);
            void *objects[5];
            for (unsigned n = 0; n < COUNT(objects); n++) {
                objects[n] = take(cache);
                require(is_aligned(objects[n], align));
                pattern_fill(objects[n], some[i], n);
            }
            for (unsigned n = 0; n < COUNT(objects); n++)
                require(pattern_holds(objects[n], some[i], n));
            give_all(cache, objects, COUNT(objects));
            drop(cache);
        }
}

/* Alignment 0: the largest power of two up to 16 that divides the size. */
static void natural_alignment(const char *argument)
{
    (void)argument;
    for (size_t size = 1; size < 300; size++) {
        size_t divides = size & -size, natural = divides < 8 ? 8 : divides < 16 ? divides : 16;
        slab_cache *cache = make_cache("natural", size, NULL);
        check_geometry(cache, size, natural);
        check_objects(cache, size, natural);
        drop(cache);
    }
}

static void cache_line_alignment(const char *argument)
{
    (void)argument;
    enum { LINE = 64 };
    for (size_t size = 1; size <= 200; size++) {
        const slab_cache_attr attr = {.flags = SLAB_CACHELINE_ALIGN};
        slab_cache *cache = make_cache("lines", size, &attr);
        void *objects[MANY];
        take_all(cache, objects, MANY);
        for (size_t i = 0; i < MANY; i++)
            require(size > LINE / 2 ? is_aligned(objects[i], LINE) : (uintptr_t)objects[i] % LINE + size <= LINE);
        require(size > LINE / 2 || figures(cache).object_size <= LINE / 2);
        give_all(cache, objects, MANY);
        check_objects(cache, size, 1);
        drop(cache);
    }
    const slab_cache_attr wider = {.align = 256, .flags = SLAB_CACHELINE_ALIGN};
    slab_cache *cache = make_cache("wider", 20, &wider);
    check_objects(cache, 20, 256);
    drop(cache);
}

static void check_zero(slab_cache *cache, size_t size, unsigned way)
{
    void *objects[MANY];
    size_t count = count_for(size);
    if (way == 0)
        require(slab_cache_alloc_bulk(cache, count, objects) == count);
    for (size_t i = 0; i < count; i++) {
        if (way != 0)
            objects[i] = way == 1 ? slab_cache_alloc(cache) : slab_cache_alloc_node(cache, -1);
        require(objects[i] != NULL && all_zero(objects[i], malloc_usable_size(objects[i])));
        memset(objects[i], 0xee, malloc_usable_size(objects[i]));
    }
    give_all(cache, objects, count);
}

static void zeroed_each_time(const char *argument)
{
    (void)argument;
    const size_t some[] = {1, 7, 24, 100, 1000, 4096, 10000, 40000, 100000, MIB};
    for (size_t i = 0; i < COUNT(some); i++) {
        const slab_cache_attr attr = {.flags = SLAB_ZERO};
        slab_cache *cache = make_cache("zero", some[i], &attr);
        for (unsigned round = 0; round < 9; round++)
            check_zero(cache, some[i], round % 3);
        drop(cache);
    }
}

/* Grown, shrunk and freed as malloc's: the contents come along, and what has moved is free in its cache. */
static void realloc_takes_objects(const char *argument)
{
    (void)argument;
    const size_t to[] = {1, 50, 100, 101, 120, 1000, 40000, 3 * MIB};
    const slab_cache_attr attr = {.flags = SLAB_ACCOUNT};
    slab_cache *cache = make_cache("moved", 100, &attr);
    for (size_t i = 0; i < COUNT(to); i++) {
        char *object = take(cache);
        pattern_fill(object, 100, 5);
        object = realloc(object, to[i]);
        require(object != NULL && malloc_usable_size(object) >= to[i]);
        require(pattern_holds(object, to[i] < 100 ? to[i] : 100, 5));
        require(active(cache) <= 1);
        if (to[i] > 1000)
            require(active(cache) == 0);
        free(object);
        require(active(cache) == 0);
    }
    void *object = take(cache);
    pattern_fill(object, 100, 6);
    require(realloc(object, PTRDIFF_MAX) == NULL && errno == ENOMEM);
    require(pattern_holds(object, 100, 6) && active(cache) == 1);
    slab_cache_free(cache, object);
    drop(cache);
}

/* A freed object of such a cache is as its last owner left it. One of its slab's objects lives on, so that the slab
 * stays whatever becomes of grace periods. */
static void typesafe_objects_are_not_written(const char *argument)
{
    (void)argument;
    enum { FREED = 10 };
    const slab_cache_attr attr = {.flags = SLAB_TYPESAFE_BY_EPOCH};
    slab_cache *cache = make_cache("typesafe", 200, &attr);
    void *first = take(cache), *objects[FREED];
    take_all(cache, objects, FREED);
    for (unsigned i = 0; i < FREED; i++)
        pattern_fill(objects[i], 200, i);
    slab_cache_free(cache, objects[0]);
    free(objects[1]);
    slab_free_nolock(objects[2]);
    slab_free_bulk(1, &objects[3]);
    slab_cache_free_bulk(cache, FREED - 4, &objects[4]);
    for (unsigned i = 0; i < FREED; i++)
        require(pattern_holds(opaque(objects[i]), 200, i));
    slab_cache_shrink(cache);
    for (unsigned i = 0; i < FREED; i++)
        require(pattern_holds(opaque(objects[i]), 200, i));
    require(active(cache) == 1);
    slab_cache_free(cache, first);
    drop(cache);
}

/* -- errno ------------------------------------------------------------------------------------------------------- */

/* The calls pass magazines, depots and fresh slabs on their way. */
static void errno_is_kept(const char *argument)
{
    (void)argument;
    enum { COUNT_ALL = 20000, BULK = 500 };
    static void *objects[COUNT_ALL];
    slab_cache *cache = make_own("errno", 200);
    errno = 4711;
    for (size_t i = 0; i < COUNT_ALL - BULK; i++) {
        objects[i] = i % 2 ? slab_cache_alloc(cache) : slab_cache_alloc_node(cache, -1);
        require(objects[i] != NULL && errno == 4711);
    }
    require(slab_cache_alloc_bulk(cache, BULK, objects + COUNT_ALL - BULK) == BULK && errno == 4711);
    require(slab_cache_alloc_bulk(cache, 0, objects) == 0 && errno == 4711);
    slab_cache_free_bulk(cache, BULK, objects + COUNT_ALL - BULK);
    for (size_t i = 0; i < COUNT_ALL - BULK; i++) {
        if (i % 3 == 0)
            slab_cache_free(cache, objects[i]);
        else if (i % 3 == 1)
            free(objects[i]);
        else
            slab_free_nolock(objects[i]);
        require(errno == 4711);
    }
    drop(cache);
}

/* -- bulk -------------------------------------------------------------------------------------------------------- */

static void check_bulk(slab_cache *cache, size_t count)
{
    size_t bytes = (2 * count + 1) * sizeof(void *);
    void **objects = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(objects != MAP_FAILED);
    objects[count] = &bytes;
    require(slab_cache_alloc_bulk(cache, count, objects) == count);
    require(objects[count] == &bytes && active(cache) == count);
    for (unsigned i = 0; i < count; i++)
        pattern_fill(objects[i], 56, i);
    for (unsigned i = 0; i < count; i++)
        require(pattern_holds(objects[i], 56, i));
    for (size_t i = count; i-- > 0;) { /* NULLs between them */
        objects[2 * i] = objects[i];
        objects[2 * i + 1] = NULL;
    }
    require(mprotect(objects, bytes, PROT_READ) == 0);
    slab_cache_free_bulk(cache, 2 * count, objects);
    require(active(cache) == 0);
    munmap(objects, bytes);
}

static void bulk(const char *argument)
{
    (void)argument;
    const size_t counts[] = {0, 1, 2, 63, 64, 65, 127, 1000, 100000, 64, 1, 0};
    const slab_cache_attr attrs[] = {{0}, {.flags = SLAB_ACCOUNT}, {.magazine_rounds = 1}, {.magazine_rounds = 64}};
    for (size_t a = 0; a < COUNT(attrs); a++) {
        slab_cache *cache = make_cache("bulk", 56, &attrs[a]);
        for (size_t i = 0; i < COUNT(counts); i++)
            check_bulk(cache, counts[i]);
        slab_cache_free_bulk(cache, 0, NULL);
        drop(cache);
    }
}

static void bulk_without_memory(const char *argument)
{
    (void)argument;
    enum { COUNT_ALL = 4096 };
    static void *objects[COUNT_ALL];
    slab_cache *cache = make_own("bulk", MIB);
    slab_cache_free(cache, take(cache));
    const struct rlimit limit = {2048 * MIB, 2048 * MIB};
    require(setrlimit(RLIMIT_AS, &limit) == 0);
    for (unsigned round = 0; round < 3; round++) {
        errno = 0;
        require(slab_cache_alloc_bulk(cache, COUNT_ALL, objects) == 0 && errno == ENOMEM);
        require(active(cache) == 0);
        require(slab_cache_alloc_bulk(cache, 100, objects) == 100);
        slab_cache_free_bulk(cache, 100, objects);
    }
    drop(cache);
}

/* -- nodes ------------------------------------------------------------------------------------------------------- */

static void nodes(const char *argument)
{
    (void)argument;
    int count = (int)process_figures().nodes;
    const char *options = getenv("SLABMALLOC_OPTIONS");
    require(options == NULL || strstr(options, "topology=2x2") == NULL || count == 2);
    const int bad[] = {count, count + 1, -2, INT_MAX, INT_MIN, 1 << 16};
    const slab_cache_attr attrs[] = {{0}, {.flags = SLAB_ZERO}, {.flags = SLAB_ACCOUNT}, {.ctor = constructor}};
    require(count >= 1);
    for (size_t a = 0; a < COUNT(attrs); a++) {
        slab_cache *cache = make_cache("nodes", 72, &attrs[a]);
        for (int node = -1; node < count; node++) {
            void *objects[MANY];
            for (unsigned i = 0; i < MANY; i++) {
                objects[i] = slab_cache_alloc_node(cache, node);
                require(objects[i] != NULL);
                pattern_fill(objects[i], 72, i);
            }
            for (unsigned i = 0; i < MANY; i++)
                require(pattern_holds(objects[i], 72, i));
            give_all(cache, objects, MANY);
        }
        for (size_t i = 0; i < COUNT(bad); i++) {
            errno = 0;
            require(slab_cache_alloc_node(cache, bad[i]) == NULL && errno == EINVAL);
        }
        require(active(cache) == 0);
        drop(cache);
    }
}

/* A simulated machine of two nodes, which checked builds have. */
static void test_two_nodes(void **state)
{
    (void)state;
    if (!library_is_checked()) {
        print_message("skipped: only checked builds simulate nodes\n");
        skip();
    }
    assert_role_succeeds("nodes", &(struct launch){.environment = {"SLABMALLOC_OPTIONS=topology=2x2"}});
}

int main(int argc, char **argv)
{
    static const struct role scenarios[] = {
        {"a_life", a_life},
        {"bad_arguments", bad_arguments},
        {"arguments_at_the_border", arguments_at_the_border},
        {"names", names},
        {"sizes_and_alignments", sizes_and_alignments},
        {"large_alignments", large_alignments},
        {"natural_alignment", natural_alignment},
        {"cache_line_alignment", cache_line_alignment},
        {"zeroed_each_time", zeroed_each_time},
        {"realloc_takes_objects", realloc_takes_objects},
        {"typesafe_objects_are_not_written", typesafe_objects_are_not_written},
        {"errno_is_kept", errno_is_kept},
        {"bulk", bulk},
        {"bulk_without_memory", bulk_without_memory},
        {"nodes", nodes},
    };
    const struct CMUnitTest more[] = {cmocka_unit_test(test_two_nodes)};
    int failed = run_scenarios("caches", scenarios, COUNT(scenarios), argc, argv);
    return argc > 1 ? failed : failed + cmocka_run_group_tests(more, NULL, NULL);
}
