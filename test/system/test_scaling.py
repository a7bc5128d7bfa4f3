"""The model of the library's locks (bench/suite/scaling.py), and what it works from.

Promised: docs/scaling.md has the tables that the model prints from bench/data/locks.json; the model's solution is that
of the machine repairman's; what the bench's build of the library says of its locks is read whole, and counts what
happened.
"""
import json
import math
import re
import sys

import pytest

from conftest import BUILD, ROOT

sys.path.insert(0, str(ROOT / "bench"))
from suite import locks, measurement, scaling  # noqa: E402


def test_the_document_has_the_tables_that_the_model_prints():
    document = scaling.DOCUMENT.read_text()
    for title, lines in scaling.tables().items():
        assert f"<!-- {title} -->\n{lines}\n\n" in document, "python3 -m suite.scaling --write"


@pytest.mark.parametrize("cpus", [1, 2, 32, 512])
@pytest.mark.parametrize("think_over_hold", [0.5, 40, 5000])
def test_utilisation_is_that_of_the_machine_repairman(cpus, think_over_hold):
    """One repairman, exponential times: the lock is free with probability 1 / sum of n! / (n - k)! (hold / think)^k."""
    logs = [math.lgamma(cpus + 1) - math.lgamma(cpus - k + 1) - k * math.log(think_over_hold)
            for k in range(cpus + 1)]
    is_free = math.exp(-max(logs)) / sum(math.exp(log - max(logs)) for log in logs)
    found = scaling.utilisations(cpus, think_over_hold, 1.0)
    assert len(found) == cpus + 1 and found[0] == 0
    assert found[-1] == pytest.approx(1 - is_free)


def test_between_two_numbers_of_cpus_lies_a_line():
    assert scaling.between([0.0, 0.1, 0.3], 0) == 0
    assert scaling.between([0.0, 0.1, 0.3], 0.5) == pytest.approx(0.05)
    assert scaling.between([0.0, 0.1, 0.3], 1.5) == pytest.approx(0.2)
    assert scaling.between([0.0, 0.1, 0.3], 2) == pytest.approx(0.3)


def test_a_report_is_read_whole():
    text = ("objects: 2000000\nslabmalloc: lock ticks 4000 us 2\n"
            "slabmalloc: lock depot acquired 7 contended 2 waited 600 hottest 5 holds 4:6:120 17:1:200000\n"
            "slabmalloc: lock ring acquired 0 contended 0 waited 0 hottest 0 holds\ntook 0.5 0.75 4000\n")
    run, = locks.read_runs(f"== larson 4\n{text}")
    assert run == {"workload": "larson", "threads": 4, "objects": 2_000_000, "wall_s": 0.5, "cpu_s": 0.75, "locks": {
        "depot": {"acquired": 7, "contended": 2, "hottest": 5, "waited_ns": 300, "hold_ns": 10.0}}}


@pytest.mark.parametrize("text", ["objects: 5\n", "FAILED 1\ntook 1 1 1\n"])
def test_a_run_that_failed_is_no_figure(text):
    with pytest.raises(measurement.RunFailed):
        locks.read_runs(f"== larson 4\n{text}")


def test_the_bench_build_counts_its_locks():
    """Both ways of counting agree: the depots' own, in slab_stats, and the times' by rank, which are read later, when
    the process's end may have been at a few; no worker comes between them."""
    plan = [("table", 2, ["kernel_table", 2, 10_000, 256])]
    script = locks.script_of(plan, BUILD).replace("OPTIONS=stats=1", "OPTIONS=stats=1,worker=0")
    assert "worker=0" in script
    run, = locks.read_runs(output := locks.run_here(script))
    depots = run["locks"]["depot"]
    assert run["objects"] % 20_000 == 0
    assert 0 < depots["hottest"] <= depots["acquired"] and depots["contended"] < depots["acquired"]
    assert {"threads", "spans", "metadata"} <= set(run["locks"])
    own = int(re.search(r"^slabmalloc: .* depot_locks (\d+)$", output, re.M)[1])
    assert own <= depots["acquired"] <= own + 100


def test_the_data_has_every_machine():
    data = json.loads(locks.DATA.read_text())
    assert set(data) == set(locks.MACHINES)
    assert all(run["locks"]["depot"]["acquired"] for machine in data.values() for run in machine["runs"])
