"""What tests have come to: read from the logs of `meson test` and of pytest, listed, and counted in one line.

A program of `meson test` that uses cmocka counts as its cmocka tests do, any other as one test.
"""
import collections
import json
import re
import shlex

Result = collections.namedtuple("Result", "outcome name reason command")
MESON_OUTCOMES = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}  # anything else has failed
CMOCKA_OUTCOMES = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}
SHOWN_LINES = 60


def from_meson(path):
    """The results in a log of `meson test`: a line of JSON a program."""
    folder = path.parents[1].name
    for line in path.read_text().splitlines():
        test = json.loads(line)
        if test["result"] == "INTERRUPT":
            continue
        name = test["name"].rpartition(" / ")[2]
        output = test.get("stdout", "") + "\n" + test.get("stderr", "")
        command = f"meson test -C {folder} --print-errorlogs {shlex.quote(name)}"
        yield from of_program(f"{folder}: {test['name']}", test["result"], output, command)


def of_program(name, result, output, command):
    """The cmocka tests of one program; a program that says nothing of cmocka's is one test."""
    outcome = MESON_OUTCOMES.get(result, "failed")
    rows, said = {}, []  # what a test said since it began
    for line in output.splitlines():
        verdict = re.fullmatch(r"\[ +(OK|FAILED|SKIPPED) +\] (?!\d+ test)(\S+)", line)
        if verdict:
            kind = CMOCKA_OUTCOMES[verdict[1]]
            reason = " ".join(said)[:300] or "no reason given"
            rows.setdefault(verdict[2], Result(kind, f"{name}: {verdict[2]}", "" if kind == "passed" else reason, command))
        said = [] if line.startswith("[") else said + line.split()
    if outcome == "failed":
        show(name, output)
        if all(row.outcome != "failed" for row in rows.values()):
            rows[""] = Result("failed", name, f"result {result}", command)
    return rows.values() or [Result(outcome, name, last_line(output), command)]


def show(name, output):
    lines = output.strip().splitlines()
    print(f"\n== {name}", *(["..."] if len(lines) > SHOWN_LINES else []), *lines[-SHOWN_LINES:], sep="\n")


def last_line(text):
    return (text.strip().splitlines() or ["no reason given"])[-1]


def from_events(path):
    """The results of the system tests, from the events of tools/python/pytest_events.py."""
    rows = {}
    for event in map(json.loads, path.read_text().splitlines()):
        if "id" not in event or (event["id"] in rows and event["outcome"] != "failed"):
            continue
        if event["outcome"] == "failed":
            show(event["id"], event["output"])
        rows[event["id"]] = Result(event["outcome"], event["id"], event["reason"],
                                   f"/usr/bin/python3 -m pytest {shlex.quote('test/system/' + event['id'])}")
    return list(rows.values())


def report(rows):
    """Lists what was skipped, by reason, and what failed, and closes with the count; the exit status."""
    by_outcome = {kind: [row for row in rows if row.outcome == kind] for kind in ("passed", "failed", "skipped")}
    print()
    reasons = collections.Counter(row.reason for row in by_outcome["skipped"])
    for reason, many in sorted(reasons.items()):
        names = [row.name for row in by_outcome["skipped"] if row.reason == reason]
        print(f"skipped, {reason}: {names[0]}" + (f" and {many - 1} more" if many > 1 else ""))
    for row in by_outcome["failed"]:
        print(f"failed: {row.name} ({row.reason})" + (f"\n    {row.command}" if row.command else ""))
    counts = {kind: len(of_kind) for kind, of_kind in by_outcome.items()}
    print(f"{counts['passed']} passed, {counts['failed']} failed"
          + (f", {counts['skipped']} skipped" if counts["skipped"] else ""), flush=True)
    return 0 if counts["passed"] and not counts["failed"] else 1
