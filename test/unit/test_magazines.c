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

/* -- what is wrong in them --------------------------------------------------------------------------------------- */

static const struct slab_cache_attr typesafe = {.flags = SLAB_TYPESAFE_BY_EPOCH};

static int begin_unkeyed(void **state)
{
    (void)state;
    name = named("unkeyed", SIZE, &typesafe);
    cache = cache_of(name);
    store_relaxed(&slm_cache_depot(cache, 0)->exchanges, 1); /* at any time, not once in a while */
    return 0;
}

static struct slm_magazine *wrong;

static void put_wrong(void)
{
    slm_magazine_put(cache, 0, &wrong, UINT64_MAX);
}

static void put_wrong_into_slabs(void)
{
    slm_magazine_put(cache, 0, &wrong, 0);
}

static void hand_on_wrong(void)
{
    slm_magazine_hand_on(cache, wrong, UINT64_MAX);
}

/* Of one node's, as the magazine of a thread there. */
static struct slm_magazine *magazine_of(unsigned rounds)
{
    unsigned of_nodes[SLM_NODES_MAX] = {rounds};
    return mixed(of_nodes);
}

static void assert_refused(void (*run)(void), const void *pointer, const char *call, const char *what)
{
    assert_child_aborts(run, text("slabmalloc: %s(" POINTER "): %s of cache %s", call, pointer_of(pointer), what,
                                  slm_cache_own(cache)->name));
}

/* A round in place of another one. */
static void try_wrong(uint32_t at, void *round, const char *what)
{
    void *const kept = wrong->rounds[at];
    wrong->rounds[at] = round;
    assert_refused(put_wrong, round, "free", what);
    wrong->cache_id = (uint16_t)cache->id; /* retired objects */
    assert_refused(put_wrong, round, "slab_free_deferred", what);
    if (slm_magazine_home(round) == 0) /* others are sorted out before */
        assert_refused(hand_on_wrong, round, "slab_free_deferred", what);
    wrong->cache_id = SLM_NOT_RETIRED;
    wrong->rounds[at] = kept;
}

static void no_round_may_be_there_twice(void **state)
{
    (void)state;
    static const uint32_t pairs[][2] = {{0, 1}, {0, 49}, {48, 49}, {17, 30}};
    wrong = magazine_of(50);
    for (size_t i = 0; i < COUNT(pairs); i++)
        try_wrong(pairs[i][1], wrong->rounds[pairs[i][0]], "double free of an object");
    slm_magazine_hand_on(cache, wrong, 0);
}

static void every_round_is_an_object_s_start(void **state)
{
    (void)state;
    static const size_t inside[] = {1, 8, 16, SIZE / 2, SIZE - 1};
    static const uint32_t at[] = {0, 1, 30, 49};
    void *volatile other = malloc(SIZE), *volatile large = malloc(MIB);
    void *const foreign[] = {other, large, &wrong, (void *)16, NULL};
    wrong = magazine_of(50);
    for (size_t i = 0; i < COUNT(at); i++)
        for (size_t k = 0; k < COUNT(inside); k++)
            try_wrong(at[i], (char *)wrong->rounds[at[i]] + inside[k], "not the start of an object");
    for (size_t i = 0; i < COUNT(foreign); i++)
        try_wrong(at[i % COUNT(at)], foreign[i], "not the start of an object");
    slm_magazine_hand_on(cache, wrong, 0);
    free(other);
    free(large);
}

/* Those that go into their slabs are looked at there. */
static void slabs_take_no_round_twice(void **state)
{
    (void)state;
    wrong = magazine_of(20);
    void *const kept = wrong->rounds[19];
    wrong->rounds[19] = wrong->rounds[4];
    assert_refused(put_wrong_into_slabs, wrong->rounds[4], "free", "double free of an object");
    wrong->cache_id = (uint16_t)cache->id;
    assert_refused(put_wrong_into_slabs, wrong->rounds[4], "slab_free_deferred", "double free of an object");
    wrong->cache_id = SLM_NOT_RETIRED;
    wrong->rounds[19] = (char *)kept + 8;
    assert_refused(put_wrong_into_slabs, wrong->rounds[19], "free", "not the start of an object");
    wrong->rounds[19] = kept;
    slm_magazine_hand_on(cache, wrong, 0);
}

/* Both the batch, of the first one's node, and the rest. */
static void batches_of_retired_rounds_are_named_so(void **state)
{
    (void)state;
    need_nodes(2);
    unsigned of_nodes[SLM_NODES_MAX] = {20, 20};
    wrong = mixed(of_nodes);
    for (unsigned batch = 0; batch < 2; batch++) {
        uint32_t at[20], n = 0;
        for (uint32_t i = 0; i < wrong->count; i++)
            if ((slm_magazine_home(wrong->rounds[i]) == slm_magazine_home(wrong->rounds[0])) == batch)
                at[n++] = i;
        void *const kept = wrong->rounds[at[19]], *const twin = wrong->rounds[at[3]];
        wrong->rounds[at[19]] = twin;
        wrong->cache_id = SLM_NOT_RETIRED;
        assert_refused(hand_on_wrong, twin, "free", "double free of an object");
        wrong->cache_id = (uint16_t)cache->id;
        assert_refused(hand_on_wrong, twin, "slab_free_deferred", "double free of an object");
        wrong->rounds[at[19]] = kept;
    }
    slm_magazine_hand_on(cache, wrong, 0);
}

/* Each push of theirs was checked. Whether a magazine comes after each one that goes, so that the count is odd
 * when it comes, is all the same. */
static void look_at_one_in_256(unsigned odd)
{
    struct slm_depot *depot = slm_cache_depot(cache, 0);
    assert_true(cache->shape.keyed);
    wrong = magazine_of(50);
    void *const kept = wrong->rounds[30];
    wrong->rounds[30] = wrong->rounds[7];
    for (uint64_t pairs = 0; pairs <= 1024; pairs += pairs % 128 == 127 ? 1 : 127) {
        store_relaxed(&depot->exchanges, 2 * pairs + odd);
        store_relaxed(&depot->drains_home, 0);
        if (pairs % 256 == 0)
            assert_refused(put_wrong, wrong->rounds[7], "free", "double free of an object");
        else
            assert_child_silent(put_wrong);
    }
    wrong->rounds[30] = kept;
    slm_magazine_hand_on(cache, wrong, 0);
}

static void of_keyed_ones_one_magazine_in_256_is_looked_at(void **state)
{
    (void)state;
    look_at_one_in_256(0);
    look_at_one_in_256(1);
}

/* In any order, and of all sizes, those of an area of their own slabs and those in the middle of several granules. */
static void good_rounds_are_never_refused(void **state)
{
    (void)state;
    static const size_t sizes[] = {8, 16, 24, 112, 1000, 5000, 28672, 40000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        name = named("good", sizes[i], &typesafe);
        cache = cache_of(name);
        for (unsigned n = 1; n <= SLM_MAGAZINE_ROUNDS_MAX; n += n % 19 + 1) {
            slm_magazine_hand_on(cache, magazine_of(n), UINT64_MAX);
            assert_int_equal(cache_stock(cache), n);
            empty_stocks();
        }
        assert_int_equal(slab_cache_destroy(name), 0);
    }
}

#define cache_test(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)
#define unkeyed_test(name) cmocka_unit_test_setup_teardown(name, begin_unkeyed, end_test)

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
        unkeyed_test(no_round_may_be_there_twice),
        unkeyed_test(every_round_is_an_object_s_start),
        unkeyed_test(slabs_take_no_round_twice),
        cache_test(slabs_take_no_round_twice),
        unkeyed_test(batches_of_retired_rounds_are_named_so),
        cache_test(of_keyed_ones_one_magazine_in_256_is_looked_at),
        cmocka_unit_test(good_rounds_are_never_refused),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
