"""What the runs of a results.json say: medians, spreads, ratios and ranks. Pure functions, for whatever shows them.

A figure is what a bench program printed, the CPU seconds or the page faults of a run (cpu_s and page_faults, where all
allocators do the same work) or its peak RSS (peak_rss_mib). More is better where a unit ends in "/s", less is better
elsewhere; every ratio here is one of costs, so that a larger ratio is always worse.

Spread: how far the repetition that is furthest from the median lies from it, in percent of the median. With 3 to 7
repetitions quartiles are guesses; this one hides no repetition.

Ratios are paired: X to Y within each repetition, where they ran right after one another on the same state of the
machine, and then the median of these (of an even number, the geometric mean of the two in the middle, so that X to Y
is the inverse of Y to X). Where two allocators share no repetition, it is the ratio of their medians. A figure that
is zero or negative has no ratios, and is ranked by its median alone.

One repetition proves nothing: a figure that was measured once has a best, for the ratios, but no winner, unless it is
of a group that repeats to the digit. What has no winner counts for nobody as a first place.

The best is whose largest ratio to any other is the least; as a rule all of its ratios are below 1. Allocators within
10 % of the first of their place share that place. A variant, which a run measures beside the allocators that it was
asked for, does not compete: it has ratios, that to the best may be below 1, and no place.

Means are geometric, in steps that count their members alike: the figures of a workload, the workloads of a group, the
groups of a run; time and memory apart. The groups `caches` and `epochs` are left out there: what malloc does in them,
it does in other groups too; `percpu`, `locks` and `sampling`, which compare no mallocs; and `numa`, whose machines are
emulated.
Aside, in no mean and without a place, stand a figure that has the same value in all runs, which is an input, and a
maximum, which says more of the machine than of the allocator.
"""
import dataclasses
import math
import statistics

EQUAL = 1.10  # a ratio up to this counts as none
BASE = "glibc"
REPEATING = ("instructions",)  # groups whose figures are the same each time
LEFT_OUT = ("caches", "epochs", "percpu", "locks", "sampling", "numa")
TIMES = ("ns", "us", "ms", "s", "cycles", "instructions")
MEMORY = ("B", "bytes", "KiB", "MiB", "GiB")


@dataclasses.dataclass
class Cell:
    """One figure of one allocator; without values it has failed, was skipped or is not there."""
    values: dict = dataclasses.field(default_factory=dict)  # by repetition
    problem: str = ""  # "FAILED" or "skipped", of any repetition
    median: float = None
    spread: float = None  # percent; None after one repetition
    to_best: float = None  # times the cost of the best: 1 or more, less for a variant only
    to_base: float = None  # times the cost of glibc: below 1 is better
    place: int = None  # 1 is first; equals share one


@dataclasses.dataclass
class Row:
    """One figure of one workload; the figure is "" where no run of the workload succeeded."""
    group: str
    workload: str
    figure: str
    unit: str
    cells: dict  # by allocator
    variants: tuple = ()  # names among them that do not compete
    best: str = None

    @property
    def measured(self):
        return {name: cell for name, cell in self.cells.items() if cell.values}

    @property
    def competing(self):
        return {name: cell for name, cell in self.measured.items() if name not in self.variants}

    @property
    def has_winner(self):
        """Whether the best may be called that: others compete, and it was measured more than once, or need not be."""
        return len(self.competing) > 1 and (self.group in REPEATING or len(self.cells[self.best].values) > 1)

    @property
    def is_once(self):
        """Nobody was measured more than once: there are no medians and no spreads."""
        return all(len(cell.values) < 2 for cell in self.cells.values())

    @property
    def is_unsure(self):
        """Measured once, and another time it would be another figure."""
        return self.is_once and self.group not in REPEATING

    @property
    def kind(self):
        """What the figure is about: "time", "memory" or neither ("")."""
        unit = self.unit.partition("/")[0]
        if self.unit.endswith("/s") or unit in TIMES:
            return "time"
        return "memory" if unit in MEMORY or unit == "x" and (self.group == "memory" or "rss" in self.figure) else ""

    @property
    def is_aside(self):
        """The same in all runs, as the number of threads is, or a maximum."""
        values = [value for cell in self.cells.values() for value in cell.values.values()]
        return self.figure.endswith("_max") or len(values) > 1 and len(set(values)) == 1


@dataclasses.dataclass
class Problem:
    """Runs of a workload on an allocator that failed or were skipped for one reason."""
    workload: str
    allocator: str
    kind: str  # "failed" or "skipped"
    reason: str
    repetitions: int
    of: int


@dataclasses.dataclass
class Mean:
    """Geometric means of an allocator's ratios; None where it has none."""
    to_best: float
    to_base: float
    members: int  # how many workloads (or groups) it has
    of: int  # how many the allocator with the most has


@dataclasses.dataclass
class Summary:
    report: dict
    allocators: list  # in the order in which they were named, variants last
    base: str  # whom ratios to "glibc" refer to; None without glibc
    rows: list
    problems: list

    @property
    def groups(self):
        """{group: {workload: rows}}, in the order of the run."""
        found = {}
        for row in self.rows:
            found.setdefault(row.group, {}).setdefault(row.workload, []).append(row)
        return found

    @property
    def has_winners(self):
        return any(row.has_winner for row in self.rows)

    @property
    def is_once(self):
        """The whole run is of one repetition."""
        return any(row.measured for row in self.rows) and all(row.is_once for row in self.rows)

    def allocators_of(self, rows):
        """Those that have anything in these rows; a variant may be in some workloads only."""
        return [name for name in self.allocators if any(name in row.cells for row in rows)]


# -- one figure -----------------------------------------------------------------------------------------------------

def is_more_better(unit):
    return unit.endswith("/s")


def pairs_of(values, others, unit):
    """How many times the cost of the others, in each repetition that both have, or in the medians, if they share none;
    sorted. The figures are above zero."""
    shared = values.keys() & others.keys()
    pairs = [(values[i], others[i]) for i in shared] or [(statistics.median(values.values()),
                                                          statistics.median(others.values()))]
    return sorted(other / value if is_more_better(unit) else value / other for value, other in pairs)


def ratio(values, others, unit):
    """How many times the cost of the others, from values by repetition; None where the figures allow no ratio."""
    if min(values.values()) <= 0 or min(others.values()) <= 0:
        return None
    times = pairs_of(values, others, unit)
    middle, upper = times[(len(times) - 1) // 2], times[len(times) // 2]
    return middle if middle == upper else math.sqrt(middle * upper)


def spread(values):
    median = statistics.median(values)
    if len(values) < 2 or median == 0:
        return None
    return 100 * max(abs(value - median) for value in values) / abs(median)


def find_best(row):
    """The name of the best of a row."""
    cells, sign = row.competing, -1 if is_more_better(row.unit) else 1
    ratios = {name: [ratio(cell.values, other.values, row.unit) for other in cells.values()]
              for name, cell in cells.items()}
    if any(None in times for times in ratios.values()):
        return min(cells, key=lambda name: sign * cells[name].median)
    return min(cells, key=lambda name: (max(ratios[name]), sign * cells[name].median))


def give_places(row):
    """1 for the first and all that are equal to it, then the next of those that are left."""
    sign = -1 if is_more_better(row.unit) else 1
    order = sorted(row.competing.values(), key=lambda cell: (cell.to_best or math.inf, sign * cell.median))
    leader = None
    for ordinal, cell in enumerate(order, 1):
        if leader is None or not are_equal(leader, cell):
            place, leader = ordinal, cell
        cell.place = place


def are_equal(leader, cell):
    if leader.to_best and cell.to_best:
        return cell.to_best / leader.to_best <= EQUAL
    return leader.median == cell.median


def fill_row(row, base):
    """Everything in a row's cells that follows from their values."""
    for cell in row.measured.values():
        cell.median = statistics.median(cell.values.values())
        cell.spread = spread(list(cell.values.values()))
        if base in row.measured:
            cell.to_base = ratio(cell.values, row.cells[base].values, row.unit)
    if not row.competing:
        return
    row.best = find_best(row)
    for name, cell in row.measured.items():
        times = ratio(cell.values, row.cells[row.best].values, row.unit)
        cell.to_best = 1.0 if name == row.best else max(1.0, times) if times and name in row.competing else times
    give_places(row)


# -- all figures ----------------------------------------------------------------------------------------------------

def figures_of(run, workload):
    """{figure: (value, unit)} of a run, the process's own included. Under callgrind the process is callgrind's."""
    found = {name: tuple(figure) for name, figure in run.get("figures", {}).items()}
    if workload["group"] == "instructions":
        return found
    if workload["same_work"] and run.get("cpu_s") is not None:
        found["cpu_s"] = run["cpu_s"], "s"
    if workload["same_work"] and run.get("page_faults") is not None:
        found["page_faults"] = run["page_faults"], "faults"
    if run.get("peak_rss_mib") is not None:
        found["peak_rss_mib"] = run["peak_rss_mib"], "MiB"
    return found


def names_of(report):
    """The allocators as they were named, then the variants, which are in runs only."""
    return list(dict.fromkeys([*report["allocators"], *(run["allocator"] for run in report["runs"])]))


def rows_of(report, name, names):
    """The rows of a workload, with values and problems only."""
    workload = report["workloads"][name]
    runs = [run for run in report["runs"] if run["workload"] == name]
    present = [one for one in names if any(run["allocator"] == one for run in runs)]
    problems = {run["allocator"]: "FAILED" if run["failed"] else "skipped"
                for run in runs if run["failed"] or run["skipped"]}
    variants = tuple(one for one in present if one not in report["allocators"])

    def new_row(figure, unit):
        cells = {one: Cell(problem=problems.get(one, "")) for one in present}
        return Row(workload["group"], name, figure, unit, cells, variants)

    rows = {}
    for run in runs:
        if run["failed"] or run["skipped"]:
            continue
        for figure, (value, unit) in figures_of(run, workload).items():
            row = rows.setdefault(figure, new_row(figure, unit))
            row.cells[run["allocator"]].values[run["repetition"]] = value
    if not rows and runs:
        rows[""] = new_row("", "")
    last = [rows.pop(figure) for figure in ("cpu_s", "page_faults", "peak_rss_mib") if figure in rows]
    return [*rows.values(), *last]


def problems_of(report):
    """Every run that failed or was skipped, those of one reason together."""
    found, counts = {}, {}
    for run in report["runs"]:
        key = run["workload"], run["allocator"]
        counts[key] = counts.get(key, 0) + 1
        for kind in ("failed", "skipped"):
            if run[kind]:
                problem = found.setdefault((*key, kind, run[kind]), Problem(*key, kind, run[kind], 0, 0))
                problem.repetitions += 1
    for problem in found.values():
        problem.of = counts[problem.workload, problem.allocator]
    return list(found.values())


def summarise(report):
    """The summary of a loaded results.json."""
    names = names_of(report)
    base = BASE if BASE in names else None
    rows = [row for workload in report["workloads"] for row in rows_of(report, workload, names)]
    for row in rows:
        fill_row(row, base)
    groups = list(dict.fromkeys(row.group for row in rows))
    rows.sort(key=lambda row: groups.index(row.group))
    return Summary(report, names, base, rows, problems_of(report))


# -- means and ranks ------------------------------------------------------------------------------------------------

def geometric_mean(ratios):
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None


def comparable(rows, kind):
    """The rows of a kind that have ratios for all who measured them."""
    return [row for row in rows if row.kind == kind and row.competing and not row.is_aside
            and all(cell.to_best for cell in row.measured.values())]


def mean_of_group(workloads, kind, name, attribute):
    """An allocator's mean over the workloads of a group ({workload: rows}), and how many had any."""
    of_workloads = []
    for rows in workloads.values():
        ratios = [getattr(row.cells[name], attribute) for row in comparable(rows, kind) if name in row.measured]
        if any(ratios):
            of_workloads.append(geometric_mean([times for times in ratios if times]))
    return geometric_mean(of_workloads), len(of_workloads)


def group_means(summary, group, kind):
    """{allocator: Mean} over the workloads of a group, for figures of time or of memory."""
    workloads = summary.groups[group]
    found = {}
    for name in summary.allocators:
        to_best, count = mean_of_group(workloads, kind, name, "to_best")
        if count:
            found[name] = Mean(to_best, mean_of_group(workloads, kind, name, "to_base")[0], count, 0)
    return with_totals(found)


def overall_means(summary, kind):
    """{allocator: Mean} over the groups, of those that are in half of them, without LEFT_OUT. Variants, which do not
    compete, are in none."""
    by_group = [group_means(summary, group, kind) for group in summary.groups if group not in LEFT_OUT]
    found = {}
    for name in summary.report["allocators"]:
        means = [means[name] for means in by_group if name in means]
        if means:
            to_base = [mean.to_base for mean in means if mean.to_base]
            to_best = [mean.to_best for mean in means]
            found[name] = Mean(geometric_mean(to_best), geometric_mean(to_base), len(means), 0)
    return {name: mean for name, mean in with_totals(found).items() if 2 * mean.members >= mean.of}


def overall_order(summary, kind):
    """[(allocator, cost)] over all groups, the least cost first, of those that are in all of them: others have not
    done the same. The cost is in times glibc's, or the best's where there is no glibc."""
    means = {name: mean for name, mean in overall_means(summary, kind).items() if mean.members == mean.of}
    to_base = all(mean.to_base for mean in means.values())
    costs = {name: mean.to_base if to_base else mean.to_best for name, mean in means.items()}
    return sorted(costs.items(), key=lambda item: item[1])


def with_totals(means):
    for mean in means.values():
        mean.of = max(other.members for other in means.values())
    return means


def ranked_rows(summary):
    """The rows in which at least two allocators compete."""
    return [row for row in summary.rows if len(row.competing) > 1 and not row.is_aside]


def count_first(summary, name):
    """In how many figures that have a winner an allocator is first or equal to the first, and of how many."""
    rows = [row for row in ranked_rows(summary) if name in row.competing and row.has_winner]
    return sum(row.cells[name].place == 1 for row in rows), len(rows)


def not_first(summary, name):
    """The rows in which another allocator is ahead by whatever little, the widest gap first."""
    rows = [row for row in ranked_rows(summary) if name in row.competing and row.best != name]
    return sorted(rows, key=lambda row: -(row.cells[name].to_best or math.inf))


def repetitions_lost(row, name):
    """In how many repetitions the best was ahead of an allocator, and how many the two share."""
    ours, best = row.cells[name].values, row.cells[row.best].values
    shared = ours.keys() & best.keys()
    sign = -1 if is_more_better(row.unit) else 1
    return sum(sign * best[i] < sign * ours[i] for i in shared), len(shared)


def order_of(row):
    """The names of a row by place: [[the first and its equals], [the next], ...]."""
    places = {}
    for name, cell in sorted(row.competing.items(), key=lambda item: (item[1].place, item[1].to_best or math.inf)):
        places.setdefault(cell.place, []).append(name)
    return [places[place] for place in sorted(places)]
