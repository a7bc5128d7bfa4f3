"""The figures that repeat - instructions and resident sets - held against the bounds that were promised.

Nothing here is timed: see bench/figures.py for throughput and cycles. What is measured, and how, stands there too.
"""
import statistics
import sys

import pytest

from conftest import BUILD, LIBRARY, ROOT, need

sys.path.insert(0, str(ROOT / "bench"))
import figures  # noqa: E402

RUNS = 5  # of each allocator in turn: where the loader puts libraries moves a resident set by some tens of KiB


def measure(workload, library):
    """A workload's figures as {name: value}; skips where this machine cannot run it."""
    try:
        return {name: value for name, (value, _) in figures.WORKLOADS[workload](BUILD, library).items()}
    except figures.Skipped as reason:
        pytest.skip(str(reason))


def medians(workload, *libraries, runs=RUNS):
    """For each library {figure: median of some runs}."""
    rows = [[measure(workload, library) for library in libraries] for _ in range(runs)]
    return [{name: statistics.median(row[i][name] for row in rows) for name in rows[0][i]}
            for i in range(len(libraries))]


@pytest.mark.parametrize("workload, most", [("pair", 32), ("fifo", 42), ("usable", 12)])
def test_instructions(workload, most):
    need("valgrind")
    assert measure(workload, LIBRARY)[workload] <= most


@pytest.fixture(scope="module")
def fixed_costs():
    return medians("fixed_cost", "", LIBRARY)


@pytest.mark.parametrize("mix", ["even", "server"])
def test_fixed_cost_over_glibc_is_at_most_300_kib(fixed_costs, mix):
    glibc, ours = fixed_costs
    over = {name: ours[f"{mix}_{name}"] - glibc[f"{mix}_{name}"] for name in ("freed_rss", "freed_anonymous")}
    assert over["freed_rss"] <= 300, over


def test_parked_thread_costs_at_most_32_kib():
    ours, = medians("parked", LIBRARY, runs=3)
    assert ours["rss_a_parked_thread"] <= 32, ours


def test_idle_postgres_takes_at_most_1_15_times_glibc():
    glibc, ours = medians("idle_postgres", "", LIBRARY, runs=2)
    for name in ("anonymous", "anonymous_pss"):
        assert ours[name] <= 1.15 * glibc[name], (name, glibc, ours)
