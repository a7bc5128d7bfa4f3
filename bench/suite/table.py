"""A run as text: the tables for a terminal, and a Markdown table of the figures.

On a terminal a line is a figure and a column an allocator; where the columns do not fit side by side they wrap into
blocks. suite/summary.py says how the numbers come about.
"""
import math
import pathlib
import shutil
import sys

from . import beside, epochs, faults, memory, numa, peaks, percpu, ratios, results, speed
from .speed import LINUX, TABLE_SIZES as SIZES
from .summary import (BASE, EQUAL, group_means, is_more_better, not_first, overall_means, repetitions_lost, summarise)
from .words import show_against, show_figure, show_number, show_ratio, show_spread

OURS = "slabmalloc"
PROMISES = {"memory": ("memory", memory.promises), "epochs": ("deferred free", epochs.promises),
            "percpu": ("per-CPU memory", percpu.promises), "numa": ("several nodes", numa.promises)}  # by group
WIDTH_OF_FILES = 160  # where the output is no terminal
KINDS = ("time", "memory")
TABLES = ("table", "cold_table")
COMPARISONS = (ratios, faults, peaks)  # of an allocator with the others, workload by workload


# -- grids ----------------------------------------------------------------------------------------------------------

def wrap_columns(names, widths, room):
    """The names in blocks whose columns fit into the room; a block has one column at least."""
    blocks, used = [], math.inf
    for name in names:
        if used + widths[name] + 2 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += widths[name] + 2
    return blocks


def print_grid(names, lines, width, stream):
    """Lines are (label, {name: text}); a line without a dictionary is a heading. Wraps into blocks of columns."""
    labels = max((len(label) for label, cells in lines if cells is not None), default=0)
    rows = [{name: name for name in names}, *(cells for _, cells in lines if cells is not None)]
    widths = {name: max(len(cells.get(name, "")) for cells in rows) for name in names}
    for number, block in enumerate(wrap_columns(names, widths, width - labels)):
        if number:
            print(file=stream)
        for label, cells in [("", rows[0]), *lines]:
            line = label if cells is None else label.ljust(labels) + "".join(
                "  " + cells.get(name, "").ljust(widths[name]) for name in block)
            print(line.rstrip(), file=stream)


def align(rows):
    """{name: parts} rows as {name: text}, with the parts of a column under one another."""
    widths = {}
    for cells in rows:
        for name, parts in cells.items():
            if not isinstance(parts, str):
                widths[name] = [max(pair) for pair in zip(map(len, parts), widths.get(name, [0] * len(parts)))]
    return [{name: parts if isinstance(parts, str) else " ".join(
        part.rjust(width) for part, width in zip(parts, widths[name])) for name, parts in cells.items()}
        for cells in rows]


# -- the parts of the table -----------------------------------------------------------------------------------------

def cell_parts(row, name):
    cell = row.cells[name]
    if not cell.values:
        return cell.problem or "no figure"
    marks = ("!" if cell.problem else "") + ("*" if name == row.best and row.has_winner else "")
    return marks + show_number(cell.median), show_spread(cell), show_ratio(cell.to_best), show_against(cell.to_base)


def print_group(summary, group, width, stream):
    workloads = summary.groups[group]
    rows = [row for members in workloads.values() for row in members]
    names = summary.allocators_of(rows)
    texts = iter(align([{name: cell_parts(row, name) for name in row.cells} for row in rows]))
    lines = []
    for workload, members in workloads.items():
        lines.append((f"{workload}: {summary.report['workloads'][workload]['about']}", None))
        lines += [(f"  {show_figure(row)}" if row.figure else "  (nothing)", next(texts)) for row in members]
    print(f"\n== {group}", file=stream)
    print_grid(names, lines, width, stream)


def kernel_cells(summary, workload):
    """{column: {size: (alloc, free)}} of the kernel's table, Linux's own columns first."""
    columns = {name: dict(zip(SIZES, pairs)) for name, pairs in LINUX.items()}
    found = {row.figure: row for row in summary.groups.get("kernel table", {}).get(workload, [])}
    for name in summary.allocators:
        for size in SIZES:
            cells = [found[figure].cells.get(name) for figure in (f"alloc_{size}", f"free_{size}") if figure in found]
            if len(cells) == 2 and all(cell and cell.values for cell in cells):
                columns.setdefault(name, {})[size] = tuple(cell.median for cell in cells)
    return columns


def print_kernel_table(summary, workload, width, stream):
    columns = kernel_cells(summary, workload)
    if len(columns) == len(LINUX):
        return
    print(f"\n== the kernel's table, {workload}: average cycles a call, alloc/free, beside Linux's slab allocator "
          "before and after its lock-less refill (2016)", file=stream)
    lines = [(f"N*alloc N*free({size}):", {name: "Average={:.0f}/{:.0f}".format(*by_size[size])
                                           for name, by_size in columns.items() if size in by_size})
             for size in SIZES]
    print_grid(list(columns), lines, width, stream)


def show_promised(promise, name):
    """A value, with a mark where it is more than promised; "-" where there is none."""
    value = promise.values.get(name)
    return "-" if value is None else show_ratio(value) + ("" if value <= promise.most else " (more)")


def print_promises(subject, found, width, stream):
    if not found:
        return
    print(f"\n== {subject}: what it was promised to cost, at most, and what it does", file=stream)
    lines, names = [], []
    for title, promises in found:
        lines.append((title, None))
        for promise in promises:
            names += [name for name in promise.values if name not in names]
            lines.append((f"  at most {show_ratio(promise.most)}: {promise.about}",
                          {name: show_promised(promise, name) for name in promise.values}))
    print_grid(names, lines, width, stream)


def print_means(summary, width, stream):
    print(f"\n== geometric means: times the best's (1.00: best in every workload), + times better or - worse than "
          f"{BASE}", file=stream)
    parts = [("all groups", kind, overall_means(summary, kind)) for kind in KINDS]
    parts = [(group, kind, group_means(summary, group, kind)) for group in summary.groups for kind in KINDS] + parts
    parts = [part for part in parts if part[2]]
    cells = align([{name: (show_ratio(mean.to_best), show_against(mean.to_base),
                           "" if mean.members == mean.of else f"({mean.members} of {mean.of})")
                    for name, mean in means.items()} for _, _, means in parts])
    print_grid(summary.allocators, [(f"{group}, {kind}", texts) for (group, kind, _), texts in zip(parts, cells)],
               width, stream)


def describe_gap(row, name):
    """A figure in which an allocator is behind: who is ahead, by how much, and how often."""
    cell, best = row.cells[name], row.cells[row.best]
    lost, shared = repetitions_lost(row, name)
    times = f"{show_ratio(cell.to_best)} times" if cell.to_best else "no ratio to"
    return (f"{row.workload} {show_figure(row)}: {times} {row.best}'s, {show_number(cell.median)} and "
            f"{show_number(best.median)}; {describe_lost(lost, shared)}")


def describe_lost(lost, shared):
    return "measured once" if shared == 1 else f"behind in {lost} of {shared}"


def print_not_first(summary, name, stream):
    """One line for each figure in which the allocator is behind, those of equals last."""
    if name not in summary.allocators:
        return
    rows = not_first(summary, name)
    for text, members in (
            (f"where {name} is not first: its cost in times the best's, both figures, and in how many repetitions",
             [row for row in rows if row.cells[name].place > 1]),
            (f"where another is ahead of {name} by {100 * (EQUAL - 1):.0f} % or less, which counts as equal",
             [row for row in rows if row.cells[name].place == 1])):
        print(f"\n== {text}", file=stream)
        for row in members:
            print(describe_gap(row, name), file=stream)
        if not members:
            print("nowhere", file=stream)


def describe_problem(problem):
    return (f"{problem.workload} on {problem.allocator}: {problem.kind} in {problem.repetitions} of {problem.of}: "
            f"{problem.reason}")


def print_problems(summary, stream):
    if summary.problems:
        print("\n== failed and skipped", file=stream)
    for problem in summary.problems:
        print(describe_problem(problem), file=stream)


def machine_line(report):
    machine = report["machine"]
    quota = f" (a quota of {machine['cpu_quota']})" if machine.get("cpu_quota") else ""
    return (f"{machine.get('cpus', '?')} CPUs{quota} of {machine.get('cpu', 'an unknown machine')}, "
            f"{machine.get('memory_mib', 0) / 1024:.0f} GiB, Linux {machine.get('kernel', '?')}, "
            f"{machine.get('system', '')}, load {machine.get('load_at_start', 0):.1f} at the start")


def describe_cell(summary):
    """What the first parts of a cell are."""
    if summary.is_once and not summary.has_winners:
        return "one repetition, so nothing is called the best: figure, times the least cost"
    if summary.is_once:
        return "figure, times the best's (* the best)"
    return ("median, ±furthest repetition, times the best's (* the best; of what was measured once there is none, and "
            "its figure is no median)")


def show(report, stream, subject=OURS, width=None):
    """Print a whole run; `subject` is the allocator whose weak sides are listed."""
    summary = summarise(report)
    width = width or shutil.get_terminal_size((WIDTH_OF_FILES, 0)).columns
    print(f"{report['command']} on {machine_line(report)}", file=stream)
    if report["interrupted"]:
        begun = {run["workload"] for run in report["runs"]}
        left = [name for name in report["workloads"] if name not in begun]
        print("INTERRUPTED: this is what was done until then; not begun: " + (", ".join(left) or "none"), file=stream)
    print(f"{describe_cell(summary)}, + times better or - worse than {BASE}; "
          "units /s: more is better, others: less; ! runs failed", file=stream)
    for group in summary.groups:
        print_group(summary, group, width, stream)
    for workload in TABLES:
        print_kernel_table(summary, workload, width, stream)
    for about, promises in PROMISES.values():
        print_promises(about, promises(summary), width, stream)
    print_promises("speed", speed.promises(summary), width, stream)
    print_problems(summary, stream)
    print_means(summary, width, stream)
    for one in COMPARISONS:
        beside.show(one.compare(summary, subject), stream)
    print_not_first(summary, subject, stream)


# -- Markdown -------------------------------------------------------------------------------------------------------

def main_figures(summary):
    """Of each workload the first figure that is about time, or its first at all."""
    for group, workloads in summary.groups.items():
        for rows in workloads.values():
            about_time = [row for row in rows if row.kind == "time" and row.competing]
            if group != "memory" and about_time:
                yield about_time[0]
            elif rows[0].competing:
                yield rows[0]


def markdown(report, figures=None):
    """A Markdown table, the best in bold where there is one: each workload's main figure, or these (workload, figure)."""
    summary = summarise(report)
    rows = list(main_figures(summary))
    if figures:
        rows = [row for row in summary.rows if (row.workload, row.figure) in figures]
    names = list(report["allocators"])  # without the variants, which are in few workloads
    lines = [["workload", "figure", "unit", "better", *names], ["---"] * (4 + len(names))]
    for row in rows:
        texts = {name: show_number(cell.median) if cell.values else cell.problem for name, cell in row.cells.items()}
        texts |= {row.best: f"**{texts[row.best]}**"} if row.has_winner else {}
        lines.append([row.workload, row.figure, row.unit, "more" if is_more_better(row.unit) else "less",
                      *(texts.get(name, "") for name in names)])
    return "".join(f"| {' | '.join(word.replace('|', chr(92) + '|') for word in line)} |\n" for line in lines)


def main(words):
    """python3 -m suite.table RESULTS [ALLOCATOR]: prints a run again."""
    show(results.load(pathlib.Path(words[0])), sys.stdout, *words[1:2])


if __name__ == "__main__":
    main(sys.argv[1:])
