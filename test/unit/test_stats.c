/* src/heap/stats.h: figures of the process, and the report at exit. */
#include "unit.h"

#include "base/options.h"
#include "base/size_class.h"
#include "heap/heap.h"
#include "heap/stats.h"
#include "os/topology.h"
#include "thread/thread_list.h"

static struct slab_stats gather(void)
{
    struct slab_stats stats;
    memset(&stats, 0xff, sizeof stats);
    slm_stats_gather(&stats);
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
    slm_heap_purge();
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
    slm_heap_purge();
    assert_int_equal(gather().cached_bytes, 0);
}

static void purges_are_counted(void **state)
{
    (void)state;
    char *object = malloc(8 * MIB);
    memset(object, 1, 8 * MIB);
    const struct slab_stats before = gather();
    free(object);
    assert_int_equal(gather().dirty_bytes, before.dirty_bytes + 8 * MIB);
    const size_t given = slm_heap_purge();
    const struct slab_stats after = gather();
    assert_true(given >= 8 * MIB);
    assert_int_equal(after.purged_bytes - before.purged_bytes, given);
    assert_true(after.purges > before.purges);
    assert_int_equal(after.dirty_bytes, 0);
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

static void *take_and_give(void *nothing)
{
    void *volatile objects[1000];
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
    const uint64_t taken = slm_stats_objects_taken();
    on_threads(4, take_and_give);
    const struct slab_stats after = gather();
    assert_true(slm_stats_objects_taken() >= taken + 4000);
    assert_true(after.refills >= before.refills + 4);
    assert_true(after.drains >= before.drains + 4);
    assert_int_equal(after.threads, 1);
}

static void what_a_program_was_served_only_rises(void **state)
{
    (void)state;
    const uint64_t before = slm_stats_objects_taken();
    free(malloc(100000)); /* each large object counts */
    assert_int_equal(slm_stats_objects_taken(), before + 1);
    slm_heap_purge();
    assert_int_equal(slm_stats_objects_taken(), before + 1);
}

static void report_text(void)
{
    slm_options.stats = 1;
    errno = EDOM;
    slm_stats_report();
    require(errno == EDOM);
}

static void the_report_is_a_figure_a_line(void **state)
{
    (void)state;
    static const char *const names[] = {"live_bytes",
                                        "cached_bytes",
                                        "dirty_bytes",
                                        "purged_bytes",
                                        "reserved_bytes",
                                        "metadata_bytes",
                                        "refills",
                                        "drains",
                                        "depot_locks",
                                        "depot_contended",
                                        "slabs_made",
                                        "slabs_released",
                                        "purges",
                                        "threads",
                                        "nodes",
                                        "caches",
                                        "membarriers",
                                        "grace_periods",
                                        "deferred_bytes",
                                        "deferred_objects",
                                        "deferred_waits",
                                        "deferred_excesses",
                                        "deferred_unfreed",
                                        "epoch_stalls",
                                        "percpu_objects",
                                        "percpu_bytes",
                                        "percpu_mapped_bytes",
                                        "percpu_metadata_bytes",
                                        "remote_frees"};
    struct outcome outcome = in_child(report_text);
    assert_int_equal(outcome.status, 0);
    size_t i = 0;
    for (char *line = strtok(outcome.said, "\n"); line; line = strtok(NULL, "\n"), i++) {
        unsigned long figure;
        char name[64], rest;
        assert_int_equal(sscanf(line, "slabmalloc: %63s %lu%c", name, &figure, &rest), 2);
        assert_true(i < COUNT(names));
        assert_string_equal(name, names[i]);
    }
    assert_int_equal(i, COUNT(names));
}

static void nothing_is_reported_unasked(void **state)
{
    (void)state;
    assert_child_silent(slm_stats_report);
}

static char path[] = "/tmp/test_stats.XXXXXX";

static void report_to_file(void)
{
    strcpy(slm_options.stats_file, path);
    slm_stats_report();
    slm_stats_report();
}

/* Two lines of JSON: braces around, names and numbers in between. */
static void the_file_gets_a_line_of_json_each_time(void **state)
{
    (void)state;
    char line[2048], begins[128];
    const int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_child_silent(report_to_file);
    FILE *file = fdopen(descriptor, "r");
    for (unsigned i = 0; i < 2; i++) {
        unsigned pid, taken;
        assert_non_null(fgets(line, sizeof line, file));
        assert_int_equal(sscanf(line, "{\"pid\": %u, \"program\": \"test_stats\", \"objects_taken\": %u, %100s", &pid,
                                &taken, begins),
                         3);
        assert_string_equal(begins, "\"live_bytes\":");
        assert_true(taken > 0);
        assert_string_equal(line + strlen(line) - 2, "}\n");
        assert_null(strchr(line + 1, '{'));
    }
    assert_null(fgets(line, sizeof line, file));
    fclose(file);
    unlink(path);
}

static void report_to_nowhere(void)
{
    strcpy(slm_options.stats_file, "/nowhere/at/all");
    errno = EDOM;
    slm_stats_report();
    require(errno == EDOM);
}

static void a_file_that_cannot_be_opened_does_no_harm(void **state)
{
    (void)state;
    assert_int_equal(in_child(report_to_nowhere).status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(live_bytes_are_sizes_of_classes),
        cmocka_unit_test(large_objects_count_in_pages),
        cmocka_unit_test(cached_bytes_are_what_magazines_hold),
        cmocka_unit_test(purges_are_counted),
        cmocka_unit_test(the_rest_is_filled_in),
        cmocka_unit_test(threads_that_ended_stay_counted),
        cmocka_unit_test(what_a_program_was_served_only_rises),
        cmocka_unit_test(the_report_is_a_figure_a_line),
        cmocka_unit_test(nothing_is_reported_unasked),
        cmocka_unit_test(the_file_gets_a_line_of_json_each_time),
        cmocka_unit_test(a_file_that_cannot_be_opened_does_no_harm),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
