#!/usr/bin/python3
"""Measure allocators side by side: bench/figures.py [--allocators glibc,slabmalloc,NAME=PATH] [--only pair,fifo].

Every workload runs in a process of its own, with the allocator under LD_PRELOAD, repetition by repetition and in each
of them one allocator after the other, so that a machine that drifts hurts all alike. Printed are medians, and in
brackets the ratio to glibc. A run that fails is a row that says so.

Instruction counts and resident sets repeat; times on a busy machine do not.
"""
import argparse
import atexit
import functools
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEBIAN = pathlib.Path("/usr/lib") / f"{platform.machine()}-linux-gnu"
KNOWN = {
    "glibc": "",
    "jemalloc": DEBIAN / "libjemalloc.so.2",
    "mimalloc": DEBIAN / "libmimalloc.so.2",
    "tcmalloc": DEBIAN / "libtcmalloc_minimal.so.4",
}
RUN_SECONDS = 300  # a run that takes longer has failed

# Instructions that a jump through the PLT takes (-z now, no endbr64).
PLT_JUMP = {"x86_64": 1}

# Counted loops of bench/instructions.c: rounds to warm up, rounds to measure, operations a round, calls an operation.
COUNTED = {
    "pair": (20_000, 100_000, 1, 2),
    "fifo": (100, 200, 1000, 2),
    "lifo": (100, 200, 1000, 2),
    "batch": (100, 200, 1000, 2),
    "churn": (100, 200, 1000, 2),
    "calloc_pair": (20_000, 100_000, 1, 2),
    "realloc_grow": (2_000, 10_000, 1, 10),
    "usable": (1_000, 5_000, 64, 1),
}


class RunFailed(Exception):
    """A program that could not be measured, with the reason."""


class Skipped(Exception):
    """A workload that this machine cannot run, with the reason."""


# -- running programs -----------------------------------------------------------------------------------------------

def clean_environment(library, **extra):
    """The caller's environment, with this allocator in front and no other."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if library:
        environment["LD_PRELOAD"] = str(library)
    return {**environment, **extra}


def run(command, environment):
    """The standard output and error of a program that must succeed, with the library that it was given."""
    try:
        done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True,
                              timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired as expired:
        raise RunFailed(f"not done after {RUN_SECONDS} s") from expired
    except OSError as error:
        raise RunFailed(str(error)) from error
    if done.stderr.startswith("skip: "):
        raise Skipped(done.stderr[len("skip: "):].strip())
    if "cannot be preloaded" in done.stderr:
        raise RunFailed("the library cannot be preloaded")
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if re.sub(r"^==\d+==", "", line).strip()]
        last = said[-1] if said else "no message"
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        raise RunFailed(f"{how}: {last}")
    return done.stdout, done.stderr


def read_figures(output):
    """The lines "name value unit" of a bench program; others are for people."""
    rows = re.findall(r"^(\w+) (-?[\d.]+(?:e[+-]?\d+)?) (\S+)$", output, re.MULTILINE)
    return {name: (float(value), unit) for name, value, unit in rows}


def run_program(build, library, name, *arguments):
    output, _ = run([build / "bench" / name, *arguments], clean_environment(library))
    return read_figures(output)


# -- workloads: functions of (build folder, library) that return {figure: (value, unit)} ----------------------------

@functools.lru_cache(maxsize=None)
def without_debug_information(library):
    """A copy of the library for valgrind, which gives up on debug information newer than itself (clang's DWARF 5)."""
    if not library or not shutil.which("strip"):
        return library
    folder = tempfile.mkdtemp(prefix="figures-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = pathlib.Path(folder) / pathlib.Path(library).name
    run(["strip", "--strip-debug", "-o", copy, library], clean_environment(""))
    return copy


def count_instructions(build, library, program, workload, rounds, within=None):
    """Instructions that callgrind sees the program execute; `within` narrows that to functions of a pattern."""
    with tempfile.TemporaryDirectory(prefix="figures-") as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [f"--toggle-collect={within}"] if within else []
        command += [build / "bench" / program, workload, rounds]
        _, messages = run(command, clean_environment(without_debug_information(library), LD_BIND_NOW="1"))
    collected = re.search(r"Collected\s*:\s*(\d+)", messages)
    if not collected:
        raise RunFailed("callgrind printed no count")
    return int(collected.group(1))


def count_operation(build, library, program, workload, within=None):
    """Instructions an operation in the steady state: the difference of two run lengths."""
    warm, measured, operations, _ = COUNTED[workload]
    short = count_instructions(build, library, program, workload, warm, within)
    long = count_instructions(build, library, program, workload, warm + measured, within)
    return (long - short) / measured / operations


@functools.lru_cache(maxsize=None)
def count_loop(build, workload):
    """What the loop itself takes an operation, its call instructions included: the loop on functions that do nothing,
    less what happens inside these functions and in the jumps to them."""
    jump = PLT_JUMP[platform.machine()] * COUNTED[workload][3]
    inside = count_operation(build, "", "instructions_noop", workload, within="noop_*")
    return count_operation(build, "", "instructions_noop", workload) - inside - jump


def measure_instructions(workload, build, library):
    if platform.machine() not in PLT_JUMP:
        raise Skipped(f"instructions are not counted on {platform.machine()}")
    taken = count_operation(build, library, "instructions", workload) - count_loop(build, workload)
    return {workload: (taken, "instructions")}


def measure_producers(build, library):
    return run_program(build, library, "producers")


def measure_table(build, library):
    """Steady state: the median of 21 rounds in one process."""
    figures = run_program(build, library, "kernel_table")
    return {name: figure for name, figure in figures.items() if not name.startswith("first_")}


def measure_cold_table(build, library):
    """A heap that has to grow: one round, in a fresh process for every size."""
    figures = {}
    for size in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        figures.update(run_program(build, library, "kernel_table", 1, 10_000, size))
    return {f"cold_{name}": figure for name, figure in figures.items() if not name.startswith("first_")}


def measure_fixed_cost(build, library):
    figures = {}
    for mix in ("even", "server"):
        rows = run_program(build, library, "fixed_cost", mix)
        figures.update({f"{mix}_{name}": figure for name, figure in rows.items()})
    return figures


def measure_parked(build, library):
    busy = run_program(build, library, "parked")
    idle = run_program(build, library, "parked", int(busy["threads"][0]), "idle")
    threads = busy["threads"][0]
    return {
        "rss_a_parked_thread": ((busy["rss"][0] - idle["rss"][0]) / threads, "KiB"),
        "anonymous_a_parked_thread": ((busy["anonymous"][0] - idle["anonymous"][0]) / threads, "KiB"),
        "rss_a_thread_that_never_allocated": (idle["rss"][0] / threads, "KiB"),
    }


def measure_idle_postgres(build, library):
    del build
    server = ROOT / "bench" / "idle_postgres.py"
    return read_figures(run([server], clean_environment("", BENCH_PRELOAD=str(library)))[0])


WORKLOADS = {
    **{name: functools.partial(measure_instructions, name) for name in COUNTED},
    "fixed_cost": measure_fixed_cost,
    "parked": measure_parked,
    "idle_postgres": measure_idle_postgres,
    "producers": measure_producers,
    "table": measure_table,
    "cold_table": measure_cold_table,
}
COUNTED_ONCE = set(COUNTED)  # they repeat to the digit


# -- the run --------------------------------------------------------------------------------------------------------

class Results:
    """values[workload][figure][allocator] is the list of values so far; failures[workload][allocator] a reason."""

    def __init__(self):
        self.values, self.units, self.failures = {}, {}, {}

    def add(self, workload, allocator, figures):
        for figure, (value, unit) in figures.items():
            self.units[workload, figure] = unit
            self.values.setdefault(workload, {}).setdefault(figure, {}).setdefault(allocator, []).append(value)

    def fail(self, workload, allocator, reason):
        self.failures.setdefault(workload, {})[allocator] = reason

    def rows(self):
        """One dict for each figure of each allocator, and one for each failure."""
        for workload, figures in self.values.items():
            for figure, by_allocator in figures.items():
                base = statistics.median(by_allocator["glibc"]) if "glibc" in by_allocator else None
                for allocator, values in by_allocator.items():
                    median = statistics.median(values)
                    yield {"workload": workload, "figure": figure, "allocator": allocator, "median": median,
                           "unit": self.units[workload, figure], "lowest": min(values), "highest": max(values),
                           "values": values, "ratio_to_glibc": median / base if base else None}
        for workload, reasons in self.failures.items():
            for allocator, reason in reasons.items():
                yield {"workload": workload, "allocator": allocator, "failed": reason}


def measure_once(results, workload, allocator, library, build):
    try:
        results.add(workload, allocator, WORKLOADS[workload](build, library))
    except Skipped as reason:
        results.fail(workload, allocator, f"skipped: {reason}")
    except RunFailed as reason:
        results.fail(workload, allocator, str(reason))


def measure_all(results, workloads, allocators, repetitions, build):
    plan = [(workload, allocator) for repetition in range(repetitions) for workload in workloads
            for allocator in allocators if repetition == 0 or workload not in COUNTED_ONCE]
    begin = time.monotonic()
    for done, (workload, allocator) in enumerate(plan):
        spent = time.monotonic() - begin
        left = f", about {spent / done * (len(plan) - done):.0f} s left" if done else ""
        show_progress(f"{done + 1} of {len(plan)}: {workload} on {allocator}{left}")
        measure_once(results, workload, allocator, allocators[allocator], build)
    show_progress("")


def show_progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show_number(value):
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def print_table(results, allocators):
    cells, order = {}, []
    for row in results.rows():
        key = (row["workload"], row.get("figure", ""), row.get("unit", ""))
        if key not in cells:
            cells[key] = {}
            order.append(key)
        if "failed" in row:
            cells[key][row["allocator"]] = "skipped" if row["failed"].startswith("skipped") else "FAILED"
            continue
        ratio = row["ratio_to_glibc"]
        cells[key][row["allocator"]] = show_number(row["median"]) + (f" ({ratio:.2f})" if ratio is not None else "")
    lines = [["workload", "figure", "unit", *allocators]]
    lines += [[*key, *(cells[key].get(name, "-") for name in allocators)] for key in order]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        left = "  ".join(word.ljust(width) for word, width in zip(line[:3], widths))
        print(left, "  ".join(word.rjust(width) for word, width in zip(line[3:], widths[3:])), sep="  ")
    for row in results.rows():
        if "failed" in row:
            print(f"{row['workload']} on {row['allocator']}: {row['failed']}")


# -- the command ----------------------------------------------------------------------------------------------------

def find_allocators(names, build):
    """{name: path}; a library that is not there is a line on standard error, and left out."""
    known, found = {**KNOWN, "slabmalloc": build / "libslabmalloc.so"}, {}
    for name in names:
        name, _, path = name.partition("=")
        path = pathlib.Path(path).resolve() if path else known.get(name)
        if path is None:
            sys.exit(f"figures: no allocator {name}; known are {', '.join(known)}, any other as NAME=PATH")
        if path and not pathlib.Path(path).exists():
            print(f"figures: no {path}: {name} is left out", file=sys.stderr)
            continue
        found[name] = path
    return found


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0],
                                     epilog=f"workloads: {' '.join(WORKLOADS)}; instructions means all counted loops")
    parser.add_argument("--allocators", default="glibc,slabmalloc", metavar="A,B,NAME=PATH")
    parser.add_argument("--only", default="", metavar="W,W", help="these workloads, not all")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help="build folder (default: build)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all values there")
    return parser.parse_args()


def choose_workloads(text):
    names = []
    for name in text.split(",") if text else WORKLOADS:
        names += COUNTED if name == "instructions" else [name]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        sys.exit(f"figures: no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    return names


def write_json(path, results, allocators):
    machine = {"node": platform.node(), "machine": platform.machine(), "kernel": platform.release(),
               "cpus": os.cpu_count()}
    report = {"machine": machine, "allocators": {name: str(file) for name, file in allocators.items()},
              "rows": list(results.rows())}
    path.write_text(json.dumps(report, indent=1) + "\n")


def main():
    arguments = parse_arguments()
    build = arguments.build.resolve()
    allocators = find_allocators(arguments.allocators.split(","), build)
    workloads = choose_workloads(arguments.only)
    results = Results()
    try:
        measure_all(results, workloads, allocators, arguments.repetitions, build)
    except KeyboardInterrupt:
        print("\nfigures: interrupted; what is done:", file=sys.stderr)
    print_table(results, list(allocators))
    if arguments.json:
        write_json(arguments.json, results, allocators)
    sys.exit(any(not reason.startswith("skipped") for reasons in results.failures.values()
                 for reason in reasons.values()))


if __name__ == "__main__":
    main()
