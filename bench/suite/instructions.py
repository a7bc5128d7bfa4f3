"""Counts instructions an operation with callgrind: these figures repeat, on any machine of an architecture.

bench/instructions.c has the loops and says what an operation is; what is counted is the allocator and the jump
through the PLT to it. What else depends on the machine is pinned: libc's memset and memcpy are those that every CPU
of the architecture has, and programs get no environment but what they need. Valgrind lays out the addresses.

bench/data/instructions.json has the counts of every allocator as they should be, with the versions that they are of:
the package's, and for ours the compiler's.
"""
import atexit
import concurrent.futures
import functools
import json
import os
import pathlib
import platform
import re
import shutil
import tempfile

from . import allocators
from .measurement import Measurement, RunFailed, Skipped
from .programs import read_figures, run

TABLE = allocators.ROOT / "bench" / "data" / "instructions.json"
FORMAT = 1
OUR_OTHERS = (allocators.OUR_CACHES, allocators.OUR_EPOCHS)  # of the same library as ours
PREFIX = "instructions_"  # of the workloads' names in a report, where others are called pair and churn too

WORKLOADS = {
    "pair": "malloc(16) and free of it",
    "fifo": "malloc and free, 1000 objects of 64 bytes, first in, first out",
    "lifo": "malloc and free, 1000 objects of 64 bytes, last in, first out",
    "batch": "malloc and free, 1000 objects of random sizes to 1 KiB, freed in random order",
    "churn": "free and malloc, 1000 objects of random sizes to 1 KiB, one at a time replaced",
    "malloc": "malloc alone, 1000 objects of 64 bytes",
    "free": "free alone, 1000 objects of 64 bytes, first in, first out",
    "calloc": "calloc alone, 1000 objects of 64 bytes",
    "realloc": "realloc alone, 1000 objects of 64 bytes to 128",
    "calloc_pair": "calloc(1, 64) and free of it",
    "realloc_grow": "a buffer that grows from 16 bytes to 4 KiB by doubling, and its free",
    "usable": "malloc_usable_size, 1000 objects of random sizes to 1 KiB",
}
CACHE_WORKLOADS = {  # of ours alone, an object of 64 bytes each
    "cache_pair": "slab_cache_alloc and slab_cache_free of it",
    "cache_pair_free": "slab_cache_alloc and free of it",
    "cache_fifo": "slab_cache_alloc and slab_cache_free, 1000 objects, first in, first out",
    "cache_bulk": "an object of 64 that slab_cache_alloc_bulk makes and slab_cache_free_bulk frees",
    "cache_alloc_bulk": "an object of 64 that slab_cache_alloc_bulk makes, 1024 in a row",
    "cache_free_bulk": "an object of 64 that slab_cache_free_bulk frees, 1024 in a row",
    "cache_zeroed": "slab_cache_alloc and slab_cache_free of it, zeroed",
    "cache_accounted": "slab_cache_alloc and slab_cache_free of it, accounted",
    "cache_accounted_free": "slab_cache_alloc and free of it, accounted",
    "cache_limited": "slab_cache_alloc and slab_cache_free of it, under a limit",
}
EPOCH_WORKLOADS = {  # of ours, the first one of userspace RCU, too
    "epoch_section": "enter and leave a section, inlined",
    "deferred": "slab_free_deferred alone, 1000 objects of 64 bytes",
    "deferred_head": "slab_free_deferred_head alone, 1000 objects of 64 bytes",
    "deferred_bulk": "an object of 1000 that slab_free_deferred_bulk retires, 64 bytes",
    "deferred_pair": "malloc(64) and slab_free_deferred of it",
    "deferred_cache_pair": "slab_cache_alloc and slab_free_deferred of it, 64 bytes",
    "unread_pair": "malloc(64) and slab_free_deferred of it, where no other thread reads",
}

# Instructions that valgrind shows the program only on CPUs that have them, and by which libc chooses memset and
# memcpy: without these it takes the variants for SSE2, which every x86-64 CPU has.
TUNABLES = {
    "x86_64": "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-SSSE3,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load,"
              "-Fast_Unaligned_Copy,-Prefer_ERMS,-Prefer_FSRM",
    "aarch64": "glibc.cpu.name=generic",
}


# -- counting -------------------------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def without_debug_information(library):
    """A copy of the library for valgrind, which gives up on debug information newer than itself (clang's DWARF 5)."""
    if not library or not shutil.which("strip"):
        return library
    folder = tempfile.mkdtemp(prefix="instructions-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = pathlib.Path(folder) / pathlib.Path(library).name
    run(["strip", "--strip-debug", "-o", copy, library], os.environ)
    return str(copy)


UNSAMPLED = "sample_bytes=0"  # samples come by chance: each has some 8,000 instructions, once in 2 MiB


def environment_for(allocator):
    """All that the program gets. LD_BIND_NOW: no call is the first one, which looks the function up. slabmalloc takes
    no samples, unless its options say that it does; it counts down to them all the same."""
    options = allocator.options if "sample_bytes" in allocator.options else f"{UNSAMPLED},{allocator.options}".strip(",")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "LD_BIND_NOW": "1",
                   "GLIBC_TUNABLES": TUNABLES.get(platform.machine(), ""),
                   "SLABMALLOC_OPTIONS": options,
                   "LD_PRELOAD": without_debug_information(allocator.library)}
    return {name: value for name, value in environment.items() if value}


def read_profile(text):
    """(all instructions, those of the loops themselves) in callgrind's output. A function's own costs are lines
    "position instructions"; the one behind a line "calls=" is the cost of what it called."""
    collected, own, is_loop, is_call = 0, 0, False, False
    for line in text.splitlines():
        if line.startswith("fn="):
            is_loop = line.startswith(("fn=counted", "fn=loop_"))
        elif line[:1].isdigit() and not is_call:
            instructions = int(line.split()[1])
            collected += instructions
            own += instructions if is_loop else 0
        is_call = line.startswith("calls=")
    return collected, own


def program_of(name):
    if name in EPOCH_WORKLOADS:
        return "instructions_epochs"
    return "instructions_caches" if name in CACHE_WORKLOADS else "instructions"


def workloads_of(name):
    """The workloads that an allocator has."""
    return {allocators.OUR_CACHES: CACHE_WORKLOADS, allocators.OUR_EPOCHS: EPOCH_WORKLOADS}.get(name, WORKLOADS)


def count(build, allocator, name):
    """Instructions an operation of a workload takes in the allocator."""
    if not shutil.which("valgrind"):
        raise Skipped("no valgrind on this machine")
    words = [program_of(name), f"{name}_urcu" if allocator.name == allocators.URCU else name]
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        profile = pathlib.Path(folder) / "profile"
        output = run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", "--toggle-collect=counted*",
                      "--skip-plt=no", "--compress-strings=no", "--compress-pos=no",
                      build / "bench" / words[0], words[1]], environment_for(allocator))
        collected, own = read_profile(profile.read_text())
    if own == 0:
        raise RunFailed("callgrind saw none of the counted loops")
    return (collected - own) / read_figures(output)["operations"][0]


def measure(build, allocator, names):
    """{name: instructions}, counted on all CPUs at once."""
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(names, pool.map(lambda name: count(build, allocator, name), names)))


def measure_one(name, context, allocator):
    """A workload of the suite. What valgrind itself takes is nobody's figure."""
    return Measurement(figures={"operation": (count(context.build, allocator, name), "instructions")})


# -- the table ------------------------------------------------------------------------------------------------------

def compiler_of(library):
    """Name and version of the compiler that made a library. Files of libc's that every program has say gcc too."""
    section = run(["readelf", "--string-dump=.comment", library], os.environ)
    compilers = re.findall(r"^ *\[ *[0-9a-f]+\] +(.*)$", section, re.M)
    return next((name for name in compilers if "clang" in name), compilers[0])


def version_of(name, library, version):
    """What the counts of an allocator depend on; for most, the version of the package that a report has too."""
    if name in (allocators.OURS, *OUR_OTHERS):
        return compiler_of(library)
    if name == "glibc":
        return allocators.first_line_of("dpkg-query", "-W", "-f", "${Version}", "libc6")
    return version


def read_machines():
    return json.loads(TABLE.read_text())["machines"] if TABLE.exists() else {}


def read_table():
    """{allocator: {"version": ..., "counts": {workload: instructions}}} for machines such as this one."""
    return read_machines().get(platform.machine(), {})


def write_table(report):
    """Take the counts of a run into the table. Allocators that it did not count whole stay as they are there."""
    counted = {}
    for row in report["runs"]:
        name = row["workload"].removeprefix(PREFIX)
        if name in {**WORKLOADS, **CACHE_WORKLOADS, **EPOCH_WORKLOADS} and "operation" in row.get("figures", {}):
            counted.setdefault(row["allocator"], {})[name] = round(row["figures"]["operation"][0], 2)
    whole = {name: counts for name, counts in counted.items()
             if name in (*allocators.DEFAULT, *OUR_OTHERS) and counts.keys() == workloads_of(name).keys()}
    rows, machines = {}, read_machines()
    for name, counts in whole.items():
        allocator = report["allocators"][allocators.OURS if name in OUR_OTHERS else name]
        rows[name] = {"version": version_of(name, allocator["library"], allocator["version"]), "counts": counts}
    machines[platform.machine()] = {**machines.get(platform.machine(), {}), **rows}
    table = {"format": FORMAT, "unit": "instructions an operation", "machines": machines}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{TABLE} has the counts of {', '.join(whole) or 'no allocator more'}")
