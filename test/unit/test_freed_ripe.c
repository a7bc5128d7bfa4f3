/* src/thread/freed.h: the look at the last few frees, of objects without a key, and at retired ones that are ripe. */
#include "unit.h"

#include "places.h"

/* -- objects without a key --------------------------------------------------------------------------------------- */

static void construct(void *object, void *context)
{
    (void)context;
    memset(object, 0x5a, 8);
}

static const struct {
    size_t size;
    struct slab_cache_attr attr;
} unkeyed[] = {
    {8, {.flags = SLAB_NO_MERGE}},
    {SIZE, {.flags = SLAB_TYPESAFE_BY_EPOCH}},
    {SIZE, {.ctor = construct}},
};

enum { LAST = 4, FREED = LAST + 3 };

static void *freed[FREED];

static char *misused;

static void check_freed(void)
{
    announce("test", misused, slm_double_free);
    slm_freed_check_offset(misused, "test", slm_double_free);
}

static void check_own(void *object)
{
    require(slm_freed_check(object, "test", slm_double_free) == cache);
}

static void try_unkeyed(void)
{
    for (size_t i = 0; i < FREED; i++)
        memset(freed[i] = alloc(), 0xa5, cache->shape.object_size);
    for (size_t i = 0; i < FREED; i++) {
        assert_live(freed[i]);
        slm_cache_object_free(name, freed[i]);
    }
    for (size_t i = 0; i < FREED; i++) {
        misused = freed[i];
        if (i < FREED - LAST)
            assert_live(misused);
        else
            assert_child_aborts_as_announced(check_freed);
        tell(&helper, check_own, misused); /* another thread */
        for (size_t at = 0; at < cache->shape.object_size; at++)
            assert_int_equal((unsigned char)misused[at], 0xa5);
    }
    for (size_t i = FREED; i > 0; i--) { /* again, the last first; no more than there are is looked at */
        assert_ptr_equal(alloc(), freed[i - 1]);
        assert_live(freed[i - 1]);
    }
    for (size_t i = 0; i < FREED; i++)
        slm_cache_object_free(name, freed[i]);
}

static void of_objects_without_a_key_the_last_four_are_found(void **state)
{
    (void)state;
    start_live_helper(&helper);
    for (size_t i = 0; i < COUNT(unkeyed); i++) {
        create(unkeyed[i].size, &unkeyed[i].attr);
        assert_false(cache->shape.keyed);
        try_unkeyed();
        assert_int_equal(slab_cache_destroy(name), 0);
    }
    end_helper(&helper);
}

/* -- retired objects --------------------------------------------------------------------------------------------- */

static void *ripe[MANY];

static void take_ripe(void)
{
    for (size_t i = 0; i < MANY; i++)
        memset(ripe[i] = alloc(), (int)i, SIZE);
}

static void free_ripe(void)
{
    for (size_t i = 0; i < MANY; i++) {
        slm_key_clear(ripe[i]);
        slm_cache_object_free(name, ripe[i]);
    }
}

/* What imitates the key is no free object. */
static void ripe_objects_get_their_keys(void **state)
{
    (void)state;
    take_ripe();
    imitate(ripe[0]);
    imitate(ripe[MANY - 1]);
    slm_freed_ripen(cache, ripe, MANY);
    for (size_t i = 0; i < MANY; i++) {
        const unsigned char *bytes = ripe[i];
        assert_true(has_key(ripe[i]));
        for (size_t at = 0; at < SIZE; at++)
            assert_true(bytes[at] == i || (at >= 8 && at < 16));
    }
    free_ripe();
}

static void others_are_left_as_they_are(void **state)
{
    (void)state;
    uint64_t words[] = {1, 2};
    void *objects[] = {words};
    slm_freed_ripen(NULL, objects, 1);
    create(SIZE, &unkeyed[1].attr);
    void *object = alloc();
    memset(object, 0x5a, SIZE);
    slm_freed_ripen(cache, &object, 1);
    for (size_t at = 0; at < SIZE; at++)
        assert_int_equal(((unsigned char *)object)[at], 0x5a);
    slm_cache_object_free(name, object);
    assert_int_equal(slab_cache_destroy(name), 0);
    assert_true(words[0] == 1 && words[1] == 2);
}

static size_t wrong_at;

static void ripen_with_free_one(void)
{
    take_ripe();
    ripe[wrong_at] = put_there();
    announce("slab_free_deferred", ripe[wrong_at], slm_double_free);
    slm_freed_ripen(cache, ripe, MANY);
}

static void ripen_with_twin(void)
{
    take_ripe();
    ripe[MANY - 1] = ripe[wrong_at];
    announce("slab_free_deferred", ripe[wrong_at], slm_double_free);
    slm_freed_ripen(cache, ripe, MANY);
}

static void ripen_with_pointer_into_object(void)
{
    take_ripe();
    ripe[wrong_at] = (char *)ripe[wrong_at] + 16;
    imitate(ripe[wrong_at]);
    announce("slab_free_deferred", ripe[wrong_at], "not the start of an object");
    slm_freed_ripen(cache, ripe, MANY);
}

static void try_ripening(void)
{
    wrong_at = (wrong_at + 7) % (MANY - 1);
    assert_child_aborts_as_announced(ripen_with_free_one);
}

static void ripe_objects_that_were_freed_are_found(void **state)
{
    (void)state;
    for_each_place(try_ripening);
    for (wrong_at = 0; wrong_at < MANY - 1; wrong_at += 19) {
        assert_child_aborts_as_announced(ripen_with_twin);
        assert_child_aborts_as_announced(ripen_with_pointer_into_object);
    }
}

#define cache_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_objects_without_a_key_the_last_four_are_found),
        cache_test(ripe_objects_get_their_keys),
        cmocka_unit_test(others_are_left_as_they_are),
        cache_test(ripe_objects_that_were_freed_are_found),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
