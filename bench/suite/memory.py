"""What memory costs, and whether it goes back: measurements of the group `memory`, and what ours has promised there.

`slabmalloc keep` is ours with purging off. It is a column of the loads that want again at once what they have freed:
there purging must not show, and so it is told in times that column's.
"""
from . import programs
from .promises import OTHERS, Goal, of_goals

KEEP = "slabmalloc keep"
KEEP_OPTIONS = "purge_delay_ms=3600000,dirty_bytes=1024G"
SLEEPING = {  # cases of bench/back.c: about, and the MiB that a process of it takes
    "pool": ("1 GB made by one thread, freed by another, both joined; RSS until 5 s later", 1100),
    "large_idle": ("100 objects of 10 MiB freed by the only thread, which then sleeps for 3 s", 1100),
    "spike": ("4,000,000 small objects freed by the only thread, which then sleeps for 8 s", 500),
    "spike_busy": ("the same, where the thread then replaces 16 objects every quarter of a second", 500),
    "locked": ("under mlockall(MCL_FUTURE), 120 MiB made and freed, a few objects replaced for 2 s", 200),
}
AT_ONCE = {
    "calloc_sparse": "200 tables of 1 MiB from calloc where memory was used before; a byte of each is written",
    "vectors": "eight vectors grow in turn by 8 bytes, to 3 MiB each",
    "lives": "100,000 threads born and ended, eight at a time; RSS after 5,000 of them, and last",
    "forks": "a chain of 40 forks, each process with four threads that have used the heap and sleep; RSS of the last",
}
DEMAND = {
    "large": "20 live objects of 5 to 25 MiB, a random one replaced again and again",
    "churn": "2,000 live objects of MariaDB's sizes, those over 64 KiB too, likewise",
    "table": "the kernel's table with threads born for each size and round",
}


def demand_name(load):
    return f"demand_{load}"


def measure_demand(load, context, allocator):
    words = (["kernel_table", context.effort.table_rounds, 10_000, "born"] if load == "table" else
             ["demand", load, context.effort.demand[load]])
    return programs.measure(context.build, allocator, words)


def measure_core(context, allocator):
    """Objects of 1 MiB, and small ones."""
    parts = {kind: programs.measure(context.build, allocator, ["back", f"core_{kind}", context.effort.back_percent])
             for kind in ("large", "small")}
    return programs.join(parts.values(), {f"{kind}_{name}": figure for kind, part in parts.items()
                                          for name, figure in part.figures.items()})


def measure_python_pool(context, allocator):
    return programs.measure(context.build, allocator, [programs.ROOT / "bench" / "python_pool.py"],
                            env={"PYTHONMALLOC": "malloc"})


def measure_fixed_cost(build, allocator):
    parts = {mix: programs.measure(build, allocator, ["fixed_cost", mix]) for mix in ("even", "server")}
    return programs.join(parts.values(), {f"{mix}_{name}": figure for mix, part in parts.items()
                                 for name, figure in part.figures.items()})


def measure_parked(build, allocator, threads=200, how=""):
    """What a thread costs that has used some memory, beyond one that never allocated."""
    busy = programs.measure(build, allocator, ["parked", threads, how])
    idle = programs.measure(build, allocator, ["parked", threads, "idle"])
    a_thread = {name: ((busy.figures[name][0] - idle.figures[name][0]) / threads, "KiB")
                for name in ("rss", "anonymous")}
    return programs.join([busy, idle], {
        "rss_a_parked_thread": a_thread["rss"],
        "anonymous_a_parked_thread": a_thread["anonymous"],
        "rss_a_thread_that_never_allocated": (idle.figures["rss"][0] / threads, "KiB"),
    })


# -- what was promised ----------------------------------------------------------------------------------------------

def of_demand(load, about):
    name = demand_name(load)
    return [Goal(name, "cpu_s", 1.1, f"{about}: CPU time in times that with purging off", KEEP),
            Goal(name, "peak_rss_mib", 1.1, f"{about}: peak RSS in times glibc's", "glibc")]


GOES_BACK = "memory that goes back"
IN_PIECES = "memory in pieces"
GOALS = {
    IN_PIECES: [
        Goal("fragmentation", "worst_refill", 1.8,
             "64 MiB, half freed at random, refilled in other sizes, five times: RSS in times the live bytes"),
        Goal("redis_values", "rss_over_live", 1.55,
             "redis, values that change their size, half deleted, refilled: RSS in times the live bytes"),
        Goal("give_back", "rss_2s", 60, "256 MiB by 4 threads, 96 % freed at random: RSS after 2 s [MiB]"),
    ],
    GOES_BACK: [
        Goal("pool", "rss_5s", 10, "1 GB made by one thread, freed by another, both joined: RSS after 5 s [MiB]"),
        Goal("large_idle", "rss_3s", 8, "100 objects of 10 MiB freed by the only thread: after 3 s [MiB]"),
        Goal("spike", "rss_8s", 20, "4,000,000 small ones freed by the only thread, which sleeps: 8 s [MiB]"),
        Goal("spike_busy", "rss_8s", 20, "the same, which replaces a few objects: 8 s [MiB]"),
        Goal("locked", "rss_2s", 8, "120 MiB freed under mlockall(MCL_FUTURE): 2 s [MiB]"),
        Goal("calloc_sparse", "rss", 12, "200 sparse tables of 1 MiB by calloc, on memory used before [MiB]"),
        Goal("vectors", "faults", 6800, "eight vectors that grow in turn: page faults"),
        Goal("core", "large_core", 24, "300 MiB made, 20 kept: in a core file [MiB]"),
        Goal("parked_cycled", "rss_a_parked_thread", 24,
             "2,000 parked threads that cycled through 64 objects: each [KiB]"),
        Goal("day", "night_rss", 15, "a server's day: RSS at night [MiB]"),
        Goal("day", "mean_rss", 1, "the same: mean RSS in times the least of the others'", OTHERS),
        Goal("rise_fall_slow", "mean_rss", 1, "a load that rises and falls: mean RSS in times the least of the others'",
             OTHERS),
        Goal("python_pool", "rss_4s", 90, "an idle pool of 4 threads in Python [MiB]"),
        Goal("lives", "rss_growth", 1.1, "100,000 threads born and ended: RSS in times that after 5,000"),
        Goal("forks", "rss_last", 1, "a chain of 40 forks with 4 threads each: RSS in times glibc's", "glibc"),
    ],
    "memory that is wanted again": [
        *of_demand("large", "20 objects of 5 to 25 MiB"),
        *of_demand("churn", "MariaDB's sizes"),
        *of_demand("table", "the kernel's table, threads born"),
        Goal(demand_name("table"), "alloc_2048", 200, "the same: an allocation of 2048 bytes [cycles]"),
        Goal(demand_name("table"), "alloc_4096", 400, "the same: one of 4096 bytes [cycles]"),
        Goal("rise_fall", "faults", 1.2,
             "a load that rises and falls every second: page faults in times those with purging off", KEEP),
    ],
    "small objects": [
        Goal("small_objects", "beyond_objects", 0.8, "256 MiB of 64-byte objects of four threads: resident beyond [%]"),
    ],
    "small processes": [
        Goal("idle_postgres", "anonymous", 1, "PostgreSQL, 20 idle connections: anonymous memory in times glibc's",
             "glibc"),
    ],
}


def promises(summary):
    return of_goals(summary, GOALS)
