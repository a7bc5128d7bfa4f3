"""The workloads: what is run for each, how its output is read, and how much of it in a quick and in a full run.

A workload is one process with one allocator preloaded (a server: its processes and their clients). What cannot be
preloaded, our object caches and other libraries' pools, has programs of its own and runs as a variant.
"""
import dataclasses
import functools
import json
import re
import typing

from . import epochs, instructions, jobs, locks, memory, numa, percpu, programs, servers
from .measurement import RunFailed, Skipped

GROUPS = ("micro", "caches", "epochs", "percpu", "kernel table", "threads", "memory", "latency", "locks",
          "sampling", "numa", "servers", "instructions")


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much a run takes on: repetitions, and seconds of one measurement."""
    name: str
    repetitions: int
    repetitions_long: int  # at most, of workloads that run on all allocators at once, and of the rarely run
    repetitions_servers: int
    micro_s: float
    thread_counts: tuple
    thread_s: float
    producer_objects: int
    birth_rounds: int
    latency_s: float
    day_s: int  # and of a load that rises and falls
    back_percent: int
    parked_threads: int
    demand: dict  # replacements, by the load
    table_rounds: int
    epochs_s: float
    epochs_sizes: tuple
    percpu_rounds: int
    numa_s: float


QUICK = Effort("quick", repetitions=4, repetitions_long=1, repetitions_servers=1, micro_s=0.02,
               thread_counts=(2, 8, 64), thread_s=0.1, producer_objects=600_000, birth_rounds=300, latency_s=0.3,
               day_s=12, back_percent=100, parked_threads=500, demand={"large": 100, "churn": 200_000},
               table_rounds=11, epochs_s=0.15, epochs_sizes=(128,), percpu_rounds=15, numa_s=3)
FULL = Effort("full", repetitions=5, repetitions_long=3, repetitions_servers=3, micro_s=0.1,
              thread_counts=(2, 4, 8, 16, 32, 64), thread_s=0.3, producer_objects=1_000_000, birth_rounds=2_000,
              latency_s=2, day_s=60, back_percent=100, parked_threads=2000,
              demand={"large": 500, "churn": 1_000_000}, table_rounds=21, epochs_s=0.3,
              epochs_sizes=(32, 128, 1024), percpu_rounds=51, numa_s=5)


@dataclasses.dataclass(frozen=True)
class Context:
    """What a measurement needs beside its allocator."""
    build: object  # the build folder, a path
    effort: Effort
    folder: object  # a fresh folder for this run alone, a path


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    group: str
    about: str  # one sentence
    measure: typing.Callable  # (Context, Allocator) -> Measurement; raises RunFailed or Skipped
    same_work: bool = False  # the CPU seconds of its processes compare
    together: bool = False  # sleeps most of the time: runs on all allocators at the same moment
    rarely: bool = False  # a few repetitions are enough: it is long, or hardly varies
    mib: int = 0  # that a process of it has at its peak, where so many of them at a time may be too many
    once: bool = False  # repeats to the digit, or takes a machine of its own
    variants: str = ""  # also measured on allocators.variants of that kind, which do not compete
    variants_alone: bool = False  # and on nobody else
    least_effort: str = "quick"


# -- Google Benchmark -----------------------------------------------------------------------------------------------

MICRO = {
    "pair": "malloc and free of one object, again and again",
    "batch_lifo": "1000 objects of one size, freed in the reverse of their order",
    "batch_fifo": "1000 objects of one size, freed in the order they were made",
    "batch_random": "1000 objects of one size, freed in random order",
    "churn": "random replacement in a population of the sizes that a server was recorded to ask for",
    "calloc": "zeroed objects",
    "realloc_grow": "buffers that grow",
    "aligned": "objects of an alignment",
    "large": "objects of 64 KiB to 1 MiB, touched",
    "huge": "objects of 4 to 128 MiB, touched",
}
CACHES = {
    "cache_pair": "an object is made and freed, again and again",
    "cache_batch": "1000 objects, freed in the order they were made",
    "cache_bulk": "64 objects made by one call and freed by one, where there are such calls",
    "cache_zeroed": "an object that reads as zero is made and freed",
    "cache_constructed": "objects with a mutex, a condition and two lists, made ready by a constructor or at birth",
    "cache_accounted": "objects of 64 bytes whose live bytes are counted, and limited",
    "cache_handoff": "one thread makes objects, another one frees them, on both threads together",
}
NOT_BUILT = {
    "gslice": "built without GLib before 2.76: install libglib2.0-dev, remove the build folder",
    "boost": "built without Boost: install libboost-dev, remove the build folder",
    "boost_unlocked": "built without Boost: install libboost-dev, remove the build folder",
}


def measure_loops(program, name, context, allocator):
    """The loops NAME/VARIANT of a program on Google Benchmark."""
    argv = [program, f"--benchmark_filter=^{name}/", f"--benchmark_min_time={context.effort.micro_s}",
            "--benchmark_format=json"]
    output, measurement = programs.run_measured(context.build, allocator, argv)
    for row in json.loads(output)["benchmarks"]:
        if row.get("error_occurred"):
            raise RunFailed(f"{row['name']}: {row.get('error_message', 'no message')}")
        variant = re.split("/(?:iterations|threads):", row["name"].removeprefix(f"{name}/"))[0]
        measurement.figures[variant] = (1e9 / row["items_per_second"], "ns")
    return measurement


def measure_caches(name, context, allocator):
    program = f"caches_{allocator.contender}"
    if allocator.contender in NOT_BUILT and not (context.build / "bench" / program).exists():
        raise Skipped(NOT_BUILT[allocator.contender])
    if allocator.contender == "boost_unlocked" and name == "cache_handoff":
        raise Skipped("threads may not share a pool without a lock")
    return measure_loops(program, name, context, allocator)


# -- plain programs -------------------------------------------------------------------------------------------------

THREADS = {
    "larson": "Larson's server: threads hand their objects to their successors",
    "larson_small": "the same with objects of 7 and 8 bytes, dealt out at random: lines are shared at first",
    "handoff": "pairs of a producer and a consumer",
    "ring": "objects bounced round a ring of threads",
    "births": "threads born and dying",
    "false_sharing_active": "a thread writes its own small object while others write theirs",
    "false_sharing_passive": "the same, after one thread made and handed out the first objects",
}
EXCHANGE_COUNTS = (2, 8)
MANY_TO_ONE_COUNTS = (2, 8, 16, 64)  # of a quick run
LATENCY = {1: "every call of a churn timed", 2: "every call of a churn timed, with a second thread at the same"}


def measure_program(argv, context, allocator):
    """A program that prints its figures; words of `argv` may be functions of the effort."""
    words = [word(context.effort) if callable(word) else word for word in argv]
    return programs.measure(context.build, allocator, words)


def micro():
    for name, about in MICRO.items():
        yield Workload(name, "micro", f"{about}; CPU time an operation",
                       functools.partial(measure_loops, "micro", name))


def caches():
    for name, about in CACHES.items():
        yield Workload(name, "caches", f"{about}; CPU time an object", functools.partial(measure_caches, name),
                       variants="pools")
    alone = functools.partial(Workload, group="caches", variants="caches", variants_alone=True)
    yield alone("cache_accounting", about="accounted and limited caches in turns with a plain one",
                measure=functools.partial(measure_program, ["cache_accounted"]))
    yield alone("cache_memory", about="10,000 caches created, 1,000 used and tuned; RSS each, time for all, calls of "
                "membarrier, function-call interrupts of the whole machine",
                measure=lambda context, one: programs.measure_cache_memory(context.build, one))
    yield alone("cache_arrays", about="RSS that a thread's use adds to a cache, on simulated machines of NODESxCPUS "
                "(a cache of Linux was once put at 80 KB with 512 CPUs)",
                measure=lambda context, one: programs.measure_cache_arrays(context.build, one))


def freeing_behind_readers():
    """Ours, and the other contenders on every allocator."""
    for threads in epochs.THREADS:
        for contender, about in epochs.CONTENDERS.items():
            is_ours = contender == epochs.OURS
            yield Workload(epochs.name_of(contender, threads), "epochs", f"{about}; {epochs.describe(threads)}",
                           functools.partial(epochs.measure, contender, threads),
                           variants="deferred" if is_ours else "", variants_alone=is_ours,
                           least_effort="quick" if threads == epochs.THREADS[0] else "full")


def per_cpu_memory():
    """Ours alone: its contenders are inside the programs."""
    alone = functools.partial(Workload, group="percpu", variants="percpu", variants_alone=True)
    for threads in percpu.THREADS:
        yield alone(percpu.name_of(threads), about="a counter that all threads bump, beside a word of the thread's "
                    f"own, one atomic word and padded arrays; {threads} thread{'s' * (threads > 1)}",
                    measure=functools.partial(percpu.measure_counter, threads), variants="percpu_ways")
    yield alone(percpu.UTILISATION, about="16 MiB of objects of 4 to 2048 bytes, half freed at random, filled again, "
                "100 times: the worst round's share of the pages in use that holds nothing",
                measure=functools.partial(measure_program, [percpu.UTILISATION]), once=True)
    yield alone(percpu.MEMORY, about="100,000 counters on simulated machines of NODESxCPUS: made, added to by 4 "
                "threads, all copies written", measure=percpu.measure_memory, once=True)
    yield alone("percpu_moved", about="copies that a thread touches which adds on each CPU, by CPU number and by "
                "concurrency number", measure=percpu.measure_moved, once=True)
    yield alone("percpu_alloc", about="an object made and freed, and 100,000 made; beside calloc of padded arrays",
                measure=functools.partial(measure_program, ["percpu_memory", "alloc"]))


def tables():
    yield Workload("table", "kernel table", "all CPUs at once: 10,000 allocations, then 10,000 frees, of one size; "
                   "the median round",
                   functools.partial(measure_program, ["kernel_table", lambda e: e.table_rounds]), same_work=True,
                   variants="builds")
    yield Workload("cold_table", "kernel table", "the same, one round in a fresh process for every size: slabs have "
                   "to be made", lambda context, one: programs.measure_cold_table(context.build, one), same_work=True,
                   variants="builds")


def threads():
    def of_threads(name, about, count, is_quick):
        return Workload(f"{name}_{count}", "threads", f"{about}; {count} threads", functools.partial(
            measure_program, ["threads", name, count, lambda e: e.thread_s]),
                        least_effort="quick" if is_quick else "full")

    for count in FULL.thread_counts:
        for name, about in THREADS.items():
            yield of_threads(name, about, count, count in QUICK.thread_counts)
        yield Workload(f"many_to_one_{count}", "threads", f"{count} producers and one thread that frees",
                       functools.partial(measure_program, ["producers", count, lambda e: e.producer_objects]),
                       same_work=True, least_effort="quick" if count in MANY_TO_ONE_COUNTS else "full")
    for count in EXCHANGE_COUNTS:
        yield of_threads("exchange", "random replacement of 8 to 16,000 bytes in tables that change hands", count,
                         count == EXCHANGE_COUNTS[0])
    yield Workload("births_once", "threads", "ten threads are born, allocate once and end, again and again",
                   functools.partial(measure_program, ["births_once", lambda e: e.birth_rounds]), same_work=True)


def memory_group():
    yield Workload("fragmentation", "memory", "fill, free half at random, refill in other sizes; RSS over live bytes",
                   functools.partial(measure_program, ["fragmentation"]), same_work=True)
    yield Workload("give_back", "memory", "RSS at 0, 1, 2, 4, 8 s after a peak, while the process is idle",
                   functools.partial(measure_program, ["give_back"]), together=True)
    yield Workload("day", "memory", "a day of a server in a minute: load that rises and falls",
                   functools.partial(measure_program, ["day", lambda e: e.day_s]), together=True, same_work=True)
    yield Workload("rise_fall", "memory", "a load that rises and falls every second; the area under the curve of RSS",
                   functools.partial(measure_program, ["rise_fall", lambda e: e.day_s]), together=True,
                   same_work=True, variants="keep")
    yield Workload("rise_fall_slow", "memory", "the same, four times in the whole run",
                   functools.partial(measure_program, ["rise_fall", lambda e: e.day_s, lambda e: max(1, e.day_s // 4)]),
                   together=True, same_work=True, least_effort="full")
    for name, (about, mib) in memory.SLEEPING.items():
        yield Workload(name, "memory", about, functools.partial(
            measure_program, ["back", name, lambda e: e.back_percent]), together=True, mib=mib)
    yield Workload("python_pool", "memory", "a Python program whose four threads have parsed JSON and wait for more; "
                   "all of its objects from malloc", memory.measure_python_pool, together=True)
    for name, about in memory.AT_ONCE.items():
        yield Workload(name, "memory", about, functools.partial(
            measure_program, ["back", name, lambda e: e.back_percent]), same_work=True, rarely=True,
                       least_effort="full" if name == "lives" else "quick")
    yield Workload("core", "memory", "300 MiB made, all but 20 freed: what a core file would hold",
                   memory.measure_core, rarely=True)
    yield Workload("parked", "memory", "what a parked thread holds that used ten sizes once",
                   lambda context, one: memory.measure_parked(context.build, one))
    yield Workload("parked_cycled", "memory", "what parked threads hold that cycled through 64 objects each: 2,000 "
                   "in a full run, 500 in a quick one", lambda context, one: memory.measure_parked(context.build, one,
                                                                          context.effort.parked_threads, "cycled"),
                   together=True, mib=2000)
    yield Workload("fixed_cost", "memory", "a process that makes and frees 1,000 objects of 30 sizes",
                   lambda context, one: memory.measure_fixed_cost(context.build, one))
    yield Workload("small_objects", "memory", "256 MiB of 64-byte objects of four threads: what is resident beyond them",
                   functools.partial(measure_program, ["small_objects", lambda e: 256 * e.back_percent // 100]),
                   same_work=True, rarely=True, mib=400)
    yield Workload("huge_pages", "memory", "pointers followed at random through 2 GiB of small objects: CPU time of a "
                   "step", functools.partial(measure_program, ["huge_pages"]), same_work=True, rarely=True, mib=2400,
                   least_effort="full")
    for name, about in memory.DEMAND.items():
        yield Workload(memory.demand_name(name), "memory", about, functools.partial(memory.measure_demand, name),
                       same_work=True, rarely=True, variants="keep")


def latency():
    for count, about in LATENCY.items():
        yield Workload(f"latency_{count}", "latency", about, functools.partial(
            measure_program, ["latency", count, lambda e: e.latency_s]))


def held_locks():
    """Ours alone: the build of it that counts and times them."""
    for name, (about, _) in locks.WORKLOADS.items():
        yield Workload(f"locks_{name}", "locks", f"locks: {about}", functools.partial(locks.measure, name),
                       variants="locks", variants_alone=True,
                       least_effort="quick" if name == "handoff" else "full")


def sampling():
    """Ours alone: as it is, without samples, and with guards at them. A per cent takes seconds of work to show."""
    alone = functools.partial(Workload, group="sampling", same_work=True, variants="sampling", variants_alone=True,
                              least_effort="full")
    yield alone("sampling_churn", about="random replacement in a population of redis's sizes, 400 million times",
                measure=functools.partial(measure_loops, "micro", "churn_long"))
    yield alone("sampling_redis", about=servers.Redis.about,
                measure=functools.partial(measure_server, servers.Redis, effort="full"))


def several_nodes():
    for machine in numa.MACHINES:
        for balanced in (True, False):
            yield Workload(numa.name_of(machine, balanced), "numa", numa.describe(machine, balanced),
                           functools.partial(numa.measure, machine, balanced), once=True, least_effort="full")


def serving():
    for name, server in {**servers.WORKLOADS, **jobs.WORKLOADS}.items():
        yield Workload(name, "servers", server.about, functools.partial(measure_server, server), same_work=True,
                       least_effort="full")
    yield Workload("idle_postgres", "servers", "PostgreSQL with 20 idle connections: what its processes hold",
                   lambda context, one: programs.measure_idle_postgres(context.build, one), least_effort="full")


def measure_server(server, context, allocator, effort=""):
    return server.measure(allocator.library, effort or context.effort.name, context.folder, allocator.options)


def counting():
    for name, about in instructions.WORKLOADS.items():
        yield Workload(instructions.PREFIX + name, "instructions", about,
                       functools.partial(instructions.measure_one, name), once=True)
    for name, about in instructions.CACHE_WORKLOADS.items():
        yield Workload(instructions.PREFIX + name, "instructions", about,
                       functools.partial(instructions.measure_one, name), once=True, variants="caches",
                       variants_alone=True)
    for name, about in instructions.EPOCH_WORKLOADS.items():
        yield Workload(instructions.PREFIX + name, "instructions", about,
                       functools.partial(instructions.measure_one, name), once=True,
                       variants="sections" if name == "epoch_section" else "epochs", variants_alone=True)


def all_of_them():
    """{name: Workload}, in the order in which they are run and printed."""
    found = [*micro(), *caches(), *freeing_behind_readers(), *per_cpu_memory(), *tables(), *threads(), *memory_group(),
             *latency(), *held_locks(), *sampling(), *several_nodes(), *serving(), *counting()]
    return {workload.name: workload for workload in found}
