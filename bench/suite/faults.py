"""Page faults of the servers and real programs, in times glibc's: what they pay for memory that they had not before.

They are those that need no disk, of the same time as the CPU seconds. The programs are those of the group `servers`.
python3 -m suite.faults RESULTS [ALLOCATOR] prints it for a run again.
"""
import sys

from . import beside
from .summary import BASE

MOST = 1 / 3  # that ours may take, in the mean
GROUP = "servers"
TITLE = f"page faults over the programs of the suite, in times {BASE}'s, geometric means"


def members_of(summary):
    rows = [row for row in summary.rows if row.figure == "page_faults" and row.group == GROUP]
    return [member for member in (beside.make_member([row]) for row in rows if row.competing) if member]


def the_base(*_):
    return [BASE]


def means_of(summary):
    """{allocator: (mean, of how many programs)}."""
    return beside.means_of(members_of(summary), summary.report["allocators"], the_base)


def compare(summary, name=beside.OURS):
    """None where the allocator has run no program beside glibc."""
    means = means_of(summary)
    if name not in means:
        return None
    return beside.Comparison(TITLE, name, means, MOST, beside.lines_of(members_of(summary), name, the_base))


if __name__ == "__main__":
    beside.main(sys.argv[1:], compare)
