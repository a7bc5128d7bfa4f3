"""What the bench suite says of its runs: medians, ratios and ranks by hand, the table, the page, the comparison."""
import io
import json
import re
import sys
import xml.etree.ElementTree

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "bench"))
from suite import beside, compare, faults, goals, memory, peaks, ratios, speed, summary, table  # noqa: E402

ABOUT = "one sentence"


def make_report(values, unit="ns", group="micro", workload="churn", same_work=False, **more):
    """A run of one workload and one figure, from {allocator: [a value or a run's other keys for each repetition]}."""
    runs = []
    for name, repetitions in values.items():
        for repetition, value in enumerate(repetitions):
            run = {"workload": workload, "allocator": name, "repetition": repetition, "failed": "", "skipped": ""}
            runs.append({**run, **(value if isinstance(value, dict) else {"figures": {"redis": [value, unit]}})})
    return {"format": 1, "command": "tools/bench --quick", "started": "2026-11-21T08:30:00+00:00", "seconds": 301.5,
            "interrupted": False, "machine": {"cpu": "a CPU", "cpus": 2, "memory_mib": 2048, "kernel": "6.1",
                                              "system": "Debian"},
            "allocators": {name: {"library": "", "version": "1"} for name in values},
            "workloads": {workload: {"group": group, "about": ABOUT, "same_work": same_work}}, "runs": runs, **more}


def join_reports(*reports):
    """One run with the workloads of several."""
    return {**reports[0], "workloads": {name: known for one in reports for name, known in one["workloads"].items()},
            "runs": [run for one in reports for run in one["runs"]]}


def only_row(report):
    row, = summary.summarise(report).rows
    return row


def shown(report, width=160, **options):
    stream = io.StringIO()
    table.show(report, stream, width=width, **options)
    return stream.getvalue()


# -- numbers --------------------------------------------------------------------------------------------------------

def test_median_and_spread():
    cell = only_row(make_report({"glibc": [10, 9, 12]})).cells["glibc"]
    assert (cell.median, cell.spread) == (10, pytest.approx(20))


def test_one_repetition_has_no_spread():
    assert only_row(make_report({"glibc": [10]})).cells["glibc"].spread is None


def test_ratios_are_of_pairs_and_not_of_medians():
    """Pairs: 0.8, 0.5, 0.9. The ratio of the medians would be 0.5."""
    row = only_row(make_report({"glibc": [10, 20, 40], "slabmalloc": [8, 10, 36]}))
    assert row.cells["slabmalloc"].to_base == pytest.approx(0.8)
    assert row.cells["glibc"].to_best == pytest.approx(1 / 0.8)
    assert row.best == "slabmalloc" and row.cells["slabmalloc"].to_best == 1


def test_an_even_number_of_pairs_reads_the_same_from_both_sides():
    row = only_row(make_report({"glibc": [1, 1], "slabmalloc": [2, 8]}))
    assert row.cells["slabmalloc"].to_base == pytest.approx(4)


def test_a_repetition_that_one_of_them_lacks_does_not_count():
    failed = {"failed": "signal 9"}
    row = only_row(make_report({"glibc": [10, 10, 1000], "slabmalloc": [5, 5, failed]}))
    assert row.cells["slabmalloc"].to_base == pytest.approx(0.5)


def test_more_is_better_in_units_a_second():
    row = only_row(make_report({"glibc": [10], "slabmalloc": [20]}, unit="Mops/s"))
    assert row.best == "slabmalloc"
    assert row.cells["slabmalloc"].to_base == pytest.approx(0.5)  # of a cost: half
    assert table.show_against(0.5) == "+2.00" and table.show_against(2) == "-2.00"


def test_equals_share_a_place():
    row = only_row(make_report({"a": [100], "b": [110], "c": [112], "d": [130]}))
    assert summary.order_of(row) == [["a", "b"], ["c"], ["d"]]
    assert [row.cells[name].place for name in "abcd"] == [1, 1, 3, 4]


def test_a_variant_does_not_compete():
    report = make_report({"glibc": [10], "slabmalloc": [5], "slabmalloc grow=locked": [4]})
    del report["allocators"]["slabmalloc grow=locked"]
    row = only_row(report)
    assert row.best == "slabmalloc" and summary.order_of(row) == [["slabmalloc"], ["glibc"]]
    assert row.cells["slabmalloc grow=locked"].to_best == pytest.approx(0.8)


def test_what_sampling_costs_is_in_times_the_library_as_it_is_and_in_no_mean():
    sampling = make_report({"slabmalloc": [4, 8], "slabmalloc sample_bytes=0": [3, 6], "slabmalloc guard=1": [5, 10]},
                           unit="s", group="sampling", workload="sampling_redis")
    both = join_reports(make_report({"glibc": [1], "slabmalloc": [2]}), sampling)
    row = only_row({**sampling, "allocators": both["allocators"]})
    assert {name: cell.to_best for name, cell in row.cells.items()} == {
        "slabmalloc": 1, "slabmalloc sample_bytes=0": 0.75, "slabmalloc guard=1": 1.25}
    assert not row.has_winner
    means = summary.overall_means(summary.summarise(both), "time")
    assert {name: mean.to_best for name, mean in means.items()} == {"glibc": 1, "slabmalloc": 2}


def test_figures_of_zero_are_ranked_and_have_no_ratio():
    row = only_row(make_report({"glibc": [0], "slabmalloc": [4], "jemalloc": [0]}, unit="KiB"))
    assert summary.order_of(row) == [["glibc", "jemalloc"], ["slabmalloc"]]
    assert row.cells["slabmalloc"].to_best is None and row.cells["slabmalloc"].to_base is None


def test_cpu_seconds_and_page_faults_only_for_the_same_work():
    run = {"cpu_s": 0.3, "page_faults": 900, "peak_rss_mib": 14.2, "figures": {"redis": [21.5, "ns"]}}
    for same_work, names in ((True, ["redis", "cpu_s", "page_faults", "peak_rss_mib"]),
                             (False, ["redis", "peak_rss_mib"])):
        rows = summary.summarise(make_report({"glibc": [run]}, same_work=same_work)).rows
        assert [row.figure for row in rows] == names


def test_means_count_figures_in_workloads_and_workloads_in_groups():
    """churn has figures of 2 and 8 times glibc, pair one of 1: the mean of the group is sqrt(4 * 1)."""
    runs = {"glibc": [{"figures": {"a": [1, "ns"], "b": [1, "ns"]}}],
            "slabmalloc": [{"figures": {"a": [2, "ns"], "b": [8, "ns"]}}]}
    report = join_reports(make_report(runs), make_report({"glibc": [3, 4], "slabmalloc": [3, 4]}, workload="pair"))
    means = summary.group_means(summary.summarise(report), "micro", "time")
    assert means["slabmalloc"].to_base == pytest.approx(2)
    assert means["slabmalloc"].to_best == pytest.approx(2)


def test_inputs_are_in_no_mean_and_no_count():
    whole = summary.summarise(make_report({"glibc": [64, 64], "slabmalloc": [64, 64]}, unit="KiB"))
    assert summary.group_means(whole, "micro", "memory") == {}
    assert summary.count_first(whole, "slabmalloc") == (0, 0)


# -- the table ------------------------------------------------------------------------------------------------------

def test_failures_and_skips_are_rows_with_reasons():
    failed, skipped = {"failed": "signal 11: no message"}, {"skipped": "no such server"}
    text = shown(make_report({"glibc": [10, 10, 10], "slabmalloc": [failed, 5, 5], "jemalloc": [skipped] * 3}))
    assert re.search(r"redis \[ns\].*10\.0 .*!\*5\.00.*skipped", text)
    assert "churn on slabmalloc: failed in 1 of 3: signal 11: no message" in text
    assert "churn on jemalloc: skipped in 3 of 3: no such server" in text


def test_a_workload_that_failed_everywhere_is_a_row():
    text = shown(make_report({"glibc": [{"failed": "exit status 1: no"}], "slabmalloc": [{"failed": "signal 6: x"}]}))
    assert re.search(r"FAILED +FAILED", text)


def test_an_interrupted_run_says_so():
    report = make_report({"glibc": [10]}, interrupted=True)
    assert "INTERRUPTED" in shown(report)
    assert "INTERRUPTED" not in shown({**report, "interrupted": False})


def test_where_it_is_not_first():
    text = shown(make_report({"glibc": [10, 10], "slabmalloc": [15, 9]}), subject="slabmalloc")
    assert "churn redis [ns]: 1.16 times glibc's, 12.0 and 10.0; behind in 1 of 2" in text


@pytest.mark.parametrize("width", [40, 80, 300])
def test_columns_wrap_into_blocks(width):
    names = ["glibc", "slabmalloc", *(f"allocator-{letter}" for letter in "abcdefg")]
    text = shown(make_report({name: [10, 11] for name in names}), width=width)
    lines = [line for line in text.splitlines() if "redis [ns]" in line and "±" in line]
    assert sum(line.count("±") for line in lines) == len(names)
    assert all(len(line) <= max(width, 50) for line in lines)
    assert len(lines) == 1 or width < 300


def test_the_kernels_table():
    figures = {f"{kind}_{size}": [size * factor, "cycles"] for size in table.SIZES
               for kind, factor in (("alloc", 1), ("free", 2))}
    text = shown(make_report({"glibc": [{"figures": figures}], "slabmalloc grow=locked": [{"figures": figures}]},
                             group="kernel table", workload="table"))
    assert re.search(r"N\*alloc N\*free\(32\): +Average=365/806 +Average=344/792 +Average=32/64 +Average=32/64", text)
    assert re.search(r"N\*alloc N\*free\(4096\): +Average=16024/2048 +Average=4742/2172 +Average=4096/8192", text)


def test_deferred_free_is_set_against_the_best_of_each_contender_and_marked_where_it_takes_more():
    def epochs(contender, **cpu):
        return make_report({name: [{"figures": {"cpu_128": [value, "ns/retire"]}}] for name, value in cpu.items()},
                           group="epochs", workload=f"{contender}_1w2r")
    text = shown(join_reports(
        epochs("malloc_free", slabmalloc=20, glibc=10), epochs("call_rcu", slabmalloc=400, glibc=300),
        epochs("defer_rcu", slabmalloc=50, glibc=70), epochs("deferred", way=30)))
    _, promised = text.split("1 writer, 2 readers, 128 bytes\n")
    assert [line.split() for line in promised.splitlines()[:3]] == [
        "at most 0.17: CPU time in times call_rcu's over glibc 0.10".split(),
        "at most 0.50: CPU time in times defer_rcu's over slabmalloc 0.60 (more)".split(),
        "at most 1.60: CPU time in times our own malloc and free 1.50".split()]


def test_per_cpu_memory_is_set_against_its_bounds_which_the_fallback_has_none_of():
    figures = {"add_over_thread": [1.9, "x"], "add_over_atomic": [0.1, "x"], "add_over_padded": [0.2, "x"]}
    text = shown(make_report({name: [{"figures": figures}] for name in ("slabmalloc percpu", "percpu fallback")},
                             group="percpu", workload="percpu_counter_2"))
    _, promised = text.split("a counter, 2 threads\n")
    assert [line.split() for line in promised.splitlines()[:3]] == [
        "at most 1.80: CPU time of an add in times a __thread increment's 1.90 (more)".split(),
        "at most 1.00: in times that of an add to one atomic word 0.10".split(),
        "at most 1.00: in times that of one to an array padded by hand 0.20".split()]


def test_on_several_nodes_only_ours_has_promised_anything():
    figures = {"pinned_astray_worst": [0.5, "%"], "moved_astray_worst": [6, "%"]}
    text = shown(make_report({name: [{"figures": figures}] for name in ("glibc", "slabmalloc")}, group="numa",
                             workload="numa_2x2"))
    _, promised = text.split("\nnuma_2x2\n")
    assert [line.split() for line in promised.splitlines()[:2]] == [
        "at most 5.00: % of a node's fresh objects that lie on another, pinned 0.50".split(),
        "at most 5.00: % of a node's fresh objects that lie on another, moved 6.00 (more)".split()]


def make_memory(workload, figure, unit, values):
    return make_report({name: [{"figures": {figure: [value, unit]}}] for name, value in values.items()},
                       group="memory", workload=workload)


def test_memory_is_set_against_its_goals_and_ours_against_itself_with_purging_off():
    report = join_reports(make_memory("pool", "rss_5s", "MiB", {"glibc": 9, "slabmalloc": 11}),
                          make_memory("forks", "rss_last", "MiB", {"glibc": 50, "slabmalloc": 45}),
                          make_memory("day", "mean_rss", "MiB", {"glibc": 40, "slabmalloc": 44}),
                          make_memory("rise_fall", "faults", "faults/round",
                                      {"glibc": 1, "slabmalloc": 300, memory.KEEP: 200}))
    text = shown(report)
    assert re.search(r"at most 10\.0: 1 GB made by .* 9\.00? +11\.0 \(more\)\n", text), text
    assert re.search(r"at most 1\.00: a chain of 40 forks .* 1\.00 +0\.90\n", text)
    assert re.search(r"at most 1\.00: the same: mean RSS in times the least of the others' +0\.91 +1\.10 \(more\)\n", text)
    assert re.search(r"at most 1\.20: a load that rises .* off +1\.50 \(more\)\n", text)


def make_peaks(workload, values, group="micro"):
    return make_report({name: [{"figures": {}, "peak_rss_mib": value}] for name, value in values.items()},
                       group=group, workload=workload)


def test_peaks_are_told_in_times_the_least_the_worst_first():
    report = join_reports(make_peaks("pair", {"glibc": 10, "slabmalloc": 20, "mimalloc": 40}),
                          make_peaks("redis", {"glibc": 30, "slabmalloc": 15, "mimalloc": 15}, group="servers"),
                          make_peaks("numa_2x2", {"glibc": 1, "slabmalloc": 90, "mimalloc": 1}, group="numa"))
    stream = io.StringIO()
    beside.show(peaks.compare(summary.summarise(report)), stream)
    assert stream.getvalue().endswith("glibc 1.41  slabmalloc 1.41  mimalloc 2.00\n"
                                      "slabmalloc's, the worst first; ! more than 1.10\n"
                                      "! 2.00  pair: 20.0 MiB, glibc 10.0\n"
                                      "  1.00  redis: 15.0 MiB\n")
    assert stream.getvalue() in shown(report)


def test_a_workloads_time_is_told_beside_the_best_peer_of_it_and_over_the_best_peer_of_all():
    """churn: in figures 2 and 0.5 times a's, 4 and 1 times b's; larson: 0.5 times a's, 0.125 times b's; redis:
    CPU time alone counts, 0.5 times both."""
    churn = {name: [{"figures": {"x": [x, "ns"], "y": [y, "Mops/s"], "x_max": [1 / x, "ns"],
                                 "room": [1 / x, "KiB"]}}] * 2
             for name, x, y in (("a", 2, 1), ("b", 1, 2), ("slabmalloc", 4, 2))}
    redis = {name: [{"cpu_s": cpu, "figures": {"p99": [p99, "ms"]}}] * 2
             for name, cpu, p99 in (("a", 2, 5), ("b", 2, 10), ("slabmalloc", 1, 10))}
    report = join_reports(make_report(churn),
                          make_report({"a": [2, 2], "b": [8, 8], "slabmalloc": [1, 1]}, workload="larson"),
                          make_report(redis, group="servers", workload="redis", same_work=True),
                          make_report({"a": [1], "b": [1], "slabmalloc": [9]}, group="numa", workload="numa_2x2"))
    stream = io.StringIO()
    beside.show(ratios.compare(summary.summarise(report)), stream)
    assert stream.getvalue().splitlines()[2:] == [
        "a 0.63  b 0.50",
        "in times a's, the best peer overall: 0.63; more than 1.05 on 1 of 3 workloads",
        "in times the best peer's of each group: micro 0.71 (a), servers 0.50 (b)",
        "slabmalloc's, the worst first; ! more than 1.05",
        "! 2.00   ±0%  churn: geometric mean of 2 figures, b",
        "    ! 4.00   ±0%  x: 4.00 ns, b 1.00",
        "      1.00   ±0%  y: 2.00 Mops/s, b 2.00",
        "  0.50   ±0%  larson: redis 1.00 ns, a 2.00",
        "  0.50   ±0%  redis: CPU time 1.00 s, b 2.00",
        "    ! 2.00   ±0%  p99: 10.0 ms, a 5.00"]
    assert stream.getvalue() in shown(report)


def test_the_spread_of_a_ratio_is_that_of_its_pairs():
    report = make_report({"glibc": [10, 20, 40], "slabmalloc": [8, 10, 36]})
    line, = ratios.compare(summary.summarise(report)).lines
    assert (line.times, line.spread) == (pytest.approx(0.8), pytest.approx(37.5))


def test_another_build_of_ours_is_no_peer_and_a_peer_of_few_workloads_is_not_the_best():
    report = join_reports(make_report({"glibc": [10], "slabmalloc-old": [1], "slabmalloc": [5], "few": [1]}),
                          *(make_report({"glibc": [10], "slabmalloc-old": [1], "slabmalloc": [5]}, workload=f"w{i}")
                            for i in range(2)))
    found = ratios.compare(summary.summarise(report))
    assert found.means == {"glibc": (pytest.approx(0.5), 3), "few": (pytest.approx(5), 1)}
    assert "in times glibc's, the best peer overall: 0.50" in found.said
    assert "glibc 0.50  few 5.00 (1)" in shown(report)


def test_page_faults_of_programs_are_told_in_times_glibcs():
    def of(workload, group="servers", **values):
        return make_report({name: [{"figures": {"p99": [1, "ms"]}, "page_faults": value}]
                            for name, value in values.items()}, group=group, workload=workload, same_work=True)
    report = join_reports(of("z3", glibc=4000, slabmalloc=1000, mimalloc=400),
                          of("day", "memory", glibc=1, slabmalloc=9),
                          of("redis", glibc=900, slabmalloc=900, mimalloc=90))
    text = shown(report)
    _, told = text.split("== page faults over the programs of the suite, in times glibc's, geometric means\n")
    assert told.splitlines()[:4] == ["glibc 1.00  slabmalloc 0.50  mimalloc 0.10",
                                     "slabmalloc's, the worst first; ! more than 0.33",
                                     "! 1.00  redis: 900 faults, glibc 900", "  0.25  z3: 1000 faults, glibc 4000"]
    assert re.search(r"page faults \[faults\] +4000 .*1000 .*400 ", text)
    assert re.search(r"at most 0\.33: page faults .* times glibc's +1\.00 \(more\) +0\.50 \(more\) +0\.10\n", text)
    assert compare.show(report, report, io.StringIO()) is False


def test_runs_of_a_suite_that_did_not_count_page_faults_are_read_and_compared():
    runs = {name: [{"cpu_s": 0.1 * i, "page_faults": i, "figures": {}}]
            for i, name in enumerate(("glibc", "slabmalloc"), 1)}
    new = make_report(runs, group="servers", workload="z3", same_work=True)
    old = json.loads(re.sub(r'"page_faults": \d+, ', "", json.dumps(new)))
    stream = io.StringIO()
    assert compare.show(old, new, stream) is False and "only in B: z3 page_faults [faults]" in stream.getvalue()
    assert "page faults" not in shown(old)


def test_speed_is_set_against_its_goals():
    table_run = {f"{kind}_{size}": [size, "cycles"] for size in table.SIZES for kind in ("alloc", "free", "both")}
    fast = {name: [size / 2, "cycles"] for name, (size, _) in table_run.items()}
    report = join_reports(
        make_report({"glibc": [{"figures": table_run}], "slabmalloc": [{"figures": fast}]}, group="kernel table",
                    workload="table"),
        make_report({"glibc": [{"figures": {"throughput": [10, "Mobjects/s"]}, "peak_rss_mib": 10}],
                     "slabmalloc": [{"figures": {"throughput": [20, "Mobjects/s"]}, "peak_rss_mib": 9}]},
                    group="threads", workload="many_to_one_16"),
        make_report({"glibc": [{"cpu_s": 4}], "slabmalloc": [{"cpu_s": 3.6}]}, group="servers", workload="redis",
                    same_work=True))
    text = shown(report)
    for pattern in (r"at most 57\.3: 32 bytes, alloc +32\.0 +16\.0", r"at most 132: 32 bytes, free +32\.0 +16\.0",
                    r"at most 362: 4096 bytes, free +4096 \(more\) +2048 \(more\)",
                    r"at most 1\.00: 4096 bytes, alloc and free +2\.00 \(more\) +0\.50",
                    r"at most 0\.33: time an object +2\.00 \(more\) +0\.50 \(more\)",
                    r"at most 1\.00: peak RSS +1\.11 \(more\) +0\.90",
                    r"at most 0\.95: CPU time, geometric mean, in times glibc's +1\.00 \(more\) +0\.90",
                    r"at most 0\.85: all workloads, geometric mean.* +1\.\d+ \(more\) +0\.6\d",
                    r"at most 1\.05: the worst workload.* +0\.90"):
        assert re.search(pattern, text), (pattern, text)


def test_the_table_of_goals_replaces_the_one_in_a_file(tmp_path):
    report = make_memory("pool", "rss_5s", "MiB", {"glibc": 8.5, "slabmalloc": 11})
    (tmp_path / "results.json").write_text(json.dumps(report))
    (tmp_path / "manual.md").write_text(f"before\n{goals.BEGIN}\n\n| old |\n{goals.END}\nafter\n")
    goals.main([tmp_path, tmp_path / "manual.md"])
    text = (tmp_path / "manual.md").read_text()
    assert text.startswith(f"before\n{goals.BEGIN}\n\n| case | goal | glibc | slabmalloc |\n")
    assert text.endswith(f"RSS after 5 s [MiB] | 10 | **8.50** | 11.0 |\n\n{goals.END}\nafter\n")
    with pytest.raises(ValueError, match="no lines"):
        goals.replace("none", "")


def test_the_readme_has_a_place_for_the_table_of_goals():
    text = (ROOT / "README.md").read_text()
    assert goals.replace(text, "rows") != text


def test_markdown_marks_the_best():
    text = table.markdown(make_report({"glibc": [10, 10], "slab|malloc": [5, 5]}))
    assert "| workload | figure | unit | better | glibc | slab\\|malloc |\n" in text
    assert "| churn | redis | ns | less | 10.0 | **5.00** |\n" in text


COUNTED = {"`malloc(16)` and `free`": "pair", "1000 objects of 64 bytes, first in, first out": "fifo",
           "random sizes to 1 KiB, freed in random order": "batch", "`calloc(1, 64)` and `free`": "calloc_pair",
           "a buffer that doubles from 16 bytes to 4 KiB": "realloc_grow", "`malloc_usable_size`": "usable"}


def test_the_manual_has_the_instructions_that_were_counted():
    lines = (ROOT / "docs" / "bench.md").read_text().splitlines()
    counted = json.loads((ROOT / "bench" / "data" / "instructions.json").read_text())["machines"]["x86_64"]
    head = next(line for line in lines if line.startswith("| an operation |"))
    for operation, name in COUNTED.items():
        told = next(line for line in lines if line.startswith(f"| {operation} |")).replace("**", "")
        counts = [f"{counted[allocator]['counts'][name]:.0f}" for allocator in head.strip("| ").split(" | ")[1:]]
        assert told == f"| {operation} | {' | '.join(counts)} |"


# -- one repetition -------------------------------------------------------------------------------------------------

ONCE = {"glibc": [10], "slabmalloc": [5], "jemalloc": [4]}
TWICE = {name: 2 * values for name, values in ONCE.items()}


def test_one_repetition_makes_no_winner():
    text = shown(make_report(ONCE))
    assert "one repetition, so nothing is called the best" in text and not re.search(r"\*[0-9]", text)
    assert "**" not in table.markdown(make_report(ONCE))
    assert summary.count_first(summary.summarise(make_report(ONCE)), "jemalloc") == (0, 0)
    assert "*4.00" in shown(make_report(TWICE)) and "**4.00**" in table.markdown(make_report(TWICE))


def test_who_was_measured_once_is_not_the_best_of_those_who_were_measured_often():
    failed = {"failed": "signal 9"}
    assert only_row(make_report({"glibc": [10, 10], "slabmalloc": [5, failed]})).has_winner is False


def test_instruction_counts_have_a_winner_at_once_and_are_no_medians():
    report = make_report(ONCE, unit="instructions", group="instructions", workload="instructions_pair")
    assert "*4.00" in shown(report) and "**4.00**" in table.markdown(report)
    assert "median" not in shown(report)


def test_figures_of_one_repetition_are_not_called_medians():
    assert "median" not in shown(make_report(ONCE))
    assert "median" in shown(make_report(TWICE))
    assert "churn redis [ns]: 1.25 times jemalloc's, 5.00 and 4.00; measured once" in shown(make_report(ONCE))


# -- the comparison -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("first, second, verdict", [
    (1.2, 1.3, "agree"), (1.2, 0.8, "disagree"), (1.2, 0.95, "lean apart"), (1.05, 0.8, "lean apart"),
    (1.2, 1.05, "over 1.1 in one run only"), (1.05, 0.95, None), (0.7, 0.6, "agree"), (0.8, 1.2, "disagree")])
def test_verdicts(first, second, verdict):
    reports = [make_report({"glibc": [10.0], "slabmalloc": [10.0 * times]}) for times in (first, second)]
    (pair,), _, _ = compare.compare(*reports)
    assert pair.verdict == verdict
    assert compare.show(*reports, io.StringIO()) == (verdict == "disagree")


def test_disagreement_names_figure_and_ratios():
    stream = io.StringIO()
    compare.show(make_report({"glibc": [10], "slabmalloc": [20]}), make_report({"glibc": [30], "slabmalloc": [20]}),
                 stream)
    assert "churn redis [ns]: glibc is 2.00 times better than slabmalloc in A, 1.50 times worse in B" in \
        stream.getvalue()


@pytest.mark.parametrize("text, complaint", [("[]", "holds no results of this suite"), ("{", "holds no results"),
                                             (None, "results.json: No such file or directory")])
def test_comparison_of_what_is_no_results_file(tmp_path, capsys, text, complaint):
    if text:
        (tmp_path / "results.json").write_text(text)
    assert compare.main(tmp_path, tmp_path / "results.json") == 2
    said = capsys.readouterr().err
    assert complaint in said and "Errno" not in said and said.count("\n") == 1


# -- the page -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def report_module():
    for name in ("matplotlib", "jinja2"):
        pytest.importorskip(name)
    from suite import report  # pylint: disable=import-outside-toplevel
    return report


def test_the_page_of_one_repetition_has_no_winner_and_no_medians(report_module):
    once, twice = (report_module.page_of(make_report(values)) for values in (ONCE, TWICE))
    cells = {name: re.search(r'<td class="(\w*)" title="[^"]*">(<b>)?4\.00', page) for name, page in
             (("once", once), ("twice", twice))}
    assert cells["once"].groups() == ("", None) and cells["twice"].groups() == ("best", "<b>")
    assert 'title="one repetition"' in once and "× best" not in once and "× best" in twice
    text = re.sub(r"<style>.*?</style>", "", once, flags=re.DOTALL)
    assert "median" not in text and not re.search("Fastest overall|Smallest overall", text)
    assert "Everything was measured once, so nothing is called the fastest" in text


# In pairs jemalloc takes half of glibc's time, but slabmalloc is level with both: in times the best's cost all three
# are equal.
CIRCLE = {"glibc": [4, 4, 1], "slabmalloc": [4, 2, 2], "jemalloc": [2, 2, 4]}


@pytest.mark.parametrize("values, verdict", [
    (CIRCLE, "Fastest overall: jemalloc at 0.50 times glibc's time"),
    ({"glibc": [4, 4], "slabmalloc": [2, 2], "jemalloc": [1, 1]},
     "Fastest overall: jemalloc at 0.25 times glibc's time; slabmalloc at 0.50 times glibc's time is number 2."),
    ({"glibc": [1, 1], "slabmalloc": [2, 2]},
     "Fastest overall: glibc; slabmalloc at 2.00 times glibc's time is number 2."),
    ({"jemalloc": [1, 1], "slabmalloc": [2, 2]}, "Fastest overall: jemalloc; slabmalloc is number 2."),
])
def test_fastest_overall_is_who_has_the_least_of_the_number_beside_it(report_module, values, verdict):
    assert next(report_module.verdicts(summary.summarise(make_report(values)), "slabmalloc")).startswith(verdict)


def test_a_variant_is_never_the_fastest_overall(report_module):
    report = make_report({"glibc": [10, 10], "slabmalloc": [5, 5], "slabmalloc grow=locked": [2, 2]})
    del report["allocators"]["slabmalloc grow=locked"]
    first = next(report_module.verdicts(summary.summarise(report), "slabmalloc"))
    assert first == "Fastest overall: slabmalloc at 0.50 times glibc's time."


def test_who_lacks_a_group_is_not_the_fastest_overall(report_module):
    report = join_reports(make_report({"glibc": [10, 10], "slabmalloc": [5, 5], "jemalloc": [1, 1]}),
                          make_report({"glibc": [10, 10], "slabmalloc": [5, 5], "jemalloc": [{"failed": "signal 9"}]},
                                      group="threads", workload="larson_2"))
    first = next(report_module.verdicts(summary.summarise(report), "slabmalloc"))
    assert first == "Fastest overall: slabmalloc at 0.50 times glibc's time."


ODD = "odd <i>&amp; name"


@pytest.fixture(scope="module")
def full_report():
    """Every kind of plot that there is, two allocators with odd names, and a failure."""
    def with_series(**series):
        return {"figures": {"p99": [10, "ns"]}, "peak_rss_mib": 10,
                "series": {name: {"x_unit": x_unit, "y_unit": "ns" if x_unit == "%" else "MiB", "points": points}
                           for name, (x_unit, points) in series.items()}}
    names = ("glibc", "slabmalloc", ODD)
    cycles = {f"{kind}_{size}": [size, "cycles"] for size in table.SIZES for kind in ("alloc", "free")}
    parts = [
        make_report({name: [{"figures": {"redis": [10 + i, "ns"]}, "peak_rss_mib": 9 + i}]
                     for i, name in enumerate(names)}),
        make_report({name: [{"figures": cycles}] for name in names}, group="kernel table", workload="table"),
        *(make_report({name: [5, 6] for name in names}, unit="Mops/s", group="threads", workload=f"larson_{count}")
          for count in (2, 64)),
        make_report({name: [with_series(rss=("s", [[0, 5], [1, 4]]), live=("s", [[0, 3], [1, 2]]))]
                     for name in names}, group="memory", workload="day"),
        make_report({name: [with_series(malloc=("%", [[50, 10], [99.9, 20], [100, 400]]))] for name in names},
                    group="latency", workload="latency_1"),
        make_report({name: [{"failed": "<b>signal</b> 11"}] for name in names}, group="servers", workload="redis"),
    ]
    return join_reports(*parts)


@pytest.fixture(scope="module")
def page(report_module, full_report):
    return report_module.page_of(full_report)


def test_plots_are_well_formed(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) >= 8
    for svg in plots:
        xml.etree.ElementTree.fromstring(svg)


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) | set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_page_refers_to_nothing_outside(page):
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|\bsrc=", page)
    assert not re.search(r"(href=\"|url\()(?!#)", page)


def test_names_and_reasons_are_escaped(page):
    assert "odd <i>" not in page and "odd &lt;i&gt;&amp;amp; name" in page
    assert "<b>signal" not in page and "&lt;b&gt;signal&lt;/b&gt; 11" in page


def test_page_names_machine_command_and_group(page, full_report):
    for text in ("tools/bench --quick", "a CPU", "21 November 2026", *table.LINUX,
                 *(known["group"].capitalize() for known in full_report["workloads"].values())):
        assert text in page


def test_page_has_the_subject_beside_the_others_workload_by_workload(report_module):
    runs = {name: [{"cpu_s": i, "page_faults": 100 * i, "peak_rss_mib": 3 * i, "figures": {"p99": [i, "ms"]}}] * 2
            for i, name in ((2, "glibc"), (1, ODD), (3, "slabmalloc"))}
    page = report_module.page_of(make_report(runs, group="servers", workload="redis", same_work=True))
    _, beside_others = page.split('<h2 id="beside">')
    text = " ".join(re.sub(r"<[^>]*>", " ", beside_others[:beside_others.index("<h2")]).split())
    odd = "odd &lt;i&gt;&amp;amp; name"
    for told in (f"Time in times the best peer's of each workload; geometric means over the workloads, in times each "
                 f"peer's glibc 1.50 {odd} 3.00 in times {odd}'s, the best peer overall: 3.00; more than 1.05 on 1 of "
                 "1 workloads", f"redis 3.00 × ±0% CPU time 3.00 s, {odd} 1.00 p99 3.00 × ±0% 3.00 ms, {odd} 1.00",
                 "redis 1.50 × ±0% 300 faults, glibc 200", f"redis 3.00 × ±0% 9.00 MiB, {odd} 3.00",
                 "CPU time, geometric mean, in times glibc's 0.95 1.00 (more) 0.50 1.50 (more)"):
        assert told in text.replace("&#39;", "'"), (told, text)


def test_page_says_that_it_was_interrupted(report_module, page):
    interrupted = report_module.page_of(make_report({"glibc": [10], "slabmalloc": [5]}, interrupted=True))
    assert "was interrupted" in interrupted and "was interrupted" not in page


@pytest.mark.parametrize("values", [{}, {"glibc": [10]}, {"slabmalloc": [10, 11], "jemalloc": [3]},
                                    {"glibc": [{"failed": "no"}]}, {"glibc": [0], "slabmalloc": [0]}])
def test_page_of_little(report_module, values):
    """A run that measured next to nothing, or without glibc, still has a page and a table."""
    report = make_report(values)
    assert "</html>" in report_module.page_of(report)
    assert report["command"] in shown(report)
    assert table.markdown(report)


def test_overview_stands_alone(report_module, full_report, tmp_path):
    report_module.write_overview(full_report, tmp_path / "overview.svg")
    root = xml.etree.ElementTree.parse(tmp_path / "overview.svg").getroot()
    assert root.tag.endswith("svg") and "var(" not in (tmp_path / "overview.svg").read_text()
