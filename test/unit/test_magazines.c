/* src/depot/magazines.h: making magazines, and handing on what is in them: every round ends in the stock of its own
 * node's depot or in its slab, and is counted there. */
#include "checks.h"
#include "unit.h"

#include "nodes.h"
#include "page/reservation.h"

enum { SIZE = 128, TURNS = 200 };

static struct slab_cache *name;
static struct slm_cache *cache;

static int begin_test(void **state)
{
    (void)state;
    name = named("handed on", SIZE, &(struct slab_cache_attr){.flags = SLAB_NO_MERGE});
    cache = cache_of(name);
    return 0;
}

static int end_test(void **state)
{
    (void)state;
    for (unsigned node = 0; node < slm_nodes; node++)
        check_depot(slm_cache_depot(cache, node));
    return slab_cache_destroy(name);
}

/* So many of each node, in no order. */
static struct slm_magazine *mixed(const unsigned *of_nodes)
{
    static uint64_t seed = 7;
    struct slm_magazine *magazine = slm_magazine_make(SLM_MAGAZINE_ROUNDS_MAX);
    require(magazine != NULL);
    for (unsigned node = 0; node < slm_nodes; node++) {
        take_from_node(cache, node, of_nodes[node], magazine->rounds + magazine->count);
        magazine->count += of_nodes[node];
    }
    for (uint32_t i = magazine->count; i > 1; i--) {
        const size_t other = random_below(&seed, i);
        void *const round = magazine->rounds[i - 1];
        magazine->rounds[i - 1] = magazine->rounds[other];
        magazine->rounds[other] = round;
    }
    return magazine;
}

static void empty_stocks(void)
{
    for (unsigned node = 0; node < slm_nodes; node++)
        slm_depot_trim(slm_cache_depot(cache, node), true);
    require(cache_out(cache) == 0);
}

static void magazines_are_made_empty(void **state)
{
    (void)state;
    for (uint32_t rounds = 1; rounds <= SLM_MAGAZINE_ROUNDS_MAX; rounds++) {
        struct slm_magazine *magazine = slm_magazine_make(rounds);
        assert_non_null(magazine);
        assert_int_equal(magazine->capacity, slm_magazine_capacity(rounds));
        assert_int_equal(magazine->count, 0);
        assert_int_equal(magazine->cache_id, SLM_NOT_RETIRED);
        slm_magazine_free(magazine);
    }
    slm_magazine_free(NULL);
}

/* Areas are a power of two, nodes need not be: what lies beyond is at home on node 0. */
static void every_address_has_a_home(void **state)
{
    (void)state;
    for (unsigned area = 0; area < slm_area_count(); area++) {
        const unsigned node = slm_node_of_area(area);
        assert_int_equal(slm_magazine_home(slm_area_start(area)), node < slm_nodes ? node : 0);
    }
}

static void one_node_s_rounds_go_as_they_are(void **state)
{
    (void)state;
    for (unsigned node = 0; node < slm_nodes; node++) {
        unsigned of_nodes[SLM_NODES_MAX] = {0};
        of_nodes[node] = 40;
        struct slm_magazine *magazine = mixed(of_nodes);
        slm_magazine_hand_on(cache, magazine, 40);
        assert_ptr_equal(slm_cache_depot(cache, node)->full, magazine); /* no copy */
        assert_int_equal(stock_at_home(cache, node), 40);
        assert_int_equal(cache_stock(cache), 40);
        empty_stocks();
    }
}

static void without_a_limit_all_go_into_slabs(void **state)
{
    (void)state;
    unsigned of_nodes[SLM_NODES_MAX];
    uint64_t home[SLM_NODES_MAX];
    for (unsigned node = 0; node < slm_nodes; node++) {
        of_nodes[node] = 10 + node;
        home[node] = load_relaxed(&slm_cache_depot(cache, node)->drains_home);
    }
    slm_magazine_hand_on(cache, mixed(of_nodes), 0);
    assert_int_equal(cache_out(cache), 0);
    assert_int_equal(cache_stock(cache), 0);
    for (unsigned node = 0; node < slm_nodes; node++)
        assert_int_equal(load_relaxed(&slm_cache_depot(cache, node)->drains_home), home[node] + 1);
}

/* No depot's stock is raised over the limit; what is not in stock is in its slab. */
static void every_round_ends_at_home(void **state)
{
    (void)state;
    static const uint64_t limits[] = {1, 10, 33, 100, UINT64_MAX};
    const unsigned most = SLM_MAGAZINE_ROUNDS_MAX / slm_nodes;
    uint64_t seed = 3, handed = 0, in_stock = 0;
    for (unsigned turn = 0; turn < TURNS; turn++) {
        const uint64_t limit = limits[turn % COUNT(limits)];
        unsigned of_nodes[SLM_NODES_MAX];
        for (unsigned node = 0; node < slm_nodes; node++)
            handed += of_nodes[node] = (unsigned)random_below(&seed, most + 1);
        slm_magazine_hand_on(cache, mixed(of_nodes), limit);
        for (unsigned node = 0; node < slm_nodes; node++) {
            const uint64_t stock = stock_at_home(cache, node);
            assert_int_equal(node_out(cache, node), stock);
            assert_true(stock <= limit);
            assert_true(stock == 0 || stock == of_nodes[node]);
            in_stock += stock;
        }
        empty_stocks();
    }
    assert_true(in_stock > 0 && in_stock < handed);
}

/* Whatever the order in which the batches go. */
static void small_batches_go_into_slabs(void **state)
{
    (void)state;
    need_nodes(2);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        unsigned of_nodes[SLM_NODES_MAX];
        for (unsigned node = 0; node < slm_nodes; node++)
            of_nodes[node] = (turn + node) % 2 ? SLM_MAGAZINE_SMALL + 1 : turn % SLM_MAGAZINE_SMALL + 1;
        slm_magazine_hand_on(cache, mixed(of_nodes), UINT64_MAX);
        for (unsigned node = 0; node < slm_nodes; node++)
            assert_int_equal(stock_at_home(cache, node), (turn + node) % 2 ? of_nodes[node] : 0);
        empty_stocks();
    }
}

static void full_stocks_get_no_more(void **state)
{
    (void)state;
    unsigned of_nodes[SLM_NODES_MAX];
    const unsigned each = (unsigned)slm_min(20, SLM_MAGAZINE_ROUNDS_MAX / slm_nodes);
    for (unsigned node = 0; node < slm_nodes; node++)
        of_nodes[node] = each;
    for (unsigned turn = 1; turn <= 5; turn++) {
        slm_magazine_hand_on(cache, mixed(of_nodes), 3 * each);
        for (unsigned node = 0; node < slm_nodes; node++) {
            assert_int_equal(stock_at_home(cache, node), slm_min(turn, 3) * each);
            assert_int_equal(node_out(cache, node), slm_min(turn, 3) * each);
        }
    }
}

/* All magazines but those in stock have been freed, whether depots took the batches, gave empty ones for them,
 * or refused. */
static void no_magazine_is_lost(void **state)
{
    (void)state;
    static const uint64_t limits[] = {0, 5, 40};
    uint64_t before = 0;
    unsigned of_nodes[SLM_NODES_MAX];
    for (unsigned turn = 0; turn < 40 * TURNS; turn++) {
        for (unsigned node = 0; node < slm_nodes; node++)
            of_nodes[node] = (turn + node) % 12;
        slm_magazine_hand_on(cache, mixed(of_nodes), limits[turn % COUNT(limits)]);
        if (turn % 5 == 0)
            empty_stocks();
        if (turn == TURNS)
            before = slm_reservation_metadata_bytes();
    }
    empty_stocks();
    assert_int_equal(slm_reservation_metadata_bytes(), before);
}

static struct slm_magazine *wrong;

static void check_wrong(void)
{
    slm_magazine_check(cache, wrong, slm_magazine_home(wrong->rounds[0]), "realloc");
}

static void assert_refused(const void *round, const char *what)
{
    assert_child_aborts(check_wrong,
                        text("slabmalloc: realloc(" POINTER "): %s of cache handed on", pointer_of(round), what));
}

static void what_is_wrong_with_a_magazine_is_found(void **state)
{
    (void)state;
    struct slab_cache_attr attr = {.flags = SLAB_TYPESAFE_BY_EPOCH};
    struct slab_cache *typesafe = named("handed on", SIZE, &attr);
    struct slm_cache *const keyed = cache;
    unsigned of_nodes[SLM_NODES_MAX] = {20};
    for (unsigned turn = 0; turn < 2; turn++) {
        cache = turn == 0 ? keyed : cache_of(typesafe);
        wrong = mixed(of_nodes);
        check_wrong();
        void *const round = wrong->rounds[7];
        wrong->rounds[7] = wrong->rounds[3];
        assert_refused(wrong->rounds[3], "double free of an object");
        wrong->rounds[7] = (char *)round + 8;
        assert_refused(wrong->rounds[7], "not the start of an object");
        wrong->rounds[7] = round;
        if (turn == 1) { /* keyed ones are seen by what frees them */
            slm_slab_give(slm_slab_of(round), &round, 1, "free", "test");
            assert_refused(round, "double free of an object");
            wrong->rounds[7] = wrong->rounds[--wrong->count];
            slm_slab_count(slm_slab_of(round), 1);
            sub_relaxed(&slm_cache_depot(cache, 0)->objects_out, 1);
        }
        slm_magazine_hand_on(cache, wrong, 0);
    }
    assert_int_equal(slab_cache_destroy(typesafe), 0);
    cache = keyed;
}

#define cache_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(magazines_are_made_empty),
        cmocka_unit_test(every_address_has_a_home),
        cache_test(one_node_s_rounds_go_as_they_are),
        cache_test(without_a_limit_all_go_into_slabs),
        cache_test(every_round_ends_at_home),
        cache_test(small_batches_go_into_slabs),
        cache_test(full_stocks_get_no_more),
        cache_test(no_magazine_is_lost),
        cache_test(what_is_wrong_with_a_magazine_is_found),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
