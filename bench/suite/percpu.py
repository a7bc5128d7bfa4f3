"""Per-CPU memory: bench/percpu_*.c in each of our ways, and what of it was promised.

Contenders of the counter run inside one process, in turns, so that they are figures and no columns; columns are our
ways: restartable sequences by CPU number, by the kernel's concurrency number, and none of them.
"""
import dataclasses

from . import programs
from .promises import Promise, medians_of

THREADS = (1, 2, 4)
TOPOLOGIES = ("1x2", "1x64", "8x64")
FALLBACK = "fallback"  # the contender of the way without restartable sequences
NO_SEQUENCES = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
UTILISATION, MEMORY = "percpu_utilisation", "percpu_memory"


def name_of(threads):
    return f"percpu_counter_{threads}"


def measure_counter(threads, context, allocator):
    return programs.measure(context.build, allocator,
                            ["percpu_counter", "--threads", threads, "--rounds", context.effort.percpu_rounds],
                            env=NO_SEQUENCES if allocator.contender == FALLBACK else None)


def measure_memory(context, allocator):
    """100,000 counters on machines that the checked build of ours simulates, and by how much its count of management
    bytes differs between them."""
    checked = programs.variant(context.build, "checked")
    parts = {machine: programs.measure(context.build, dataclasses.replace(allocator, library=checked,
                                                                          options=f"topology={machine}"),
                                       ["percpu_memory", "counters"]) for machine in TOPOLOGIES}
    management = [part.figures["management"][0] for part in parts.values()]
    return programs.join(parts.values(), with_suffixes(parts) | {
        "management_growth": (max(management) - min(management), "B")})


def measure_moved(context, allocator):
    """The copies that one thread touches on all CPUs, by CPU number and by concurrency number."""
    parts = {way: programs.measure(context.build, dataclasses.replace(allocator, options=options),
                                   ["percpu_memory", "moved"])
             for way, options in (("cpu", ""), ("cid", "percpu_cid=1"))}
    return programs.join(parts.values(), with_suffixes(parts))


def with_suffixes(parts):
    return {f"{name}_{suffix}": figure for suffix, part in parts.items() for name, figure in part.figures.items()}


# -- what was promised ----------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Bound:
    workload: str
    figure: str
    most: float
    about: str
    of_sequences: bool = False  # not of the way without them


def bounds():
    """By the title under which they stand."""
    for threads in THREADS:
        counter = name_of(threads)
        yield f"a counter, {threads} thread{'s' * (threads > 1)}", [
            Bound(counter, "add_over_thread", 1.8, "CPU time of an add in times a __thread increment's", True),
            Bound(counter, "add_over_atomic", 1, "in times that of an add to one atomic word", True),
            Bound(counter, "add_over_padded", 1, "in times that of one to an array padded by hand", True)]
    yield "utilisation", [
        Bound(UTILISATION, f"{alignment}_unused", 2, f"% of the pages in use that hold nothing live, {about}")
        for alignment, about in (("any", "alignment 4"), ("natural", "natural alignment"))]
    yield "100,000 counters on 2, 64 and 512 CPUs", [
        Bound(MEMORY, "management_growth", 0, "bytes of management by which they differ")]


def promises(summary):
    """[(title, its promises)] of what the summary has."""
    rows = {(row.workload, row.figure): row for row in summary.rows if row.measured}
    fallbacks = {name for name in summary.allocators if name.endswith(FALLBACK)}
    found = []
    for title, members in bounds():
        of_one = []
        for bound in members:
            values = medians_of(rows[bound.workload, bound.figure]) if (bound.workload, bound.figure) in rows else {}
            values = {way: value for way, value in values.items() if not (bound.of_sequences and way in fallbacks)}
            of_one += [Promise(bound.about, bound.most, values)] if values else []
        found += [(title, of_one)] if of_one else []
    return found
