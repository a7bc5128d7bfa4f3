/* src/depot/cache.h: the size classes as caches, their depots by node, and the list of them all. */
#include "checks.h"
#include "unit.h"

#include "base/options.h"
#include "depot/cache.h"
#include "os/topology.h"
#include "page/metadata.h"

static void every_class_is_a_cache(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const struct slm_cache *cache = slm_class_cache(class);
        char name[SLM_CACHE_NAME_BYTES] = {0};
        slm_cache_name_class(name, class);
        assert_string_equal(name, text("size-%u", slm_class_size[class]));
        assert_int_equal(cache->shape.object_size, slm_class_size[class]);
        assert_int_equal(cache->shape.slot_offset, slm_slot_offset_of(class));
        assert_int_equal(cache->shape.granules, 1);
        assert_int_equal(cache->shape.objects, SLM_GRANULE / slm_class_size[class]);
        assert_ptr_equal(cache->first.shape, &cache->shape);
        assert_null(cache->first.cache_name);
        assert_int_equal(cache->first.node, 0);
    }
}

static void magazines_have_bounds(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        const struct slm_cache *cache = slm_class_cache(class);
        assert_in_range(cache->start_rounds, 1, cache->most_rounds);
        assert_in_range(cache->most_rounds, 8, SLM_MAGAZINE_ROUNDS_MAX);
        if (cache->most_rounds > 8)
            assert_true((uint64_t)cache->most_rounds * slm_class_size[class] <= slm_settings.magazine_bytes);
    }
}

static void tune(void)
{
    slm_settings.magazine_bytes = 16 << 20;
    slm_cache_tune_all();
    require(slm_class_cache(0)->most_rounds == SLM_MAGAZINE_ROUNDS_MAX);
    require(slm_class_cache(SLM_CLASSES - 1)->most_rounds == SLM_MAGAZINE_ROUNDS_MAX);
    slm_settings.magazine_bytes = 1024;
    slm_cache_tune_all();
    require(slm_class_cache(0)->most_rounds == 64);
    require(slm_class_cache(slm_class_of_size(512))->most_rounds == 8);
    require(slm_class_cache(slm_class_of_size(1024))->most_rounds == 4);
    require(slm_class_cache(SLM_CLASSES - 1)->most_rounds == 2);
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        require(slm_class_cache(class)->start_rounds <= slm_class_cache(class)->most_rounds);
}

static void bounds_follow_the_options(void **state)
{
    (void)state;
    assert_child_silent(tune);
}

static void a_cache_is_tuned_alone(void **state)
{
    (void)state;
    struct slm_cache *cache = slm_class_cache(10), *other = slm_class_cache(11);
    const uint32_t start = cache->start_rounds, most = cache->most_rounds, tuned = cache->tuned;
    const uint64_t stock = cache->depot_rounds;
    const uint32_t other_most = other->most_rounds;
    slm_cache_tune(cache, 17, 3);
    assert_int_equal(cache->start_rounds, 17);
    assert_int_equal(cache->most_rounds, 17);
    assert_int_equal(cache->depot_rounds, 3 * 17);
    assert_int_equal(cache->tuned, tuned + 1);
    assert_int_equal(other->most_rounds, other_most);
    assert_int_equal(load_relaxed(&cache->fixed_rounds), 17);
    slm_cache_tune(cache, SLM_MAGAZINE_ROUNDS_MAX, 0);
    assert_int_equal(cache->most_rounds, SLM_MAGAZINE_ROUNDS_MAX);
    assert_int_equal(cache->depot_rounds, stock); /* by bytes */
    slm_cache_tune(cache, 0, 5);
    assert_int_equal(cache->start_rounds, start);
    assert_int_equal(cache->most_rounds, most);
    assert_int_equal(cache->depot_rounds, 5 * most);
    slm_cache_tune(cache, 1, 1);
    slm_cache_tune_all(); /* what a program has asked for stays */
    assert_int_equal(cache->most_rounds, 1);
    assert_int_equal(cache->depot_rounds, 1);
    slm_cache_tune(cache, 0, 0);
    assert_int_equal(cache->most_rounds, most);
    assert_int_equal(cache->depot_rounds, stock);
    assert_int_equal(cache->tuned, tuned + 5);
}

/* As if many rounds had gone home, and came back at once. */
static void widen(struct slm_cache *cache)
{
    const uint64_t before = slm_cache_stock_rounds(cache);
    slm_cache_note_sent_home(cache, 1 << 20);
    assert_int_equal(slm_cache_stock_rounds(cache), before);
    slm_cache_note_taken(cache, 1 << 20);
}

/* What has gone home and comes back makes room for as much, in one cycle. */
static void stocks_learn_in_one_cycle(void **state)
{
    (void)state;
    struct slm_cache *cache = slm_class_cache(slm_class_of_size(1024));
    slm_cache_tune(cache, 0, 0);
    const uint64_t least = slm_cache_stock_rounds(cache);
    for (unsigned i = 0; i < 10; i++)
        slm_cache_note_sent_home(cache, 100);
    slm_cache_note_taken(cache, 300);
    assert_int_equal(slm_cache_stock_rounds(cache), least + 300);
    for (unsigned i = 0; i < 10; i++)
        slm_cache_note_taken(cache, 100); /* no more than have gone home */
    assert_int_equal(slm_cache_stock_rounds(cache), least + 1000);
    slm_cache_note_taken(cache, 100);
    assert_int_equal(slm_cache_stock_rounds(cache), least + 1000);
    slm_cache_forget_stock(cache);
}

/* What others have made slabs of meanwhile would not have been better kept. */
static void stocks_do_not_learn_where_others_use_the_memory(void **state)
{
    (void)state;
    struct slm_cache *cache = slm_class_cache(slm_class_of_size(1024));
    slm_cache_tune(cache, 0, 0);
    const uint64_t least = slm_cache_stock_rounds(cache);
    const uint32_t few = 16 + (uint32_t)(slm_demand_used() / SLM_GRANULE / 8);
    slm_cache_note_sent_home(cache, 1000);
    add_relaxed(&slm_depot_granules_made, few + 1);
    slm_cache_note_taken(cache, 1000);
    assert_int_equal(slm_cache_stock_rounds(cache), least);
    slm_cache_note_sent_home(cache, 1000);
    add_relaxed(&slm_depot_granules_made, few);
    slm_cache_note_taken(cache, 1000);
    assert_int_equal(slm_cache_stock_rounds(cache), least + 1000);
    slm_cache_forget_stock(cache);
}

/* Room in a stock: little, until what has gone home for lack of it is missed. */
static void stocks_learn_how_much_to_keep(void **state)
{
    (void)state;
    struct slm_cache *cache = slm_class_cache(slm_class_of_size(4096)),
                     *other = slm_class_cache(slm_class_of_size(2048));
    struct slm_cache *small = slm_class_cache(slm_class_of_size(64));
    const size_t size = cache->shape.object_size;
    slm_cache_tune(cache, 0, 0);
    slm_cache_tune(other, 0, 0);
    slm_cache_tune(small, 0, 0);
    widen(small);
    assert_int_equal(slm_cache_stock_rounds(small), 32768); /* for the sake of their magazines */
    slm_cache_forget_stock(small);
    const uint64_t least = slm_cache_stock_rounds(cache), others_least = slm_cache_stock_rounds(other);
    assert_in_range(least, 1, 8192 / size);
    slm_cache_note_taken(cache, 100); /* nothing has gone home */
    assert_int_equal(slm_cache_stock_rounds(cache), least);
    widen(cache);
    const uint64_t most = slm_cache_stock_rounds(cache);
    assert_in_range(most * size, 32 << 20, 128 << 20); /* where nobody may look again */
    widen(other);
    assert_true(slm_cache_stock_rounds(other) <= others_least + 1); /* it is the bound of both */
    store_relaxed(&slm_demand_watched, true);
    widen(cache);
    widen(other);
    assert_int_equal(slm_cache_stock_rounds(cache), 32768);
    store_relaxed(&slm_demand_watched, false);
    slm_cache_forget_stock(other);
    assert_int_equal(slm_cache_stock_rounds(other), others_least);
    const uint64_t wide = slm_cache_stock_rounds(cache);
    slm_cache_narrow_stock(cache);
    assert_in_range(slm_cache_stock_rounds(cache), wide / 2 - 1, wide / 2);
    for (unsigned i = 0; i < 64; i++)
        slm_cache_narrow_stock(cache);
    assert_int_equal(slm_cache_stock_rounds(cache), least);
    slm_cache_tune(cache, 0, 5); /* fixed */
    slm_cache_note_sent_home(cache, 100);
    slm_cache_note_taken(cache, 100);
    slm_cache_narrow_stock(cache);
    slm_cache_forget_stock(cache);
    assert_int_equal(slm_cache_stock_rounds(cache), load_relaxed(&cache->depot_rounds));
    slm_cache_tune(cache, 0, 0);
}

/* What was missed long after it went home was not needed in the stock. */
static void stocks_do_not_learn_from_late_misses(void **state)
{
    (void)state;
    struct slm_cache *cache = slm_class_cache(12);
    slm_cache_tune(cache, 0, 0);
    const uint64_t least = slm_cache_stock_rounds(cache);
    slm_cache_note_sent_home(cache, 100);
    store_relaxed(&cache->sent_home_ms,
                  load_relaxed(&cache->sent_home_ms) - 2 * (uint32_t)slm_settings.purge_delay_ms);
    slm_cache_note_taken(cache, 100);
    assert_int_equal(slm_cache_stock_rounds(cache), least);
    slm_cache_note_sent_home(cache, 10); /* those of before are not counted with it */
    slm_cache_note_taken(cache, 100);
    assert_int_equal(slm_cache_stock_rounds(cache), least + 10);
    slm_cache_forget_stock(cache);
}

static void an_object_s_cache_is_found(void **state)
{
    (void)state;
    char on_stack;
    void *small = malloc(100), *large = malloc(1000000);
    assert_ptr_equal(slm_cache_of_object(small), slm_class_cache(slm_class_of_size(100)));
    assert_null(slm_cache_of_object(large));
    assert_null(slm_cache_of_object(&on_stack));
    assert_null(slm_cache_of_object(NULL));
    free(small);
    free(large);
}

static void slabs_are_counted_over_all_nodes(void **state)
{
    (void)state;
    struct slm_cache *cache = slm_class_cache(SLM_CLASSES - 2);
    void *objects[SLM_NODES_MAX];
    const uint64_t before = slm_cache_slabs(cache);
    for (unsigned node = 0; node < slm_nodes; node++)
        assert_int_equal(slm_depot_fill(slm_cache_depot(cache, node), &objects[node], 1), 1);
    assert_true(slm_cache_slabs(cache) >= slm_nodes);
    for (unsigned node = 0; node < slm_nodes; node++) {
        slm_depot_give(&objects[node], 1, "free");
        slm_depot_trim(slm_cache_depot(cache, node), true);
    }
    assert_true(slm_cache_slabs(cache) <= before);
}

static void *try_mutex(void *nothing)
{
    require(!slm_cache_try_lock());
    return nothing;
}

static void housekeeping_goes_without_the_mutex(void **state)
{
    (void)state;
    slm_cache_lock();
    on_threads(1, try_mutex);
    slm_cache_unlock();
    assert_true(slm_cache_try_lock());
    slm_cache_unlock();
}

static void the_first_node_s_depot_is_there(void **state)
{
    (void)state;
    assert_ptr_equal(slm_cache_depot(slm_class_cache(3), 0), &slm_class_cache(3)->first);
    assert_ptr_equal(slm_cache_depot_made(slm_class_cache(3), 0), &slm_class_cache(3)->first);
}

static void other_depots_are_made_on_first_use(void **state)
{
    (void)state;
    struct slm_cache *cache = slm_class_cache(30);
    for (unsigned node = 1; node < SLM_NODES_MAX; node += 31) {
        assert_null(slm_cache_depot_made(cache, node));
        struct slm_depot *depot = slm_cache_depot(cache, node);
        assert_non_null(depot);
        assert_ptr_not_equal(depot, &cache->first);
        assert_int_equal(depot->node, node);
        assert_ptr_equal(depot->shape, &cache->shape);
        assert_ptr_equal(slm_cache_depot(cache, node), depot);
        assert_ptr_equal(slm_cache_depot_made(cache, node), depot);
        assert_int_equal((uintptr_t)depot % 64, 0);
        check_depot(depot);
    }
    assert_null(slm_cache_depot_made(cache, 2));
}

static struct slm_depot *made[8];

static void *make_depot(void *number)
{
    made[(uintptr_t)number] = slm_cache_depot(slm_class_cache(31), 5);
    return NULL;
}

static void threads_that_make_it_at_once_get_the_same(void **state)
{
    (void)state;
    on_threads(COUNT(made), make_depot);
    for (size_t i = 0; i < COUNT(made); i++)
        assert_ptr_equal(made[i], made[0]);
}

static void ask_without_memory(void)
{
    forbid_memory();
    for (size_t size = SLM_METADATA_MAX; size > 0; size -= 64)
        while (slm_metadata_alloc(size))
            ;
    for (unsigned class = 0; class < SLM_CLASSES; class ++)
        for (unsigned node = 0; node < SLM_NODES_MAX; node++)
            require(slm_cache_depot(slm_class_cache(class), node) != NULL);
    require(slm_cache_depot(slm_class_cache(1), 63) == &slm_class_cache(1)->first);
}

static void without_memory_the_first_one_serves(void **state)
{
    (void)state;
    assert_child_silent(ask_without_memory);
}

static unsigned seen;

static void see(struct slm_cache *cache, void *context)
{
    assert_ptr_equal(context, &seen);
    assert_ptr_equal(cache, slm_class_cache(seen));
    seen++;
}

static void caches_are_visited_in_order(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 2; turn++) {
        seen = 0;
        slm_cache_lock();
        slm_cache_each(see, &seen);
        slm_cache_unlock();
        assert_int_equal(seen, SLM_CLASSES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_class_is_a_cache),
        cmocka_unit_test(magazines_have_bounds),
        cmocka_unit_test(bounds_follow_the_options),
        cmocka_unit_test(a_cache_is_tuned_alone),
        cmocka_unit_test(stocks_learn_how_much_to_keep),
        cmocka_unit_test(stocks_learn_in_one_cycle),
        cmocka_unit_test(stocks_do_not_learn_where_others_use_the_memory),
        cmocka_unit_test(stocks_do_not_learn_from_late_misses),
        cmocka_unit_test(an_object_s_cache_is_found),
        cmocka_unit_test(slabs_are_counted_over_all_nodes),
        cmocka_unit_test(housekeeping_goes_without_the_mutex),
        cmocka_unit_test(the_first_node_s_depot_is_there),
        cmocka_unit_test(other_depots_are_made_on_first_use),
        cmocka_unit_test(threads_that_make_it_at_once_get_the_same),
        cmocka_unit_test(without_memory_the_first_one_serves),
        cmocka_unit_test(caches_are_visited_in_order),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
