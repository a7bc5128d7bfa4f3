/* What goes wrong with Google Benchmark's C interface (bench/gbench.h): benchmarks that fail, arguments and
 * registrations that make no sense. All of it is told, and none of it ends in an exit status of 0. */
#include "gbench_case.h"

static void do_nothing(struct gbench_state *state, void *user)
{
    (void)user;
    GBENCH_LOOP (state)
        gbench_clobber_memory();
}

static struct gbench *register_short(void)
{
    struct gbench *bench = gbench_register("short", do_nothing, NULL);
    gbench_set_iterations(bench, 3);
    return bench;
}

static void register_good(void)
{
    register_short();
}

/* ---- failures ---- */

static void fail_before(struct gbench_state *state, void *user)
{
    gbench_skip_with_error(state, user);
    require(gbench_has_error(state));
    GBENCH_LOOP (state)
        require(!"the loop is not entered");
    while (gbench_keep_running(state))
        require(!"nor this one");
}

static void fail_within(struct gbench_state *state, void *user)
{
    uint64_t turns = 0;
    require(!gbench_has_error(state));
    while (gbench_keep_running(state)) {
        require(turns <= 5);
        if (turns++ == 5)
            gbench_skip_with_error(state, user);
    }
}

static void fail_on_one_thread(struct gbench_state *state, void *user)
{
    if (gbench_thread_index(state) == 1)
        return gbench_skip_with_error(state, user);
    GBENCH_LOOP (state)
        gbench_clobber_memory();
}

static void leave(struct gbench_state *state, void *user)
{
    (void)user;
    GBENCH_LOOP (state)
        break;
}

static void forget_the_loop(struct gbench_state *state, void *user)
{
    (void)state;
    (void)user;
}

static void loop_twice(struct gbench_state *state, void *user)
{
    do_nothing(state, user);
    GBENCH_LOOP (state)
        require(!"a second loop");
}

static void pause_outside(struct gbench_state *state, void *user)
{
    (void)user;
    gbench_pause_timing(state);
}

static void resume_twice(struct gbench_state *state, void *user)
{
    (void)user;
    GBENCH_LOOP (state)
        gbench_resume_timing(state);
}

static void ask_too_far(struct gbench_state *state, void *user)
{
    (void)user;
    gbench_range(state, 1);
}

static void register_failures(void)
{
    gbench_register("before", fail_before, "this was said before");
    gbench_register("within", fail_within, "this was said within");
    gbench_threads(gbench_register("thread", fail_on_one_thread, "this was said by one"), 3);
    gbench_register("leave", leave, NULL);
    gbench_register("forget", forget_the_loop, NULL);
    gbench_register("twice", loop_twice, NULL);
    gbench_register("outside", pause_outside, NULL);
    gbench_register("resume", resume_twice, NULL);
    gbench_arg(gbench_register("far", ask_too_far, NULL), 1);
    register_short();
}

static void a_failed_benchmark_is_told_and_the_others_run(void **state)
{
    static const struct {
        const char *run, *message;
    } failures[] = {
        {"before", "this was said before"},
        {"within", "this was said within"},
        {"thread/threads:3", "this was said by one"},
        {"leave", "the loop was left too early"},
        {"forget", "the loop was never run"},
        {"twice", "a second loop"},
        {"outside", "a pause outside of the loop or within another"},
        {"resume", "the end of a pause that nobody began"},
        {"far/1", "an argument was asked for that the benchmark does not have"},
    };
    (void)state;
    assert_int_equal(run_case(register_failures, NULL).status, 1);
    for (size_t i = 0; i < COUNT(failures); i++)
        assert_text(failures[i].run, "error_message", failures[i].message);
    assert_number("short/iterations:3", "iterations", 3);
}

static void an_argument_that_makes_no_sense_fails(void **state)
{
    (void)state;
    struct outcome outcome = run_case(register_good, "--benchmark_filter=nothing");
    assert_int_equal(outcome.status, 1);
    assert_non_null(strstr(outcome.said, "nothing"));
    assert_int_equal(run_case(register_good, "--benchmark_filter=(").status, 1);

    outcome = run_case(register_good, "--benchmark_fitler=short");
    assert_int_equal(outcome.status, 1);
    assert_non_null(strstr(outcome.said, "--benchmark_fitler=short"));
    assert_int_equal(run_case(register_good, "more").status, 1);
    assert_int_equal(run_case(register_good, "--benchmark_min_time=long").status, 1);

    outcome = run_case(register_good, "--benchmark_format=jason");
    assert_int_equal(outcome.status, 1);
    assert_string_equal(outcome.said, "gbench: an argument has an unusable value; --help shows them all\n");
    assert_int_equal(count_runs(), 0);
}

static void help_is_no_failure(void **state)
{
    (void)state;
    assert_int_equal(run_case(register_good, "--help").status, 0);
    assert_non_null(strstr(json, "--benchmark_filter"));
}

/* ---- registrations that make no sense ---- */

static void no_function(void)
{
    gbench_threads(gbench_register("none", NULL, NULL), 2);
}

static void no_name(void)
{
    gbench_set_iterations(gbench_register("", do_nothing, NULL), 2);
}

static void range_upside_down(void)
{
    gbench_range_of_args(register_short(), 8, 1);
}

static void range_without_end(void)
{
    gbench_range_multiplier(register_short(), 1);
}

static void sets_of_two_lengths(void)
{
    struct gbench *bench = register_short();
    gbench_arg(bench, 1);
    gbench_args(bench, (const int64_t[]){1, 2}, 2);
}

static void names_too_many(void)
{
    struct gbench *bench = register_short();
    gbench_arg(bench, 1);
    gbench_arg_names(bench, (const char *const[]){"one", "two"}, 2);
}

static void names_only(void)
{
    gbench_arg_name(register_short(), "unused");
}

static void empty_list(void)
{
    gbench_args_product(register_short(), (const struct gbench_list[]){{NULL, 0}}, 1);
}

static void no_thread(void)
{
    gbench_threads(register_short(), 0);
}

static void no_iteration(void)
{
    gbench_set_iterations(gbench_register("bad", do_nothing, NULL), 0);
}

static void iterations_and_time(void)
{
    gbench_min_time(register_short(), 1);
}

static void no_repetition(void)
{
    gbench_repetitions(register_short(), 0);
}

static void a_registration_that_makes_no_sense_runs_nothing(void **state)
{
    static void (*const wrong[])(void) = {no_function,         no_name,        range_upside_down,   range_without_end,
                                          sets_of_two_lengths, names_too_many, names_only,          empty_list,
                                          no_thread,           no_iteration,   iterations_and_time, no_repetition};
    (void)state;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        const struct outcome outcome = run_case(wrong[i], NULL);
        if (outcome.status != 1 || strncmp(outcome.said, "gbench: ", 8) != 0 || json[0])
            fail_msg("registration %zu: status %d, said %s, wrote %s", i, outcome.status, outcome.said, json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_benchmark_is_told_and_the_others_run),
        cmocka_unit_test(an_argument_that_makes_no_sense_fails),
        cmocka_unit_test(help_is_no_failure),
        cmocka_unit_test(a_registration_that_makes_no_sense_runs_nothing),
    };
    return cmocka_run_group_tests(tests, start_library, NULL);
}
