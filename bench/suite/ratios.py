"""Time of every workload in times that of the best peer there: where an allocator is ahead, and where not.

A workload has one number: its CPU time where all do the same work, else the geometric mean of its figures of time, a
figure a second turned round. The best peer of a workload is the one beside which an allocator does worst. Below a
workload stand its figures, each beside the best peer of that figure, if there are others than the number itself.
Figures of memory have suite/peaks.py; maxima and inputs are left out, as in the means.

The means say what the allocator costs in times each peer's, over the workloads that the two share. The best peer
overall is the one beside which that is most, of those that have at least half of the workloads.

python3 -m suite.ratios RESULTS [ALLOCATOR] prints it for a run again.
"""
import sys

from . import beside
from .summary import comparable, geometric_mean
from .words import name_figure

LEFT_OUT = ("percpu", "locks", "numa", "instructions")  # they compare no mallocs, or run emulated; or count
MOST = 1.05  # that ours may take, beside the best peer of a workload
TITLE = "time in times the best peer's of each workload; geometric means over the workloads, in times each peer's"


def members_of(summary, workloads=None):
    """The workloads, with their figures of time as members of their own: [(member, [members])]."""
    found = []
    for group, by_workload in summary.groups.items():
        for workload, rows in by_workload.items() if group not in LEFT_OUT else ():
            rows = comparable(rows, "time")
            of_work = [row for row in rows if row.figure == "cpu_s"] or rows
            whole = beside.make_member(of_work, workload) if of_work else None
            if whole and (workloads is None or workload in workloads):
                parts = [beside.make_member([row], name_figure(row)) for row in rows if of_work != [row]]
                found.append((whole, [part for part in parts if part]))
    return found


def peers_of(member, name):
    return [other for other in member.costs if beside.is_peer(name, other)]


def means_of(members, name, names):
    """{peer: (what the allocator costs in times the peer's, over how many workloads)}."""
    found = {}
    for peer in names:
        times = [one[0] for one in (beside.dearest(member, name, [peer]) for member in members) if one]
        found |= {peer: (geometric_mean(times), len(times))} if times and beside.is_peer(name, peer) else {}
    return found


def best_overall(means):
    """(mean, peer) of the best peer overall; None without peers."""
    most = max((count for _, count in means.values()), default=0)
    return max(((mean, peer) for peer, (mean, count) in means.items() if 2 * count >= most), default=None)


def overall(summary, workloads=None):
    """{allocator: its mean in times the best peer's overall}, over all workloads or those with these names."""
    members, names = [whole for whole, _ in members_of(summary, workloads)], summary.report["allocators"]
    found = {name: best_overall(means_of(members, name, names)) for name in names}
    return {name: best[0] for name, best in found.items() if best}


def worst(summary):
    """{allocator: its worst workload in times the best peer's there}."""
    members = [whole for whole, _ in members_of(summary)]
    lines = {name: beside.lines_of(members, name, peers_of) for name in summary.report["allocators"]}
    return {name: found[0].times for name, found in lines.items() if found}


def describe_groups(summary, name):
    """The same mean for each group."""
    said = []
    for group, workloads in summary.groups.items():
        members = [whole for whole, _ in members_of(summary, workloads)]
        best = best_overall(means_of(members, name, summary.report["allocators"]))
        said += [f"{group} {best[0]:.2f} ({best[1]})"] if best else []
    return ", ".join(said)


def compare(summary, name=beside.OURS):
    """None where the allocator has no workload beside a peer."""
    members = members_of(summary)
    means = means_of([whole for whole, _ in members], name, summary.report["allocators"])
    best = best_overall(means)
    if best is None:
        return None
    lines = []
    for whole, parts in members:
        line = beside.line_of(whole, name, peers_of(whole, name))
        if line:
            line.parts = beside.lines_of(parts, name, peers_of)
            lines.append(line)
    lines.sort(key=lambda line: -line.times)
    above = sum(line.times > MOST for line in lines)
    said = (f"in times {best[1]}'s, the best peer overall: {best[0]:.2f}; more than {MOST:.2f} on {above} of {len(lines)} "
            f"workloads\nin times the best peer's of each group: {describe_groups(summary, name)}")
    return beside.Comparison(TITLE, name, means, MOST, lines, said)


if __name__ == "__main__":
    beside.main(sys.argv[1:], compare)
