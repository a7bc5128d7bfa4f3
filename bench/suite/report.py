"""A run as one HTML page that needs nothing else: summary, SVG plots, all tables, what failed.

The page follows the reader's light or dark setting. Plots are drawn once, in the light colours; their colours are
then replaced by CSS variables that the template sets for both. An allocator has one colour and one marker wherever it
appears; the palette is Okabe and Ito's, which colour-blind readers tell apart, darkened for contrast on white.
"""
import datetime
import io
import math
import pathlib
import re
import statistics
import sys

import jinja2
import markupsafe
import matplotlib

matplotlib.use("agg")  # no window; it measures text, and writes SVG all the same
from matplotlib import pyplot, ticker  # noqa: E402 # pylint: disable=wrong-import-position

from . import beside, results, speed, table  # noqa: E402
from .summary import (EQUAL, count_first, group_means, is_more_better, not_first, overall_means, overall_order,
                      repetitions_lost, summarise)  # noqa: E402
from .words import show_percent  # noqa: E402

OURS = "slabmalloc"
INK, GRID, FAINT = "#222222", "#dddddd", "#777777"  # light; the template has the dark ones
KNOWN = {  # colour on white, colour on black, marker
    "glibc": ("#5f5f5f", "#b8b8b8", "s"),
    "slabmalloc": ("#0068a8", "#5db8f0", "o"),
    "jemalloc": ("#c44e00", "#ff8a3d", "^"),
    "tcmalloc": ("#008562", "#35d0a4", "D"),
    "mimalloc": ("#b34d8e", "#ea9cca", "v"),
    "slabmalloc grow=locked": ("#3f9fdc", "#a9d8f8", "P"),
    "slabmalloc keep": ("#3f9fdc", "#a9d8f8", "P"),
}
OTHERS = (("#a37200", "#f0c030", "X"), ("#6a51a3", "#b8a5ec", "h"), ("#7a5230", "#d0a37c", "p"),
          ("#1b9aaa", "#7fe0ea", "*"), ("#4d7c0f", "#b6e05a", "<"), ("#a3002c", "#ff8095", ">"))
WIDTH, HEIGHT = 4.8, 3.3  # inches; small enough to be read on a phone, where one fills the width
PLACES = [(9 * x, 7 * y) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8),
                                      (-0.8, -0.8))]  # of a label round its point, in points
PLACES += [(x, y) for y in (18, -18, 30, -30) for x in (8, -8)]
CLIPPED = 4.0  # bars end here and say their value
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "slabmalloc", "font.family": "sans-serif", "font.size": 9,
         "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": FAINT,
         "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
         "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7,
         "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
         "legend.fontsize": 8.5, "lines.linewidth": 1.6, "lines.markersize": 5, "figure.facecolor": "none",
         "axes.facecolor": "none", "savefig.facecolor": "none"}


def looks_of(names):
    """{name: (colour on white, colour on black, marker)}; names that are not known take what is left, in order."""
    others = [name for name in names if name not in KNOWN]
    return {name: KNOWN.get(name) or OTHERS[others.index(name) % len(OTHERS)] for name in names}


# -- SVG ------------------------------------------------------------------------------------------------------------

def to_svg(figure, **options):
    """The figure as SVG text, without the header of a file and without metadata (which names addresses)."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", pad_inches=0.05, **options)
    pyplot.close(figure)
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    return svg[svg.index("<svg"):]


def make_ids_unique(svg, name):
    """Two plots on one page would otherwise share clip paths and markers."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    return re.sub(r"url\(#", f"url(#{name}-", svg)


def to_inline(figure, name, title, looks):
    """The figure for the page: as wide as its box, with a name for those who hear it, in the colours of the page."""
    svg = make_ids_unique(to_svg(figure), name)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = markupsafe.escape(title)
    variables = {INK: "ink", GRID: "grid", FAINT: "faint"}
    variables |= {look[0]: f"a{ordinal}" for ordinal, look in enumerate(looks.values())}
    rest = re.sub("|".join(variables), lambda found: f"var(--{variables[found[0]]})", rest)
    return markupsafe.Markup(f'{head} role="img" aria-label="{label}">{rest}')


def plain_number(value, _=None):
    """A tick without powers: 0.5, 20, 3000, 20k, 5M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            return f"{value / min(factor, {'k': 1e3}.get(letter, factor)):g}{letter}"
    return f"{value:.4g}"


def plain_log(axis, base=10):
    """A logarithmic axis with plain numbers, and with enough of them where it spans less than two decades."""
    low, high = axis.get_view_interval()
    fine = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
    steps = (1,) if high / low > 300 else (1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 5, 7) if high / low > 2.5 \
        else fine
    axis.set_major_locator(ticker.LogLocator(base=base, subs=steps if base == 10 else (1,)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(plain_number))


def new_plot(title, x_label, y_label, width=WIDTH, height=HEIGHT):
    figure, axes = pyplot.subplots(figsize=(width, height))
    axes.set_title(title, pad=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def add_legend(axes):
    """Above the plot, where it covers nothing; the title moves over it."""
    handles, names = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, names)) < 16 else 2
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncol=columns, borderaxespad=0.1,
                handlelength=1.8, columnspacing=1.2)
    axes.set_title(axes.get_title(loc="left"), pad=10 + 13.5 * math.ceil(len(names) / columns))


# -- the plots ------------------------------------------------------------------------------------------------------

def place_labels(axes, points, looks):
    """Each point's name at the first place round it where it meets nothing, or where it meets least."""
    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    spots = axes.transData.transform([point for _, point in points])
    middle = axes.transData.transform((1, 1))
    taken = [matplotlib.transforms.Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in spots]
    taken += [matplotlib.transforms.Bbox.from_bounds(middle[0], axes.bbox.y0, 1, axes.bbox.height),
              matplotlib.transforms.Bbox.from_bounds(axes.bbox.x0, middle[1], axes.bbox.width, 1)]
    for name, point in points:
        tried = []
        for x, y in PLACES:
            label = axes.annotate(name, point, (x, y), textcoords="offset points", color=looks[name][0],
                                  ha="center" if x == 0 else "left" if x > 0 else "right",
                                  va="center" if y == 0 else "bottom" if y > 0 else "top",
                                  fontweight="bold" if name == OURS else "normal",
                                  arrowprops={"arrowstyle": "-", "color": FAINT} if math.hypot(x, y) > 12 else None)
            label.update_positions(renderer)
            box = matplotlib.text.Text.get_window_extent(label, renderer)  # without the arrow
            outside = box.x0 < axes.bbox.x0 or box.y0 < axes.bbox.y0 or box.x1 > axes.bbox.x1 + 8
            covered = 3 * sum(box.overlaps(other) for other in taken) + outside
            tried.append((covered, len(tried), label, box))
            if not covered:
                break
        best = min(tried)
        taken.append(best[3])
        for other in tried:
            if other is not best:
                other[2].remove()


def plot_overview(summary, looks, title, time, memory, **size):
    """Time against memory, each in times glibc's; None where nobody has both."""
    points = [(name, (time[name].to_base, memory[name].to_base)) for name in summary.allocators
              if name in time and name in memory and time[name].to_base and memory[name].to_base]
    if len(points) < 2:
        return None
    figure, axes = new_plot(title, "← faster: time in times glibc's", "← smaller: memory in times glibc's", **size)
    for name, (x, y) in points:
        axes.plot(x, y, looks[name][2], color=looks[name][0], markersize=9)
    for line in (axes.axvline, axes.axhline):
        line(1, color=FAINT, linewidth=0.9, zorder=0.5)
    axes.set(xscale="log", yscale="log")
    for which, axis, limit in ((0, axes.xaxis, axes.set_xlim), (1, axes.yaxis, axes.set_ylim)):
        values = [point[which] for _, point in points]
        limit(min(values) / 1.15, max(values) * (1.3 if which == 0 else 1.15))
        plain_log(axis)
    place_labels(axes, points, looks)
    return figure


def plot_bars(title, rows, summary, looks):
    """A group of bars for each figure, the cost in times the best's: glibc's are at times hundreds of the others'."""
    names = [name for name in summary.allocators_of(rows)
             if any(name in row.measured and row.cells[name].to_best for row in rows)]
    if not names:
        return None
    figure, axes = new_plot(title, "", "cost in times the best's: less is better")
    wide = 0.84 / len(names)
    for ordinal, name in enumerate(names):
        costs = [row.cells[name].to_best or math.nan if name in row.cells else math.nan for row in rows]
        at = [i - 0.42 + wide * (ordinal + 0.5) for i in range(len(rows))]
        axes.bar(at, [min(cost, CLIPPED) for cost in costs], wide * 0.92, color=looks[name][0], label=name)
        for x, cost in zip(at, costs):
            if cost > CLIPPED:
                axes.annotate(table.show_ratio(cost), (x, CLIPPED), (0, 2), textcoords="offset points", ha="center",
                              va="bottom", fontsize=7, rotation=90)
    if axes.get_ylim()[1] > CLIPPED:
        axes.set_ylim(top=1.16 * CLIPPED)
    axes.axhline(1, color=FAINT, linewidth=0.9)
    labels = [table.show_figure(row).rpartition(" [")[0] for row in rows]
    slanted = sum(map(len, labels)) > 44
    axes.set_xticks(range(len(rows)), labels, rotation=35 if slanted else 0, ha="right" if slanted else "center",
                    rotation_mode="anchor")
    axes.grid(False, axis="x")
    add_legend(axes)
    return figure


def draw_lines(axes, lines, looks, **style):
    """{name: [(x, y)]}, each in the colour and with the marker of its allocator."""
    for name, points in lines.items():
        colour, _, marker = looks[name]
        every = max(1, len(points) // 10)
        axes.plot(*zip(*points), color=colour, marker=marker, markevery=every, label=name, **style)


def plot_threads(family, by_count, summary, looks):
    """The first figure about time of a workload that was run with several numbers of threads."""
    rows = {count: next((row for row in rows if row.kind == "time" and row.measured), None)
            for count, rows in sorted(by_count.items())}
    rows = {count: row for count, row in rows.items() if row}
    if not rows:
        return None
    first = next(iter(rows.values()))
    better = "more" if is_more_better(first.unit) else "less"
    figure, axes = new_plot(family, "threads", f"{first.figure} [{first.unit}]: {better} is better")
    lines = {name: [(count, row.cells[name].median) for count, row in rows.items() if name in row.measured]
             for name in summary.allocators_of(rows.values())}
    draw_lines(axes, {name: points for name, points in lines.items() if points}, looks)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(rows), [str(count) for count in rows])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(plain_number))
    add_legend(axes)
    return figure


def nines(percent, end):
    """How many nines a percentile has; the maximum stands one step after the last of the others."""
    return -math.log10(1 - percent / 100) if percent < 100 else end


def plot_latency(title, by_allocator, unit, looks):
    """Percentiles: x in nines, so that the tail has as much room as the rest."""
    percents = sorted({x for points in by_allocator.values() for x, _ in points if x > 0})
    last = max((nines(percent, 0) for percent in percents if percent < 100), default=1)
    figure, axes = new_plot(title, "percentile of the calls [%]", f"{unit} a call: less is better")
    lines = {name: [(nines(x, last + 0.7), y) for x, y in points if x > 0 and y > 0]
             for name, points in by_allocator.items()}
    draw_lines(axes, {name: points for name, points in lines.items() if points}, looks)
    shown = [percent for percent in percents if percent in (50, 90, 99, 99.9, 99.99, 99.999, 100)]
    axes.set_xticks([nines(percent, last + 0.7) for percent in shown],
                    ["max" if percent == 100 else f"{percent:g}" for percent in shown])
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    add_legend(axes)
    return figure


def plot_over_time(title, by_allocator, live, units, looks):
    """Memory over time, with what the program itself had alive."""
    x_label = "time [s]" if units[0] == "s" else units[0]
    figure, axes = new_plot(title, x_label, f"{units[1]}: less is better")
    if live:
        axes.plot(*zip(*live), color=INK, linestyle=":", linewidth=1.4, label="alive in the program")
    draw_lines(axes, by_allocator, looks)
    axes.set_ylim(bottom=0)
    add_legend(axes)
    return figure


def plot_kernel_table(title, columns, which, looks):
    """Cycles of alloc (0) or free (1) by size, with Linux's own."""
    figure, axes = new_plot(title, "size [bytes]", "cycles a call: less is better")
    for (name, by_size), dashes in zip([item for item in columns.items() if item[0] in table.LINUX], (":", "--")):
        axes.plot(list(by_size), [pair[which] for pair in by_size.values()], color=INK, linestyle=dashes, label=name)
    lines = {name: [(size, pair[which]) for size, pair in by_size.items() if pair[which] > 0]
             for name, by_size in columns.items() if name not in table.LINUX}
    draw_lines(axes, {name: points for name, points in lines.items() if points}, looks)
    axes.set(xscale="log", yscale="log")
    plain_log(axes.yaxis)
    axes.set_xticks(table.SIZES, [str(size) for size in table.SIZES])
    axes.set_xticks([], minor=True)
    add_legend(axes)
    return figure


# -- which plots a run has ------------------------------------------------------------------------------------------

def series_of(report, workload):
    """{series: (units, {allocator: points})}: the points' medians over the repetitions that have the same x; of
    repetitions that were sampled at other times, the first."""
    found = {}
    for run in report["runs"]:
        if run["workload"] == workload and not run["failed"] and not run["skipped"]:
            for name, series in run.get("series", {}).items():
                units = series["x_unit"], series["y_unit"]
                found.setdefault(name, (units, {}))[1].setdefault(run["allocator"], []).append(series["points"])
    for _, by_allocator in found.values():
        for name, repetitions in by_allocator.items():
            alike = [points for points in repetitions
                     if [x for x, _ in points] == [x for x, _ in repetitions[0]]]
            by_allocator[name] = [(pairs[0][0], statistics.median(y for _, y in pairs)) for pairs in zip(*alike)]
    return found


def series_plots(summary, workload, looks):
    found = series_of(summary.report, workload)
    live = next(iter(found.pop("live", (None, {}))[1].values()), None)
    for name, (units, by_allocator) in found.items():
        ordered = {one: by_allocator[one] for one in summary.allocators if by_allocator.get(one)}
        if ordered and units[0] == "%":
            yield plot_latency(f"{workload}: {name}", ordered, units[1], looks)
        elif ordered:
            shown = name.upper() if name == "rss" else name
            yield plot_over_time(f"{workload}: {shown}", ordered, live if name == "rss" else None, units, looks)


def family_plots(summary, workloads, looks):
    """Lines by the number of threads; a workload with one number only is drawn as bars."""
    families = {}
    for workload, rows in workloads.items():
        family, _, count = workload.rpartition("_")
        known = families.setdefault(family if count.isdigit() else workload, {})
        known[int(count) if count.isdigit() else 0] = rows
    for family, by_count in families.items():
        if len(by_count) > 1:
            yield plot_threads(family, by_count, summary, looks)
        else:
            rows = [row for row in next(iter(by_count.values())) if row.kind == "time" and row.measured]
            yield plot_bars(rows[0].workload, rows, summary, looks) if rows else None


def bar_plots(summary, workloads, kinds, looks):
    for workload, rows in workloads.items():
        rows = [row for row in rows if row.kind in kinds and row.measured and not row.is_aside]
        yield plot_bars(workload, rows, summary, looks) if rows else None


def kernel_plots(summary, looks):
    for workload in table.TABLES:
        columns = table.kernel_cells(summary, workload)
        if len(columns) > len(table.LINUX):
            for which, name in enumerate(("alloc", "free")):
                yield plot_kernel_table(f"{workload}: {name}", columns, which, looks)


def group_plots(summary, group, looks):
    """The figures of a group, None among them where there is nothing to draw."""
    workloads = summary.groups[group]
    means = [group_means(summary, group, kind) for kind in table.KINDS]
    yield plot_overview(summary, looks, f"{group}: time and memory", *means)
    if group == "kernel table":
        yield from kernel_plots(summary, looks)
    elif group == "threads":
        yield from family_plots(summary, workloads, looks)
    elif group != "latency":
        kinds = {"memory": ("memory",), "servers": table.KINDS}.get(group, ("time",))
        yield from bar_plots(summary, workloads, kinds, looks)
    for workload in workloads:
        yield from series_plots(summary, workload, looks)


def inline_plots(figures, name, looks):
    return [to_inline(figure, f"{name}{ordinal}", figure.axes[0].get_title(loc="left"), looks)
            for ordinal, figure in enumerate(figures) if figure]


# -- words and tables -----------------------------------------------------------------------------------------------

def better_or_worse(to_base, of_base=False):
    """A cost in times glibc's, in words; nothing for glibc's own."""
    if to_base is None or of_base:
        return ""
    text = table.show_ratio(max(to_base, 1 / to_base))
    return "the same" if text == "1.00" else f"{text} {'better' if to_base < 1 else 'worse'}"


def shade_of(to_best):
    """The class of a cell by its ratio to the best."""
    limits = ((1.0, "best"), (EQUAL, "equal"), (1.5, "near"), (2.0, "off"), (4.0, "far"))
    return next((shade for limit, shade in limits if to_best and to_best <= limit), "lost" if to_best else "")


def describe_range(cell):
    lowest, highest = (table.show_number(value) for value in (min(cell.values.values()), max(cell.values.values())))
    return f"{len(cell.values)} repetitions, {lowest} to {highest}" if len(cell.values) > 1 else "one repetition"


def html_cell(row, name, base):
    cell = row.cells.get(name)
    if cell is None or not cell.values:
        return {"failed": cell.problem if cell else ""}
    is_marked = row.has_winner or len(row.competing) < 2 and not row.is_unsure
    return {"figure": table.show_number(cell.median), "spread": table.show_spread(cell), "problem": cell.problem,
            "best": name == row.best and row.has_winner, "to_best": table.show_ratio(cell.to_best),
            "of_whom": "best" if is_marked else "least",
            "to_base": better_or_worse(cell.to_base, name == base),
            "shade": shade_of(cell.to_best) if is_marked else "", "range": describe_range(cell)}


def html_table(summary, group):
    """The table of a group: its columns, and a part a workload."""
    names = summary.allocators_of([row for row in summary.rows if row.group == group])
    return {"names": names, "parts": [{
        "workload": workload, "about": summary.report["workloads"][workload]["about"],
        "rows": [{"figure": table.show_figure(row) if row.figure else "no figure",
                  "cells": [html_cell(row, name, summary.base) for name in names]} for row in rows],
    } for workload, rows in summary.groups[group].items()]}


def verdicts(summary, subject):
    """What an operator wants to know first, a sentence each."""
    if summary.is_once and not summary.has_winners:
        yield ("Everything was measured once, so nothing is called the fastest or the smallest: --repetitions 3 and "
               "more tell.")
        return
    for kind, word, noun in (("time", "Fastest", "time"), ("memory", "Smallest", "memory")):
        order = overall_order(summary, kind)
        if len(order) < 2:
            continue
        told = [f"{name} at {table.show_ratio(cost)} times {summary.base}'s {noun}"
                if summary.base and name != summary.base else name for name, cost in order]
        place = [name for name, _ in order].index(subject) if subject in dict(order) else 0
        yield f"{word} overall: {told[0]}{f'; {told[place]} is number {place + 1}' if place else ''}."
    if subject in summary.allocators:
        first, of = count_first(summary, subject)
        once = " that were measured more than once" if any(row.is_unsure for row in summary.rows) else ""
        if of:
            yield (f"{subject} is first, or within {100 * (EQUAL - 1):.0f} % of the first, in {first} of {of} figures"
                   f"{once}.")


def gaps(summary, subject):
    """Where the subject is not first, widest gap first."""
    if subject not in summary.allocators:
        return []
    rows = []
    for row in not_first(summary, subject):
        cell, (lost, shared) = row.cells[subject], repetitions_lost(row, subject)
        rows.append({"workload": row.workload, "figure": table.show_figure(row), "best": row.best,
                     "ratio": table.show_ratio(cell.to_best), "shade": shade_of(cell.to_best),
                     "ours": table.show_number(cell.median), "theirs": table.show_number(row.cells[row.best].median),
                     "lost": table.describe_lost(lost, shared).removeprefix("behind in "), "equal": cell.place == 1})
    return rows


def worst_of_workloads(rows):
    """The widest gap of each workload, without those that count as equal."""
    first = {}
    for row in rows:
        first.setdefault(row["workload"], row)
    return [row for row in first.values() if not row["equal"]]


def html_mean(summary, name, mean):
    """A cell of means; {} where an allocator has none."""
    return {"to_base": better_or_worse(mean.to_base, name == summary.base), "to_best": table.show_ratio(mean.to_best),
            "shade": shade_of(mean.to_best) if summary.has_winners else "",
            "members": "" if mean.members == mean.of else f"{mean.members} of {mean.of}"} if mean else {}


def standings(summary):
    """A line an allocator: its means and in how many figures it is first."""
    time, memory = (overall_means(summary, kind) for kind in table.KINDS)
    for name in summary.allocators:
        means = [means.get(name) for means in (time, memory)]
        if any(means):
            first, of = count_first(summary, name)
            yield {"name": name, "first": f"{first} of {of}" if of else "–",
                   "means": [html_mean(summary, name, mean) for mean in means]}


def mean_lines(summary):
    """The geometric means by group, as they stand in the table for terminals."""
    for group in summary.groups:
        for kind in table.KINDS:
            means = group_means(summary, group, kind)
            if means:
                yield {"group": group, "kind": kind,
                       "cells": [html_mean(summary, name, means.get(name)) for name in summary.allocators]}


def kernel_lines(summary):
    """The kernel's table in the form of the kernel's test."""
    for workload in table.TABLES:
        columns = table.kernel_cells(summary, workload)
        if len(columns) > len(table.LINUX):
            yield {"workload": workload, "names": list(columns), "rows": [
                (size, ["{:.0f}/{:.0f}".format(*by_size[size]) if size in by_size else "–"
                        for by_size in columns.values()]) for size in table.SIZES]}


def promise_lines(subject, found):
    """What was promised to be its cost, and what is: tables, of [(title, promises)]."""
    for title, promises in found:
        names = list(dict.fromkeys(name for promise in promises for name in promise.values))
        yield {"subject": subject, "title": title, "names": names, "rows": [
            (promise.about, table.show_ratio(promise.most), [table.show_promised(promise, name) for name in names])
            for promise in promises]}


def group_promises(summary, group):
    """Some groups have promises."""
    subject, promises_of = table.PROMISES.get(group, ("", lambda _: []))
    return list(promise_lines(subject, promises_of(summary)))


def comparison_lines(summary, subject):
    """The subject beside the others, workload by workload: a table each."""
    for one in table.COMPARISONS:
        found = one.compare(summary, subject)
        if found:
            yield {"title": found.title, "means": beside.describe_means(found), "said": found.said.splitlines(),
                   "most": table.show_ratio(found.most), "name": found.name, "lines": [
                       {"name": line.name, "times": table.show_ratio(line.times), "spread": show_percent(line.spread),
                        "about": line.about, "shade": "off" if line.times > found.most else "", "part": part}
                       for whole in found.lines for part, line in ((False, whole), *((True, one) for one in whole.parts))]}


def page_of(report, subject=OURS):
    """The page's text."""
    summary = summarise(report)
    looks = looks_of(summary.allocators)
    with matplotlib.rc_context(STYLE):
        means = [overall_means(summary, kind) for kind in table.KINDS]
        overview = inline_plots([plot_overview(summary, looks, "All workloads: time and memory", *means)], "o", looks)
        groups = [{"name": group, "id": f"group-{ordinal}", **html_table(summary, group),
                   "plots": inline_plots(group_plots(summary, group, looks), f"g{ordinal}p", looks),
                   "kernel": list(kernel_lines(summary)) if group == "kernel table" else [],
                   "promised": group_promises(summary, group)}
                  for ordinal, group in enumerate(summary.groups)]
    behind = gaps(summary, subject)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined,
                                     loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent))
    return environment.get_template("report.html.jinja").render(
        report=report, summary=summary, subject=subject, looks=list(looks.values()), overview=overview, groups=groups,
        started=datetime.datetime.fromisoformat(report["started"]).strftime("%d %B %Y, %H:%M %Z").lstrip("0"),
        machine=table.machine_line(report), verdicts=list(verdicts(summary, subject)), gaps=behind,
        speed=list(promise_lines("speed", speed.promises(summary))), comparisons=list(comparison_lines(summary, subject)),
        worst=worst_of_workloads(behind), standings=list(standings(summary)), means=list(mean_lines(summary)),
        of_whom="best" if summary.has_winners else "least", equal=f"{100 * (EQUAL - 1):.0f} %", clipped=f"{CLIPPED:g}")


def write(report, path):
    """The whole page into a file."""
    pathlib.Path(path).write_text(page_of(report), encoding="utf-8")


def write_overview(report, path):
    """The overview plot alone, as an SVG file on white."""
    summary = summarise(report)
    with matplotlib.rc_context({**STYLE, "savefig.facecolor": "white"}):
        means = [overall_means(summary, kind) for kind in table.KINDS]
        figure = plot_overview(summary, looks_of(summary.allocators), "All workloads: time and memory", *means,
                               width=7, height=4.4)
        if figure is None:
            raise ValueError("no allocator has figures of time and of memory beside glibc's")
        pathlib.Path(path).write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{to_svg(figure)}', encoding="utf-8")


def main(words):
    """python3 -m suite.report RESULTS PAGE.html [OVERVIEW.svg TABLE.md]: the page anew, and parts of docs/bench.md."""
    report = results.load(pathlib.Path(words[0]))
    write(report, words[1])
    if words[2:]:
        write_overview(report, words[2])
        pathlib.Path(words[3]).write_text(table.markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
