"""Runs the plain bench programs of the build folder, one process with one allocator each, and reads what they print.

An allocator is an allocators.Allocator: what to preload and its options. Functions return a Measurement and raise
RunFailed or Skipped.
"""
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import tempfile

from .measurement import Measurement, RunFailed, Skipped, TimedOut

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN_SECONDS = 300  # a run that takes longer has failed
END_SECONDS = 10  # what a program gets to end by itself when it is asked to
TOPOLOGIES = ("1x1", "1x8", "1x512", "8x64")
TABLE_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TUNING = re.compile("LD_PRELOAD$|GLIBC_TUNABLES$|G_SLICE$|(SLABMALLOC|MALLOC|MIMALLOC|TCMALLOC|JEMALLOC|RPMALLOC)_")
NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"


# -- any program ----------------------------------------------------------------------------------------------------

def clean_environment(**extra):
    """The caller's environment, with no allocator in front and nothing that sets one, and some more variables."""
    return {**{name: value for name, value in os.environ.items() if not TUNING.match(name)}, **extra}


RUNNING = set()  # processes, of all threads of the runner


def end_running():
    """Ask all programs to end that run now: those who wait for them go on."""
    for process in list(RUNNING):
        process.terminate()


def communicate(command, environment, timeout_s):
    """(output, messages, exit status) of a program that ends in time, or is ended."""
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, errors="replace") as process:
        RUNNING.add(process)
        try:
            return *process.communicate(timeout=timeout_s), process.returncode
        except BaseException:
            process.terminate()
            try:
                process.communicate(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        finally:
            RUNNING.discard(process)


def run(command, environment, timeout_s=RUN_SECONDS):
    """The standard output of a program that must succeed, with the library that it was given."""
    try:
        output, messages, status = communicate([str(word) for word in command], environment, timeout_s)
    except subprocess.TimeoutExpired as expired:
        raise TimedOut(f"not done after {timeout_s:g} s") from expired
    except OSError as error:
        raise RunFailed(str(error)) from error
    skip = re.search(r"^skip: (.*)", messages, re.M)
    if skip:
        raise Skipped(skip[1])
    if "cannot be preloaded" in messages:
        raise RunFailed("the library cannot be preloaded")
    if status != 0:
        raise RunFailed(f"{describe_status(status)}: {last_line(messages)}")
    return output


def describe_status(status):
    """How a program ended, whether Python says it or a shell's 128 + n."""
    number = -status if status < 0 else status - 128
    return f"killed by {signal.Signals(number).name}" if number in list(signal.Signals) else f"exit status {status}"


def last_line(messages):
    said = [line for line in messages.splitlines() if re.sub(r"^==\d+==", "", line).strip()]
    return said[-1].strip() if said else "no message"


def read_figures(output):
    """The lines "name value unit" of a bench program as {name: (value, unit)}; others are for people."""
    rows = re.findall(rf"^([\w.]+) {NUMBER} (\S+)$", output, re.M)
    return {name: (float(value), unit) for name, value, unit in rows}


def read_series(output):
    """The lines "@name x unit y unit" as {name: (x unit, y unit, [(x, y), ...])}."""
    series = {}
    for name, x, x_unit, y, y_unit in re.findall(rf"^@(\w+) {NUMBER} (\S+) {NUMBER} (\S+)$", output, re.M):
        series.setdefault(name, (x_unit, y_unit, []))[2].append((float(x), float(y)))
    return series


# -- bench programs -------------------------------------------------------------------------------------------------

def run_measured(build, allocator, argv, env=None, timeout_s=RUN_SECONDS):
    """(standard output, Measurement of time and memory) of a program; argv[0] is a path, or a name in build/bench."""
    options = {"SLABMALLOC_OPTIONS": allocator.options} if allocator.options else {}
    with tempfile.NamedTemporaryFile(prefix="measure-") as file:
        environment = clean_environment(**options, **(env or {}), MEASURE_PRELOAD=str(allocator.library),
                                        MEASURE_OUTPUT=file.name)
        output = run([build / "bench" / "measure", build / "bench" / argv[0], *argv[1:]], environment, timeout_s)
        wall, cpu, peak_kib, faults = map(float, file.read().split())
    return output, Measurement(wall_s=wall, cpu_s=cpu, peak_rss_mib=peak_kib / 1024, page_faults=int(faults))


def measure(build, allocator, argv, env=None, timeout_s=RUN_SECONDS):
    """A program's figures and series."""
    output, measurement = run_measured(build, allocator, argv, env, timeout_s)
    measurement.figures, measurement.series = read_figures(output), read_series(output)
    if not measurement.figures:
        raise RunFailed("it printed no figure")
    return measurement


def join(parts, figures):
    """Several runs as one measurement with these figures."""
    return Measurement(figures=figures, wall_s=sum(part.wall_s for part in parts),
                       cpu_s=sum(part.cpu_s for part in parts), peak_rss_mib=max(part.peak_rss_mib for part in parts),
                       page_faults=sum(part.page_faults for part in parts))


def measure_cold_table(build, allocator):
    """A heap that has to grow: the kernel's table in one round, in a fresh process for every size."""
    parts = [measure(build, allocator, ["kernel_table", 1, 10_000, size]) for size in TABLE_SIZES]
    return join(parts, {name: figure for part in parts for name, figure in part.figures.items()})


def variant(build, name):
    """The library as test/variants makes it: "bench" counts and times its locks, "checked" simulates machines."""
    return str(build / "test" / "variants" / name / "libslabmalloc.so")


def measure_cache_memory(build, allocator):
    """What caches cost that are created, used, churned and tuned, each in a fresh process."""
    parts = {part: measure(build, allocator, ["cache_memory", part])
             for part in ("create", "create_own", "use", "churn", "tune")}
    return join(parts.values(), {f"{part}_{name}": figure for part, measured in parts.items()
                                 for name, figure in measured.figures.items()})


def measure_cache_arrays(build, allocator):
    """What a thread's use of a cache costs, on machines that the checked build of ours simulates."""
    checked = variant(build, "checked")
    parts = {nodes_and_cpus: measure(build, dataclasses.replace(allocator, library=checked,
                                                                options=f"topology={nodes_and_cpus}"),
                                     ["cache_memory", "use"]) for nodes_and_cpus in TOPOLOGIES}
    return join(parts.values(), {f"{name}_{nodes_and_cpus}": figure for nodes_and_cpus, part in parts.items()
                                 for name, figure in part.figures.items()})


def measure_idle_postgres(build, allocator):
    """The script preloads the server itself: neither it nor the client runs on the allocator."""
    return measure(build, dataclasses.replace(allocator, library=""), [ROOT / "bench" / "idle_postgres.py"],
                   env={"BENCH_PRELOAD": str(allocator.library)})
