// Google Benchmark for C: the C++ side of gbench.h.
//
// One call carries a loop: State::KeepRunningBatch takes all turns at once and starts the clock, the next KeepRunning
// stops it. What the loop does in between is C's own counting; State is not asked again. Google Benchmark's own
// checks of its callers abort the process, or are left out of a build without assertions; so what would fail them is
// looked for here first, and fails one benchmark, or all before any of them has run.
#include "gbench.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

struct gbench : public benchmark::internal::Benchmark {
    gbench(const char *name, gbench_function *called, void *its_user)
        : Benchmark(name), title(name), function(called), user(its_user)
    {
    }
    void Run(benchmark::State &state) override;

    const std::string title;
    gbench_function *const function;
    void *const user;
    gbench *const registered_before = last_registered;
    static gbench *last_registered;
    size_t arguments = 0; // of every set, once one or their names are known
    bool has_sets = false;
    enum class Length { by_default, by_iterations, by_time } length = Length::by_default;
};

gbench *gbench::last_registered;

namespace
{

enum class Loop { before, running, paused, behind };

struct Run : public gbench_state {
    Run(benchmark::State &google_state, const gbench &google_bench)
        : gbench_state{0}, google(google_state), bench(google_bench)
    {
    }

    benchmark::State &google;
    const gbench &bench;
    Loop loop = Loop::before;
};

Run &run_of(struct gbench_state *state)
{
    return *static_cast<Run *>(state);
}

const Run &run_of(const struct gbench_state *state)
{
    return *static_cast<const Run *>(state);
}

bool registration_failed, asked_for_help;
std::atomic<bool> benchmark_failed;

__attribute__((format(printf, 1, 2))) void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    std::fputs("gbench: ", stderr);
    std::vfprintf(stderr, format, arguments);
    std::fputc('\n', stderr);
    va_end(arguments);
}

// Do something of C++'s; when it throws, say so and return false.
template <typename Action> bool done(const char *what, Action action) noexcept
{
    try {
        action();
        return true;
    } catch (const std::exception &failure) {
        complain("%s: %s", what, failure.what());
    } catch (...) {
        complain("%s: an exception", what);
    }
    return false;
}

// Change a registration, if what is asked for makes sense.
template <typename Action> void change(gbench *bench, bool makes_sense, const char *what, Action action) noexcept
{
    if (bench == nullptr)
        return; // gbench_register has said why
    if (!makes_sense)
        complain("%s: this makes no sense: %s", bench->title.c_str(), what);
    if (!makes_sense || !done(what, action))
        registration_failed = true;
}

// Say how many arguments there are, by names or by sets; each time the same number.
template <typename Action>
void set_arguments(gbench *bench, size_t count, bool makes_sense, const char *what, Action action) noexcept
{
    const bool agrees = bench != nullptr && count > 0 && (bench->arguments == 0 || bench->arguments == count);
    change(bench, makes_sense && agrees, what, [&] {
        action();
        bench->arguments = count;
    });
}

template <typename Action>
void add_sets(gbench *bench, size_t count, bool makes_sense, const char *what, Action action) noexcept
{
    set_arguments(bench, count, makes_sense, what, [&] {
        action();
        bench->has_sets = true;
    });
}

// A number of iterations and a time exclude each other.
template <typename Action>
void set_length(gbench *bench, gbench::Length length, bool makes_sense, const char *what, Action action) noexcept
{
    const bool agrees = bench != nullptr && (bench->length == gbench::Length::by_default || bench->length == length);
    change(bench, makes_sense && agrees, what, [&] {
        action();
        bench->length = length;
    });
}

// Change the state of a run.
template <typename Action> void note(struct gbench_state *state, const char *what, Action action) noexcept
{
    if (!done(what, [&] { action(run_of(state).google); }))
        gbench_skip_with_error(state, what);
}

// Google Benchmark would pass over such a benchmark without a word.
void look_for_names_without_sets()
{
    for (gbench *bench = gbench::last_registered; bench != nullptr; bench = bench->registered_before)
        change(bench, bench->has_sets || bench->arguments == 0, "gbench_arg_names without arguments", [] {});
}

void print_usage()
{
    if (asked_for_help) {
        benchmark::PrintDefaultHelp();
        std::exit(0);
    }
    complain("an argument has an unusable value; --help shows them all");
    std::exit(1);
}

} // namespace

void gbench::Run(benchmark::State &google)
{
    ::Run run(google, *this);
    function(&run, user);
    if (google.error_occurred() || run.loop == Loop::behind)
        return;
    gbench_skip_with_error(&run, run.loop == Loop::before ? "the loop was never run" : "the loop was left too early");
}

// ---- registration

struct gbench *gbench_register(const char *name, gbench_function *function, void *user)
{
    gbench *bench = nullptr;
    if (name == nullptr || *name == '\0' || function == nullptr)
        complain("gbench_register: no name or no function");
    else
        done(name, [&] {
            bench = new gbench(name, function, user);
            benchmark::internal::RegisterBenchmarkInternal(bench);
            gbench::last_registered = bench;
        });
    registration_failed |= bench == nullptr;
    return bench;
}

void gbench_arg(struct gbench *bench, int64_t value)
{
    gbench_args(bench, &value, 1);
}

void gbench_args(struct gbench *bench, const int64_t *values, size_t count)
{
    add_sets(bench, count, true, "gbench_args", [=] { bench->Args({values, values + count}); });
}

void gbench_range_of_args(struct gbench *bench, int64_t low, int64_t high)
{
    add_sets(bench, 1, low <= high, "gbench_range_of_args", [=] { bench->Range(low, high); });
}

void gbench_range_multiplier(struct gbench *bench, int multiplier)
{
    change(bench, multiplier >= 2, "gbench_range_multiplier", [=] { bench->RangeMultiplier(multiplier); });
}

void gbench_dense_range(struct gbench *bench, int64_t low, int64_t high, int step)
{
    add_sets(bench, 1, low <= high && step > 0, "gbench_dense_range", [=] { bench->DenseRange(low, high, step); });
}

void gbench_ranges(struct gbench *bench, const int64_t (*bounds)[2], size_t count)
{
    bool makes_sense = true;
    for (size_t i = 0; i < count; i++)
        makes_sense &= bounds[i][0] <= bounds[i][1];
    add_sets(bench, count, makes_sense, "gbench_ranges", [=] {
        std::vector<std::pair<int64_t, int64_t>> pairs;
        for (size_t i = 0; i < count; i++)
            pairs.emplace_back(bounds[i][0], bounds[i][1]);
        bench->Ranges(pairs);
    });
}

void gbench_args_product(struct gbench *bench, const struct gbench_list *lists, size_t count)
{
    bool makes_sense = true;
    for (size_t i = 0; i < count; i++)
        makes_sense &= lists[i].count > 0;
    add_sets(bench, count, makes_sense, "gbench_args_product", [=] {
        std::vector<std::vector<int64_t>> values;
        for (size_t i = 0; i < count; i++)
            values.emplace_back(lists[i].values, lists[i].values + lists[i].count);
        bench->ArgsProduct(values);
    });
}

void gbench_arg_name(struct gbench *bench, const char *name)
{
    gbench_arg_names(bench, &name, 1);
}

void gbench_arg_names(struct gbench *bench, const char *const *names, size_t count)
{
    set_arguments(bench, count, true, "gbench_arg_names", [=] { bench->ArgNames({names, names + count}); });
}

void gbench_threads(struct gbench *bench, int threads)
{
    change(bench, threads > 0, "gbench_threads", [=] { bench->Threads(threads); });
}

void gbench_thread_range(struct gbench *bench, int least, int most)
{
    change(bench, 0 < least && least <= most, "gbench_thread_range", [=] { bench->ThreadRange(least, most); });
}

void gbench_dense_thread_range(struct gbench *bench, int least, int most, int step)
{
    change(bench, 0 < least && least <= most && step > 0, "gbench_dense_thread_range",
           [=] { bench->DenseThreadRange(least, most, step); });
}

void gbench_thread_per_cpu(struct gbench *bench)
{
    change(bench, true, "gbench_thread_per_cpu", [=] { bench->ThreadPerCpu(); });
}

void gbench_set_iterations(struct gbench *bench, int64_t iterations)
{
    set_length(bench, gbench::Length::by_iterations, iterations > 0, "gbench_set_iterations",
               [=] { bench->Iterations(iterations); });
}

void gbench_min_time(struct gbench *bench, double seconds)
{
    set_length(bench, gbench::Length::by_time, seconds > 0, "gbench_min_time", [=] { bench->MinTime(seconds); });
}

void gbench_min_warm_up_time(struct gbench *bench, double seconds)
{
    set_length(bench, gbench::Length::by_time, seconds >= 0, "gbench_min_warm_up_time",
               [=] { bench->MinWarmUpTime(seconds); });
}

void gbench_repetitions(struct gbench *bench, int repetitions)
{
    change(bench, repetitions > 0, "gbench_repetitions", [=] { bench->Repetitions(repetitions); });
}

void gbench_report_aggregates_only(struct gbench *bench)
{
    change(bench, true, "gbench_report_aggregates_only", [=] { bench->ReportAggregatesOnly(); });
}

void gbench_use_real_time(struct gbench *bench)
{
    change(bench, true, "gbench_use_real_time", [=] { bench->UseRealTime(); });
}

void gbench_use_manual_time(struct gbench *bench)
{
    change(bench, true, "gbench_use_manual_time", [=] { bench->UseManualTime(); });
}

void gbench_measure_process_cpu_time(struct gbench *bench)
{
    change(bench, true, "gbench_measure_process_cpu_time", [=] { bench->MeasureProcessCPUTime(); });
}

void gbench_unit(struct gbench *bench, enum gbench_unit unit)
{
    static const benchmark::TimeUnit units[] = {benchmark::kNanosecond, benchmark::kMicrosecond,
                                                benchmark::kMillisecond, benchmark::kSecond};
    change(bench, unit <= GBENCH_SECOND, "gbench_unit", [=] { bench->Unit(units[unit]); });
}

// ---- the loop

int64_t gbench_start_loop(struct gbench_state *state, int64_t batch)
{
    Run &run = run_of(state);
    if (run.loop != Loop::before || batch <= 0)
        gbench_skip_with_error(state, batch > 0 ? "a second loop" : "a batch of no iterations");
    if (run.google.error_occurred())
        return 0; // and the clock has not been started
    const int64_t turns = (run.google.max_iterations - 1) / batch + 1;
    run.loop = Loop::running;
    return run.google.KeepRunningBatch(turns * batch) ? turns : 0;
}

void gbench_end_loop(struct gbench_state *state)
{
    Run &run = run_of(state);
    if (run.loop == Loop::paused && !run.google.error_occurred())
        gbench_resume_timing(state); // or the clock would be stopped a second time
    if (run.loop == Loop::running || run.loop == Loop::paused) {
        run.loop = Loop::behind;
        run.google.KeepRunning();
    }
}

bool gbench_keep_running_slow(struct gbench_state *state, int64_t batch)
{
    state->rounds_left = 0;
    const int64_t turns = run_of(state).loop == Loop::before ? gbench_start_loop(state, batch) : 0;
    if (turns == 0)
        gbench_end_loop(state);
    else
        state->rounds_left = turns - 1;
    return turns != 0;
}

void gbench_pause_timing(struct gbench_state *state)
{
    Run &run = run_of(state);
    if (run.google.error_occurred())
        return;
    if (run.loop != Loop::running)
        return gbench_skip_with_error(state, "a pause outside of the loop or within another");
    run.loop = Loop::paused;
    run.google.PauseTiming();
}

void gbench_resume_timing(struct gbench_state *state)
{
    Run &run = run_of(state);
    if (run.google.error_occurred())
        return;
    if (run.loop != Loop::paused)
        return gbench_skip_with_error(state, "the end of a pause that nobody began");
    run.loop = Loop::running;
    run.google.ResumeTiming();
}

void gbench_set_iteration_time(struct gbench_state *state, double seconds)
{
    run_of(state).google.SetIterationTime(seconds);
}

void gbench_skip_with_error(struct gbench_state *state, const char *message)
{
    state->rounds_left = 0;
    benchmark_failed = true;
    done(message, [=] { run_of(state).google.SkipWithError(message); });
}

bool gbench_has_error(const struct gbench_state *state)
{
    return run_of(state).google.error_occurred();
}

// ---- facts of the run

int64_t gbench_range(struct gbench_state *state, size_t position)
{
    const Run &run = run_of(state);
    if (run.bench.has_sets && position < run.bench.arguments)
        return run.google.range(position);
    gbench_skip_with_error(state, "an argument was asked for that the benchmark does not have");
    return 0;
}

int gbench_thread_index(const struct gbench_state *state)
{
    return run_of(state).google.thread_index();
}

int gbench_thread_count(const struct gbench_state *state)
{
    return run_of(state).google.threads();
}

int64_t gbench_max_iterations(const struct gbench_state *state)
{
    return run_of(state).google.max_iterations;
}

int64_t gbench_iterations(const struct gbench_state *state)
{
    return run_of(state).google.iterations();
}

// ---- figures

void gbench_set_items_processed(struct gbench_state *state, int64_t items)
{
    note(state, "gbench_set_items_processed", [=](benchmark::State &google) { google.SetItemsProcessed(items); });
}

void gbench_set_bytes_processed(struct gbench_state *state, int64_t bytes)
{
    note(state, "gbench_set_bytes_processed", [=](benchmark::State &google) { google.SetBytesProcessed(bytes); });
}

void gbench_set_label(struct gbench_state *state, const char *label)
{
    note(state, "gbench_set_label", [=](benchmark::State &google) { google.SetLabel(label); });
}

void gbench_counter(struct gbench_state *state, const char *name, double value, unsigned flags)
{
    using benchmark::Counter;
    static const std::pair<unsigned, Counter::Flags> meanings[] = {
        {GBENCH_RATE, Counter::kIsRate},
        {GBENCH_AVERAGE_THREADS, Counter::kAvgThreads},
        {GBENCH_ITERATION_INVARIANT, Counter::kIsIterationInvariant},
        {GBENCH_AVERAGE_ITERATIONS, Counter::kAvgIterations},
        {GBENCH_INVERT, Counter::kInvert},
    };
    Counter::Flags how = Counter::kDefaults;
    for (const auto &[flag, meaning] : meanings) {
        if (flags & flag)
            how = how | meaning;
    }
    const auto prefixes = flags & GBENCH_BINARY_PREFIXES ? Counter::kIs1024 : Counter::kIs1000;
    note(state, "gbench_counter",
         [=](benchmark::State &google) { google.counters[name] = Counter(value, how, prefixes); });
}

// ---- the whole

int gbench_main(int argc, char **argv)
{
    look_for_names_without_sets();
    if (registration_failed)
        return 1;
    for (int i = 1; i < argc; i++)
        asked_for_help |= std::strcmp(argv[i], "--help") == 0;
    bool passed = false;
    done("gbench_main", [&] {
        benchmark::Initialize(&argc, argv, print_usage);
        if (benchmark::ReportUnrecognizedArguments(argc, argv))
            return;
        passed = benchmark::RunSpecifiedBenchmarks() > 0;
        benchmark::Shutdown();
    });
    return passed && !benchmark_failed ? 0 : 1;
}
