"""A pytest plugin for tools/test: chooses tests, and tells what becomes of them while they run.

It appends a line of JSON to the file SLABMALLOC_TEST_EVENTS for each event: {"collected": [id, ...]} once a process has
looked for tests, and {"id", "outcome", "reason", "seconds", "output"} for each test that has ended. SLABMALLOC_TEST_ONLY leaves
only tests with that text in their ids, SLABMALLOC_TEST_SLICE ("2/8") each eighth, beginning with the third.
"""
import json
import os

EVENTS = os.environ.get("SLABMALLOC_TEST_EVENTS")


def tell(event):
    if EVENTS:
        with open(EVENTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def sliced(rows, text):
    """Each row in turn belongs to the next slice, so that neighbours, which are alike, are spread over all of them."""
    which, many = map(int, text.split("/"))
    return rows[which::many]


def pytest_collection_modifyitems(config, items):
    chosen = [item for item in items if os.environ.get("SLABMALLOC_TEST_ONLY", "") in item.nodeid]
    chosen = sliced(chosen, os.environ.get("SLABMALLOC_TEST_SLICE", "0/1"))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_collection_finish(session):
    if "PYTEST_XDIST_WORKER" not in os.environ and session.items:
        tell({"collected": [item.nodeid for item in session.items]})


def pytest_xdist_node_collection_finished(node, ids):
    tell({"collected": list(ids)})


pytest_xdist_node_collection_finished.optionalhook = True


def pytest_runtest_logreport(report):
    """A test is told of once: when its call has ended, or when setting up or tearing down did not pass."""
    if "PYTEST_XDIST_WORKER" not in os.environ and (report.when == "call" or not report.passed):
        output = "".join(f"{title}\n{text}\n" for title, text in report.sections)
        tell({"id": report.nodeid, "outcome": report.outcome, "reason": reason_of(report), "seconds": report.duration,
              "output": f"{report.longreprtext}\n{output}" if report.failed else ""})


def reason_of(report):
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext.strip().splitlines()[-1] if report.failed and report.longreprtext.strip() else ""
