"""Freeing behind readers: bench/epochs.c under each malloc and in each of our ways, and what ours have promised.

A workload is a contender with so many writers and readers, on each allocator; its figures have the objects' size
behind their names. So the allocators compete under the same contender, and deferred free is set against each of these
over the allocator that is best for it.
"""
from . import programs
from .promises import Promise, medians_of
from .summary import ratio

OURS = "deferred"  # the workload of our ways, which are variants of the allocators
BASE = "slabmalloc"
THREADS = ((1, 1), (1, 2), (2, 2), (1, 0), (2, 0))  # writers and readers
CONTENDERS = {
    "malloc_free": "malloc, and free at once: the floor",
    "call_rcu": "malloc, and free from userspace RCU's call_rcu",
    "defer_rcu": "malloc, and free from userspace RCU's defer_rcu",
    OURS: "malloc or an object cache, and slab_free_deferred or slab_free_deferred_head",
}
MOST_TIMES = {"call_rcu": 1 / 6, "defer_rcu": 1 / 2}  # of its CPU time, over the allocator that is best under it
MOST_TIMES_OWN = 1.6  # of the CPU time of our own malloc and free
MOST_MIB = 16  # of peak RSS over the live set
MOST_HZ = 1000  # of membarrier(2)


def name_of(contender, threads):
    return "{}_{}w{}r".format(contender, *threads)


def describe(threads):
    writers, readers = threads
    return f"{writers} writer{'s' * (writers > 1)}, {readers or 'no'} reader{'s' * (readers != 1)}"


def measure(contender, threads, context, allocator):
    """Each size in a process of its own. Which of our ways it is stands in the allocator; the program links ours."""
    words = ["epochs", "--contender", allocator.contender] if contender == OURS else [
        "epochs_malloc", "--contender", contender]
    words += ["--writers", threads[0], "--readers", threads[1], "--seconds", context.effort.epochs_s]
    parts = {size: programs.measure(context.build, allocator, [*words, "--size", size])
             for size in context.effort.epochs_sizes}
    return programs.join(parts.values(), {f"{name}_{size}": figure for size, part in parts.items()
                                          for name, figure in part.figures.items()})


# -- what was promised ----------------------------------------------------------------------------------------------

def times(row, other, name):
    """{way: cost in times that of an allocator in another row}, from the repetitions that they share."""
    return {way: ratio(cell.values, other.cells[name].values, row.unit) for way, cell in row.measured.items()}


def promises_of(rows, threads, size):
    """The promises about one size; `rows` by workload and figure. What was not measured has none."""
    def row(contender, figure):
        return rows.get((name_of(contender, threads), f"{figure}_{size}"))

    cpu = row(OURS, "cpu")
    for contender, most in MOST_TIMES.items():
        other = row(contender, "cpu")
        if cpu and other and other.best:
            yield Promise(f"CPU time in times {contender}'s over {other.best}", most, times(cpu, other, other.best))
    own = row("malloc_free", "cpu")
    if cpu and own and BASE in own.measured:
        yield Promise("CPU time in times our own malloc and free", MOST_TIMES_OWN, times(cpu, own, BASE))
    resident, others = row(OURS, "peak_rss_over_live"), row("call_rcu", "peak_rss_over_live")
    if resident:
        medians = [cell.median for cell in others.measured.values()] if others else []
        beside = f"; call_rcu: {min(medians):.0f} to {max(medians):.0f}" if medians else ""
        yield Promise(f"peak RSS over the live set [MiB]{beside}", MOST_MIB, medians_of(resident))
    if row(OURS, "membarriers"):
        yield Promise("calls of membarrier(2) a second", MOST_HZ, medians_of(row(OURS, "membarriers")))


def promises(summary):
    """[(which threads and size, its promises)] of those runs with readers that the summary has."""
    rows = {(row.workload, row.figure): row for row in summary.rows if row.measured}
    sizes = sorted({int(figure.removeprefix("cpu_")) for workload, figure in rows
                    if workload.startswith(f"{OURS}_") and figure.startswith("cpu_")})
    found = [(f"{describe(threads)}, {size} bytes", list(promises_of(rows, threads, size)))
             for threads in THREADS if threads[1] > 0 for size in sizes]
    return [(title, of_one) for title, of_one in found if of_one]
