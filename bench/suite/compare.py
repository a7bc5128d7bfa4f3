"""Do two runs rank the allocators the same? tools/bench --compare A B.

For every figure that both runs rank, and every pair of allocators that compete in it, the paired ratio of the two is held against
the other run's (suite/summary.py says what a paired ratio is). The runs disagree on a pair when each says that
another one of the two is more than 1.1 times better. They lean apart, which is said but is no failure, when one says
so and the other has them the other way round by whatever little.
"""
import collections
import itertools
import sys

from tools.python import messages

from . import results
from .summary import EQUAL, ranked_rows, ratio, summarise
from .words import show_figure, show_ratio

Pair = collections.namedtuple("Pair", "workload figure winner loser first second verdict")


def judge(first, second):
    """A verdict on the cost of one allocator in times another's, in two runs; None where neither says anything."""
    low, high = min(first, second), max(first, second)
    if low > EQUAL or high < 1 / EQUAL:
        return "agree"
    if low < 1 / EQUAL and high > EQUAL:
        return "disagree"
    if low < 1 < high and (low < 1 / EQUAL or high > EQUAL):
        return "lean apart"
    return "over 1.1 in one run only" if low < 1 / EQUAL or high > EQUAL else None


def compare_rows(row, other):
    """The pairs of allocators that both rows measured, each said so that the first run's winner stands first."""
    names = [name for name in row.competing if name in other.competing]
    for left, right in itertools.combinations(names, 2):
        ratios = [ratio(one.cells[right].values, one.cells[left].values, one.unit) for one in (row, other)]
        if None in ratios:
            continue
        winner, loser = (left, right) if ratios[0] >= 1 else (right, left)
        first, second = ratios if ratios[0] >= 1 else [1 / times for times in ratios]
        yield Pair(row.workload, show_figure(row), winner, loser, first, second, judge(first, second))


def keyed(summary):
    return {(row.workload, row.figure, row.unit): row for row in ranked_rows(summary)}


def compare(report, other):
    """Every pair of allocators in every figure that both runs have, and the figures that only one has."""
    rows, others = keyed(summarise(report)), keyed(summarise(other))
    pairs = [pair for key in rows if key in others for pair in compare_rows(rows[key], others[key])]
    return pairs, [key for key in rows if key not in others], [key for key in others if key not in rows]


def print_pairs(title, pairs, stream):
    print(f"{title}: {len(pairs)}", file=stream)
    for pair in sorted(pairs, key=lambda pair: -max(pair.first, 1 / pair.second)):
        print(f"  {pair.workload} {pair.figure}: {pair.winner} is {show_ratio(pair.first)} times better than "
              f"{pair.loser} in A, {show_ratio(1 / pair.second)} times worse in B", file=stream)


def show(report, other, stream):
    """Print the comparison; whether the runs disagree anywhere."""
    pairs, only_first, only_second = compare(report, other)
    by_verdict = {verdict: [pair for pair in pairs if pair.verdict == verdict]
                  for verdict in ("disagree", "lean apart", "agree", "over 1.1 in one run only", None)}
    for name, run in (("A", report), ("B", other)):
        interrupted = ", interrupted" if run["interrupted"] else ""
        print(f"{name}: {run['command']}, {run['started']}{interrupted}", file=stream)
    for name, keys in (("A", only_first), ("B", only_second)):
        for workload, figure, unit in keys:
            print(f"only in {name}: {workload} {figure} [{unit}]", file=stream)
    print_pairs("disagree (each has another one ahead by more than 1.1)", by_verdict["disagree"], stream)
    print_pairs("lean apart (over 1.1 in one, the other way round in the other)", by_verdict["lean apart"], stream)
    print(f"agree (the same one ahead by more than 1.1 in both): {len(by_verdict['agree'])}", file=stream)
    print(f"the same one ahead, but over 1.1 in one run only: {len(by_verdict['over 1.1 in one run only'])}",
          file=stream)
    print(f"no difference over 1.1 in either: {len(by_verdict[None])}", file=stream)
    if not pairs:
        print("the two runs have no pair of allocators in common", file=stream)
    return bool(by_verdict["disagree"]) or not pairs


def main(first, second):
    """The exit status: 0 when the runs agree, 1 when they disagree, 2 when one cannot be read."""
    try:
        runs = [results.load(path) for path in (first, second)]
    except (OSError, ValueError) as error:
        print(f"bench: {messages.plain(error)}", file=sys.stderr)
        return 2
    return int(show(*runs, sys.stdout))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
