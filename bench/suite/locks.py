"""The library's locks under the suite's workloads: how often each rank is acquired and found held, and how long held.

The bench's build of the library counts and times (test/variants/bench.c) and tells at a program's end. `tools/bench --only
locks` has the figures of this machine. As a command this module also boots other machines with tools/numa-vm, and
writes what it measured to bench/data/locks.json, from which scaling.py works:

    PYTHONPATH=bench /usr/bin/python3 -m suite.locks [--build build-bench] [here | NODESxCPUS]...

where CPUS are those of a node; without a machine named: all of MACHINES. A run is one program in one process; a
machine's runs are one shell script, here as in the guest.
"""
import argparse
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import time

from . import programs
from .measurement import Measurement, RunFailed, Skipped

DATA = programs.ROOT / "bench" / "data" / "locks.json"
MACHINES = ("here", "1x2", "1x4", "2x2", "1x8", "2x4", "4x2", "1x16")
BOOT_SECONDS = 500
AMOUNT_HERE = 4  # times the work that an emulated machine does
STALL_LOG2 = 16  # ticks, some 25 us on x86: a holder that is longer at it has lost its CPU, or is in the kernel
REPORT = re.compile(r"slabmalloc: lock (\w+) acquired (\d+) contended (\d+) waited (\d+) hottest (\d+) holds(.*)")
TICKS = re.compile(r"slabmalloc: lock ticks (\d+) us (\d+)")
OBJECTS = re.compile(r'^objects: (\d+)|"iterations": (\d+)| seconds (\d+) operations', re.M)


DB_BENCH = shutil.which("db_bench") or ""


def seconds(amount):
    return 0.5 * amount


def by_time(name):
    return lambda threads, amount: ["threads", name, threads, seconds(amount)]


# {name: (about, the words of its command from a number of threads and an amount of work; None where it has none of
# such a number)}
WORKLOADS = {
    "larson": ("threads hand their objects to their successors", by_time("larson")),
    "handoff": ("pairs of a producer and a consumer", by_time("handoff")),
    "ring": ("objects bounced round a ring of threads", by_time("ring")),
    "births": ("threads born and dying, 200 objects each", by_time("births")),
    "many_to_one": ("all threads but one produce, that one frees",
                    lambda threads, amount: ["producers", threads - 1, 500_000 * amount]),
    "table": ("on each CPU 10,000 objects of 256 bytes are made, then freed",
              lambda threads, amount: ["kernel_table", 20 * amount, 10_000, 256] if threads == 0 else None),
    "deferred": ("half of the threads replace and retire objects, half read them",
                 lambda threads, amount: ["epochs", "--contender", "slab", "--seconds", seconds(amount),
                                          "--writers", threads // 2, "--readers", threads // 2]),
    "cache_handoff": ("one thread makes objects of a named cache, another frees them",
                      lambda threads, amount: ["caches_slab", "--benchmark_filter=^cache_handoff/64/",
                                               f"--benchmark_min_time={seconds(amount) / 2}",
                                               "--benchmark_format=json"] if threads == 2 else None),
    "day": ("a server's day in six seconds, on four threads",
            lambda threads, _: ["day", 6] if threads == 4 else None),
    "rocksdb": ("RocksDB's db_bench: fillrandom, readrandom; its operations count as objects",
                lambda threads, _: [DB_BENCH, "--db=db", "--benchmarks=fillrandom,readrandom", "--num=80000",
                                    f"--threads={threads}", "--compression_type=none", "--value_size=400",
                                    "--write_buffer_size=8000000", "--cache_size=33554432"]
                if threads == 2 and DB_BENCH else None),
}
NOT_IN_GUESTS = {"day", "rocksdb"}  # work that is due at times which emulated CPUs cannot keep; and too much


# -- running --------------------------------------------------------------------------------------------------------

def thread_counts(cpus):
    """Up to two threads a CPU; 0: as many as the program itself thinks right, one a CPU."""
    return [0, *(count for count in (2, 4, 8, 16) if count <= 2 * cpus)]


def plan_of(cpus, names, amount):
    """[(workload, threads, words)]"""
    found = []
    for name in names:
        for threads in thread_counts(cpus):
            words = WORKLOADS[name][1](threads, amount) if threads or name == "table" else None
            found += [(name, threads or cpus, words)] if words else []
    return found


def script_of(plan, build):
    """A line that names the run, what the program and the library say, "wall cpu rss" of the measuring program."""
    bench = build / "bench"
    lines = ["cd $(mktemp -d)", "export SLABMALLOC_OPTIONS=stats=1 MEASURE_OUTPUT=$PWD/took",
             f"export MEASURE_PRELOAD={shlex.quote(programs.variant(build, 'bench'))}"]
    for name, threads, words in plan:
        command = shlex.join([str(bench / "measure"), str(bench / words[0]), *map(str, words[1:])])
        lines += [f"echo == {name} {threads}", f"{command} 2>&1 || echo FAILED $?",
                  'echo "took $(cat $MEASURE_OUTPUT)"']
    return "\n".join([*lines, "rm -r $PWD"])


def run_here(script):
    return programs.run(["sh", "-c", script], programs.clean_environment())


def run_in_guest(script, plan, build, nodes, cpus):
    """The same on an emulated machine, (output, how many CPUs of the host were busy with it)."""
    bench = build / "bench"
    files = {bench / "measure", pathlib.Path(programs.variant(build, "bench")), *(bench / words[0] for _, _, words in plan)}
    command = [programs.ROOT / "tools" / "numa-vm", "--nodes", nodes, "--cpus", nodes * cpus, "--mem", 4096,
               "--timeout", BOOT_SECONDS]
    for file in sorted(files):
        command += ["--file", file]
    begin, cpu = time.monotonic(), cpu_of_children()
    output = programs.run([*command, "--", "sh", "-c", script], programs.clean_environment(), BOOT_SECONDS + 30)
    return output, (cpu_of_children() - cpu) / (time.monotonic() - begin)


def cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# -- reading --------------------------------------------------------------------------------------------------------

def read_lock(match, ns_a_tick):
    """One rank: counts, times in ns. `hold_ns` is the mean of holds that were not interrupted."""
    acquired, contended, waited, hottest = (int(text) for text in match.groups()[1:5])
    holds = [tuple(map(int, text.split(":"))) for text in match[6].split()]
    whole = [(count, ticks) for log2, count, ticks in holds if log2 < STALL_LOG2]
    return {"acquired": acquired, "contended": contended, "hottest": hottest,
            "waited_ns": round(waited * ns_a_tick),
            "hold_ns": round(ns_a_tick * sum(ticks for _, ticks in whole)
                             / max(sum(count for count, _ in whole), 1), 1)}


def read_run(text):
    """What one program of the script said."""
    failed = re.search(r"^FAILED (\d+)", text, re.M)
    ticks, took = TICKS.search(text), re.search(r"^took ([\d.]+) ([\d.]+)", text, re.M)
    objects = sum(int("".join(found)) for found in OBJECTS.findall(text))
    if failed or not (ticks and took and objects):
        raise RunFailed(f"a run failed: {programs.last_line(text)}")
    ns_a_tick = int(ticks[2]) * 1000 / int(ticks[1])
    return {"objects": objects, "wall_s": float(took[1]), "cpu_s": float(took[2]),
            "locks": {match[1]: read_lock(match, ns_a_tick) for match in REPORT.finditer(text) if int(match[2])}}


def read_runs(output):
    """[run], from the output of a script."""
    found = []
    for part in output.replace("\r", "").split("== ")[1:]:
        head, _, text = part.partition("\n")
        name, threads = head.split()
        found.append({"workload": name, "threads": int(threads), **read_run(text)})
    return found


# -- tools/bench ----------------------------------------------------------------------------------------------------

def measure(name, context, _):
    """The figures of this machine, with two threads a CPU, or as many as the program has: a million objects'
    acquisitions of the two ranks that are acquired most, and how often these were found held."""
    plan = plan_of(len(os.sched_getaffinity(0)), [name], 1)[-1:]
    if not plan:
        raise Skipped("no db_bench on this machine (tools/packages-servers.txt)")
    run = read_runs(run_here(script_of(plan, context.build)))[0]
    figures = {}
    for rank in ("depot", "metadata"):
        lock, million = run["locks"][rank], run["objects"] / 1e6
        figures[f"{rank}_acquired"] = (lock["acquired"] / million, "1/million")
        figures[f"{rank}_contended"] = (lock["contended"] / million, "1/million")
        figures[f"{rank}_held"] = (lock["hold_ns"], "ns")
    return Measurement(figures=figures, wall_s=run["wall_s"], cpu_s=run["cpu_s"])


# -- the command ----------------------------------------------------------------------------------------------------

def measure_machine(machine, build):
    if machine == "here":
        cpus = len(os.sched_getaffinity(0))
        plan = plan_of(cpus, WORKLOADS, AMOUNT_HERE)
        return {"nodes": 1, "cpus": cpus, "runs": read_runs(run_here(script_of(plan, build)))}
    nodes, cpus = map(int, machine.split("x"))
    plan = plan_of(nodes * cpus, [name for name in WORKLOADS if name not in NOT_IN_GUESTS], 1)
    output, busy = run_in_guest(script_of(plan, build), plan, build, nodes, cpus)
    return {"nodes": nodes, "cpus": nodes * cpus, "host_busy": round(busy, 2), "runs": read_runs(output)}


def write_data(machines):
    """A line a run, so that differences can be read."""
    ordered = {name: machines[name] for name in MACHINES if name in machines} | machines
    lines = json.dumps(ordered).replace('{"workload"', '\n{"workload"').replace("]}, ", "]},\n")
    DATA.write_text(f"{lines}\n")


def main():
    parser = argparse.ArgumentParser(prog="suite.locks", description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=programs.ROOT / "build-bench")
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help=f"default: {' '.join(MACHINES)}")
    arguments = parser.parse_args()
    known = json.loads(DATA.read_text()) if DATA.exists() else {}
    for machine in arguments.machines or MACHINES:
        known[machine] = measure_machine(machine, arguments.build.resolve())
        write_data(known)


if __name__ == "__main__":
    main()
