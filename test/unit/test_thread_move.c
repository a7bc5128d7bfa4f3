/* src/thread/thread_cache.h: threads that come to another node: what they hold stays behind, in the old node's
 * depots, and what they allocate from then on is the new one's. */
#include "unit.h"

#include "figures/figures.h"
#include "heap/cache_object.h"
#include "nodes.h"

enum { ROUNDS = 20, HOARD = 30, TURNS = 300 };

static struct slab_cache *name;
static struct slm_cache *cache;
static struct helper helper;

static int begin_test(void **state)
{
    (void)state;
    name = named("moved", 128, &(struct slab_cache_attr){.flags = SLAB_NO_MERGE, .magazine_rounds = ROUNDS});
    cache = cache_of(name);
    start_helper_on(&helper, 0);
    return 0;
}

static int end_test(void **state)
{
    (void)state;
    slm_thread_check(helper.tls->self);
    end_helper(&helper);
    return slab_cache_destroy(name);
}

static void hoard(void *number)
{
    void *objects[HOARD];
    const unsigned n = *(const unsigned *)number;
    for (unsigned i = 0; i < n; i++)
        require((objects[i] = slm_cache_object_alloc(name)) && slm_node_of(objects[i]) == slm_tls.self->node);
    for (unsigned i = 0; i < n; i++)
        slm_cache_object_free(name, objects[i]);
}

static void have_hoard(unsigned n)
{
    tell(&helper, hoard, &n);
}

static void move(unsigned node)
{
    tell(&helper, go_to_node, &node);
}

static uint64_t rounds(void)
{
    return slm_thread_rounds(helper.tls->self, cache->id);
}

static struct slm_slot *slot(void)
{
    return slm_slot_of(helper.tls->self, cache->id);
}

static void magazines_stay_behind(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    have_hoard(HOARD);
    const uint64_t before = rounds(), stock = cache_stock(cache);
    struct slm_magazine *const loaded = slot()->loaded, *const previous = slot()->previous;
    assert_true(loaded && previous && before > 2 * SLM_MAGAZINE_SMALL);
    move(last_node());
    assert_int_equal(rounds(), 0);
    assert_true(!slot()->loaded && !slot()->previous && is_clear(slot()));
    assert_int_equal(stock_at_home(cache, 0), before + stock); /* the magazines themselves */
    const struct slm_magazine *second = slm_cache_depot(cache, 0)->full, *first = second->next;
    assert_true((first == loaded && second == previous) || (first == previous && second == loaded));
    assert_int_equal(node_out(cache, 0), before + stock);
    assert_int_equal(node_out(cache, last_node()), 0);
}

static void small_rests_go_into_slabs(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    void *objects[SLM_MAGAZINE_SMALL];
    go_to(0);
    take_from_node(cache, 0, COUNT(objects), objects);
    struct slm_thread *self = slm_thread_hide();
    for (size_t i = 0; i < COUNT(objects); i++)
        slm_thread_push(self, cache->id, objects[i]);
    slm_thread_unhide(self);
    go_to(last_node());
    assert_int_equal(slm_thread_rounds(self, cache->id), 0);
    assert_int_equal(cache_stock(cache), 0);
    assert_int_equal(cache_out(cache), 0);
    go_to(0);
}

static void sizes_are_kept(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    have_hoard(HOARD);
    const uint16_t target = load_relaxed(&slot()->target);
    const size_t bytes = helper.tls->self->target_bytes;
    assert_true(target > 0);
    move(last_node());
    assert_int_equal(load_relaxed(&slot()->target), target);
    assert_int_equal(helper.tls->self->target_bytes, bytes);
    have_hoard(1);
    assert_int_equal(rounds(), target);
}

static void the_key_moves_too(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    for (unsigned node = slm_nodes; node-- > 0;) {
        move(node);
        assert_int_equal(helper.tls->self->node, node);
        assert_int_equal(helper.tls->key, slm_key_of_area(slm_area_start(slm_area_for_slabs(node))));
        have_hoard(HOARD); /* which is the node's */
    }
}

static void free_one(void *object)
{
    slm_cache_object_free(name, object);
}

static uint64_t remote_frees(unsigned node)
{
    struct slab_node_stats stats;
    require(slm_figures_gather_node((int)node, &stats));
    return stats.remote_frees;
}

/* Those that are the new node's own are no longer remote. They are counted where they were freed. */
static void remote_rounds_go_home(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    void *objects[10];
    const uint64_t first = remote_frees(0), last = remote_frees(last_node());
    take_from_node(cache, last_node(), COUNT(objects), objects);
    for (size_t i = 0; i < COUNT(objects); i++)
        tell(&helper, free_one, objects[i]);
    assert_int_equal(slm_remote_rounds(helper.tls->self, cache->id, 0, slm_nodes), COUNT(objects));
    move(last_node());
    assert_null(slm_remote_of(helper.tls->self, cache->id));
    assert_int_equal(stock_at_home(cache, last_node()), COUNT(objects));
    assert_int_equal(remote_frees(0), first + COUNT(objects));
    assert_int_equal(remote_frees(last_node()), last);
    assert_int_equal(load_relaxed(&helper.tls->self->remote_frees), 0);
}

static void look_again(void *nothing)
{
    (void)nothing;
    struct slm_thread *thread = slm_thread_hide();
    errno = EDOM;
    slm_thread_look_where(thread);
    require(errno == EDOM);
    slm_thread_unhide(thread);
}

static void who_stays_keeps_all(void **state)
{
    (void)state;
    have_hoard(HOARD);
    const struct slm_slot before = *slot();
    const uintptr_t key = helper.tls->key;
    tell(&helper, look_again, NULL);
    assert_memory_equal(slot(), &before, sizeof before);
    assert_int_equal(helper.tls->key, key);
}

/* By its number, on a simulated machine; to another CPU of the same node, which is no move, and to another node. */
static void looking_tells_where(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    struct slm_thread *block = helper.tls->self;
    have_hoard(HOARD);
    const uint64_t before = rounds();
    block->ordinal = number_on(1) - 1;
    tell(&helper, look_again, NULL);
    assert_int_equal(block->node, 0);
    assert_int_equal(rounds(), before);
    block->ordinal = number_on(1);
    tell(&helper, look_again, NULL);
    assert_int_equal(block->node, 1);
    assert_int_equal(rounds(), 0);
    block->ordinal = 0;
}

static void nothing_is_lost_on_the_way(void **state)
{
    (void)state;
    need_simulated_nodes(2);
    uint64_t seed = 11, live = 0;
    void *kept[TURNS];
    for (unsigned turn = 0; turn < TURNS; turn++) {
        const unsigned node = (unsigned)random_below(&seed, slm_nodes);
        take_from_node(cache, (node + turn) % slm_nodes, 1, &kept[turn]);
        move(node);
        have_hoard(1 + (unsigned)random_below(&seed, HOARD));
        if (turn % 2)
            tell(&helper, free_one, kept[turn]);
        else
            live++;
        slm_thread_check(helper.tls->self);
        const uint64_t free_rounds = rounds() + slm_remote_rounds(helper.tls->self, cache->id, 0, slm_nodes);
        assert_int_equal(cache_out(cache), free_rounds + cache_stock(cache) + live);
    }
    for (unsigned turn = 0; turn < TURNS; turn += 2)
        tell(&helper, free_one, kept[turn]);
    for (unsigned node = 0; node < slm_nodes; node++)
        stock_at_home(cache, node);
}

#define move_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        move_test(magazines_stay_behind), move_test(small_rests_go_into_slabs),  move_test(sizes_are_kept),
        move_test(the_key_moves_too),     move_test(remote_rounds_go_home),      move_test(who_stays_keeps_all),
        move_test(looking_tells_where),   move_test(nothing_is_lost_on_the_way),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
