/* src/heap/slow.h: slabs that threads share. A thread whose first free of a class is that of another thread's object
 * gives it back to its slab, and gets objects that lie in other lines. One thread runs at a time. */
#include "unit.h"

#include <malloc.h>

#include "depot/cache.h"
#include "heap/alloc.h"
#include "heap/free.h"
#include "heap_check.h"
#include "process/legacy.h"
#include "thread/thread_list.h"

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

static void threads_get_lines_of_their_own(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 2; turn++) {
        had_others = turn == 1;
        slm_legacy_bury(true);
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

/* What a thread does after its first free says that further slabs are shared, too; not those of its own objects. */
enum { SPREAD = 3, MANY = SPREAD * (int)SLM_GRANULE / 16 };
static void *many[MANY];

static void free_many(unsigned at)
{
    slm_free(many[at]);
    many[at] = NULL;
}

static void *free_of_several_slabs(void *nothing)
{
    void *own = slm_alloc(1000); /* it has a block */
    for (unsigned i = 0; i < SPREAD; i++) {
        const unsigned at = i * (MANY / SPREAD) + 1;
        free_many(at); /* the first one's slab is shared at once, others' if one of a shared slab came before */
        assert_true(is_shared(many[at + 1]));
    }
    slm_free(own);
    void *first = slm_alloc(16), *second = slm_alloc(16);
    slm_free(first);
    assert_false(is_shared(second));
    slm_free(second);
    return nothing;
}

static void further_slabs_are_shared_as_well(void **state)
{
    (void)state;
    for (unsigned i = 0; i < MANY; i++)
        many[i] = slm_alloc(16);
    on_threads(1, free_of_several_slabs);
    for (unsigned i = 0; i < MANY; i++)
        slm_free(many[i]);
    check_heap();
}

static void *free_first(void *nothing)
{
    take_back(0, GIVEN);
    return nothing;
}

static unsigned shared_before(size_t of_size)
{
    unsigned times = 0;
    slm_for_each_depot (depot, slm_class_cache(slm_class_of_size(of_size)))
        times += depot->shared_before;
    return times;
}

/* Threads that come for one free each would make one after the other. */
static void not_for_ever_new_ones(void **state)
{
    (void)state;
    const unsigned before = shared_before(32);
    for (unsigned i = 0; i < 200; i++) {
        give(32);
        on_threads(1, free_first);
    }
    assert_in_range(shared_before(32) - before, 1, 63);
    check_heap();
}

static void *free_one(void *nothing)
{
    take_back(0, 1);
    return nothing;
}

/* An heir has what others had before it: its first free is no sign. */
static void not_where_a_block_is_inherited(void **state)
{
    (void)state;
    const unsigned before = shared_before(48);
    give(48);
    on_threads(1, live_briefly);
    require(slm_thread_list_legacies() > 0);
    on_threads(1, free_one);
    assert_int_equal(shared_before(48), before);
    take_back(1, GIVEN);
}

static int without_heirs(void **state)
{
    (void)state;
    slm_legacy_bury(true);
    return slm_thread_list_legacies() == 0 ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(further_slabs_are_shared_as_well, without_heirs),
        cmocka_unit_test_setup(threads_get_lines_of_their_own, without_heirs),
        cmocka_unit_test_setup(shared_slabs_get_their_objects_back, without_heirs),
        cmocka_unit_test_setup(not_where_a_thread_makes_its_own_first, without_heirs),
        cmocka_unit_test_setup(nor_where_an_object_fills_its_lines, without_heirs),
        cmocka_unit_test_setup(not_where_a_block_is_inherited, without_heirs),
        cmocka_unit_test_setup(not_for_ever_new_ones, without_heirs),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
