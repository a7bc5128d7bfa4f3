"""How tools/test reads what its two runners write, and what it says at the end."""
import json
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools" / "python"))
import outcomes  # noqa: E402
import pytest_events  # noqa: E402

CMOCKA = """[==========] Running 3 test(s).
[ RUN      ] adds
[       OK ] adds
[ RUN      ] wants_two_nodes
for machines with 2 nodes
[  SKIPPED ] wants_two_nodes
[ RUN      ] breaks
0x1 != 0x2
[  FAILED  ] breaks
[==========] 3 test(s) run.
[  PASSED  ] 1 test(s).
[  FAILED  ] 1 test(s), listed below:
[  FAILED  ] breaks
"""


def meson_log(tmp_path, *rows):
    path = tmp_path / "build" / "meson-logs" / "testlog.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"stdout": "", "stderr": "", **row}) + "\n" for row in rows))
    return list(outcomes.from_meson(path))


def events(tmp_path, *rows):
    path = tmp_path / "events"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return outcomes.from_events(path)


def test_cmocka_tests_count_one_by_one(tmp_path):
    rows = meson_log(tmp_path, {"name": "slabmalloc:unit / lock, two nodes", "result": "FAIL", "stdout": CMOCKA})
    assert [(row.outcome, row.name.split(": ")[-1]) for row in rows] == [
        ("passed", "adds"), ("skipped", "wants_two_nodes"), ("failed", "breaks")]
    assert rows[1].reason == "for machines with 2 nodes" and rows[2].reason == "0x1 != 0x2"
    assert rows[2].command == "meson test -C build --print-errorlogs 'lock, two nodes'"


@pytest.mark.parametrize("result, outcome", [("OK", "passed"), ("SKIP", "skipped"), ("FAIL", "failed"),
                                             ("TIMEOUT", "failed"), ("ERROR", "failed"), ("UNEXPECTEDPASS", "failed")])
def test_other_programs_count_as_one(tmp_path, result, outcome):
    row, = meson_log(tmp_path, {"name": "slabmalloc:stress / caches", "result": result, "stdout": "what it was\n"})
    assert row.outcome == outcome


def test_a_program_that_dies_has_failed_whatever_its_tests_said(tmp_path):
    rows = meson_log(tmp_path, {"name": "slabmalloc:unit / lock", "result": "FAIL", "stdout": "[       OK ] adds\n"})
    assert [row.outcome for row in rows] == ["passed", "failed"]


def test_what_was_interrupted_does_not_count(tmp_path):
    assert meson_log(tmp_path, {"name": "slabmalloc:unit / lock", "result": "INTERRUPT"}) == []


def test_a_system_test_that_fails_at_its_end_has_failed(tmp_path):
    told = {"reason": "", "seconds": 1, "output": ""}
    row, = events(tmp_path, {"collected": ["test_a.py::test_b"]},
                  {"id": "test_a.py::test_b", "outcome": "passed", **told},
                  {"id": "test_a.py::test_b", "outcome": "failed", **told})
    assert row.outcome == "failed" and row.command == "/usr/bin/python3 -m pytest test/system/test_a.py::test_b"


def result(outcome, name="a test"):
    return outcomes.Result(outcome, name, "why", "how")


@pytest.mark.parametrize("rows, status, last", [
    (["passed", "passed"], 0, "2 passed, 0 failed"), (["passed", "failed"], 1, "1 passed, 1 failed"),
    (["passed", "skipped"], 0, "1 passed, 0 failed, 1 skipped"), ([], 1, "0 passed, 0 failed"),
    (["skipped"], 1, "0 passed, 0 failed, 1 skipped")])
def test_the_last_line_counts(capsys, rows, status, last):
    assert outcomes.report([result(outcome) for outcome in rows]) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_what_failed_is_named_with_its_command(capsys):
    outcomes.report([result("passed"), result("failed", "a bad test")])
    assert "failed: a bad test (why)\n    how\n" in capsys.readouterr().out


def test_slices_have_each_test_once():
    tests = list(range(23))
    slices = [pytest_events.sliced(tests, f"{which}/8") for which in range(8)]
    assert sorted(sum(slices, [])) == tests and max(map(len, slices)) - min(map(len, slices)) <= 1
