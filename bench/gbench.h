/* Google Benchmark for C.
 *
 * A benchmark is a function that Google Benchmark calls with a state. What stands before the loop is set-up and is
 * not timed, then the loop turns as often as Google Benchmark asks for, then come the counters:
 *
 *     static void copy(struct gbench_state *state, void *user)
 *     {
 *         size_t bytes = (size_t)gbench_range(state, 0);
 *         GBENCH_LOOP (state) {
 *             memcpy(to, from, bytes);
 *             gbench_clobber_memory();
 *         }
 *         gbench_set_bytes_processed(state, gbench_iterations(state) * bytes);
 *     }
 *
 *     int main(int argc, char **argv)
 *     {
 *         gbench_range_of_args(gbench_register("copy", copy, NULL), 8, 8192);
 *         return gbench_main(argc, argv);
 *     }
 *
 * The function is called several times, with more iterations each time, until one call is long enough to count; so it
 * takes its set-up down again. On N threads it is called N times at once; no thread enters the loop before all have
 * come to it, and none goes on behind it before all have left it.
 *
 * Nothing here throws into C. A registration that makes no sense (a range upside down, no name) is one line on
 * standard error, and gbench_main then runs nothing and fails. A call that makes no sense while a benchmark runs (a
 * loop that was never run, a pause outside of the loop) fails that benchmark, as gbench_skip_with_error does.
 *
 * Names, times and texts are copied: the caller may reuse what it handed in. Google Benchmark's own bookkeeping comes
 * from the process's malloc; none of it happens inside of a loop. */
#ifndef GBENCH_H
#define GBENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A registered benchmark, which lives until the process ends. */
struct gbench;

/* One run of it, on one thread. */
struct gbench_state {
    int64_t rounds_left; /* of a loop by gbench_keep_running; not for anyone else */
};

/* `user` is what gbench_register was given. */
typedef void gbench_function(struct gbench_state *state, void *user);

/* ---- Registration: before gbench_main, on one thread. Any of these takes the NULL that a failed one returns. */

struct gbench *gbench_register(const char *name, gbench_function *function, void *user);

/* The benchmark runs once for each set of arguments, which the function reads by gbench_range. All sets of a
 * benchmark have the same number of them. Without any it runs once. */

/* One set: of one argument, or of several. */
void gbench_arg(struct gbench *bench, int64_t value);
void gbench_args(struct gbench *bench, const int64_t *values, size_t count);

/* One argument: `low`, the powers of the multiplier between, `high`. */
void gbench_range_of_args(struct gbench *bench, int64_t low, int64_t high);

/* The multiplier (8 at first, 2 or more) of the ranges that are added after this call. */
void gbench_range_multiplier(struct gbench *bench, int multiplier);

/* One argument: `low`, `low + step` ... up to `high`. */
void gbench_dense_range(struct gbench *bench, int64_t low, int64_t high, int step);

/* Several arguments, each from a range as above (bounds[i][0] to bounds[i][1]): every combination. */
void gbench_ranges(struct gbench *bench, const int64_t (*bounds)[2], size_t count);

/* Several arguments, each from a list of its own: every combination. */
struct gbench_list {
    const int64_t *values;
    size_t count;
};
void gbench_args_product(struct gbench *bench, const struct gbench_list *lists, size_t count);

/* What the arguments are called in the run's name: "copy/bytes:64". */
void gbench_arg_name(struct gbench *bench, const char *name);
void gbench_arg_names(struct gbench *bench, const char *const *names, size_t count);

/* Run on so many threads; on 1, 2, 4 ... and `most`; on `least`, `least + step` ... and `most`; on one a CPU. Each
 * call adds runs. */
void gbench_threads(struct gbench *bench, int threads);
void gbench_thread_range(struct gbench *bench, int least, int most);
void gbench_dense_thread_range(struct gbench *bench, int least, int most, int step);
void gbench_thread_per_cpu(struct gbench *bench);

/* How long: exactly so many iterations; or until it took so many seconds (else --benchmark_min_time says), after so
 * many seconds that do not count. And how often all of that. */
void gbench_set_iterations(struct gbench *bench, int64_t iterations);
void gbench_min_time(struct gbench *bench, double seconds);
void gbench_min_warm_up_time(struct gbench *bench, double seconds);
void gbench_repetitions(struct gbench *bench, int repetitions);

/* Report mean, median and deviation of the repetitions only. */
void gbench_report_aggregates_only(struct gbench *bench);

/* Which time rates, and the number of iterations, go by. At first it is the CPU time of the thread that runs the
 * benchmark (with several, their sum). By real time: the clock's. By the process's CPU time: of all its threads, also
 * of those that the benchmark starts itself. By manual time: what gbench_set_iteration_time says. */
void gbench_use_real_time(struct gbench *bench);
void gbench_use_manual_time(struct gbench *bench);
void gbench_measure_process_cpu_time(struct gbench *bench);

enum gbench_unit { GBENCH_NANOSECOND, GBENCH_MICROSECOND, GBENCH_MILLISECOND, GBENCH_SECOND };
void gbench_unit(struct gbench *bench, enum gbench_unit unit);

/* ---- The loop: once in every run of the function ---- */

/* GBENCH_LOOP (state) { ... }, the cheapest: its count is a local variable, so that a turn costs one
 * decrement and one jump, and no memory is touched. `continue` is fine. Whoever leaves by `break` or `return` has
 * called gbench_skip_with_error before; it fails the run otherwise. */
#define GBENCH_LOOP(state) GBENCH_LOOP_OF (state, 1)

/* The same for a body that does `batch` iterations in one turn. As many turns as are needed for the iterations
 * wanted, so at least one; times, counters and gbench_iterations are of single iterations and take the last turn's
 * surplus into account. `batch` is the same in all calls of the function with the same arguments. */
#define GBENCH_LOOP_OF(state, batch)                                                                                 \
    for (int64_t gbench_rounds_ = gbench_start_loop((state), (batch));                                               \
         gbench_rounds_ != 0 || (gbench_end_loop(state), false); gbench_rounds_--)

/* while (gbench_keep_running(state)) { ... }, for loops whose condition is more than that: its count is in memory, so
 * that a turn is a decrement of memory and a jump, on many machines four to six cycles from one turn to the next,
 * which mostly pass beside the body's own. To leave it by `break`, see above. */
static inline bool gbench_keep_running(struct gbench_state *state);

/* The same for a body that does `batch` iterations in one turn. `batch` is the same in all turns. */
static inline bool gbench_keep_running_batch(struct gbench_state *state, int64_t batch);

/* Take the time spent in the loop between the two off. Each reads the clocks, some hundred nanoseconds that are
 * partly counted: only for bodies that take much longer. */
void gbench_pause_timing(struct gbench_state *state);
void gbench_resume_timing(struct gbench_state *state);

/* With gbench_use_manual_time: what the turn took. Of several threads the mean counts. */
void gbench_set_iteration_time(struct gbench_state *state, double seconds);

/* Fail this run: it is reported with the message and without times, gbench_main fails, other benchmarks run. To be
 * called before, in or after the loop; leave the loop then (one that is not entered yet is not entered any more). */
void gbench_skip_with_error(struct gbench_state *state, const char *message);
bool gbench_has_error(const struct gbench_state *state);

/* ---- Facts of the run ---- */

/* Argument number `position`, from 0. */
int64_t gbench_range(struct gbench_state *state, size_t position);
int gbench_thread_index(const struct gbench_state *state); /* from 0 to gbench_thread_count - 1 */
int gbench_thread_count(const struct gbench_state *state);

/* Iterations that this thread was asked for, and has done: 0 before the loop; right only before and behind it. */
int64_t gbench_max_iterations(const struct gbench_state *state);
int64_t gbench_iterations(const struct gbench_state *state);

/* ---- Figures, behind the loop ---- */

/* Items and bytes a second; threads' shares are added up. */
void gbench_set_items_processed(struct gbench_state *state, int64_t items);
void gbench_set_bytes_processed(struct gbench_state *state, int64_t bytes);

/* A text beside the figures. With several threads, the last one that sets it counts. */
void gbench_set_label(struct gbench_state *state, const char *label);

/* How a counter's reported value comes from the one given; they may be or-ed. Threads' values are added up first. */
enum gbench_counter_flags {
    GBENCH_PLAIN = 0,
    GBENCH_RATE = 1,                /* over the seconds of the run */
    GBENCH_AVERAGE_THREADS = 2,     /* over the threads */
    GBENCH_ITERATION_INVARIANT = 4, /* times the iterations: given for one */
    GBENCH_AVERAGE_ITERATIONS = 8,  /* over the iterations */
    GBENCH_INVERT = 16,             /* one over all that: with GBENCH_RATE, seconds an item */
    GBENCH_BINARY_PREFIXES = 32     /* shown to people in Ki and Mi */
};
void gbench_counter(struct gbench_state *state, const char *name, double value, unsigned flags);

/* ---- What the compiler must not do ---- */

/* The value is computed, and all memory that it points to counts as read and written. */
#define gbench_do_not_optimize(value) __asm__ volatile("" : : "r,m"(value) : "memory")

/* All memory counts as read and written: what has been stored is stored. */
static inline void gbench_clobber_memory(void)
{
    __asm__ volatile("" : : : "memory");
}

/* ---- The whole ---- */

/* Run what is registered, with Google Benchmark's own arguments (--benchmark_filter, --benchmark_format=json,
 * --benchmark_min_time=SECONDS ...; --help tells all), and return the process's exit status: 0, or 1 when a benchmark
 * failed, none matched the filter, a registration made no sense, or an argument is unknown. An unusable value of
 * --benchmark_format ends the process with status 1, --help with 0, as does a file for --benchmark_out that cannot be
 * written, with 1. */
int gbench_main(int argc, char **argv);

/* ---- Behind the loops above ---- */

/* Turns to do, 0 if there is an error; starts the clock. */
int64_t gbench_start_loop(struct gbench_state *state, int64_t batch);

/* Stops the clock. */
void gbench_end_loop(struct gbench_state *state);

/* The first and the last turn of gbench_keep_running_batch. */
bool gbench_keep_running_slow(struct gbench_state *state, int64_t batch);

static inline bool gbench_keep_running_batch(struct gbench_state *state, int64_t batch)
{
    return __builtin_expect(--state->rounds_left >= 0, true) || gbench_keep_running_slow(state, batch);
}

static inline bool gbench_keep_running(struct gbench_state *state)
{
    return gbench_keep_running_batch(state, 1);
}

#ifdef __cplusplus
}
#endif

#endif
