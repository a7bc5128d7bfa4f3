"""What tools/test does once the packages are there and the build folders configured: builds, runs and counts.

    run_tests.py [--quick | --long] [--only NAME] [--slice K/M]

Two runners work side by side: `meson test` has the programs (unit, contract, misuse, stress, model, examples), pytest
the system tests. This one chooses what they run, builds what that needs and no more, says how far it is at least every
20 seconds, and closes with what failed, the command that runs just that, and the one line of the result.
"""
import argparse
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import outcomes
from pytest_events import sliced

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD, CLANG = ROOT / "build", ROOT / "build-clang"
LIBRARY = ["libslabmalloc.so", "libslabmalloc.a"]
SAY_EVERY_S = 10
WORKERS = os.cpu_count() or 2
INTERRUPTED = 130
WHOLE = "0/1"  # slice
LONG_SCALE = "10"  # how much longer the long run's stress and torture are
# Suites of `meson test`; what only the long run has comes from the clang build.
QUICK_SUITES = {"unit", "contract-release", "misuse", "examples"}
# Real programs and servers, and emulated machines.
NOT_QUICK = ("test_servers*.py", "test_programs*.py", "test_vm*.py")
# What the system tests use beside the library; their own choice of it is not known before they run.
SYSTEM_SUITES_NEEDED = {"contract-release", "misuse", "stress"}
NINJA_LINE = re.compile(r"\[(\d+)/(\d+)\] ")
MESON_LINE = re.compile(r" *\d+/\d+ \S+ / (.+?) +([A-Z]+) +[\d.]+s")


def parse_arguments(words):
    parser = argparse.ArgumentParser(prog="tools/test")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--slice", default=WHOLE)
    return parser.parse_args(words)


class Plan:
    """Which tests run, and which files must be built for them."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.meson = {BUILD: self.choose(BUILD, QUICK_SUITES if arguments.quick else None)}
        if arguments.long:
            self.meson[CLANG] = self.choose(CLANG, {"contract-release"})
        self.system = self.pytest_words()

    def choose(self, folder, suites):
        left_out = set() if self.arguments.long else {"long"}
        rows = [row for row in introspect(folder, "tests")
                if (suites is None or suites & suites_of(row)) and not left_out & suites_of(row)]
        rows = [row for row in rows if self.arguments.only in row["name"]]
        rows.sort(key=lambda row: row["name"])
        return sliced(rows, self.arguments.slice)

    def pytest_words(self):
        words = [f"--ignore-glob=*/{files}" for files in NOT_QUICK] if self.arguments.quick else []
        if not self.arguments.long:
            words += ["-m", "not long"]
        elif self.arguments.slice != WHOLE:
            words += ["-m", "not hours"]
        return ["/usr/bin/python3", "-m", "pytest", "test/system", "-p", "tools.python.pytest_events", "-p",
                "no:cacheprovider", "-n", str(WORKERS), "--dist", "loadgroup", "--timeout", "7200", *words]

    def targets(self, folder):
        needed = {target for row in self.meson[folder] for target in row["depends"]}
        if folder == BUILD:
            needed |= {target for row in introspect(BUILD, "tests") if suites_of(row) & SYSTEM_SUITES_NEEDED
                       for target in row["depends"]} if not self.arguments.quick else set()
        files = {row["id"]: row["filename"] for row in introspect(folder, "targets")}
        return sorted(os.path.relpath(file, folder) for target in needed for file in files[target])

    def environment(self):
        arguments = self.arguments
        scale = {"SLABMALLOC_TEST_SCALE": LONG_SCALE} if arguments.long else {}
        required = {} if arguments.quick else {"SLABMALLOC_TEST_REQUIRE": "1"}
        return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **scale, **required}


def introspect(folder, what):
    return json.loads((folder / "meson-info" / f"intro-{what}.json").read_text())


def suites_of(row):
    return {suite.partition(":")[2] for suite in row["suite"]}


class Voice:
    """Says how far things are, at once what is worth it, and at least every few seconds anything at all."""

    def __init__(self):
        self.last = 0.0

    def say(self, text):
        print(text, flush=True)
        self.last = time.monotonic()

    def say_seldom(self, text):
        if time.monotonic() - self.last >= SAY_EVERY_S:
            self.say(text)


class Process:
    """A child in a group of its own, whose lines come through a queue beside those of others."""

    def __init__(self, words, lines, environment, log):
        self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, text=True,
                                        errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)
        self.thread = threading.Thread(target=self.pump, args=(lines, log), daemon=True)
        self.thread.start()

    def pump(self, lines, log):
        with open(log, "w", encoding="utf-8") as file:
            for line in self.process.stdout:
                file.write(line)
                lines.put((self, line.rstrip("\n")))
        self.process.wait()
        lines.put((self, None))

    def end(self, number):
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)


def build(folder, targets, voice, results):
    """Run ninja, and return what failed."""
    lines, log = queue.Queue(), results / f"{folder.name}.log"
    ninja = Process(["ninja", "-C", str(folder), *targets], lines, dict(os.environ), log)
    try:
        while True:
            try:
                _, line = lines.get(timeout=SAY_EVERY_S)
            except queue.Empty:
                voice.say_seldom(f"build in {folder.name}: still at it")
                continue
            if line is None:
                break
            step = NINJA_LINE.match(line)
            if step:
                voice.say_seldom(f"build {step[1]} of {step[2]} in {folder.name}")
    except KeyboardInterrupt:
        ninja.end(signal.SIGINT)
        raise
    if ninja.process.returncode:
        lines = log.read_text().splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith("FAILED: ")), 0)
        print(*lines[first:first + outcomes.SHOWN_LINES], sep="\n")
        return [outcomes.Result("failed", f"build in {folder.name}", "see above", f"ninja -C {folder.name}")]
    return []


class Run:
    """Both runners at work, and what has ended so far."""

    def __init__(self, plan, folder, voice):
        self.plan, self.folder, self.voice = plan, folder, voice
        self.lines = queue.Queue()
        self.meson_left = {build: [row["name"] for row in rows] for build, rows in plan.meson.items() if rows}
        self.ended = self.failed = 0
        self.system_left, self.system_ended, self.events_read = set(), set(), 0
        self.events = BUILD / "meson-logs" / "system-tests.json"
        self.problems = []
        self.processes = {}

    def start(self):
        for build in self.meson_left:
            words = ["meson", "test", "-C", str(build), "--no-rebuild", "--num-processes", str(WORKERS), "--logbase",
                     "tools-test", "--timeout-multiplier", LONG_SCALE if self.plan.arguments.long else "1",
                     *self.meson_left[build]]
            (build / "meson-logs" / "tools-test.json").unlink(missing_ok=True)
            self.launch(words, build.name, self.plan.environment())
        extra = {"SLABMALLOC_TEST_EVENTS": str(self.events), "SLABMALLOC_BUILD": str(BUILD),
                 "SLABMALLOC_TEST_ONLY": self.plan.arguments.only, "SLABMALLOC_TEST_SLICE": self.plan.arguments.slice}
        self.events.write_text("")
        self.launch(self.plan.system, "pytest", {**self.plan.environment(), **extra})

    def launch(self, words, name, environment):
        self.processes[Process(words, self.lines, environment, self.folder / f"{name}.log")] = name

    def follow(self):
        alive = set(self.processes)
        while alive:
            try:
                process, line = self.lines.get(timeout=1)
            except queue.Empty:
                process, line = None, ""
            self.read_events()
            if process is not None and line is None:
                alive.discard(process)
                self.check_end(process)
            elif process is not None and (match := MESON_LINE.match(line)):
                self.note(match[1], match[2] not in ("OK", "SKIP", "EXPECTEDFAIL"))
                self.meson_left[ROOT / self.processes[process]].remove(match[1])
            self.voice.say_seldom(self.progress())
        self.voice.say(self.progress())

    def read_events(self):
        events = self.events.read_text().splitlines()
        for event in map(json.loads, events[self.events_read:]):
            self.system_left |= set(event.get("collected", ())) - self.system_ended
            if "id" in event and event["id"] not in self.system_ended:
                self.system_ended.add(event["id"])
                self.system_left.discard(event["id"])
                self.note(event["id"], event["outcome"] == "failed")
        self.events_read = len(events)

    def note(self, name, failed):
        self.ended += 1
        self.failed += failed
        if failed:
            self.voice.say(f"failed: {name}")

    def progress(self):
        left = [*(name for names in self.meson_left.values() for name in names), *sorted(self.system_left)]
        text = f"test {self.ended} of {self.ended + len(left)}, {self.failed} failed"
        return text + (f"; not ended yet: {'; '.join(left)}" if 0 < len(left) <= 2 * WORKERS else "")

    def check_end(self, process):
        """A runner that ended before its tests is a failure of its own."""
        name, status = self.processes[process], process.process.returncode
        left = self.system_left if name == "pytest" else self.meson_left[ROOT / name]
        if left or (name == "pytest" and status not in (0, 1, 5)):
            print((self.folder / f"{name}.log").read_text()[-4000:])
            self.problems.append(outcomes.Result(
                "failed", name, f"the runner ended with status {status} and {len(left)} tests left", ""))

    def stop(self):
        """Ends the runners so that they still write what they know, and their tests with them."""
        for process, name in self.processes.items():
            process.end(signal.SIGINT if name == "pytest" else signal.SIGTERM)
        for process in self.processes:
            process.thread.join(20)
            process.end(signal.SIGKILL)

    def results(self):
        rows = list(self.problems)
        for build, tests in self.plan.meson.items():
            log = build / "meson-logs" / "tools-test.json"
            rows += outcomes.from_meson(log) if tests and log.exists() else []
        return rows + outcomes.from_events(self.events)


def main(words):
    arguments = parse_arguments(words)
    voice, began = Voice(), time.monotonic()
    plan, rows, interrupted = Plan(arguments), [], False
    with tempfile.TemporaryDirectory() as folder:
        folder, run = pathlib.Path(folder), None
        try:
            rows += build(CLANG, LIBRARY + (plan.targets(CLANG) if arguments.long else []), voice, folder)
            rows += build(BUILD, [*LIBRARY, "benches", "vm-programs", "slabctl-programs", *plan.targets(BUILD)], voice,
                          folder)
            built = time.monotonic()
            if not rows:
                run = Run(plan, folder, voice)
                run.start()
                run.follow()
        except KeyboardInterrupt:
            interrupted = True
            if run is not None:
                run.stop()
        if run is not None:
            rows += run.results()
            if not interrupted:
                voice.say(f"built in {built - began:.0f} s, tested in {time.monotonic() - built:.0f} s")
    if interrupted:
        voice.say("interrupted: what follows is what had ended by then")
    return max(outcomes.report(rows), INTERRUPTED if interrupted else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
