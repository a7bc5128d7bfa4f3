"""Peak RSS of every workload and server, in times the least of all allocators: whose is the lowest, where, and where not.

python3 -m suite.peaks RESULTS [ALLOCATOR] prints it for a run again.
"""
import dataclasses
import pathlib
import sys

from . import results
from .summary import geometric_mean, summarise

LEFT_OUT = ("epochs", "percpu", "locks", "numa", "instructions")  # they compare no mallocs, or run emulated or simulated
MOST = 1.10  # that an allocator of ours may take on a single workload


@dataclasses.dataclass
class Peak:
    workload: str
    mib: float
    times: float  # the least of all allocators
    least_by: str


def rows_of(summary):
    return [row for row in summary.rows if row.figure == "peak_rss_mib" and row.group not in LEFT_OUT
            and len(row.competing) > 1]


def peaks_of(summary, name):
    """An allocator's peaks, the worst first."""
    found = []
    for row in rows_of(summary):
        if name in row.competing:
            least_by = min(row.competing, key=lambda other: row.cells[other].median)
            mib = row.cells[name].median
            found.append(Peak(row.workload, mib, mib / row.cells[least_by].median, least_by))
    return sorted(found, key=lambda peak: -peak.times)


def means_of(summary):
    """{allocator: (geometric mean over the least of each workload, of how many workloads)}."""
    names = [name for name in summary.allocators if name in summary.report["allocators"]]
    peaks = {name: peaks_of(summary, name) for name in names}
    return {name: (geometric_mean([peak.times for peak in found]), len(found)) for name, found in peaks.items() if found}


def print_peaks(summary, name, stream):
    means = means_of(summary)
    if name not in means:
        return
    print("\n== peak RSS in times the least of all allocators, geometric means over the workloads", file=stream)
    print("  ".join(f"{one} {mean:.2f}" + ("" if count == means[name][1] else f" ({count})")
                    for one, (mean, count) in means.items()), file=stream)
    print(f"{name}'s, the worst first; ! more than {MOST:.2f}", file=stream)
    for peak in peaks_of(summary, name):
        print(f"{'!' if peak.times > MOST else ' '} {peak.times:.2f}  {peak.workload}: {peak.mib:.1f} MiB"
              + ("" if peak.least_by == name else f", {peak.least_by} {peak.mib / peak.times:.1f}"), file=stream)


def main(words):
    print_peaks(summarise(results.load(pathlib.Path(words[0]))), *(words[1:2] or ["slabmalloc"]), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
