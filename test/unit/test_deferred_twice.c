/* src/heap/deferred.h: objects that are retired though they are free, or twice. There is no worker. */
#include "retiring.h"

static int begin(void **state)
{
    slm_options.worker = 0;
    return begin_retiring(state);
}

static const struct slab_cache_attr typesafe = {.flags = SLAB_TYPESAFE_BY_EPOCH};

static const struct slab_cache_attr *retired_attr;

/* A reader is inside, and outside again before the end. */
static void make_retired(void **objects, unsigned n)
{
    make_cache(retired_attr);
    start_reader();
    begin_reading();
    for (unsigned i = 0; i < n; i++) {
        objects[i] = object_of_cache();
        slm_defer(objects[i], NULL);
    }
}

static void announce(const void *object)
{
    dprintf(STDERR_FILENO,
            "slabmalloc: slab_free_deferred(" POINTER "): double free of an object of cache retired (thread %d)\n",
            pointer_of(object), (int)gettid());
}

static void retire_what_is_free(void)
{
    void *objects[4], *object;
    make_retired(objects, COUNT(objects));
    object = object_of_cache();
    slm_cache_object_free(name, object);
    announce(object);
    slm_defer(object, NULL);
}

static void retire_what_is_free_with_head(void)
{
    void *objects[4], *object;
    make_retired(objects, COUNT(objects));
    object = object_of_cache();
    slm_cache_object_free(name, object);
    announce(object);
    slm_defer(object, head_in(object));
}

static void what_is_free_cannot_be_retired(void **state)
{
    (void)state;
    retired_attr = &own_slabs;
    assert_child_aborts_as_announced(retire_what_is_free);
    assert_child_aborts_as_announced(retire_what_is_free_with_head);
    retired_attr = &typesafe;
    assert_child_aborts_as_announced(retire_what_is_free);
}

static void retire_twice(void)
{
    void *objects[20];
    make_retired(objects, COUNT(objects));
    slm_defer(objects[19], NULL);
    defer_some(3);
    end_reading();
    announce(objects[19]);
    slm_deferred_barrier();
}

/* The first time is in an older magazine. */
static void retire_twice_with_others_between(void)
{
    void *objects[20];
    make_retired(objects, COUNT(objects));
    slm_defer(objects[1], NULL);
    end_reading();
    announce(objects[1]);
    slm_deferred_barrier();
}

static void retire_again_elsewhere(void *object)
{
    slm_defer(object, NULL);
}

static void retire_on_two_threads(void)
{
    void *objects[20];
    make_retired(objects, COUNT(objects));
    tell(&reader, retire_again_elsewhere, objects[11]);
    end_reading();
    announce(objects[11]);
    slm_deferred_barrier();
}

static void free_what_is_retired(void)
{
    void *objects[20];
    make_retired(objects, COUNT(objects));
    slm_cache_object_free(name, objects[11]);
    end_reading();
    announce(objects[11]);
    slm_deferred_barrier();
}

/* Not before: readers may look at them. */
static void what_is_retired_twice_is_seen_when_it_is_ripe(void **state)
{
    (void)state;
    retired_attr = &own_slabs;
    assert_child_aborts_as_announced(retire_twice);
    assert_child_aborts_as_announced(retire_twice_with_others_between);
    assert_child_aborts_as_announced(retire_on_two_threads);
    assert_child_aborts_as_announced(free_what_is_retired);
    retired_attr = &typesafe;
    assert_child_aborts_as_announced(retire_twice);
}

static void nothing_is_written_to_what_is_retired(void **state)
{
    (void)state;
    unsigned char *objects[50];
    begin_reading();
    for (size_t i = 0; i < COUNT(objects); i++)
        memset(objects[i] = object_of_cache(), (int)i, SIZE);
    for (size_t i = 0; i < COUNT(objects); i++)
        slm_defer(objects[i], NULL);
    slm_deferred_poll();
    for (size_t i = 0; i < COUNT(objects); i++)
        for (size_t at = 0; at < SIZE; at++)
            assert_int_equal(objects[i][at], i);
    end_reading();
    slm_deferred_barrier();
    for (size_t i = 0; i < COUNT(objects); i++)
        assert_true(slm_key_is_set(objects[i], slm_key_of(objects[i])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_free_cannot_be_retired),
        cmocka_unit_test(what_is_retired_twice_is_seen_when_it_is_ripe),
        cmocka_unit_test_setup_teardown(nothing_is_written_to_what_is_retired, fresh_cache, all_is_free),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
