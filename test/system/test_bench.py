"""tools/bench: who takes turns with whom, what a run leaves behind, and what it does when something fails."""
import concurrent.futures
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import BUILD, ROOT, need

sys.path.insert(0, str(ROOT / "bench"))
from suite import (allocators, measurement, memory, programs, results, runner, summary,  # noqa: E402
                   workloads)

GLIBC = allocators.Allocator("glibc")
BROKEN_MALLOC = "#include <stdlib.h>\nvoid *malloc(size_t bytes) { (void)bytes; abort(); }\n"


def command(*words, out):
    return ["/usr/bin/python3", "-m", "suite", "--build", str(BUILD), "--out", str(out), *words]


def environment():
    return {**os.environ, "PYTHONPATH": f"{ROOT}/bench:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}


def bench(*words, out):
    return subprocess.run(command(*words, out=out), env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


# -- the plan

def a_workload(name, **more):
    return workloads.Workload(name, "memory", "about", lambda context, allocator: None, **more)


def plan_of(*chosen, repetitions=3):
    effort = dataclasses.replace(workloads.QUICK, repetitions=repetitions, repetitions_long=2)
    several = [allocators.Allocator(name) for name in "abc"]
    variants = {"some": [allocators.Allocator("x")]}
    return [(repetition, workload.name, "".join(one.name for one in here))
            for repetition, workload, here in runner.make_plan(chosen, several, variants, effort)]


def test_allocators_take_turns_within_a_repetition_and_another_one_begins_each():
    assert plan_of(a_workload("w"), a_workload("v"), repetitions=2) == [
        (0, "w", "a"), (0, "w", "b"), (0, "w", "c"), (0, "v", "a"), (0, "v", "b"), (0, "v", "c"),
        (1, "w", "b"), (1, "w", "c"), (1, "w", "a"), (1, "v", "b"), (1, "v", "c"), (1, "v", "a")]


def test_workloads_that_sleep_run_on_all_allocators_at_once():
    assert plan_of(a_workload("w", together=True)) == [(0, "w", "abc"), (1, "w", "bca")]


def test_as_many_run_at_once_as_the_machine_has_memory_for(monkeypatch):
    monkeypatch.setattr(runner, "memory_mib", lambda: 4096)
    assert [runner.at_once(a_workload("w", mib=mib), 5) for mib in (0, 100, 1000, 5000)] == [5, 5, 3, 1]


def test_what_is_rarely_run_has_fewer_repetitions():
    assert plan_of(a_workload("w", rarely=True)) == [
        (0, "w", "a"), (0, "w", "b"), (0, "w", "c"), (1, "w", "b"), (1, "w", "c"), (1, "w", "a")]


def test_servers_have_repetitions_of_their_own():
    effort = dataclasses.replace(workloads.QUICK, repetitions=1, repetitions_long=1, repetitions_servers=2)
    server = dataclasses.replace(a_workload("w"), group="servers")
    assert [step[0] for step in runner.make_plan([server], [GLIBC], {}, effort)] == [0, 1]


def test_what_repeats_to_the_digit_runs_once_and_variants_join_where_they_mean_something():
    assert plan_of(a_workload("w", once=True, variants="some")) == [(0, "w", "a"), (0, "w", "b"), (0, "w", "c"),
                                                                    (0, "w", "x")]


def test_what_only_variants_can_do_runs_on_them_and_on_nobody_where_there_are_none():
    alone = a_workload("w", variants="some", variants_alone=True)
    assert plan_of(alone, repetitions=2) == [(0, "w", "x"), (1, "w", "x")]
    assert plan_of(dataclasses.replace(alone, variants="none such", together=True)) == []


def test_a_quick_run_has_something_of_every_group_but_a_few():
    found = {one.group for one in workloads.all_of_them().values() if one.least_effort == "quick"}
    assert found >= set(workloads.GROUPS) - {"sampling", "numa", "servers", "instructions"}


def test_what_sampling_costs_is_told_of_ours_beside_itself_and_of_nobody_where_ours_is_not_compared():
    ours = allocators.known(BUILD)["slabmalloc"]
    chosen = [one for one in workloads.all_of_them().values() if one.group == "sampling"]

    def steps(*compared):
        plan = runner.make_plan(chosen, compared, allocators.variants(compared, BUILD), TINY)
        return [(workload.name, one.name, one.options) for _, workload, here in plan for one in here]

    assert steps(GLIBC, ours) == [
        (name, f"slabmalloc {options}".strip(), options)
        for name in ("sampling_churn", "sampling_redis") for options in ("", "sample_bytes=0", "guard=1")]
    assert steps(GLIBC) == []


# -- runs that come to nothing

def rows_of_run(workload, folder, repetitions=1):
    """A run of one workload on glibc."""
    found = results.Results("command", [GLIBC], [workload])
    effort = dataclasses.replace(workloads.QUICK, repetitions=repetitions)
    runner.Runner(found, BUILD, effort, folder).run(list(runner.make_plan([workload], [GLIBC], {}, effort)))
    return found.report["runs"]


def raising(error):
    def measure(context, allocator):
        raise error
    return dataclasses.replace(a_workload("w"), measure=measure)


@pytest.mark.parametrize("error, failed, skipped", [
    (measurement.RunFailed("it broke"), "it broke", ""),
    (measurement.Skipped("no such server"), "", "no such server"),
    (ZeroDivisionError("by zero\nin line 2"), "ZeroDivisionError: by zero", ""),
    (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device", ""),
])
def test_what_goes_wrong_is_a_row_with_its_reason(error, failed, skipped, tmp_path):
    row, = rows_of_run(raising(error), tmp_path)
    assert (row["failed"], row["skipped"]) == (failed, skipped)


def test_what_takes_more_memory_than_there_is_does_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "memory_mib", lambda: 1000)
    row, = rows_of_run(a_workload("w", mib=1100), tmp_path)
    assert row["skipped"] == "it takes 1100 MiB of memory"


def test_what_does_not_end_in_time_is_not_tried_again(tmp_path):
    hanging = raising(measurement.TimedOut("not done after 300 s"))
    first, second = rows_of_run(hanging, tmp_path, repetitions=2)
    assert first["failed"] == "not done after 300 s" and second["failed"].startswith("not tried again")


def test_where_no_machine_can_be_emulated_several_nodes_are_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    row, = rows_of_run(workloads.all_of_them()["numa_2x2"], tmp_path)
    assert not row["failed"] and re.search("qemu|x86-64", row["skipped"]), row


# -- a run

def test_a_run_leaves_a_table_results_and_a_page(tmp_path):
    done = bench("--only", "table,births_2", "--allocators", "glibc,slabmalloc", "--repetitions", "2", out=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = results_in(tmp_path)["runs"]
    assert len(rows) == 2 * (3 + 2)  # the bench build with grow=locked joins in the table
    assert all(row["figures"] and min(row["peak_rss_mib"], row["cpu_s"], row["page_faults"]) > 0 for row in rows), rows
    assert "Average=" in done.stdout and "births_2" in done.stdout
    assert (tmp_path / "report.html").read_text().lstrip().lower().startswith("<!doctype html>")


TINY = dataclasses.replace(workloads.QUICK, repetitions=1, repetitions_long=1, day_s=2, back_percent=5,
                           parked_threads=20, demand={"large": 5, "churn": 1000}, table_rounds=2)


def test_every_workload_of_memory_runs_and_has_the_figures_that_were_promised(tmp_path):
    """All at the same time: most of them sleep."""
    ours = allocators.known(BUILD)["slabmalloc"]
    chosen = [one for one in workloads.all_of_them().values() if one.group == "memory"]
    found = results.Results("command", [ours], chosen)
    plan = runner.make_plan(chosen, [ours], allocators.variants([ours], BUILD), TINY)
    one = runner.Runner(found, BUILD, TINY, tmp_path)
    with concurrent.futures.ThreadPoolExecutor(len(chosen)) as pool:
        list(pool.map(lambda step: one.run_step(*step), plan))
    runs = found.report["runs"]
    assert {run["workload"] for run in runs} == {workload.name for workload in chosen}
    no_run = {run["workload"]: run["failed"] or run["skipped"] for run in runs if not run.get("figures")}
    assert all(re.search("too busy|RLIMIT_MEMLOCK", reason) for reason in no_run.values()), no_run
    measured = {(row.workload, row.figure) for row in summary.summarise(found.report).rows}
    goals = {(goal.workload, goal.figure) for goals in memory.GOALS.values() for goal in goals}
    assert not {goal for goal in goals - measured if goal[0] not in {"redis_values", "idle_postgres", *no_run}}
    beside = {run["workload"] for run in runs if run["allocator"] == memory.KEEP}
    assert beside == {goal.workload for goals in memory.GOALS.values() for goal in goals if goal.beside == memory.KEEP}


def test_every_workload_of_threads_runs_with_few_of_them(tmp_path):
    ours = allocators.known(BUILD)["slabmalloc"]
    effort = dataclasses.replace(TINY, thread_s=0.01, producer_objects=10_000, birth_rounds=3)
    chosen = [one for one in workloads.all_of_them().values()
              if one.group == "threads" and re.search("_(2|once)$", one.name)]
    found = results.Results("command", [ours], chosen)
    runner.Runner(found, BUILD, effort, tmp_path).run(list(runner.make_plan(chosen, [ours], {}, effort)))
    runs = {run["workload"]: run for run in found.report["runs"]}
    assert {"larson_2", "larson_small_2", "exchange_2", "many_to_one_2", "births_once"} <= set(runs)
    assert all(run["skipped"] or run["figures"]["cpu"][0] > 0 for run in runs.values()), runs
    assert {"cpu", "system", "switches"} == set(runs["births_once"]["figures"])


def test_page_faults_are_those_of_the_whole_program():
    """500 threads hold more pages than 50."""
    few, many = (programs.measure(BUILD, GLIBC, ["parked", threads, ""]).page_faults for threads in (50, 500))
    assert many > few + 450


def test_a_programs_allocator_is_proved_once_the_loader_has_mapped_both(tmp_path, monkeypatch):
    """Before, it is setpriv that runs on it."""
    one = workloads.jobs.Program("/lib/ours.so", tmp_path)
    one.preload, one.program, one.born = "/lib/ours.so", "/bin/short", time.monotonic()
    for mappings, proved in (("", False), ("/bin/setpriv /lib/ours.so", False), ("/bin/short", False),
                             ("/bin/short /lib/ours.so", True)):
        one.look_for_preload(mappings)
        assert one.proved == proved
    monkeypatch.setattr(workloads.jobs, "MAPPED_AFTER_S", -1)
    one.look_for_preload("")
    with pytest.raises(workloads.jobs.Failure, match="not in the address space"):
        one.look_for_preload("/bin/short")


def test_an_allocator_that_fails_is_a_row_that_says_so(tmp_path):
    need("cc")
    (tmp_path / "broken.c").write_text(BROKEN_MALLOC)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "broken.so", tmp_path / "broken.c"], check=True)
    done = bench("--only", "births_2", "--allocators", f"glibc,broken={tmp_path}/broken.so", "--repetitions", "1",
                 out=tmp_path)
    assert done.returncode == 1
    failed = {row["allocator"]: row["failed"] for row in results_in(tmp_path)["runs"]}
    assert failed["glibc"] == "" and "SIGABRT" in failed["broken"], failed
    assert "SIGABRT" in done.stdout and "SIGABRT" in (tmp_path / "report.html").read_text()


def test_an_interrupted_run_reports_what_is_done(tmp_path):
    with subprocess.Popen(command("--only", "fragmentation", "--allocators", "glibc", "--repetitions", "999999",
                                  out=tmp_path), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (tmp_path / "results.json").exists() and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the measured program gets it too
        said, complaints = process.communicate()
    assert process.returncode == 130, complaints
    report = results_in(tmp_path)
    assert report["interrupted"] and 1 <= len(report["runs"]) < 999999
    assert not any(row["failed"] for row in report["runs"])
    assert "fragmentation" in said and "interrupted" in (tmp_path / "report.html").read_text()
    assert complaints.splitlines()[-1] == "bench: interrupted; what is done:" and "Traceback" not in complaints


HANGING_MALLOC = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void hang(void)
{
    if (strcmp(program_invocation_short_name, "day") != 0)
        return;
    close(open(HERE, O_CREAT | O_WRONLY, 0644));
    for (;;)
        pause();
}
"""


def hanging_allocator(folder, name):
    """A library with which the workload `day` never gets anywhere, and the file that it makes when it is there."""
    here = folder / f"{name}-is-there"
    (folder / "hanging.c").write_text(HANGING_MALLOC)
    subprocess.run(["cc", "-shared", "-fPIC", f'-DHERE="{here}"', "-o", folder / f"{name}.so", folder / "hanging.c"],
                   check=True)
    return here


def test_a_run_that_is_told_to_end_ends_what_runs(tmp_path):
    """SIGTERM comes to the runner alone, here while two allocators run at the same time that would go on for ever."""
    need("cc")
    there = [hanging_allocator(tmp_path, name) for name in ("a", "b")]
    with subprocess.Popen(command("--only", "day", "--allocators", f"a={tmp_path}/a.so,b={tmp_path}/b.so",
                                  out=tmp_path / "out"), env=environment(), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not all(file.exists() for file in there) and process.poll() is None:
            time.sleep(0.1)
        process.terminate()
        _, complaints = process.communicate()
    assert process.returncode == 130 and "Traceback" not in complaints, complaints
    assert results_in(tmp_path / "out")["interrupted"] and results_in(tmp_path / "out")["runs"] == []


def test_an_interrupt_before_anything_runs_is_no_traceback(tmp_path):
    """Here while it looks whether a library can be preloaded: the library does not let it find out."""
    need("cc")
    (tmp_path / "hanging.c").write_text(HANGING_MALLOC.replace('"day"', '"true"'))
    subprocess.run(["cc", "-shared", "-fPIC", f'-DHERE="{tmp_path}/is-there"', "-o", tmp_path / "hanging.so",
                    tmp_path / "hanging.c"], check=True)
    with subprocess.Popen(command("--only", "day", "--allocators", f"mine={tmp_path}/hanging.so", out=tmp_path / "out"),
                          env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (tmp_path / "is-there").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, complaints = process.communicate()
    assert process.returncode in (-signal.SIGINT, 2), complaints  # 2: it was let wait until it gave up
    assert "Traceback" not in complaints


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    done = bench("--only", "births_2", out=tmp_path / "file" / "out")
    assert done.returncode == 2 and "cannot be written" in done.stderr and done.stdout == ""


def test_every_line_of_a_program_that_is_a_figure_is_read():
    text = "malloc_p99.99 12.5 ns\nx -3 MiB\nlarge 1e+06 ops/s\na line for people: 3 of 4\n@rss 0.25 s 33.1 MiB\n"
    assert programs.read_figures(text) == {"malloc_p99.99": (12.5, "ns"), "x": (-3, "MiB"), "large": (1e6, "ops/s")}
    assert programs.read_series(text) == {"rss": ("s", "MiB", [(0.25, 33.1)])}


# -- help and bad input

def test_help_lists_every_option_and_every_workload(tmp_path):
    done = bench("--help", out=tmp_path)
    assert done.returncode == 0
    lines = re.sub(r"\n {4,}", " ", done.stdout.split("workloads, by group:\n")[1]).splitlines()
    groups = {name: words.split() for name, words in (line.strip().split(": ") for line in lines)}
    found = {}
    for workload in workloads.all_of_them().values():
        found.setdefault(workload.group, []).append(workload.name)
    assert groups == found
    for option in ("quick", "full", "instructions", "compare", "allocators", "only", "repetitions", "out",
                   "write-table", "no-install", "help"):
        assert f"  --{option}" in done.stdout
    assert ",".join(allocators.DEFAULT) in done.stdout


def test_a_page_that_cannot_be_drawn_is_a_line(tmp_path):
    """Where Debian's package of it is missing."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib here')\n")
    done = subprocess.run(command("--only", "fragmentation", "--allocators", "glibc", "--repetitions", "1",
                                  out=tmp_path / "out"), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env={**environment(), "PYTHONPATH": f"{ROOT}/bench:{tmp_path}"}, check=False)
    assert done.returncode == 0 and "fragmentation" in done.stdout
    assert done.stderr.splitlines()[-1] == "bench: the report is not written: no matplotlib here"
    assert (tmp_path / "out" / "results.json").exists() and "report.html" not in done.stdout


@pytest.mark.parametrize("words, complaint", [
    (["--allocators", "nosuch"], "no allocator 'nosuch'"),
    (["--allocators", "mine=/nonexistent.so"], "no file /nonexistent.so"),
    (["--allocators", "mine=/etc/passwd"], "cannot preload"),
    (["--only", "nosuch"], "no workload or group 'nosuch'"),
    (["--repetitions", "0"], "at least 1"),
    (["--quick", "--full"], "not allowed with"),
    (["--allocators", "glibc=/lib/x86_64-linux-gnu/libc.so.6"], "is no name for"),
    (["--allocators", "a$b=/lib/x86_64-linux-gnu/libc.so.6"], "is no name for"),
    (["--allocators", "mine=/tmp/a b.so"], "no file"),
])
def test_bad_input_is_one_clear_line_and_status_2(tmp_path, words, complaint):
    done = bench(*words, out=tmp_path / "out")
    assert done.returncode == 2
    assert complaint in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_an_allocator_whose_package_is_missing_is_left_out_with_a_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(allocators, "DEBIAN", tmp_path)
    assert list(allocators.find(["glibc", "jemalloc"], BUILD)) == ["glibc"]
    assert capsys.readouterr().err == "bench: jemalloc is left out: Debian's package libjemalloc2 is not installed\n"


@pytest.mark.parametrize("name, programs, log", [("redis", ["redis-server", "redis-benchmark"], "server/server.log"),
                                                 ("sqlite3", ["sqlite3"], "output")])
def test_a_server_is_measured_on_the_library_with_its_options(place, name, programs, log):
    need(*programs)
    server = {**workloads.servers.WORKLOADS, **workloads.jobs.WORKLOADS}[name]
    found = server.measure(str(BUILD / "libslabmalloc.so"), "quick", place, "stats=1")
    assert "slabmalloc: " in (place / log).read_text()
    assert found.figures and found.cpu_s > 0 and found.peak_rss_mib > 1 and found.series["rss"][2]
    assert found.page_faults > found.peak_rss_mib  # more than one a MiB, whatever the kernel gives at once


def test_a_server_that_is_not_installed_is_a_skip_that_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name, **_: None)
    row, = rows_of_run(workloads.all_of_them()["redis"], tmp_path)
    assert row["failed"] == "" and "redis-server" in row["skipped"]
