/* Google Benchmark's C interface (bench/gbench.h), from the outside: arguments, loops, threads, figures, times.
 *
 * Times are manual wherever a figure depends on them, so that the figures are exact; the one test of the clock
 * itself, pausing, burns CPU time of its own thread. */
#include "gbench_case.h"

#include <stdatomic.h>

/* ---- arguments ---- */

static void show_one(struct gbench_state *state, void *user)
{
    GBENCH_LOOP (state)
        gbench_clobber_memory();
    gbench_counter(state, "first", (double)gbench_range(state, 0), GBENCH_PLAIN);
    gbench_counter(state, "user", *(const int *)user, GBENCH_PLAIN);
}

static void show_two(struct gbench_state *state, void *user)
{
    show_one(state, user);
    gbench_counter(state, "second", (double)gbench_range(state, 1), GBENCH_PLAIN);
}

static struct gbench *register_short(const char *name, gbench_function *function)
{
    static int answer = 42;
    struct gbench *bench = gbench_register(name, function, &answer);
    gbench_set_iterations(bench, 3);
    return bench;
}

static void register_sets(void)
{
    char name[] = "copied";
    struct gbench *bench = register_short(name, show_one);
    name[0] = 'x';
    gbench_arg(bench, 7);
    gbench_arg(bench, -8);

    bench = register_short("range", show_one);
    gbench_range_multiplier(bench, 4);
    gbench_range_of_args(bench, 3, 60);
    gbench_dense_range(register_short("dense", show_one), 10, 16, 3);

    bench = register_short("named", show_two);
    gbench_arg_names(bench, (const char *const[]){"left", "right"}, 2);
    gbench_args(bench, (const int64_t[]){5, 6}, 2);
    gbench_ranges(register_short("ranges", show_two), (const int64_t[][2]){{1, 8}, {2, 2}}, 2);
    const int64_t few[] = {1, 2, 3}, pair[] = {10, 20};
    gbench_args_product(register_short("product", show_two), (const struct gbench_list[]){{few, 3}, {pair, 2}}, 2);
}

static void every_set_of_arguments_arrives(void **state)
{
    (void)state;
    run_well(register_sets);
    assert_number("copied/7/iterations:3", "first", 7);
    assert_number("copied/-8/iterations:3", "first", -8);
    assert_number("copied/-8/iterations:3", "user", 42);
    assert_number("range/3/iterations:3", "first", 3);
    assert_number("range/4/iterations:3", "first", 4);
    assert_number("range/16/iterations:3", "first", 16);
    assert_number("range/60/iterations:3", "first", 60);
    assert_number("dense/13/iterations:3", "first", 13);
    assert_number("dense/16/iterations:3", "first", 16);
    assert_number("named/left:5/right:6/iterations:3", "second", 6);
    assert_number("ranges/8/2/iterations:3", "first", 8);
    assert_number("product/3/20/iterations:3", "first", 3);
    assert_number("product/3/20/iterations:3", "second", 20);
    assert_int_equal(count_runs(), 2 + 4 + 3 + 1 + 2 + 6);
}

static void a_filter_picks(void **state)
{
    (void)state;
    const struct outcome outcome = run_case(register_sets, "--benchmark_filter=^dense/");
    assert_int_equal(outcome.status, 0);
    assert_int_equal(count_runs(), 3);
}

/* ---- loops ---- */

static void report_turns(struct gbench_state *state, uint64_t turns)
{
    gbench_counter(state, "turns", (double)turns, GBENCH_PLAIN);
    gbench_counter(state, "most", (double)gbench_max_iterations(state), GBENCH_PLAIN);
    gbench_counter(state, "done", (double)gbench_iterations(state), GBENCH_PLAIN);
}

static void loop_single(struct gbench_state *state, void *user)
{
    uint64_t turns = 0;
    (void)user;
    require(gbench_iterations(state) == 0);
    GBENCH_LOOP (state) {
        if (turns++ % 2 == 0)
            continue;
        gbench_do_not_optimize(turns);
    }
    report_turns(state, turns);
}

static void loop_batch(struct gbench_state *state, void *user)
{
    uint64_t turns = 0;
    (void)user;
    GBENCH_LOOP_OF (state, 300)
        turns++;
    report_turns(state, turns);
}

static void loop_while(struct gbench_state *state, void *user)
{
    uint64_t turns = 0;
    (void)user;
    while (gbench_keep_running(state))
        turns++;
    require(!gbench_keep_running(state));
    report_turns(state, turns);
}

static void loop_while_batch(struct gbench_state *state, void *user)
{
    uint64_t turns = 0;
    (void)user;
    while (gbench_keep_running_batch(state, 500))
        turns++;
    report_turns(state, turns);
}

static void register_loops(void)
{
    gbench_set_iterations(gbench_register("single", loop_single, NULL), 1000);
    gbench_set_iterations(gbench_register("batch", loop_batch, NULL), 1000);
    gbench_set_iterations(gbench_register("large_batch", loop_batch, NULL), 1);
    gbench_set_iterations(gbench_register("while", loop_while, NULL), 1000);
    gbench_set_iterations(gbench_register("while_batch", loop_while_batch, NULL), 1000);
}

static void assert_turns(const char *name, int64_t wanted, uint64_t turns, int64_t done)
{
    const char *run = text("%s/iterations:%ld", name, wanted);
    char copy[64];
    snprintf(copy, sizeof copy, "%s", run);
    assert_number(copy, "turns", (double)turns);
    assert_number(copy, "most", (double)wanted);
    assert_number(copy, "done", (double)done);
    assert_number(copy, "iterations", (double)done);
}

static void loops_turn_as_often_as_asked(void **state)
{
    (void)state;
    run_well(register_loops);
    assert_turns("single", 1000, 1000, 1000);
    assert_turns("batch", 1000, 4, 1200);
    assert_turns("large_batch", 1, 1, 300);
    assert_turns("while", 1000, 1000, 1000);
    assert_turns("while_batch", 1000, 2, 1000);
}

/* ---- threads ---- */

static void meet(struct gbench_state *state, void *user)
{
    static atomic_int inside;
    const int index = gbench_thread_index(state), threads = gbench_thread_count(state);
    (void)user;
    atomic_fetch_add(&inside, 1);
    GBENCH_LOOP (state)
        require(atomic_load(&inside) == threads); /* nobody starts before all have come, or has left */
    atomic_fetch_sub(&inside, 1);
    gbench_counter(state, "bits", 1 << index, GBENCH_PLAIN);
    gbench_counter(state, "count", threads, GBENCH_AVERAGE_THREADS);
}

static void register_threads(void)
{
    struct gbench *bench = gbench_register("meet", meet, NULL);
    gbench_set_iterations(bench, 100);
    gbench_thread_range(bench, 1, 4);
    gbench_threads(bench, 7);
    bench = gbench_register("dense", meet, NULL);
    gbench_set_iterations(bench, 1);
    gbench_dense_thread_range(bench, 2, 6, 3);
    gbench_thread_per_cpu(bench);
}

static void threads_run_together_and_know_who_they_are(void **state)
{
    (void)state;
    run_well(register_threads);
    for (int threads = 1; threads <= 7; threads += threads == 4 ? 3 : threads) {
        char name[64];
        snprintf(name, sizeof name, "meet/iterations:100/threads:%d", threads);
        assert_number(name, "threads", threads);
        assert_number(name, "count", threads);
        assert_number(name, "bits", (1 << threads) - 1);
        assert_number(name, "iterations", 100 * threads);
    }
    assert_non_null(find_run("dense/iterations:1/threads:5"));
    assert_non_null(find_run("dense/iterations:1/threads:6"));
    assert_int_equal(count_runs(), 4 + 3 + 1);
}

/* ---- figures ---- */

/* Ten iterations of half a second each: five seconds. */
static void half_seconds(struct gbench_state *state, void *user)
{
    (void)user;
    GBENCH_LOOP (state)
        gbench_set_iteration_time(state, 0.5);
    gbench_set_items_processed(state, 50);
    gbench_set_bytes_processed(state, 5120);
    gbench_set_label(state, "a label");
    gbench_counter(state, "plain", 12.5, GBENCH_PLAIN);
    gbench_counter(state, "rate", 100, GBENCH_RATE | GBENCH_BINARY_PREFIXES);
    gbench_counter(state, "mean", 30, GBENCH_AVERAGE_ITERATIONS);
    gbench_counter(state, "all", 2, GBENCH_ITERATION_INVARIANT);
    gbench_counter(state, "all_rate", 2, GBENCH_ITERATION_INVARIANT | GBENCH_RATE);
    gbench_counter(state, "inverse", 100, GBENCH_RATE | GBENCH_INVERT);
    gbench_counter(state, "a_thread", 6, GBENCH_AVERAGE_THREADS);
}

static void register_figures(void)
{
    struct gbench *bench = gbench_register("figures", half_seconds, NULL);
    gbench_use_manual_time(bench);
    gbench_set_iterations(bench, 10);
    gbench_unit(bench, GBENCH_MILLISECOND);
    gbench_threads(bench, 1);
    gbench_threads(bench, 2);
}

static void figures_are_right(void **state)
{
    const char *alone = "figures/iterations:10/manual_time/threads:1";
    const char *both = "figures/iterations:10/manual_time/threads:2";
    (void)state;
    run_well(register_figures);
    assert_number(alone, "real_time", 500);
    assert_text(alone, "time_unit", "ms");
    assert_text(alone, "label", "a label");
    assert_number(alone, "items_per_second", 10);
    assert_number(alone, "bytes_per_second", 1024);
    assert_number(alone, "plain", 12.5);
    assert_number(alone, "rate", 20);
    assert_number(alone, "mean", 3);
    assert_number(alone, "all", 20);
    assert_number(alone, "all_rate", 4);
    assert_number(alone, "inverse", 0.05);

    assert_number(both, "plain", 25);
    assert_number(both, "a_thread", 6);
    assert_number(both, "iterations", 20);
    assert_number(both, "items_per_second", 20); /* 100 items in the five seconds that each thread took */
}

/* ---- how long, and by which time ---- */

static void milliseconds(struct gbench_state *state, void *user)
{
    (void)user;
    GBENCH_LOOP (state)
        gbench_set_iteration_time(state, 1e-3);
}

static void register_lengths(void)
{
    struct gbench *bench = gbench_register("by_flag", milliseconds, NULL);
    gbench_use_manual_time(bench);
    bench = gbench_register("by_call", milliseconds, NULL);
    gbench_use_manual_time(bench);
    gbench_min_time(bench, 0.4);
    gbench_min_warm_up_time(bench, 0.05);
    gbench_use_real_time(register_short("real", loop_single));
    bench = register_short("process", loop_single);
    gbench_measure_process_cpu_time(bench);
    gbench_unit(bench, GBENCH_MICROSECOND);
    gbench_repetitions(register_short("three", loop_single), 3);
    bench = register_short("means", loop_single);
    gbench_repetitions(bench, 3);
    gbench_report_aggregates_only(bench);
}

static void length_time_and_repetitions_are_as_asked(void **state)
{
    (void)state;
    const char *by_call = "by_call/min_time:0.400/min_warmup_time:0.050/manual_time";
    double iterations;
    do { /* one that was held up for five times as long in the middle ends early */
        const struct outcome outcome = run_case(register_lengths, "--benchmark_min_time=0.2");
        assert_int_equal(outcome.status, 0);
        iterations = strtod(row_of("by_flag/manual_time", "iterations"), NULL);
        assert_true(iterations < 400);
    } while (iterations < 200 || strtod(row_of(by_call, "iterations"), NULL) < 400);
    assert_non_null(find_run("real/iterations:3/real_time"));
    assert_text("process/iterations:3/process_time", "time_unit", "us");
    assert_number("three/iterations:3/repeats:3", "repetitions", 3);
    assert_non_null(find_run("three/iterations:3/repeats:3_median"));
    assert_null(find_run("means/iterations:3/repeats:3"));
    assert_text("means/iterations:3/repeats:3_mean", "aggregate_name", "mean");
}

/* Use the CPU for so many milliseconds, by this thread's own clock. */
static void burn_ms(long ms)
{
    struct timespec begin, now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - begin.tv_sec) * 1000000000L + now.tv_nsec - begin.tv_nsec < ms * 1000000);
}

static void burn_in_pause(struct gbench_state *state, void *user)
{
    GBENCH_LOOP (state) {
        gbench_pause_timing(state);
        burn_ms(20);
        if (user == NULL)
            gbench_resume_timing(state);
    }
}

static void burn_in_loop(struct gbench_state *state, void *user)
{
    (void)user;
    GBENCH_LOOP (state)
        burn_ms(20);
}

static void register_burning(void)
{
    gbench_set_iterations(gbench_register("paused", burn_in_pause, NULL), 3);
    gbench_set_iterations(gbench_register("left_paused", burn_in_pause, "so"), 1);
    gbench_set_iterations(gbench_register("counted", burn_in_loop, NULL), 3);
}

static double cpu_ms(const char *run)
{
    return strtod(row_of(run, "cpu_time"), NULL) / 1e6;
}

/* What a host takes from a virtual CPU counts as the thread's: then once more. Paused time would be there
 * each time. */
static void paused_time_is_not_counted(void **state)
{
    (void)state;
    do {
        run_well(register_burning);
        assert_true(cpu_ms("counted/iterations:3") >= 20);
    } while (cpu_ms("paused/iterations:3") >= 10 || cpu_ms("left_paused/iterations:1") >= 10);
}

/* ---- what the compiler must not do ---- */

static void values_of_any_type_can_be_kept(void **state)
{
    struct {
        double parts[4];
    } large = {{1, 2, 3, 4}};
    const char small = 'c';
    (void)state;
    gbench_do_not_optimize(42);
    gbench_do_not_optimize(small);
    gbench_do_not_optimize(2.5);
    gbench_do_not_optimize(&large);
    gbench_do_not_optimize(large);
    gbench_clobber_memory();
    assert_true(large.parts[3] == 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set_of_arguments_arrives),
        cmocka_unit_test(a_filter_picks),
        cmocka_unit_test(loops_turn_as_often_as_asked),
        cmocka_unit_test(threads_run_together_and_know_who_they_are),
        cmocka_unit_test(figures_are_right),
        cmocka_unit_test(length_time_and_repetitions_are_as_asked),
        cmocka_unit_test(paused_time_is_not_counted),
        cmocka_unit_test(values_of_any_type_can_be_kept),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
