"""An allocator beside the others, workload by workload, the worst first: what suite/peaks.py, suite/ratios.py and
suite/faults.py have in common. Each of them is a command, too: python3 -m suite.ratios RESULTS [ALLOCATOR].

What a workload costs is one number a repetition: its figure, or the geometric mean of its figures, those a second
turned round. Ratios are paired, as in suite/summary.py: of an allocator to another within each repetition, and then
the median of these; the spread is that of the repetition's ratio which is furthest from it.
"""
import dataclasses
import pathlib
import sys

from . import results
from .summary import geometric_mean, is_more_better, pairs_of, ratio, spread, summarise
from .words import name_figure, show_number, show_percent, show_ratio

OURS = "slabmalloc"
TELLING_UNITS = ("MiB", "faults")


@dataclasses.dataclass
class Line:
    """A workload, or a figure of it, on one allocator beside the other that it is set against."""
    name: str
    about: str
    times: float  # what it costs in times the other's
    spread: float  # of these, percent; None after one repetition
    parts: list = dataclasses.field(default_factory=list)  # Lines of the workload's figures


@dataclasses.dataclass
class Comparison:
    title: str
    name: str  # the allocator whose lines these are
    means: dict  # {allocator: (geometric mean, of how many workloads)}
    most: float  # that a line may say without a mark
    lines: list  # the worst first
    said: str = ""  # what else there is to say of the means


@dataclasses.dataclass
class Member:
    """A workload with the rows that tell what it costs, and that cost: {allocator: {repetition: cost}}."""
    name: str
    rows: list
    costs: dict


def is_peer(name, other):
    """Whether an allocator is somebody else's: what is called slabmalloc-OLD is another build of ours."""
    return other != name and not (name.startswith(OURS) and other.startswith(OURS))


def cost(value, unit):
    return 1 / value if is_more_better(unit) else value


def make_member(rows, name=""):
    """None where no two allocators can be compared, or a figure of theirs is zero."""
    shared = [one for one in rows[0].competing if all(one in row.competing for row in rows)]
    if len(shared) < 2 or any(min(row.cells[one].values.values()) <= 0 for row in rows for one in shared):
        return None
    costs = {}
    for one in shared:
        repetitions = set.intersection(*(set(row.cells[one].values) for row in rows))
        costs[one] = {i: geometric_mean([cost(row.cells[one].values[i], row.unit) for row in rows])
                      for i in repetitions}
    return Member(name or rows[0].workload, rows, {one: found for one, found in costs.items() if found})


def dearest(member, name, others):
    """(what an allocator costs in times the best's of these others, which one that is); None without any."""
    found = [(ratio(member.costs[name], member.costs[other], ""), other == name, other)
             for other in others if name in member.costs and other in member.costs]
    if not found:
        return None
    times, _, other = max(found)
    return times, other


def describe(member, name, other):
    """What the two have measured, where it is one figure."""
    if len(member.rows) > 1:
        return f"geometric mean of {len(member.rows)} figures, {other}"
    row, = member.rows
    said = f"{show_number(row.cells[name].median)} {row.unit}"
    if member.name == row.workload and row.unit not in TELLING_UNITS:
        said = f"{name_figure(row)} {said}"
    return said if other == name else f"{said}, {other} {show_number(row.cells[other].median)}"


def line_of(member, name, others):
    """None where the allocator, or all of the others, have nothing there."""
    found = dearest(member, name, others)
    if found is None:
        return None
    times, other = found
    return Line(member.name, describe(member, name, other), times,
                spread(pairs_of(member.costs[name], member.costs[other], "")))


def lines_of(members, name, others_of):
    """An allocator's lines, the worst first; `others_of` says whom a member's line is set against."""
    lines = [line_of(member, name, others_of(member, name)) for member in members]
    return sorted((line for line in lines if line), key=lambda line: -line.times)


def means_of(members, names, others_of):
    """{allocator: (geometric mean of its lines, how many)} of those that have any."""
    found = {}
    for name in names:
        times = [one[0] for one in (dearest(member, name, others_of(member, name)) for member in members) if one]
        found |= {name: (geometric_mean(times), len(times))} if times else {}
    return found


def describe_means(comparison):
    most = max(count for _, count in comparison.means.values())
    return "  ".join(f"{name} {show_ratio(mean)}" + ("" if count == most else f" ({count})")
                     for name, (mean, count) in comparison.means.items())


def describe_line(line, most, width):
    return (f"{'!' if line.times > most else ' '} {show_ratio(line.times)}{show_percent(line.spread):>{width}}  "
            f"{line.name}: {line.about}")


def show(comparison, stream):
    """Prints it; nothing where there is none."""
    if comparison is None:
        return
    print(f"\n== {comparison.title}", file=stream)
    print(describe_means(comparison), file=stream)
    if comparison.said:
        print(comparison.said, file=stream)
    print(f"{comparison.name}'s, the worst first; ! more than {comparison.most:.2f}", file=stream)
    width = 6 if any(line.spread is not None for line in comparison.lines) else 0
    for line in comparison.lines:
        print(describe_line(line, comparison.most, width), file=stream)
        for part in line.parts:
            print(f"    {describe_line(part, comparison.most, width)}", file=stream)


def main(words, compare):
    """The command RESULTS [ALLOCATOR]."""
    show(compare(summarise(results.load(pathlib.Path(words[0]))), *words[1:2]), sys.stdout)
