"""What workloads of whole programs share: samples of memory, CPU seconds and page faults, one repetition of one
program on one allocator at a time. servers.py has the servers, jobs.py the programs that end by themselves.
"""
import dataclasses
import pathlib
import re
import shutil
import subprocess
import time

from tools.python.processes import Failure, cpu_seconds, page_faults, plain_env

from .measurement import Measurement, RunFailed, Skipped

SAMPLE_EVERY_S = 0.1
SEED = 20_240_607


class Workload:
    """A repetition: what its subclass does in `work`, with failures in the runner's terms."""
    about = ""  # and `needs`, programs without which it cannot run

    @classmethod
    def measure(cls, library, effort, folder, options=""):
        missing = [name for name in cls.needs if not shutil.which(name)]
        if missing:
            raise Skipped(f"no {', '.join(missing)} on this machine (tools/packages-servers.txt)")
        try:
            return cls.work(library, effort, pathlib.Path(folder), options)
        except (Failure, OSError) as failure:
            raise RunFailed(" ".join(str(failure).split())[:500]) from failure

    @classmethod
    def work(cls, library, effort, folder, options):
        raise NotImplementedError


class Recorder:
    """Samples of memory over time."""

    def __init__(self):
        self.begin, self.points, self.peak = time.monotonic(), [], 0.0

    def due(self):
        return not self.points or self.elapsed() - self.points[-1][0] >= SAMPLE_EVERY_S

    def elapsed(self):
        return time.monotonic() - self.begin

    def add(self, now_mib, peak_mib):
        self.points.append((round(self.elapsed(), 3), round(now_mib, 2)))
        self.peak = max(self.peak, peak_mib)

    def measurement(self, figures, spent, wall_s):
        return Measurement(figures, {"rss": ("s", "MiB", self.points)}, spent.cpu_s, wall_s, self.peak, spent.faults)


@dataclasses.dataclass
class Spent:
    """CPU seconds and page faults of processes so far, or of a time."""
    cpu_s: float = 0.0
    faults: int = 0

    @classmethod
    def by(cls, pids):
        return cls(cpu_seconds(pids), page_faults(pids))

    def __add__(self, other):
        return Spent(self.cpu_s + other.cpu_s, self.faults + other.faults)

    def __sub__(self, other):
        return Spent(self.cpu_s - other.cpu_s, self.faults - other.faults)


def preload_for(program, library, folder):
    """What to preload: a copy that the server's user can read. A program that brings an allocator of its own has to
    have libc itself preloaded to run on glibc's."""
    if library:
        return shutil.copy(library, folder)
    linked = subprocess.run(["ldd", shutil.which(program) or program], capture_output=True, text=True, check=False)
    return "libc.so.6" if re.search("jemalloc|tcmalloc|mimalloc", linked.stdout) else ""


def environment_for(preload, options, **more):
    """The environment of a program that has this preloaded, with ours' options, where there are any."""
    allocator = {"LD_PRELOAD": preload, "SLABMALLOC_OPTIONS": options}
    return plain_env(**{name: str(value) for name, value in allocator.items() if value}, **more)


def number(pattern, text):
    """The number that a report has in the place of the pattern's group."""
    found = re.search(pattern, text)
    if not found:
        raise Failure(f"no {pattern!r} in {text[-300:]!r}")
    return float(found[1])
