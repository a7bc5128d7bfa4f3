/* src/depot/depot.h: slabs whose objects are constructed, and objects that come back without a lock. As in
 * test_depot.c each test has a depot of its own, of objects of 1024 bytes, 64 to a slab. */
#include "checks.h"
#include "one_depot.h"

/* -- constructors ------------------------------------------------------------------------------------------------ */

static struct slm_depot built;
static void (*in_constructor)(void);
static unsigned constructed;

static void construct(void *object, void *context)
{
    require(context == &built && slm_depot_is_constructing(&built));
    require(!slm_depot_is_constructing(&depot));
    memset(object, 0x5a, 100);
    constructed++;
    if (in_constructor)
        in_constructor();
}

static struct slm_object_hooks built_life = {.constructor = construct, .context = &built};
static struct slm_slab_shape built_shape = {.object_size = SIZE, .hooks = &built_life};

static int fresh_built(void **state)
{
    slm_slab_shape_fill(&built_shape);
    slm_depot_init(&built, &built_shape, "built", slm_nodes - 1);
    in_constructor = NULL;
    constructed = 0;
    return fresh_depot(state);
}

static void filling_makes_no_slab_whose_objects_are_constructed(void **state)
{
    (void)state;
    void *rounds[A_SLAB + 1];
    errno = 0;
    assert_int_equal(slm_depot_fill(&built, rounds, 1), 0);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(load_relaxed(&built.slabs_made), 0);
    assert_true(slm_depot_grow(&built));
    assert_int_equal(constructed, A_SLAB);
    assert_false(slm_depot_is_constructing(&built));
    assert_int_equal(load_relaxed(&built.objects_out), 0); /* it is listed, and nobody's */
    assert_int_equal(slm_depot_fill(&built, rounds, A_SLAB + 1), A_SLAB);
    for (unsigned i = 0; i < A_SLAB; i++)
        assert_int_equal(((char *)rounds[i])[99], 0x5a);
    memset(rounds[0], 0x11, 100);
    slm_depot_give(rounds, A_SLAB, "free");
    check_depot(&built);
    assert_int_equal(slm_depot_fill(&built, rounds + 1, A_SLAB), A_SLAB);
    assert_int_equal(((char *)rounds[0])[99], 0x11); /* once a slab, not once an allocation */
    assert_int_equal(constructed, A_SLAB);
    slm_depot_give(rounds + 1, A_SLAB, "free");
    slm_depot_trim(&built, true);
    assert_int_equal(load_relaxed(&built.slabs_released), 1);
}

static void use_other_depots(void)
{
    void *object;
    in_constructor = NULL;
    require(slm_depot_fill(&depot, &object, 1) == 1 && slm_depot_grow(&depot));
    slm_depot_give(&object, 1, "free");
    free(malloc(100000));
}

static void a_constructor_may_use_other_depots(void **state)
{
    (void)state;
    in_constructor = use_other_depots;
    assert_true(slm_depot_grow(&built));
    assert_int_equal(constructed, A_SLAB);
    slm_depot_trim(&built, true);
}

static void grow_own(void)
{
    void *object;
    errno = 0;
    require(!slm_depot_grow(&built) && errno == EDEADLK);
    require(slm_depot_fill(&built, &object, 1) == 0 && errno == EAGAIN);
}

static void grow_from_within(void)
{
    in_constructor = grow_own;
    require(slm_depot_grow(&built) && constructed == A_SLAB); /* each of them was refused */
}

static void its_own_is_refused_and_said_once(void **state)
{
    (void)state;
    const struct outcome outcome = in_child(grow_from_within);
    assert_int_equal(outcome.status, 0);
    assert_string_equal(outcome.said,
                        "slabmalloc: a constructor allocated from its own cache, which had no free object: built\n");
}

static void *grow_alone(void *nothing)
{
    require(!slm_depot_is_constructing(&built));
    require(slm_depot_grow(&built));
    return nothing;
}

static void grow_beside(void)
{
    in_constructor = NULL;
    on_threads(1, grow_alone);
}

static void another_thread_may_construct_meanwhile(void **state)
{
    (void)state;
    in_constructor = grow_beside;
    assert_true(slm_depot_grow(&built));
    assert_int_equal(constructed, 2 * A_SLAB);
    slm_depot_trim(&built, true); /* one is kept: the other was given back when it was listed */
    assert_int_equal(load_relaxed(&built.slabs_made) - load_relaxed(&built.slabs_released), 0);
}

/* -- without a lock ---------------------------------------------------------------------------------------------- */

static void without_a_lock_relinking_waits(void **state)
{
    (void)state;
    void *rounds[A_SLAB], *again;
    fill(rounds, A_SLAB);
    struct slm_slab *slab = slm_slab_of(rounds[0]);
    memset(rounds[0], 0x5a, SIZE);
    slm_lock_acquire(&depot.lock); /* whoever holds it: perhaps the thread that a handler has interrupted */
    assert_true(slm_depot_give_nolock(rounds[0], "free"));
    slm_lock_release(&depot.lock);
    assert_true(((char *)rounds[0])[0] == 0x5a && memcmp(rounds[0], (char *)rounds[0] + 1, SIZE - 1) == 0);
    assert_int_equal(load_relaxed(&depot.objects_out), A_SLAB - 1);
    assert_int_equal(depot.occupied, 0);
    assert_ptr_equal(load_relaxed(&slm_depot_pending), slab);
    assert_int_equal(slm_depot_fill(&depot, &again, 1), 1); /* whoever fills relinks first */
    assert_ptr_equal(again, rounds[0]);
    assert_null(load_relaxed(&slm_depot_pending));
    for (unsigned i = 0; i < A_SLAB; i++)
        assert_true(slm_depot_give_nolock(rounds[i], "free"));
    assert_int_equal(slabs(), 1);
    slm_depot_relink_pending();
    assert_null(load_relaxed(&slm_depot_pending));
    assert_non_null(depot.vacant);
    check_depot(&depot);
}

static void many_slabs_wait_and_some_are_gone_by_then(void **state)
{
    (void)state;
    void *rounds[4 * A_SLAB];
    fill(rounds, 4 * A_SLAB);
    for (unsigned i = 0; i < 4; i++)
        assert_true(slm_depot_give_nolock(rounds[i * A_SLAB], "free"));
    slm_depot_give(rounds + 1, A_SLAB - 1, "free"); /* becomes vacant by an ordinary free */
    slm_depot_give(rounds + A_SLAB + 1, A_SLAB - 1, "free");
    assert_int_equal(slabs(), 3);
    slm_depot_trim(&depot, true);
    assert_int_equal(slabs(), 2);
    fill(rounds, 2 * A_SLAB); /* and may be here again */
    slm_depot_relink_pending();
    check_depot(&depot);
    assert_int_equal(load_relaxed(&depot.objects_out), 4 * A_SLAB - 2);
    slm_depot_give(rounds, 2 * A_SLAB, "free");
    slm_depot_give(rounds + 2 * A_SLAB + 1, A_SLAB - 1, "free");
    slm_depot_give(rounds + 3 * A_SLAB + 1, A_SLAB - 1, "free");
}

static void what_is_no_small_object_is_left_alone(void **state)
{
    (void)state;
    char on_stack;
    void *large = malloc(100000);
    assert_false(slm_depot_give_nolock(large, "free"));
    assert_false(slm_depot_give_nolock(&on_stack, "free"));
    assert_false(slm_depot_give_nolock(NULL, "free"));
    free(large);
}

static void *misused;

static void give_misused_nolock(void)
{
    slm_depot_give_nolock(misused, "slab_free_nolock");
}

static void misuse_without_a_lock_ends_the_process(void **state)
{
    (void)state;
    void *rounds[2];
    fill(rounds, 2);
    misused = rounds[1];
    assert_true(slm_depot_give_nolock(rounds[1], "free"));
    assert_child_aborts(give_misused_nolock, text("slabmalloc: slab_free_nolock(" POINTER "): double free of an "
                                                  "object of cache test",
                                                  pointer_of(misused)));
    slm_depot_give(rounds, 1, "free");
    slm_depot_relink_pending();
}

static void *give_without_locks(void *number)
{
    uint64_t seed = (uintptr_t)number;
    void *rounds[3 * A_SLAB];
    for (unsigned turn = 0; turn < 1000; turn++) {
        const unsigned n = 1 + (unsigned)random_below(&seed, COUNT(rounds));
        fill(rounds, n);
        for (unsigned i = 0; i < n; i++)
            if (random_below(&seed, 4))
                require(slm_depot_give_nolock(rounds[i], "free"));
            else
                slm_depot_give(rounds + i, 1, "free");
        if (turn % 64 == 0)
            slm_depot_trim(&depot, true);
    }
    return NULL;
}

static void threads_give_without_locks(void **state)
{
    (void)state;
    on_threads(4, give_without_locks);
    slm_depot_relink_pending();
    assert_null(load_relaxed(&slm_depot_pending));
    assert_int_equal(objects_out(), 0);
}

#define built_test(name) cmocka_unit_test_setup_teardown(name, fresh_built, all_has_gone)
int main(void)
{
    const struct CMUnitTest tests[] = {
        built_test(filling_makes_no_slab_whose_objects_are_constructed),
        built_test(a_constructor_may_use_other_depots),
        built_test(its_own_is_refused_and_said_once),
        built_test(another_thread_may_construct_meanwhile),
        depot_test(without_a_lock_relinking_waits),
        depot_test(many_slabs_wait_and_some_are_gone_by_then),
        depot_test(what_is_no_small_object_is_left_alone),
        depot_test(misuse_without_a_lock_ends_the_process),
        depot_test(threads_give_without_locks),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
