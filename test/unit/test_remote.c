/* src/thread/remote.h: remote magazines: how they grow, when what is in them goes home, and that nothing is lost on
 * the way: neither to who takes from another thread, nor where there is no memory, nor in accounts. */
#include "unit.h"

#include "nodes.h"
#include "page/metadata.h"
#include "taking.h"

enum { SIZE = 256, FIRST_ROUNDS = 13, MOST_BYTES = 16384, MANY = 1000 };

static const struct slab_cache_attr automatic = {.flags = SLAB_NO_MERGE};

static struct slm_thread *block; /* of no thread, on node 0 */
static void *objects[MANY];

static int begin_block(void **state)
{
    (void)state;
    name = named("remote", SIZE, &automatic);
    cache = cache_of(name);
    block = slm_thread_block_make();
    if (!block)
        return -1;
    slm_slots_cover(block, cache->id + 2);
    return 0;
}

static int end_block(void **state)
{
    (void)state;
    slm_thread_check(block);
    slm_thread_empty(block, SLM_TO_SLABS);
    slm_thread_block_free(block);
    return slab_cache_destroy(name);
}

static uint32_t remote_rounds(unsigned node)
{
    return slm_remote_rounds(block, cache->id, node, node + 1);
}

static uint32_t all_remote_rounds(const struct slm_thread *of)
{
    return slm_remote_rounds(of, cache->id, 0, slm_nodes);
}

static void free_remote(unsigned node, unsigned n)
{
    take_from_node(cache, node, n, objects);
    for (unsigned i = 0; i < n; i++)
        slm_thread_free(block, cache->id, objects[i]);
}

/* -- what a thread does with them -------------------------------------------------------------------------------- */

static void a_thread_s_own_node_is_not_remote(void **state)
{
    (void)state;
    take_from_node(cache, 0, 5, objects);
    for (unsigned i = 0; i < 5; i++)
        slm_thread_free(block, cache->id, objects[i]);
    assert_int_equal(slm_thread_rounds(block, cache->id), 5);
    assert_null(slm_remote_of(block, cache->id));
    assert_int_equal(all_remote_rounds(block), 0);
    assert_int_equal(load_relaxed(&block->remote_frees), 0);
}

static void a_first_remote_free_makes_a_magazine(void **state)
{
    (void)state;
    need_nodes(2);
    assert_null(slm_remote_of(block, cache->id));
    free_remote(last_node(), 1);
    const struct slm_magazine *magazine = slm_remote_of(block, cache->id);
    assert_non_null(magazine);
    assert_int_equal(magazine->capacity, FIRST_ROUNDS);
    assert_int_equal(magazine->count, 1);
    assert_ptr_equal(magazine->rounds[0], objects[0]);
    assert_true(load_relaxed(&slm_slot_of(block, cache->id)->target) > 0); /* whoever looks through slots finds it */
    assert_int_equal(slm_thread_rounds(block, cache->id), 0);
    assert_int_equal(load_relaxed(&block->remote_frees), 1);
}

/* Each has twice the room of the one before, up to a bound; the one before goes home whole. */
static void magazines_grow_up_to_a_bound(void **state)
{
    (void)state;
    need_nodes(2);
    static const unsigned filled[] = {13, 29, 61, 64, 64};
    const unsigned node = last_node();
    uint64_t home = 0;
    assert_int_equal(filled[COUNT(filled) - 1] * SIZE, MOST_BYTES);
    for (size_t i = 0; i < COUNT(filled); i++) {
        free_remote(node, filled[i] - all_remote_rounds(block));
        const struct slm_magazine *full = slm_remote_of(block, cache->id);
        assert_int_equal(full->count, filled[i]);
        assert_int_equal(full->capacity, slm_magazine_capacity(filled[i]));
        assert_int_equal(stock_at_home(cache, node), home);
        free_remote(node, 1);
        assert_int_equal(all_remote_rounds(block), 1);
        assert_int_equal(stock_at_home(cache, node), home += filled[i]);
        assert_ptr_equal(slm_cache_depot_made(cache, node)->full, full); /* itself, no copy */
    }
    assert_int_equal(node_out(cache, node), home + 1);
    assert_int_equal(load_relaxed(&block->remote_frees), home + 1);
}

static void large_objects_are_few(void **state)
{
    (void)state;
    need_nodes(2);
    struct slab_cache *large = named("large remote", MOST_BYTES * 2, &automatic);
    struct slm_cache *kept = cache;
    cache = cache_of(large);
    for (unsigned i = 0; i < 10; i++) {
        free_remote(last_node(), 1);
        assert_int_equal(all_remote_rounds(block), 1);
    }
    slm_thread_empty_slot(block, cache->id, SLM_TO_SLABS);
    cache = kept;
    assert_int_equal(slab_cache_destroy(large), 0);
}

static void a_program_s_fixed_rounds_are_the_most(void **state)
{
    (void)state;
    need_nodes(2);
    slm_cache_lock();
    slm_cache_tune(cache, 3, 0);
    slm_cache_unlock();
    for (unsigned i = 0; i < 10; i++) {
        free_remote(last_node(), 1);
        assert_int_equal(all_remote_rounds(block), i % 3 + 1);
    }
}

static void rounds_are_counted_by_node(void **state)
{
    (void)state;
    need_nodes(4);
    for (unsigned node = 1; node < 4; node++)
        free_remote(node, node + 1);
    assert_int_equal(remote_rounds(0), 0);
    for (unsigned node = 1; node < 4; node++)
        assert_int_equal(remote_rounds(node), node + 1);
    assert_int_equal(slm_remote_rounds(block, cache->id, 1, 3), 2 + 3);
    assert_int_equal(all_remote_rounds(block), 2 + 3 + 4);
    assert_int_equal(slm_remote_rounds(block, cache->id, 2, 2), 0);
}

/* Three nodes' rounds in one magazine: two batches are worth a magazine, and the third is not. */
static void a_full_magazine_goes_home_by_node(void **state)
{
    (void)state;
    need_nodes(4);
    free_remote(2, 20); /* so that a second one has room for 29 */
    slm_depot_trim(slm_cache_depot(cache, 2), true);
    const unsigned before = remote_rounds(2);
    free_remote(3, SLM_MAGAZINE_SMALL);
    free_remote(1, 29 - SLM_MAGAZINE_SMALL - before - 8);
    free_remote(2, 8);
    const uint32_t first = remote_rounds(1), second = remote_rounds(2);
    assert_int_equal(first + second + SLM_MAGAZINE_SMALL, 29);
    assert_int_equal(cache_stock(cache), 0);
    free_remote(1, 1);
    assert_int_equal(all_remote_rounds(block), 1);
    assert_int_equal(stock_at_home(cache, 1), first);
    assert_int_equal(stock_at_home(cache, 2), second);
    assert_int_equal(stock_at_home(cache, 3), 0);
    assert_int_equal(node_out(cache, 1), first + 1);
    assert_int_equal(node_out(cache, 2), second);
    assert_int_equal(node_out(cache, 3), 0); /* in their slabs */
}

static void emptying_sends_all_home(void **state)
{
    (void)state;
    need_nodes(2);
    const unsigned node = last_node();
    free_remote(node, 10);
    slm_thread_empty(block, SLM_TO_DEPOT);
    assert_null(slm_remote_of(block, cache->id));
    assert_int_equal(stock_at_home(cache, node), 10);
    assert_int_equal(load_relaxed(&slm_slot_of(block, cache->id)->target), 0);
    free_remote(node, 10);
    slm_thread_empty(block, SLM_TO_SLABS);
    assert_int_equal(stock_at_home(cache, node), 10);
    assert_int_equal(node_out(cache, node), 10);
    free_remote(node, 10); /* and it goes on */
    assert_int_equal(all_remote_rounds(block), 10);
}

/* Of caches that are busy, and of those that idle. */
static void adapting_sends_all_home(void **state)
{
    (void)state;
    need_nodes(2);
    const unsigned node = last_node();
    free_remote(node, 10);
    const uint16_t target = load_relaxed(&slm_slot_of(block, cache->id)->target);
    slm_thread_adapt(block);
    assert_null(slm_remote_of(block, cache->id));
    assert_int_equal(stock_at_home(cache, node), 10);
    assert_int_equal(load_relaxed(&slm_slot_of(block, cache->id)->target), target);
    free_remote(node, 10);
    slm_slot_of(block, cache->id)->misses = 1;
    slm_thread_adapt(block);
    assert_null(slm_remote_of(block, cache->id));
    assert_int_equal(stock_at_home(cache, node), 20);
}

static void a_tuned_cache_s_rounds_go_home(void **state)
{
    (void)state;
    need_nodes(2);
    free_remote(last_node(), 10);
    slm_cache_lock();
    slm_cache_tune(cache, 20, 0);
    slm_cache_unlock();
    free_remote(last_node(), 1); /* passes a slow path */
    assert_int_equal(all_remote_rounds(block), 1);
    assert_int_equal(stock_at_home(cache, last_node()), 10);
}

/* -- no memory --------------------------------------------------------------------------------------------------- */

static void use_up(size_t bytes)
{
    while (slm_metadata_alloc(bytes))
        ;
}

/* The first one and, full of rounds, the next. */
static void free_without_a_magazine(void)
{
    take_from_node(cache, last_node(), 3 * FIRST_ROUNDS, objects);
    forbid_memory();
    use_up(slm_magazine_bytes(FIRST_ROUNDS * 2));
    for (unsigned i = 0; i < 2 * FIRST_ROUNDS; i++)
        slm_thread_free(block, cache->id, objects[i]);
    use_up(slm_magazine_bytes(FIRST_ROUNDS));
    for (unsigned i = 2 * FIRST_ROUNDS; i < 3 * FIRST_ROUNDS; i++)
        slm_thread_free(block, cache->id, objects[i]);
    slm_thread_check(block);
    slm_thread_empty(block, SLM_TO_SLABS);
    slm_depot_trim(slm_cache_depot(cache, last_node()), true);
    require(node_out(cache, last_node()) == 0);
}

static void without_memory_rounds_go_to_their_slabs(void **state)
{
    (void)state;
    need_nodes(2);
    assert_child_silent(free_without_a_magazine);
}

/* -- other threads' ---------------------------------------------------------------------------------------------- */

static struct helper helper; /* on the last node */
static unsigned count;

static int begin_helper(void **state)
{
    (void)state;
    name = named("remote", 128, &twenty);
    cache = cache_of(name);
    start_live_helper(&helper);
    return 0;
}

static int end_here(void **state)
{
    (void)state;
    hand_on_taken();
    end_helper(&helper);
    return name ? slab_cache_destroy(name) : 0;
}

static void free_all(void *nothing)
{
    (void)nothing;
    for (unsigned i = 0; i < count; i++)
        slm_cache_object_free(name, objects[i]);
}

/* So many of node 0 have been freed by the helper, on the last one. */
static void have_freed(unsigned n)
{
    unsigned node = last_node();
    go_to(0);
    tell(&helper, go_to_node, &node);
    take_from_node(cache, 0, n, objects);
    count = n;
    tell(&helper, free_all, NULL);
    require(all_remote_rounds(helper.tls->self) == n);
}

static void all_takers_take_them(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    static const enum slm_take_how hows[] = {SLM_TAKE_SPARE, SLM_TAKE_INSISTING, SLM_TAKE_EVERYTHING};
    for (size_t i = 0; i < COUNT(hows); i++) {
        have_freed(10);
        assert_int_equal(take_as(hows[i]), 0);
        assert_int_equal(taken_count(), 10);
        for (unsigned at = 0; at < 10; at++)
            assert_true(was_taken(objects[at]));
        assert_int_equal(all_remote_rounds(helper.tls->self), 0);
        assert_true(is_at_rest(&helper));
        hand_on_taken();
        assert_int_equal(cache_out(cache), 0);
    }
}

static void take_own(void *nothing)
{
    (void)nothing;
    struct slm_thread *self = slm_thread_hide();
    taken = (struct slm_take_rounds){.cache = cache, .how = SLM_TAKE_SPARE};
    slm_take_rounds(self, &taken);
    slm_thread_unhide(self);
}

static void the_owner_takes_its_own(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    have_freed(10);
    tell(&helper, take_own, NULL);
    assert_int_equal(taken_count(), 10);
    assert_int_equal(all_remote_rounds(helper.tls->self), 0);
}

static void shrinking_reaches_them(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    have_freed(10);
    assert_true(slm_cache_slabs(cache) > 0);
    assert_true(slab_cache_shrink(name) > 0);
    assert_int_equal(all_remote_rounds(helper.tls->self), 0);
    assert_int_equal(cache_out(cache), 0);
    assert_int_equal(slm_cache_slabs(cache), 0);
}

/* The last objects stand in another thread's remote magazine. */
static void a_cache_can_be_destroyed(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    have_freed(10);
    const unsigned number = cache->id;
    assert_int_equal(slab_cache_destroy(name), 0);
    name = NULL;
    assert_null(slm_remote_of(helper.tls->self, number));
    assert_false(slm_cache_name_some_leave());
}

/* One more object is live: that one is what stands in the way, and all stay where they are. */
static void destroy_with_a_live_object(void)
{
    void *live;
    name = named("lives", 128, &twenty);
    cache = cache_of(name);
    start_live_helper(&helper);
    have_freed(10);
    take_from_node(cache, 0, 1, &live);
    errno = 0;
    require(slab_cache_destroy(name) == -1 && errno == EBUSY);
    slm_depot_give(&live, 1, "free");
    require(slab_cache_destroy(name) == 0);
    end_helper(&helper);
}

static void live_objects_are_told_from_them(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    const struct outcome outcome = in_child(destroy_with_a_live_object);
    assert_int_equal(outcome.status, 0);
    assert_string_equal(outcome.said, "slabmalloc: slab_cache_destroy: lives has 1 live object\n");
}

static void a_thread_s_end_sends_all_home(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    have_freed(10);
    end_helper(&helper);
    assert_int_equal(cache_out(cache), 10);
    assert_int_equal(stock_at_home(cache, 0), 10);
    start_live_helper(&helper);
}

static void allocate(void *nothing)
{
    (void)nothing;
    for (unsigned i = 0; i < count; i++)
        require((objects[i] = slm_cache_object_alloc(name)) && slm_node_of(objects[i]) == slm_tls.self->node);
}

/* Whatever it has freed before. */
static void what_a_thread_allocates_is_its_node_s(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    for (unsigned turn = 0; turn < 20; turn++) {
        have_freed(turn % FIRST_ROUNDS);
        count = 3 * ROUNDS;
        tell(&helper, allocate, NULL);
        tell(&helper, free_all, NULL);
        assert_int_equal(take(true, false), 0);
    }
}

static void free_round(void *round)
{
    slm_cache_object_free(name, round);
}

static uint64_t live(void)
{
    return cache_out(cache) - cache_stock(cache) - slm_reserve_held_by_all(cache);
}

/* An object in a remote magazine is free. */
static void accounts_stay_exact(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    const struct slab_cache_attr attr = {.flags = SLAB_ACCOUNT, .magazine_rounds = ROUNDS};
    struct slab_cache *kept = name;
    name = named("counted", 128, &attr);
    cache = cache_of(name);
    unsigned node = last_node();
    go_to(0);
    tell(&helper, go_to_node, &node);
    for (unsigned n = 1; n <= 3 * ROUNDS; n += 7) {
        for (unsigned i = 0; i < n; i++)
            require((objects[i] = slm_cache_object_alloc(name)) && slm_node_of(objects[i]) == 0);
        assert_int_equal(live(), n);
        for (unsigned i = 0; i < n; i++) {
            tell(&helper, free_round, objects[i]);
            assert_int_equal(live(), n - 1 - i);
        }
    }
    assert_true(all_remote_rounds(helper.tls->self) > 0);
    assert_int_equal(slab_cache_destroy(name), 0);
    name = kept;
    cache = cache_of(name);
}

#define block_test(name) cmocka_unit_test_setup_teardown(name, begin_block, end_block)
#define helper_test(name) cmocka_unit_test_setup_teardown(name, begin_helper, end_here)

int main(void)
{
    const struct CMUnitTest tests[] = {
        block_test(a_thread_s_own_node_is_not_remote),
        block_test(a_first_remote_free_makes_a_magazine),
        block_test(magazines_grow_up_to_a_bound),
        block_test(large_objects_are_few),
        block_test(a_program_s_fixed_rounds_are_the_most),
        block_test(rounds_are_counted_by_node),
        block_test(a_full_magazine_goes_home_by_node),
        block_test(emptying_sends_all_home),
        block_test(adapting_sends_all_home),
        block_test(a_tuned_cache_s_rounds_go_home),
        block_test(without_memory_rounds_go_to_their_slabs),
        helper_test(all_takers_take_them),
        helper_test(the_owner_takes_its_own),
        helper_test(shrinking_reaches_them),
        helper_test(a_cache_can_be_destroyed),
        cmocka_unit_test(live_objects_are_told_from_them),
        helper_test(a_thread_s_end_sends_all_home),
        helper_test(what_a_thread_allocates_is_its_node_s),
        helper_test(accounts_stay_exact),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
