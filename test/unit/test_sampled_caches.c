/* src/heap/sampled.h: named caches of every kind. An object that is sampled is what any other is, whatever call frees
 * it; limits and figures hold. */
#include "sampled.h"

static unsigned constructed, destructed;

static void construct(void *object, void *context)
{
    (void)context;
    constructed++;
    memset(object, 3, 200);
    free(malloc(50)); /* it may call anything */
}

static void destruct(void *object, void *context)
{
    (void)context;
    require(*(char *)object == 3);
    destructed++;
}

static const struct kind {
    const char *name;
    size_t size;
    slab_cache_attr attr;
} kinds[] = {
    {"plain", 200, {.flags = SLAB_NO_MERGE}},
    {"merged", 48, {0}},
    {"zero", 200, {.flags = SLAB_ZERO | SLAB_NO_MERGE}},
    {"lines", 200, {.flags = SLAB_CACHELINE_ALIGN | SLAB_NO_MERGE}},
    {"tiny", 8, {.flags = SLAB_NO_MERGE}},
    {"long", 200000, {.flags = SLAB_NO_MERGE}},
    {"pages", 4096, {.align = 4096, .flags = SLAB_NO_MERGE}},
    {"accounted", 200, {.flags = SLAB_ACCOUNT}},
    {"type-safe", 200, {.flags = SLAB_TYPESAFE_BY_EPOCH}},
    {"constructed", 200, {.ctor = construct, .dtor = destruct}},
    {"both", 200, {.ctor = construct, .dtor = destruct, .flags = SLAB_TYPESAFE_BY_EPOCH}},
    {"limited", 200, {.limit_bytes = 20000}},
    {"limited constructed", 200, {.limit_bytes = 20000, .ctor = construct, .dtor = destruct}},
};

static uint64_t active(slab_cache *cache)
{
    slab_cache_stats stats;
    require(slab_cache_get_stats(cache, &stats) == 0);
    return stats.active_objects;
}

static void *check_cached(const struct kind *kind, void *object)
{
    require(object != NULL && is_sampled(object));
    const struct slm_sample *sample = slm_samples_at(index_of(object));
    require(sample->asked == kind->size && sample->given >= kind->size);
    require(!(kind->attr.flags & SLAB_ZERO) || all_zero(object, kind->size));
    require(!kind->attr.ctor || all_zero((char *)memset(object, *(char *)object - 3, 1), 1));
    memset(object, kind->attr.ctor ? 3 : 9, kind->size);
    return object;
}

static void release(slab_cache *cache, void *object, void (*how)(slab_cache *cache, void *object))
{
    const uint32_t index = index_of(object);
    how(cache, object);
    check_ended(index);
}

static void by_free(slab_cache *cache, void *object)
{
    (void)cache;
    free(object);
}

static void by_bulk(slab_cache *cache, void *object)
{
    void *const objects[] = {NULL, object};
    slab_cache_free_bulk(cache, 2, objects);
}

static void by_nolock(slab_cache *cache, void *object)
{
    (void)cache;
    slab_free_nolock(object);
}

static void by_deferring(slab_cache *cache, void *object)
{
    (void)cache;
    slab_free_deferred(object);
}

static void one_kind(const struct kind *kind)
{
    static void (*const frees[])(slab_cache *, void *) = {slab_cache_free, by_free, by_bulk, by_nolock, by_deferring};
    constructed = destructed = 0;
    slab_cache *cache = slab_cache_create(kind->name, kind->size, &kind->attr);
    require(cache != NULL);
    const uint64_t before = active(cache);
    for (unsigned i = 0; i < 5 * COUNT(frees); i++) {
        void *bulk[3];
        due();
        void *first = check_cached(kind, slab_cache_alloc(cache));
        set_mean(MEAN);
        void *plain = slab_cache_alloc(cache);
        due();
        void *second = check_cached(kind, slab_cache_alloc_node(cache, (int)last_node()));
        require(slm_node_of(second) == last_node());
        due();
        require(slab_cache_alloc_bulk(cache, 3, bulk) == 3);
        check_cached(kind, bulk[0]);
        require(index_of(plain) == 0);
        require(active(cache) == before + 6);
        release(cache, first, frees[i % COUNT(frees)]);
        require(active(cache) == before + 5);
        release(cache, second, frees[(i + 1) % COUNT(frees)]);
        slab_cache_free_bulk(cache, 3, bulk);
        slab_cache_free(cache, plain);
        require(active(cache) == before);
    }
    slab_epoch_barrier();
    slab_cache_shrink(cache);
    slab_cache_stats stats;
    require(slab_cache_get_stats(cache, &stats) == 0);
    require(stats.active_objects == before);
    for (unsigned i = 0; i < slm_nodes; i++) {
        const struct slm_depot *depot = slm_cache_sampled_depot(cache_of(cache), i);
        require(load_relaxed(&depot->objects_out) == 0);
    }
    require(slab_cache_destroy(cache) == 0);
    require(constructed == destructed);
}

static void every_kind_of_cache(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(kinds); i++)
        one_kind(&kinds[i]);
}

/* Live objects that are sampled keep a cache, as others do; and what is created later uses its depots again. */
static void a_cache_is_destroyed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 300; i++) {
        slab_cache *cache = slab_cache_create("to be destroyed", 64 + i % 5 * 64, &kinds[0].attr);
        due();
        void *object = slab_cache_alloc(cache);
        require(is_sampled(object));
        if (i == 0)
            require(slab_cache_destroy(cache) == -1 && errno == EBUSY && is_sampled(object));
        slab_cache_free(cache, object);
        require(slab_cache_destroy(cache) == 0);
    }
}

/* At its limit a cache has as many as without samples, and those that are due are sampled, though all rounds that are
 * free lie in the thread's magazine. */
static void at_the_limit(const slab_cache_attr *attr)
{
    enum { MOST = 1600 };
    static void *objects[MOST + 1];
    slab_cache *cache = slab_cache_create("limited", 256, attr);
    const uint64_t lost = load_relaxed(&slm_sample_counts.losses);
    for (unsigned round = 0; round < 20; round++) {
        set_mean(0);
        for (unsigned i = 0; i < MOST; i++)
            require((objects[i] = slab_cache_alloc(cache)) != NULL);
        for (unsigned i = 0; i < 30; i++)
            slab_cache_free(cache, objects[i]);
        for (unsigned i = 0; i < 30; i++) {
            due();
            require((objects[i] = slab_cache_alloc(cache)) != NULL && is_sampled(objects[i]));
        }
        due();
        require(slab_cache_alloc(cache) == NULL && errno == ENOMEM && active(cache) == MOST);
        for (unsigned i = 0; i < MOST; i++)
            slab_cache_free(cache, objects[(i * 7) % MOST]);
        require(active(cache) == 0);
    }
    require(load_relaxed(&slm_sample_counts.losses) - lost == 20); /* the call that was refused */
    require(slab_cache_destroy(cache) == 0);
}

static void a_limited_cache(void **state)
{
    (void)state;
    const slab_cache_attr plain = {.limit_bytes = 1600 * 256, .magazine_rounds = 100},
                          made = {.limit_bytes = 1600 * 256, .ctor = construct, .dtor = destruct};
    at_the_limit(&plain);
    at_the_limit(&made);
}

/* Of one call any may be sampled. */
static void bulk_calls(void **state)
{
    (void)state;
    slab_cache *cache = slab_cache_create("bulk", 1000, &kinds[0].attr);
    void *objects[500];
    uint64_t sampled = 0;
    store_relaxed(&slm_settings.sample_bytes, 4000);
    store_relaxed(&slm_interval_sequence, 5);
    slm_tls.sample_left = 0;
    for (unsigned round = 0; round < 100; round++) {
        require(slab_cache_alloc_bulk(cache, COUNT(objects), objects) == COUNT(objects));
        require(active(cache) == COUNT(objects));
        for (unsigned i = 0; i < COUNT(objects); i++) {
            sampled += is_sampled(objects[i]);
            memset(objects[i], (int)i, 1000);
        }
        for (unsigned i = 0; i < COUNT(objects); i++)
            require(*(unsigned char *)objects[i] == (unsigned char)i);
        slab_cache_free_bulk(cache, COUNT(objects), objects);
        require(active(cache) == 0);
    }
    assert_in_range(sampled, 10600,
                    11500); /* 50,000 with the probability 1 - exp(-1/4): 11,060, and four errors of 93 */
    require(slab_cache_destroy(cache) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_kind_of_cache, fresh),
        cmocka_unit_test_setup(a_cache_is_destroyed, fresh),
        cmocka_unit_test_setup(a_limited_cache, fresh),
        cmocka_unit_test_setup(bulk_calls, fresh),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
