/* src/depot/join.h: what a class has free serves larger ones. Here malloc makes the objects. */
#include "joined.h"

#include "depot/join.h"
#include "heap/free.h"
#include "heap/resize.h"
#include "page/page_map.h"
#include "thread/slots.h"
#include "thread/freed.h"

enum { MANY = 400 };

static struct lender lender;
static void *objects[MANY];

static const struct {
    size_t size, piece;
} pairs[] = {{48, 16}, {512, 256}, {768, 256}, {1024, 256}, {1152, 192}, {4096, 1024}, {8192, 2048}, {32768, 8192}};

static struct slm_depot *depot_of(size_t size)
{
    return &slm_class_cache(slm_class_of_size(size))->first;
}

/* Every call sees one object of its class, aligned as others are, and no overlap. */
static void they_are_objects_of_their_class(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(pairs); i++) {
        const size_t size = pairs[i].size;
        lender_make(&lender, pairs[i].piece);
        const uint64_t out = load_relaxed(&depot_of(size)->joined_out);
        const unsigned n = make_joined(size, objects, MANY);
        assert_true(n > 5);
        assert_true(load_relaxed(&depot_of(size)->joined_out) >= out + n);
        for (unsigned j = 0; j < MANY; j++)
            memset(objects[j], (int)j, size);
        for (unsigned j = 0; j < n; j++) {
            require((uintptr_t)objects[j] % (size & -size) == 0);
            require(malloc_usable_size(objects[j]) == size);
            require(slm_cache_of_object(objects[j]) == slm_class_cache(slm_class_of_size(size)));
            require(slm_cache_of_object((char *)objects[j] + size - 1) == slm_cache_of_object(objects[j]));
            require(slm_map_offset_at(objects[j]) == SLM_MAP_HIDDEN);
        }
        for (unsigned j = 0; j < MANY; j++)
            for (size_t at = 0; at < size; at++)
                require(((unsigned char *)objects[j])[at] == (unsigned char)j);
        for (unsigned j = 0; j < lender.count; j++)
            for (size_t at = 16; at < pairs[i].piece; at++)
                require(((unsigned char *)lender.live[j])[at] == 0x11);
        for (unsigned j = 0; j < MANY; j++)
            free(objects[j]);
        malloc_trim(0);
        assert_int_equal(load_relaxed(&depot_of(size)->joined_out), 0);
        lender_free(&lender);
        malloc_trim(0);
    }
}

/* The depots count what is out of them, and what their slabs have lent. */
static void both_classes_are_counted(void **state)
{
    (void)state;
    lender_make(&lender, 256);
    struct slm_depot *small = depot_of(256), *large = depot_of(1024);
    const uint64_t small_out = load_relaxed(&small->objects_out), large_out = load_relaxed(&large->objects_out);
    void *joined[20];
    for (unsigned i = 0; i < COUNT(joined);) {
        joined[i] = malloc(1024);
        i += is_joined(joined[i]);
    }
    assert_int_equal(load_relaxed(&small->objects_out), small_out);
    assert_true(load_relaxed(&large->objects_out) >= large_out + COUNT(joined));
    assert_int_equal(load_relaxed(&small->lent), load_relaxed(&large->joined_out) * 4);
    for (unsigned i = 0; i < COUNT(joined); i++)
        free(joined[i]);
    malloc_trim(0);
    assert_int_equal(load_relaxed(&small->lent), 0);
    assert_int_equal(load_relaxed(&large->joined_out), 0);
    assert_int_equal(load_relaxed(&small->objects_out), small_out);
    lender_free(&lender);
    malloc_trim(0);
}

/* Hot paths work again on a slab's own objects once there are no joined ones, and all are out. */
static void a_slab_that_is_full_again_is_hot_again(void **state)
{
    (void)state;
    static void *again[LENDER_MOST];
    lender_make(&lender, 512);
    const unsigned n = make_joined(1024, objects, 40);
    assert_true(n > 5);
    void *one = objects[0];
    const struct slm_slab *slab = slm_slab_of(one);
    for (unsigned i = 1; i < 40; i++)
        free(objects[i]);
    malloc_trim(0);
    unsigned made = 0;
    while (load_relaxed(&slab->free) > 0)
        again[made++] = malloc(512);
    assert_int_equal(slm_map_offset_at(one), SLM_MAP_HIDDEN); /* it is still there */
    assert_int_equal(malloc_usable_size(one), 1024);
    free(one);
    malloc_trim(0);
    while (load_relaxed(&slab->free) > 0)
        again[made++] = malloc(512);
    malloc_trim(0);
    while (load_relaxed(&slab->free) > 0)
        again[made++] = malloc(512);
    assert_int_equal(slm_map_offset_at(one), slm_slot_offset_of(slm_class_of_size(512)));
    while (made > 0)
        free(again[--made]);
    lender_free(&lender);
    malloc_trim(0);
}

/* A class that is about to use what it has free keeps it. */
static void who_takes_does_not_lend(void **state)
{
    (void)state;
    static void *again[LENDER_MOST];
    lender_make(&lender, 256);
    assert_true(slm_depot_falls(depot_of(256)));
    unsigned taken = 0;
    while (slm_depot_falls(depot_of(256)))
        again[taken++] = malloc(256);
    for (unsigned i = 0; i < 40; i++)
        require((objects[i] = malloc(1024)) && !is_joined(objects[i]));
    for (unsigned i = 0; i < 40; i++)
        free(objects[i]);
    while (taken > 0)
        free(again[--taken]);
    lender_free(&lender);
    malloc_trim(0);
}

/* Neither a class that only grows, nor one whose neighbours have a little free here and there, searches. */
static void growth_alone_joins_nothing(void **state)
{
    (void)state;
    static void *many[5000];
    use_megabytes();
    for (unsigned i = 0; i < COUNT(many); i++) {
        many[i] = malloc(64 + i % 900);
        require(!is_joined(many[i]));
    }
    for (unsigned i = 0; i < COUNT(many); i++)
        free(many[i]);
    malloc_trim(0);
}

/* Named caches keep to themselves. */
static void named_caches_neither_lend_nor_borrow(void **state)
{
    (void)state;
    static void *mine[2000];
    struct slab_cache *named = slab_cache_create("pieces", 256, NULL);
    lender_make(&lender, 128);
    for (unsigned i = 0; i < COUNT(mine); i++)
        require(!is_joined(mine[i] = slab_cache_alloc(named)));
    for (unsigned i = 0; i < COUNT(mine); i++)
        if (i % 8 != 0)
            slab_cache_free(named, mine[i]);
    malloc_trim(0);
    for (unsigned i = 0; i < MANY; i++) {
        objects[i] = malloc(512);
        require(slm_cache_of_slab(slm_slab_of(objects[i]), objects[i])->id == slm_class_of_size(512));
        require(((struct slm_depot *)load_relaxed(&slm_slab_of(objects[i])->owner))->shape !=
                ((struct slm_depot *)load_relaxed(&slm_slab_of(mine[0])->owner))->shape);
    }
    for (unsigned i = 0; i < MANY; i++)
        free(objects[i]);
    for (unsigned i = 0; i < COUNT(mine); i += 8)
        slab_cache_free(named, mine[i]);
    lender_free(&lender);
    malloc_trim(0);
    assert_int_equal(slab_cache_destroy(named), 0);
}

/* What it would take of the library's code costs more than it saves. */
static void a_small_process_joins_nothing(void)
{
    static void *pieces[4 * SLM_GRANULE / 256];
    for (unsigned i = 0; i < COUNT(pieces); i++)
        pieces[i] = malloc(256);
    for (unsigned i = 0; i < COUNT(pieces); i++)
        if (i % 8 != 0)
            free(pieces[i]);
    malloc_trim(0);
    for (unsigned i = 0; i < MANY; i++)
        require(!is_joined(malloc(1024)));
}

static void small_processes_do_without(void **state)
{
    (void)state;
    assert_child_silent(a_small_process_joins_nothing);
}

/* What a signal handler gives back goes home with all its pieces. */
static void all_of_it_goes_home_without_a_lock(void **state)
{
    (void)state;
    lender_make(&lender, 256);
    assert_true(make_joined(1024, objects, 10) > 5);
    struct slm_slab *slab = slm_slab_of(objects[0]);
    const int32_t before = load_relaxed(&slab->free);
    slm_free_nolock(objects[0]);
    assert_int_equal(load_relaxed(&slab->free), before + 4);
    for (unsigned i = 1; i < 10; i++)
        free(objects[i]);
    lender_free(&lender);
    malloc_trim(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_processes_do_without),
        cmocka_unit_test(who_takes_does_not_lend),
        cmocka_unit_test(growth_alone_joins_nothing),
        cmocka_unit_test(they_are_objects_of_their_class),
        cmocka_unit_test(both_classes_are_counted),
        cmocka_unit_test(a_slab_that_is_full_again_is_hot_again),
        cmocka_unit_test(named_caches_neither_lend_nor_borrow),
        cmocka_unit_test(all_of_it_goes_home_without_a_lock),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
