"""What was promised of a figure, and what came of it: bounds, and where every allocator stands to them."""
import dataclasses

from .beside import is_peer
from .summary import ratio

OURS = "slabmalloc"
OTHERS = "others"


@dataclasses.dataclass
class Promise:
    """A bound, and where each allocator, or each of our ways, stands; `about` says what of."""
    about: str
    most: float
    values: dict  # by name


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound on a figure of a workload."""
    workload: str
    figure: str
    most: float
    about: str
    beside: str = ""  # the bound is on the cost in times this allocator's, or that of the best of the OTHERS


def medians_of(row):
    return {way: cell.median for way, cell in row.measured.items()}


def values_of(goal, row):
    """{allocator: what the goal is about}; of a cost in times that of one of our variants, ours alone."""
    if not goal.beside:
        return {name: cell.median for name, cell in row.competing.items()}
    if goal.beside == OTHERS:
        return to_best_of_others(row)
    if goal.beside not in row.measured:
        return {}
    base = row.cells[goal.beside].values
    names = [OURS] if goal.beside in row.variants else row.competing
    return {name: ratio(row.cells[name].values, base, row.unit) for name in names if name in row.measured}


def to_best_of_others(row):
    """{allocator: what it costs in times the best of the others}: below 1 where it is the best itself."""
    found = {}
    for name, cell in row.competing.items():
        times = [ratio(cell.values, other.values, row.unit) for one, other in row.competing.items()
                 if is_peer(name, one)]
        if times and None not in times:
            found[name] = max(times)
    return found


def of_goals(summary, goals_by_title):
    """[(title, its promises)] of what the summary has."""
    rows = {(row.workload, row.figure): row for row in summary.rows if row.measured}
    found = []
    for title, goals in goals_by_title.items():
        of_one = [Promise(goal.about, goal.most, values_of(goal, rows[goal.workload, goal.figure]))
                  for goal in goals if (goal.workload, goal.figure) in rows]
        of_one = [promise for promise in of_one if promise.values]
        found += [(title, of_one)] if of_one else []
    return found
