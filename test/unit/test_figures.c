/* src/figures/figures.h: figures of the process and of its nodes. */
#include "unit.h"

#include "process/give_back.h"

#include "base/size_class.h"
#include "figures/figures.h"
#include "heap/slow.h"
#include "os/topology.h"

static struct slab_stats gather(void)
{
    struct slab_stats stats;
    memset(&stats, 0xff, sizeof stats);
    slm_figures_gather(&stats);
    return stats;
}

static void live_bytes_are_sizes_of_classes(void **state)
{
    (void)state;
    for (unsigned class = 0; class < SLM_CLASSES; class ++) {
        void *objects[50];
        const uint64_t before = gather().live_bytes;
        for (size_t i = 0; i < COUNT(objects); i++)
            objects[i] = malloc(slm_class_size[class]);
        assert_int_equal(gather().live_bytes - before, COUNT(objects) * slm_class_size[class]);
        for (size_t i = 0; i < COUNT(objects); i++)
            free(objects[i]);
        assert_int_equal(gather().live_bytes, before);
    }
}

static void large_objects_count_in_pages(void **state)
{
    (void)state;
    const uint64_t before = gather().live_bytes;
    void *object = malloc(1000001);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    assert_int_equal(gather().live_bytes - before, (1000001 + page - 1) / page * page);
    free(object);
    assert_int_equal(gather().live_bytes, before);
    assert_true(gather().dirty_bytes >= 1000001);
}

static void cached_bytes_are_what_magazines_hold(void **state)
{
    (void)state;
    static void *objects[2000];
    slm_give_back_all();
    const struct slab_stats before = gather();
    assert_int_equal(before.cached_bytes, 0);
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = malloc(500);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    const struct slab_stats after = gather();
    assert_in_range(after.cached_bytes, 512, 2 * COUNT(objects) * 512);
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_true(after.refills > before.refills);
    assert_true(after.drains > before.drains);
    assert_true(after.slabs_made > before.slabs_made);
    slm_give_back_all();
    assert_int_equal(gather().cached_bytes, 0);
}

static void purges_are_counted(void **state)
{
    (void)state;
    char *object = malloc(8 * MIB);
    memset(object, 1, 8 * MIB);
    const struct slab_stats before = gather();
    slm_settings.dirty_bytes = 1024 * MIB; /* it does not go at once */
    free(object);
    assert_int_equal(gather().dirty_bytes, before.dirty_bytes + 8 * MIB);
    const size_t given = slm_give_back_all();
    const struct slab_stats after = gather();
    assert_true(given >= 8 * MIB);
    assert_int_equal(after.purged_bytes - before.purged_bytes, given);
    assert_true(after.purges > before.purges);
    assert_int_equal(after.dirty_bytes, 0);
    assert_int_equal(after.purged_trim_bytes - before.purged_trim_bytes, given);
    assert_int_equal(after.purged_bytes, after.purged_idle_bytes + after.purged_bound_bytes +
                                             after.purged_pressure_bytes + after.purged_trim_bytes +
                                             after.purged_limit_bytes + after.purged_growth_bytes);
}

static void the_rest_is_filled_in(void **state)
{
    (void)state;
    const struct slab_stats stats = gather();
    assert_int_equal(stats.threads, 1);
    assert_int_equal(stats.nodes, slm_nodes);
    assert_int_equal(stats.caches, SLM_CLASSES);
    assert_true(stats.reserved_bytes >= stats.live_bytes + stats.cached_bytes + stats.dirty_bytes);
    assert_in_range(stats.metadata_bytes, 1, 1024 * MIB);
    assert_true(stats.slabs_made >= stats.slabs_released);
    assert_int_equal(stats.deferred_bytes + stats.deferred_objects + stats.grace_periods + stats.membarriers, 0);
}

/* Every field of a node's figures is a process's too; nothing else runs here. */
static void what_nodes_have_adds_up(void **state)
{
    (void)state;
    struct slab_node_stats sum = {0}, one;
    for (int node = 0; node < (int)slm_nodes; node++) {
        assert_true(slm_figures_gather_node(node, &one));
        for (size_t i = 0; i < sizeof one / sizeof(uint64_t); i++)
            ((uint64_t *)&sum)[i] += ((const uint64_t *)&one)[i];
    }
    assert_false(slm_figures_gather_node((int)slm_nodes, &one) || slm_figures_gather_node(-1, &one));
    const struct slab_stats all = gather();
    const struct slab_node_stats expected = {
        .live_bytes = all.live_bytes,
        .cached_bytes = all.cached_bytes,
        .dirty_bytes = all.dirty_bytes,
        .purged_bytes = all.purged_bytes,
        .reserved_bytes = all.reserved_bytes,
        .slabs_made = all.slabs_made,
        .slabs_released = all.slabs_released,
        .purges = all.purges,
        .depot_locks = all.depot_locks,
        .depot_contended = all.depot_contended,
        .remote_frees = all.remote_frees,
        .threads = all.threads,
    };
    assert_memory_equal(&sum, &expected, sizeof sum);
}

static pthread_barrier_t all_begun;

/* None begins with what another one has left. */
static void *take_and_give(void *nothing)
{
    void *volatile objects[1000];
    free(malloc(72));
    pthread_barrier_wait(&all_begun);
    for (size_t i = 0; i < COUNT(objects); i++)
        objects[i] = malloc(72);
    for (size_t i = 0; i < COUNT(objects); i++)
        free(objects[i]);
    return nothing;
}

static void threads_that_ended_stay_counted(void **state)
{
    (void)state;
    const struct slab_stats before = gather();
    const uint64_t taken = slm_figures_objects_taken();
    assert_int_equal(pthread_barrier_init(&all_begun, NULL, 4), 0);
    on_threads(4, take_and_give);
    const struct slab_stats after = gather();
    assert_true(slm_figures_objects_taken() >= taken + 4000);
    assert_true(after.refills >= before.refills + 4);
    assert_true(after.drains >= before.drains + 4);
    assert_int_equal(after.threads, 1);
}

static void what_a_program_was_served_only_rises(void **state)
{
    (void)state;
    const uint64_t before = slm_figures_objects_taken();
    free(malloc(100000)); /* each large object counts */
    assert_int_equal(slm_figures_objects_taken(), before + 1);
    slm_give_back_all();
    assert_int_equal(slm_figures_objects_taken(), before + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(live_bytes_are_sizes_of_classes),
        cmocka_unit_test(large_objects_count_in_pages),
        cmocka_unit_test(cached_bytes_are_what_magazines_hold),
        cmocka_unit_test(purges_are_counted),
        cmocka_unit_test(the_rest_is_filled_in),
        cmocka_unit_test(what_nodes_have_adds_up),
        cmocka_unit_test(threads_that_ended_stay_counted),
        cmocka_unit_test(what_a_program_was_served_only_rises),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
