"""Runs the plan: repetition by repetition, workload by workload, each allocator in turn."""
import concurrent.futures
import pathlib
import statistics
import sys
import tempfile
import time

from . import programs
from .measurement import RunFailed, Skipped, TimedOut
from .results import memory_mib
from .workloads import Context


def make_plan(workloads, allocators, variants, effort):
    """Steps in order: (repetition, workload, allocators of that step). Where a workload sleeps most of the time, the
    allocators of a step run at once. Who comes first changes with the repetition. `variants` are those of
    allocators.variants, by kind."""
    for repetition in range(max(effort.repetitions, effort.repetitions_servers)):
        for workload in workloads:
            if repetition >= repetitions_of(workload, effort):
                continue
            here = [*([] if workload.variants_alone else allocators), *variants.get(workload.variants, [])]
            turn = repetition % max(len(here), 1)
            here = here[turn:] + here[:turn]
            if workload.together and here:
                yield repetition, workload, here
            else:
                yield from ((repetition, workload, [allocator]) for allocator in here)


def repetitions_of(workload, effort):
    if workload.once:
        return 1
    if workload.group == "servers":
        return effort.repetitions_servers
    is_long = workload.together or workload.rarely
    return min(effort.repetitions, effort.repetitions_long) if is_long else effort.repetitions


def at_once(workload, count):
    """How many processes of a workload may run at the same time: three quarters of the memory are theirs."""
    return max(1, min(count, int(memory_mib() * 0.75 / workload.mib))) if workload.mib else count


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


class Runner:
    """Measures, and keeps what came of it in `results`."""

    def __init__(self, results, build, effort, folder):
        self.results, self.build, self.effort, self.folder = results, build, effort, folder
        self.hopeless = set()  # (workload, allocator) that did not end in time, and would not the next time either

    def run(self, plan):
        """Runs all steps; what is done stands in the folder after each repetition. An interrupt comes through."""
        progress, written = Progress(plan), 0
        try:
            for repetition, workload, allocators in plan:
                progress.show(repetition, workload, allocators)
                begin = time.monotonic()
                self.run_step(repetition, workload, allocators)
                progress.done(workload, time.monotonic() - begin)
                if repetition > written or workload.group == "servers":
                    self.results.write(self.folder)
                    written = repetition
        finally:
            progress.end()

    def run_step(self, repetition, workload, allocators):
        if len(allocators) == 1:  # in this thread, so that an interrupt reaches what runs
            self.measure_and_add(repetition, workload, allocators[0])
            return
        with concurrent.futures.ThreadPoolExecutor(at_once(workload, len(allocators))) as pool:
            try:
                list(pool.map(lambda allocator: self.measure_and_add(repetition, workload, allocator), allocators))
            except KeyboardInterrupt:
                programs.end_running()
                raise

    def measure_and_add(self, repetition, workload, allocator):
        key = workload.name, allocator.name
        if key in self.hopeless:
            self.results.add(*key, repetition, failed="not tried again: an earlier repetition did not end in time")
            return
        try:
            self.results.add(*key, repetition, self.measure(workload, allocator))
        except Skipped as reason:
            self.results.add(*key, repetition, skipped=str(reason))
        except RunFailed as reason:
            self.results.add(*key, repetition, failed=str(reason))
            if isinstance(reason, TimedOut):
                self.hopeless.add(key)
        except Exception as error:  # pylint: disable=broad-except # a row that says so, and the others go on
            self.results.add(*key, repetition, failed=f"{type(error).__name__}: {error}".splitlines()[0])

    def measure(self, workload, allocator):
        if workload.mib > memory_mib():
            raise Skipped(f"it takes {workload.mib} MiB of memory")
        with tempfile.TemporaryDirectory(prefix="slabmalloc-bench-", ignore_cleanup_errors=True) as name:
            folder = pathlib.Path(name)
            folder.chmod(0o755)  # a server drops its rights before it looks for its files
            return workload.measure(Context(self.build, self.effort, folder), allocator)
