/* src/heap/slow.h: slabs that threads share. A thread whose first free of a class is that of another thread's object
 * gives it back to its slab, and gets objects that lie in other lines. One thread runs at a time. */
#include "unit.h"

#include <malloc.h>

#include "depot/cache.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap_check.h"

enum { LINE = 64, GIVEN = 64 };

static void *given[GIVEN], *made;
static size_t size;
static bool had_others; /* the thread had to do with other classes before */

static void give(size_t of_size)
{
    size = of_size;
    for (unsigned i = 0; i < GIVEN; i++)
        given[i] = slm_alloc(size);
}

static void take_back(unsigned first, unsigned end)
{
    for (unsigned i = first; i < end; i++)
        slm_free(given[i]), given[i] = NULL;
}

static void *replace_one(void *number)
{
    void **object = &given[(uintptr_t)number], *other = had_others ? slm_alloc(1000) : NULL;
    slm_free(*object);
    *object = NULL;
    made = slm_alloc(size);
    for (unsigned i = 0; i < GIVEN; i++)
        assert_true((uintptr_t)given[i] / LINE != (uintptr_t)made / LINE);
    slm_free(made);
    slm_free(other);
    return NULL;
}

static void *make_and_replace_one(void *number)
{
    void *own = slm_alloc(size), **object = &given[(uintptr_t)number];
    slm_free(*object);
    *object = slm_alloc(size);
    slm_free(own);
    return NULL;
}

static bool is_shared(const void *object)
{
    const bool shared = slm_partial_is_shared(slm_slab_of(object));
    assert_int_equal(slm_map_offset_at(object) <= SLM_MAP_HIDDEN, shared);
    return shared;
}

/* Of a class each, as a depot has one shared slab at a time. */
static void threads_get_lines_of_their_own(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 2; turn++) {
        had_others = turn == 1;
        give(turn == 0 ? 16 : 32);
        on_threads(1, replace_one);
        assert_true(is_shared(given[1]));
        given[0] = slm_alloc(size);
        on_threads(1, replace_one);
        take_back(1, GIVEN);
        check_heap();
    }
}

/* Whoever frees them. When few are left it is a slab as any other. */
static void shared_slabs_get_their_objects_back(void **state)
{
    (void)state;
    give(48);
    struct slm_slab *slab = slm_slab_of(given[1]);
    on_threads(1, replace_one);
    for (unsigned i = 1; i < GIVEN; i++) {
        void *object = given[i];
        const bool shared = is_shared(object);
        take_back(i, i + 1);
        if (shared && slm_slab_of(object) == slab)
            assert_true(slm_slab_has(slab, object));
        assert_true(slm_partial_is_shared(slab) || i > GIVEN / 2);
    }
    malloc_trim(0); /* those that were not handed out, too */
    assert_false(slm_partial_is_shared(slab));
    check_heap();
}

static void not_where_a_thread_makes_its_own_first(void **state)
{
    (void)state;
    give(16);
    on_threads(1, make_and_replace_one);
    assert_false(is_shared(given[1]));
    take_back(0, GIVEN);
}

static void nor_where_an_object_fills_its_lines(void **state)
{
    (void)state;
    for (size_t lines = 1; lines < 4; lines++) {
        give(lines * LINE);
        had_others = false;
        slm_free(given[0]);
        given[0] = given[1];
        on_threads(1, make_and_replace_one);
        assert_false(is_shared(given[2]));
        given[1] = NULL;
        take_back(0, GIVEN);
    }
}

static void *free_first(void *nothing)
{
    take_back(0, GIVEN);
    return nothing;
}

/* Threads that come for one free each would make one after the other. */
static void not_for_ever_new_ones(void **state)
{
    (void)state;
    unsigned times = 0;
    for (unsigned i = 0; i < 200; i++) {
        give(32);
        on_threads(1, free_first);
        slm_for_each_depot (depot, slm_class_cache(slm_class_of_size(32)))
            times = slm_max(times, (unsigned)depot->shared_before);
    }
    assert_in_range(times, 1, 63);
    check_heap();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_get_lines_of_their_own),
        cmocka_unit_test(shared_slabs_get_their_objects_back),
        cmocka_unit_test(not_where_a_thread_makes_its_own_first),
        cmocka_unit_test(nor_where_an_object_fills_its_lines),
        cmocka_unit_test(not_for_ever_new_ones),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
