"""What a run has measured so far, and the file that keeps it (docs/bench.md has its form)."""
import datetime
import json
import os
import pathlib
import platform
import re
import sys
import time

from tools.python import messages

FORMAT = 1
CUT_OFF = re.compile("killed by SIG(INT|TERM|HUP)")


def cpu_quota():
    """How many CPUs' time a container may use, None where there is no bound."""
    try:
        most, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if most == "max" else round(int(most) / int(period), 2)


def memory_mib():
    """What this machine has, or a container may use of it."""
    total = int(re.search(r"^MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.M)[1]) // 1024
    try:
        return min(total, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()) >> 20)
    except (OSError, ValueError):
        return total


def system_name():
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def machine():
    """What one has to know of this machine to judge the figures."""
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu_quota": cpu_quota(),
        "memory_mib": memory_mib(),
        "kernel": platform.release(),
        "system": system_name(),
        "load_at_start": os.getloadavg()[0],
    }


class Results:
    """The runs of one command, in the order in which they ended."""

    def __init__(self, command, allocators, workloads):
        self.begin = time.monotonic()
        self.report = {
            "format": FORMAT,
            "command": command,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "interrupted": False,
            "machine": machine(),
            "allocators": {one.name: {"library": one.library, "version": one.version} for one in allocators},
            "workloads": {one.name: {"group": one.group, "about": one.about, "same_work": one.same_work}
                          for one in workloads},
            "runs": [],
        }

    def add(self, workload, allocator, repetition, measurement=None, failed="", skipped=""):
        run = {"workload": workload, "allocator": allocator, "repetition": repetition, "failed": failed,
               "skipped": skipped}
        if measurement:
            run |= {
                "wall_s": measurement.wall_s, "cpu_s": measurement.cpu_s, "peak_rss_mib": measurement.peak_rss_mib,
                "page_faults": measurement.page_faults,
                "figures": {name: list(figure) for name, figure in measurement.figures.items()},
                "series": {name: {"x_unit": x_unit, "y_unit": y_unit, "points": points}
                           for name, (x_unit, y_unit, points) in measurement.series.items()},
            }
        self.report["runs"].append(run)

    def interrupt(self):
        """The run ends here: what the interrupt itself has ended has not failed."""
        self.report["interrupted"] = True
        self.report["runs"] = [run for run in self.report["runs"] if not CUT_OFF.match(run["failed"])]

    def any_failed(self):
        return any(run["failed"] for run in self.report["runs"])

    def write(self, folder):
        """Whole or not at all: a reader never meets half a file. Says so where there is no room, and goes on."""
        self.report["seconds"] = round(time.monotonic() - self.begin, 1)
        draft = folder / "results.json.new"
        try:
            draft.write_text(json.dumps(self.report, indent=1) + "\n")
            draft.rename(folder / "results.json")
        except OSError as error:
            print(f"bench: results are not written: {messages.plain(error)}", file=sys.stderr)


def load(path):
    """A results.json as it was written; a folder stands for the one in it. Raises ValueError for any other file."""
    path = pathlib.Path(path)
    try:
        report = json.loads((path / "results.json" if path.is_dir() else path).read_text())
    except ValueError:
        report = None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ValueError(f"{path} holds no results of this suite")
    return report
