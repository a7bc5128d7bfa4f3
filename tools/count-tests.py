#!/usr/bin/python3
"""Counts what tools/test ran, names what was skipped and what failed, and closes with the one line of the result.

    count-tests.py FOLDER

FOLDER holds meson's test logs (*.json, a test program a line; the cmocka tests in it count one by one), pytest's
report (pytest.xml), and `failures` outside of tests (name and reason, a tab between). The exit status is 0 when
something passed and nothing failed.
"""
import collections
import json
import pathlib
import re
import sys
import xml.etree.ElementTree

Result = collections.namedtuple("Result", "outcome name reason")
MESON_OUTCOMES = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}  # anything else has failed
CMOCKA_OUTCOMES = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}


def from_failures(path):
    return [Result("failed", *line.split("\t")) for line in path.read_text().splitlines()]


def from_meson(path):
    """A log of `meson test`: one test program a line."""
    for line in path.read_text().splitlines():
        test = json.loads(line)
        output = test.get("stdout", "") + "\n" + test.get("stderr", "")
        yield from of_program(f"{path.stem}: {test['name']}", test["result"], output)


def of_program(name, result, output):
    """The cmocka tests of one program; a program that says nothing of cmocka's is one test."""
    outcome = MESON_OUTCOMES.get(result, "failed")
    rows, said = {}, []  # what a test said since it began
    for line in output.splitlines():
        verdict = re.fullmatch(r"\[ +(OK|FAILED|SKIPPED) +\] (?!\d+ test)(\S+)", line)
        if verdict:
            kind = CMOCKA_OUTCOMES[verdict[1]]
            reason = (" ".join(said) or "no reason given") if kind == "skipped" else "see above"
            rows.setdefault(verdict[2], Result(kind, f"{name}: {verdict[2]}", reason))
        said = [] if line.startswith("[") else said + line.split()
    if outcome == "failed" and all(row.outcome != "failed" for row in rows.values()):
        rows[""] = Result("failed", name, f"result {result}")
    return rows.values() or [Result(outcome, name, last_line(output))]


def last_line(text):
    return (text.strip().splitlines() or ["no reason given"])[-1]


def from_pytest(path):
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag: child for child in case}
        if "failure" in kinds or "error" in kinds:
            yield Result("failed", name, "see above")
        elif "skipped" in kinds:
            yield Result("skipped", name, kinds["skipped"].get("message", ""))
        else:
            yield Result("passed", name, "")


def main(folder):
    results = from_failures(folder / "failures")
    for log in sorted(folder.glob("*.json")):
        results += from_meson(log)
    if (folder / "pytest.xml").exists():
        results += from_pytest(folder / "pytest.xml")
    by_outcome = {kind: [row for row in results if row.outcome == kind] for kind in ("passed", "failed", "skipped")}
    print()
    for kind in ("skipped", "failed"):
        for row in by_outcome[kind]:
            print(f"{kind}: {row.name} ({row.reason})")
    counts = {kind: len(rows) for kind, rows in by_outcome.items()}
    print(f"{counts['passed']} passed, {counts['failed']} failed"
          + (f", {counts['skipped']} skipped" if counts["skipped"] else ""))
    return 0 if counts["passed"] and not counts["failed"] else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
