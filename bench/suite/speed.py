"""What ours has promised of speed, over the workloads of several groups, and where every allocator stands."""
from . import faults, ratios
from .programs import TABLE_SIZES
from .promises import OTHERS, Goal, Promise, of_goals
from .summary import BASE, geometric_mean

LINUX = {  # cycles of alloc and free by size: Linux's slab allocator, before and after its lock-less refill (2016)
    "Linux before": ((365, 806), (452, 690), (736, 886), (1167, 985), (2088, 1125), (4115, 1184), (8451, 1748),
                     (16024, 2048)),
    "Linux after": ((344, 792), (347, 882), (390, 959), (393, 1067), (683, 1229), (1295, 1325), (2513, 1664),
                    (4742, 2172)),
}
SERVERS = ("redis", "memcached", "mariadb", "postgres", "rocksdb", "cc1plus", "python_json", "sqlite3")
MANY_TO_ONE = "many_to_one_16"
CALLS = [(workload, call) for workload in ("latency_1", "latency_2") for call in ("malloc", "free")]
GOALS = {
    "the kernel's table, in times the best of the others'": [
        Goal("table", f"both_{size}", 1, f"{size} bytes, alloc and free", OTHERS) for size in TABLE_SIZES],
    "the kernel's table, a sixth of what Linux had after its lock-less refill [cycles]": [
        Goal("table", f"{call}_{size}", cycles / 6, f"{size} bytes, {call}")
        for size, both in zip(TABLE_SIZES, LINUX["Linux after"]) for call, cycles in zip(("alloc", "free"), both)],
    "16 producers and one thread that frees, in times the best of the others'": [
        Goal(MANY_TO_ONE, "throughput", 1 / 3, "time an object", OTHERS),
        Goal(MANY_TO_ONE, "peak_rss_mib", 1, "peak RSS", OTHERS)],
    "latency, in times the best of the others'": [
        Goal(workload, f"{call}_{point}", 1, f"{workload}: {call}, {about}", OTHERS)
        for workload, call in CALLS for point, about in (("p99.99", "99.99th percentile"), ("max", "maximum"))],
}


def cpu_to_base(summary):
    """{allocator: CPU seconds in times glibc's, geometric mean over the SERVERS}."""
    rows = [row for row in summary.rows if row.workload in SERVERS and row.figure == "cpu_s"]
    found = {}
    for name in summary.report["allocators"]:
        times = [row.cells[name].to_base for row in rows if name in row.cells and row.cells[name].to_base]
        found |= {name: geometric_mean(times)} if times else {}
    return found


def promises(summary):
    """[(title, its promises)] of what the summary has."""
    overall = [Promise("all workloads, geometric mean, in times the best peer's overall", 0.85, ratios.overall(summary)),
               Promise("the worst workload, in times the best peer's there", ratios.MOST, ratios.worst(summary))]
    servers = [Promise(f"CPU time, geometric mean, in times {BASE}'s", 0.95, cpu_to_base(summary)),
               Promise("the same, in times the best peer's", 1, ratios.overall(summary, SERVERS)),
               Promise(f"page faults of all programs, geometric mean, in times {BASE}'s", faults.MOST,
                       {name: mean for name, (mean, _) in faults.means_of(summary).items()})]
    found = [("time of all workloads", overall), ("servers and programs", servers)]
    found = [(title, [promise for promise in of_one if promise.values]) for title, of_one in found]
    return [(title, of_one) for title, of_one in found if of_one] + of_goals(summary, GOALS)
