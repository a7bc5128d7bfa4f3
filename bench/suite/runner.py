"""Runs the plan: repetition by repetition, workload by workload, each allocator in turn."""
import concurrent.futures
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

from .measurement import RunFailed, Skipped
from .workloads import Context


def make_plan(workloads, allocators, variants, effort):
    """Steps in order: (repetition, workload, allocators of that step). Where a workload sleeps most of the time, the
    allocators of a step run at once. Who comes first changes with the repetition."""
    for repetition in range(effort.repetitions):
        for workload in workloads:
            if repetition >= repetitions_of(workload, effort):
                continue
            here = [*allocators, *(variants if workload.variants else ())]
            turn = repetition % len(here)
            here = here[turn:] + here[:turn]
            if workload.together:
                yield repetition, workload, here
            else:
                yield from ((repetition, workload, [allocator]) for allocator in here)


def repetitions_of(workload, effort):
    if workload.once:
        return 1
    is_long = workload.together or workload.group == "servers"
    return min(effort.repetitions, effort.repetitions_long) if is_long else effort.repetitions


class Progress:
    """A line that says what runs and about how long the rest will take, from what each workload has taken so far."""

    def __init__(self, plan):
        self.left = [workload.name for _, workload, _ in plan]
        self.total, self.spent, self.said = len(plan), {}, 0.0
        self.begin = time.monotonic()

    def show(self, repetition, workload, allocators):
        names = allocators[0].name if len(allocators) == 1 else "all allocators"
        text = (f"{self.total - len(self.left) + 1} of {self.total}: {workload.name} on {names}, repetition "
                f"{repetition + 1}{self.estimate()}")
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.said > 30:  # a log wants to know too, if less often
            self.said = time.monotonic()
            print(f"bench: {text}", file=sys.stderr, flush=True)

    def estimate(self):
        """Workloads that have not run yet are taken to last as long as the middle one of those that have."""
        if not self.spent:
            return ""
        means = {name: statistics.fmean(seconds) for name, seconds in self.spent.items()}
        unknown = statistics.median(means.values())
        left = round(sum(means.get(name, unknown) for name in self.left))
        return f", about {left // 60}:{left % 60:02d} min left"

    def done(self, workload, seconds):
        self.left.remove(workload.name)
        self.spent.setdefault(workload.name, []).append(seconds)

    def end(self):
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def measure(workload, allocator, build, effort):
    """A measurement, or why there is none: (measurement, failed, skipped)."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slabmalloc-bench-"))
    try:
        folder.chmod(0o755)  # a server drops its rights before it looks for its files
        return workload.measure(Context(build, effort, folder), allocator), "", ""
    except Skipped as reason:
        return None, "", str(reason)
    except RunFailed as reason:
        return None, str(reason), ""
    except Exception as error:  # pylint: disable=broad-except # a row that says so, and the others go on
        return None, f"{type(error).__name__}: {error}".splitlines()[0], ""
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_step(results, repetition, workload, allocators, build, effort):
    if len(allocators) == 1:  # in this thread, so that an interrupt reaches what runs
        found = [measure(workload, allocators[0], build, effort)]
    else:
        with concurrent.futures.ThreadPoolExecutor(len(allocators)) as pool:
            found = list(pool.map(lambda allocator: measure(workload, allocator, build, effort), allocators))
    for allocator, (measurement, failed, skipped) in zip(allocators, found):
        results.add(workload.name, allocator.name, repetition, measurement, failed, skipped)


def run(plan, results, build, effort, folder):
    """Runs all steps; what is done stands in the folder after each repetition. An interrupt comes through."""
    progress, written = Progress(plan), 0
    try:
        for repetition, workload, allocators in plan:
            progress.show(repetition, workload, allocators)
            begin = time.monotonic()
            run_step(results, repetition, workload, allocators, build, effort)
            progress.done(workload, time.monotonic() - begin)
            if repetition > written:
                results.write(folder)
                written = repetition
    finally:
        progress.end()
