/* src/depot/shards.h: when a depot has shards, what they give each other, and what they keep apart. The linker puts
 * __wrap_slm_topology_here in the place of the library's: a test says on which CPU it is. */
#include "one_depot.h"

#include "page/metadata.h"

static unsigned cpu;

unsigned __wrap_slm_topology_here(uintptr_t thread);
unsigned __wrap_slm_topology_here(uintptr_t thread)
{
    (void)thread;
    return __atomic_load_n(&cpu, __ATOMIC_RELAXED);
}

static void *come(void *nothing)
{
    slm_depot_here(&depot);
    return nothing;
}

/* Two threads take turns until the depot has shards. */
static void let_threads_meet(void)
{
    for (unsigned i = 0; i < 1000 && !load_relaxed(&depot.shards); i++)
        on_threads(1, come), come(NULL);
    require(load_relaxed(&depot.shards) != NULL);
}

static struct slm_depot *on_cpu(unsigned number)
{
    cpu = number;
    return slm_depot_here(&depot);
}

static void one_thread_has_one_shard(void **state)
{
    (void)state;
    void *object;
    for (unsigned i = 0; i < 1000; i++) {
        cpu = i % 4; /* it is moved about */
        fill(&object, 1);
        slm_depot_give(&object, 1, "free");
    }
    assert_null(load_relaxed(&depot.shards));
    assert_null(slm_depot_shard_after(&depot));
    assert_null(slm_depot_other_shard(&depot, &depot));
    assert_ptr_equal(slm_depot_home(&depot), &depot);
}

static void each_cpu_has_its_own(void **state)
{
    (void)state;
    let_threads_meet();
    struct slm_depot *const third = on_cpu(3), *const first = on_cpu(1);
    assert_true(third != first && third != &depot && first != &depot);
    assert_ptr_equal(on_cpu(0), &depot);
    assert_ptr_equal(on_cpu(3), third);
    assert_ptr_equal(on_cpu(3 + SLM_SHARDS_MOST), third);
    assert_ptr_equal(slm_depot_home(third), &depot);
    assert_ptr_equal(slm_depot_shard_after(&depot), first);
    assert_ptr_equal(slm_depot_shard_after(first), third);
    assert_null(slm_depot_shard_after(third));
    assert_ptr_equal(slm_depot_other_shard(first, first), third); /* in a circle */
    assert_ptr_equal(slm_depot_other_shard(first, third), &depot);
    assert_null(slm_depot_other_shard(first, &depot));
    assert_int_equal(third->node, depot.node);
    assert_string_equal(third->cache_name, "test");
}

/* A CPU gets what it has freed, and the slabs that it has made. */
static void what_a_cpu_has_stays_there(void **state)
{
    (void)state;
    let_threads_meet();
    void *mine[A_SLAB / 2], *others[A_SLAB / 2], *again;
    on_cpu(0);
    fill(mine, COUNT(mine));
    on_cpu(1);
    fill(others, 1); /* there is a slab with room: it is taken over */
    assert_int_equal(slabs(), 1);
    assert_ptr_equal(load_relaxed(&slm_slab_of(mine[0])->owner), on_cpu(1));
    on_cpu(0);
    slm_depot_give(mine, 1, "free"); /* home, to the shard that has the slab now */
    assert_int_equal(depot.occupied, 0);
    assert_true(on_cpu(1)->occupied != 0);
    on_cpu(1);
    fill(others + 1, COUNT(others) - 1);
    fill(mine, 1);
    on_cpu(0);
    fill(&again, 1);
    assert_int_equal(slabs(), 2);
    assert_ptr_equal(load_relaxed(&slm_slab_of(again)->owner), &depot);
    slm_depot_give(mine, COUNT(mine), "free");
    slm_depot_give(others, COUNT(others), "free");
    slm_depot_give(&again, 1, "free");
}

static struct slm_magazine *magazine_of(uint32_t rounds)
{
    struct slm_magazine *magazine = slm_metadata_alloc(slm_magazine_bytes(29));
    require(magazine != NULL);
    magazine->capacity = 29;
    magazine->count = rounds;
    fill(magazine->rounds, rounds);
    return magazine;
}

static void give_magazine(struct slm_magazine *magazine)
{
    slm_depot_give(magazine->rounds, magazine->count, "free");
    slm_metadata_free(magazine, slm_magazine_bytes(29));
}

static void stocks_share_a_bound_and_help_out(void **state)
{
    (void)state;
    let_threads_meet();
    struct slm_magazine *slot = NULL, *mine = magazine_of(20), *second = magazine_of(20), *third = magazine_of(10);
    on_cpu(1);
    on_cpu(0);
    assert_true(slm_depot_put(slm_depot_here(&depot), &mine, 40));
    assert_false(slm_depot_put(slm_depot_here(&depot), &second, 40)); /* the other's half */
    on_cpu(1);
    assert_true(slm_depot_put(slm_depot_here(&depot), &third, 40));
    assert_true(slm_depot_get(&depot, &slot));
    assert_int_equal(slot->count, 10); /* its own first */
    give_magazine(slot);
    slot = NULL;
    assert_true(slm_depot_get(&depot, &slot)); /* then what another one has more of than half its share */
    assert_int_equal(slot->count, 20);
    assert_false(slm_depot_get(&depot, &mine));
    give_magazine(slot);
    give_magazine(second);
}

/* On whatever CPU: the others change it meanwhile. */
static void *take_and_give(void *number)
{
    uint64_t seed = (uintptr_t)number;
    void *rounds[2 * A_SLAB];
    for (unsigned turn = 0; turn < scaled(4000); turn++) {
        const unsigned n = 1 + (unsigned)random_below(&seed, COUNT(rounds));
        __atomic_store_n(&cpu, (unsigned)random_below(&seed, 3), __ATOMIC_RELAXED);
        fill(rounds, n);
        for (unsigned i = 0; i < n; i++) {
            *(uintptr_t *)rounds[i] = (uintptr_t)number;
            if (i % 8 == 7)
                slm_depot_give(rounds + i, 1, "free");
        }
        for (unsigned i = 0; i < n; i++)
            if (i % 8 != 7) {
                require(*(uintptr_t *)rounds[i] == (uintptr_t)number);
                slm_depot_give(rounds + i, 1, "free");
            }
        if (turn % 64 == 0)
            slm_depot_trim(slm_depot_here(&depot), true);
    }
    return NULL;
}

static void slabs_change_hands_while_objects_come_back(void **state)
{
    (void)state;
    let_threads_meet();
    on_threads(4, take_and_give);
    assert_int_equal(objects_out(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        depot_test(one_thread_has_one_shard),
        depot_test(each_cpu_has_its_own),
        depot_test(what_a_cpu_has_stays_there),
        depot_test(stocks_share_a_bound_and_help_out),
        depot_test(slabs_change_hands_while_objects_come_back),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
