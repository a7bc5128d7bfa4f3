"""Peak RSS of every workload and server, in times the least of all allocators: whose is the lowest, where, and where not.

python3 -m suite.peaks RESULTS [ALLOCATOR] prints it for a run again.
"""
import sys

from . import beside

LEFT_OUT = ("epochs", "percpu", "locks", "numa", "instructions")  # they compare no mallocs, or run emulated or simulated
MOST = 1.10  # that an allocator of ours may take on a single workload


def members_of(summary):
    rows = [row for row in summary.rows if row.figure == "peak_rss_mib" and row.group not in LEFT_OUT]
    return [member for member in (beside.make_member([row]) for row in rows if row.competing) if member]


def all_of_them(member, _):
    return member.costs


def compare(summary, name=beside.OURS):
    """None where the allocator has no peak beside another's."""
    members = members_of(summary)
    means = beside.means_of(members, summary.report["allocators"], all_of_them)
    if name not in means:
        return None
    return beside.Comparison("peak RSS in times the least of all allocators, geometric means over the workloads", name,
                             means, MOST, beside.lines_of(members, name, all_of_them))


if __name__ == "__main__":
    beside.main(sys.argv[1:], compare)
