/* src/process/legacy.h, and what src/thread/thread_list.h says of legacies: a thread that ends leaves its block, with
 * the magazines of malloc's classes, to the next one. */
#include "unit.h"

#include <malloc.h>
#include <sched.h>

#include "base/size_class.h"
#include "caches.h"
#include "heap_check.h"
#include "process/reclaim.h"

enum { SIZE = 72, FEW = 20, LARGE = 30000, MANY = 64 };

static struct slm_cache *cache;
static struct slm_thread *block; /* of the last thread that told */
static uint64_t begun_with, refills;

/* Have some rounds in the end. */
static void *use(void *nothing)
{
    void *volatile objects[FEW];
    (void)nothing;
    struct slm_thread *thread = slm_thread_enter(true);
    slm_thread_leave(thread);
    block = thread;
    begun_with = slm_thread_rounds(thread, cache->id);
    const uint64_t before = load_relaxed(&thread->refills);
    for (size_t i = 0; i < FEW; i++)
        objects[i] = memset(malloc(SIZE), 1, SIZE);
    for (size_t i = 0; i < FEW; i++)
        free(objects[i]);
    refills = load_relaxed(&thread->refills) - before;
    return NULL;
}

static int begin_group(void **state)
{
    const int started = start_library(state);
    cache = slm_class_cache(slm_class_of_size(SIZE));
    return started;
}

static int begin_test(void **state)
{
    (void)state;
    slm_legacy_bury(true);
    return slm_thread_list_legacies() == 0 ? 0 : -1;
}

static void the_next_thread_inherits(void **state)
{
    (void)state;
    on_threads(1, use);
    struct slm_thread *const first = block;
    assert_true(begun_with == 0 && refills > 0);
    assert_int_equal(slm_thread_list_legacies(), 1);
    assert_int_equal(slm_thread_list_count(), 1);
    const uint32_t ordinal = first->ordinal;
    const uint64_t rounds = slm_thread_rounds(first, cache->id);
    assert_true(rounds >= FEW);
    on_threads(1, use);
    assert_ptr_equal(block, first);
    assert_int_equal(begun_with, rounds);
    assert_int_equal(refills, 0);
    assert_int_equal(block->ordinal, ordinal + 1);
    assert_int_equal(slm_thread_list_legacies(), 1);
    check_heap();
}

static pthread_barrier_t all_alive;

static void *use_at_once(void *nothing)
{
    use(nothing);
    pthread_barrier_wait(&all_alive);
    return NULL;
}

static void there_are_few(void **state)
{
    (void)state;
    const uint64_t out = cache_out(cache) - cache_stock(cache) - slm_thread_rounds(slm_tls.self, cache->id);
    assert_int_equal(pthread_barrier_init(&all_alive, NULL, MANY), 0);
    on_threads(MANY, use_at_once);
    const unsigned legacies = slm_thread_list_legacies();
    assert_true(legacies > 0 && legacies < MANY);
    check_heap();
    slm_legacy_bury(true);
    assert_int_equal(slm_thread_list_legacies(), 0);
    assert_int_equal(cache_out(cache) - cache_stock(cache) - slm_thread_rounds(slm_tls.self, cache->id), out);
    check_heap();
}

static void what_nobody_inherits_is_buried_at_the_second_look(void **state)
{
    (void)state;
    const uint64_t out = cache_out(cache) - cache_stock(cache);
    for (unsigned i = 0; i < 3; i++)
        slm_depot_is_still(&cache->first, true);
    on_threads(1, use);
    slm_legacy_bury(false);
    assert_int_equal(slm_thread_list_legacies(), 1);
    on_threads(1, use); /* it is needed */
    slm_legacy_bury(false);
    assert_int_equal(slm_thread_list_legacies(), 1);
    slm_legacy_bury(false);
    assert_int_equal(slm_thread_list_legacies(), 0);
    assert_int_equal(cache_out(cache) - cache_stock(cache), out);
}

/* Its rounds come to a depot that the program leaves alone. */
static void a_burial_does_not_stir_a_depot(void **state)
{
    (void)state;
    on_threads(1, use);
    for (unsigned i = 0; i < 4; i++)
        slm_depot_is_still(&cache->first, true);
    const uint64_t out = cache_out(cache);
    slm_legacy_bury(true);
    assert_true(cache_out(cache) < out);
    assert_true(slm_depot_is_still(&cache->first, false));
}

static void all_go_by_malloc_trim(void **state)
{
    (void)state;
    on_threads(1, use);
    malloc_trim(0);
    assert_int_equal(slm_thread_list_legacies(), 0);
}

static void *use_large(void *nothing)
{
    void *volatile objects[MANY];
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = memset(malloc(LARGE), 1, LARGE);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    return nothing;
}

static void much_of_a_class_is_not_left(void **state)
{
    (void)state;
    const struct slm_cache *large = slm_class_cache(slm_class_of_size(LARGE));
    on_threads(1, use_large);
    assert_int_equal(slm_thread_list_legacies(), 1);
    struct slm_thread *legacy = slm_thread_list_take_legacy();
    assert_non_null(legacy);
    assert_true(slm_thread_rounds(legacy, large->id) * LARGE <= 64 << 10);
    assert_true(slm_thread_list_legacies() == 0 && !slm_thread_list_take_legacy());
    slm_thread_empty(legacy, SLM_TO_SLABS);
    slm_thread_block_free(legacy);
}

enum { HERE = 3 };

/* In the place of the library's: all threads are on this CPU. */
unsigned __wrap_slm_topology_here(uintptr_t thread);
unsigned __wrap_slm_topology_here(uintptr_t thread)
{
    (void)thread;
    return HERE;
}

/* Of two, the older one was left on this CPU. */
static void who_ended_on_this_cpu_comes_first(void **state)
{
    (void)state;
    assert_int_equal(pthread_barrier_init(&all_alive, NULL, 2), 0);
    on_threads(2, use_at_once);
    assert_int_equal(slm_thread_list_legacies(), 2);
    struct slm_thread *const older = slm_thread_list_take_legacy(), *const youngest = slm_thread_list_take_legacy();
    assert_int_equal(older->left_on, HERE);
    assert_int_equal(youngest->left_on, HERE);
    older->tls = youngest->tls = &slm_tls;
    slm_thread_list_add(older);
    slm_thread_list_add(youngest);
    assert_true(slm_thread_list_bequeath(older, 0) && slm_thread_list_bequeath(youngest, 0));
    youngest->left_on = HERE + 1;
    on_threads(1, use);
    assert_ptr_equal(block, older);
}

static struct slab_cache *name;

static void *use_named(void *nothing)
{
    void *objects[FEW];
    for (size_t i = 0; i < FEW; i++)
        require((objects[i] = slab_cache_alloc(name)) != NULL);
    for (size_t i = 0; i < FEW; i++)
        slab_cache_free(name, objects[i]);
    return nothing;
}

static void nothing_is_left_of_named_caches(void **state)
{
    (void)state;
    const struct slab_cache_attr apart = {.flags = SLAB_NO_MERGE};
    name = named("apart", SIZE, &apart);
    on_threads(1, use_named);
    assert_int_equal(slm_thread_list_legacies(), 1);
    assert_int_equal(slm_reserve_held_by_all(cache_of(name)), 0);
    assert_int_equal(slab_cache_destroy(name), 0);
    name = named("another", 2 * SIZE, &apart);
    on_threads(1, use_named);
    assert_int_equal(slab_cache_destroy(name), 0);
    check_heap();
}

/* A named cache that is made while a block is left has cursors in it. */
static void heirs_can_use_caches_made_meanwhile(void **state)
{
    (void)state;
    enum { CACHES = 200 };
    struct slab_cache *names[CACHES];
    const struct slab_cache_attr apart = {.flags = SLAB_NO_MERGE};
    on_threads(1, use);
    for (size_t i = 0; i < CACHES; i++)
        names[i] = named("many", SIZE, &apart);
    name = names[CACHES - 1];
    on_threads(1, use_named);
    for (size_t i = 0; i < CACHES; i++)
        assert_int_equal(slab_cache_destroy(names[i]), 0);
}

static void bury_orphan(void)
{
    require(slm_thread_list_legacies() == 0);
    on_threads(1, use); /* buries it before it has a block */
    require(load_relaxed(&slm_orphans) == 0 || !slm_process_bury(UINT32_MAX));
    check_heap();
}

static void in_a_child_it_is_an_orphan(void **state)
{
    (void)state;
    on_threads(1, use);
    assert_int_equal(slm_thread_list_legacies(), 1);
    assert_child_silent(bury_orphan);
    on_threads(1, use);
    assert_int_equal(refills, 0);
}

static void *be_born_and_end(void *nothing)
{
    for (unsigned i = 0; i < 200; i++) {
        pthread_t thread;
        require(pthread_create(&thread, NULL, live_briefly, NULL) == 0);
        if (i % 16 == 0)
            slm_legacy_bury(i % 32 == 0);
        require(pthread_join(thread, NULL) == 0);
    }
    return nothing;
}

static void threads_leave_and_inherit_together(void **state)
{
    (void)state;
    on_threads(4, be_born_and_end);
    assert_int_equal(slm_thread_list_count(), 1);
    check_heap();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_burial_does_not_stir_a_depot, begin_test), /* before there are shards */
        cmocka_unit_test_setup(the_next_thread_inherits, begin_test),
        cmocka_unit_test_setup(there_are_few, begin_test),
        cmocka_unit_test_setup(what_nobody_inherits_is_buried_at_the_second_look, begin_test),
        cmocka_unit_test_setup(all_go_by_malloc_trim, begin_test),
        cmocka_unit_test_setup(much_of_a_class_is_not_left, begin_test),
        cmocka_unit_test_setup(who_ended_on_this_cpu_comes_first, begin_test),
        cmocka_unit_test_setup(nothing_is_left_of_named_caches, begin_test),
        cmocka_unit_test_setup(heirs_can_use_caches_made_meanwhile, begin_test),
        cmocka_unit_test_setup(in_a_child_it_is_an_orphan, begin_test),
        cmocka_unit_test_setup(threads_leave_and_inherit_together, begin_test),
    };
    return cmocka_run_group_tests(tests, begin_group, NULL);
}
