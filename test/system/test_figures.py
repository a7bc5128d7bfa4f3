"""The figures that repeat - instructions and resident sets - held against the committed table and what was promised.

Nothing here is timed, and nothing depends on what else the machine does. What is measured, and how, stands in
bench/suite.
"""
import contextlib
import ctypes
import dataclasses
import functools
import re
import resource
import statistics
import subprocess
import sys
import warnings

import pytest

from conftest import BUILD, CHECKED, HANG_S, LIBRARY, ROOT, missing, need
from tools.python.processes import all_asleep, family, smaps_mib, wait_until

sys.path.insert(0, str(ROOT / "bench"))
import idle_postgres  # noqa: E402
from suite import allocators, instructions, memory, programs  # noqa: E402
from suite.measurement import Skipped  # noqa: E402

RUNS = 3  # where the loader puts libraries moves a resident set by some tens of KiB
CONNECTIONS = 20  # of an idle server
CREATED = 10_000  # caches
PLACES = 16  # pages that the kernel maps around one that is asked for: how many depends on where the libraries begin
NO_RANDOM_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE, for personality(2)
STACK_BYTES = 256 << 20
TO_SPARE = 0.03
UPDATE = "tools/bench --instructions --write-table takes the counts as they are into bench/data/instructions.json"

ALLOCATORS = allocators.known(BUILD)
GLIBC = ALLOCATORS["glibc"]
SLABMALLOC = dataclasses.replace(ALLOCATORS[allocators.OURS], library=str(LIBRARY))
CACHES = dataclasses.replace(allocators.our_caches(BUILD), library=str(LIBRARY))
EPOCHS = dataclasses.replace(allocators.our_epochs(BUILD), library=str(LIBRARY))
OUR_OWN = {one.name: one for one in (SLABMALLOC, CACHES, EPOCHS)}


# -- instructions ---------------------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def counts(allocator):
    """What threads do when time has passed is counted with the epochs' workloads, and more of it on a busy machine: the
    least of at most twelve counts, until three in a row have lowered none by half a percent."""
    names = tuple(instructions.workloads_of(allocator.name))
    least, still = instructions.measure(BUILD, allocator, names), 0
    for _ in range(11 if allocator is EPOCHS else 0):
        row = instructions.measure(BUILD, allocator, names)
        still = still + 1 if all(row[name] > least[name] * 0.995 for name in names) else 0
        least = {name: min(row[name], least[name]) for name in names}
        if still == 3:
            break
    return least


def expected_counts(allocator):
    """The table's counts of an allocator; skips where they are of another version."""
    row = instructions.read_table().get(allocator.name)
    if row is None:
        pytest.skip(f"the table has no counts of {allocator.name} on machines such as this one")
    installed = instructions.version_of(allocator.name, allocator.library, allocator.version)
    if not installed and allocator.name in allocators.PACKAGED:
        missing(allocator.name, allocators.PACKAGED[allocator.name][1])
    if installed != row["version"]:
        pytest.skip(f"the table's counts of {allocator.name} are of {row['version']}, here is {installed or 'none'}")
    return row["counts"]


def counted_allocators():
    """Ours, whose counts are of one group, as other tests want them too; glibc's; and in the long run Debian's."""
    for name in {**ALLOCATORS, **OUR_OWN}:
        marks = [pytest.mark.xdist_group("counts of ours")] if name in OUR_OWN else []
        yield pytest.param(name, marks=[pytest.mark.long] if name in allocators.PACKAGED else marks)


@pytest.mark.parametrize("name", counted_allocators())
def test_instructions_are_those_of_the_table(name):
    need("valgrind", "readelf")
    allocator = {**ALLOCATORS, **OUR_OWN}[name]
    expected, counted = expected_counts(allocator), counts(allocator)
    assert counted.keys() == expected.keys(), UPDATE
    ratios = {workload: counted[workload] / expected[workload] for workload in expected}
    said = {workload: f"{counted[workload]:.2f} instructions, {expected[workload]:.2f} in the table"
            for workload, ratio in ratios.items() if abs(ratio - 1) > TO_SPARE}
    if any(ratio < 1 - TO_SPARE for ratio in ratios.values()):
        warnings.warn(f"{name} is better than the table: {said}; {UPDATE}")
    assert all(ratio <= 1 + TO_SPARE for ratio in ratios.values()), f"{name}: {said}; if that is meant, {UPDATE}"


SAMPLES = 0.8  # instructions an operation: a run has a few samples, whose stacks are new to the library


def sampled(allocator):
    return dataclasses.replace(allocator, options="sample_bytes=2M")


@pytest.mark.xdist_group("counts of ours")
@pytest.mark.parametrize("workload, most", [("pair", 35 + 2), ("fifo", 38.1 + 2), ("usable", 24)])
def test_instructions_are_as_few_as_promised(workload, most):
    """Two of malloc's count down to the next sample, whether any are taken or not."""
    need("valgrind")
    assert counts(SLABMALLOC)[workload] <= most
    assert counts(sampled(SLABMALLOC))[workload] <= most + SAMPLES


@pytest.mark.xdist_group("counts of ours")
@pytest.mark.parametrize("workload, most", [("cache_pair", 34 + 3), ("cache_bulk", 2 * 12)])
def test_instructions_of_caches_are_as_few_as_promised(workload, most):
    """A pair, of which three count down to the next sample; and an object of 64 that are made and freed at once, at
    most 12 for either."""
    need("valgrind")
    assert counts(CACHES)[workload] <= most
    assert counts(sampled(CACHES))[workload] <= most + SAMPLES


@pytest.mark.xdist_group("counts of ours")
def test_a_section_takes_eight_instructions():
    """Counted over thousands, with a function's frame or two among them."""
    need("valgrind")
    assert counts(EPOCHS)["epoch_section"] <= 8.05


@pytest.mark.xdist_group("counts of ours")
def test_retiring_takes_at_most_1_6_times_the_instructions_of_freeing():
    need("valgrind")
    assert counts(EPOCHS)["deferred_pair"] <= 1.6 * counts(SLABMALLOC)["pair"]


@pytest.mark.xdist_group("counts of ours")
@pytest.mark.parametrize("workload, plain", [("cache_accounted", "cache_pair"), ("cache_limited", "cache_pair"),
                                             ("cache_accounted_free", "cache_pair_free")])
def test_accounting_takes_at_most_three_times_the_instructions(workload, plain):
    need("valgrind")
    assert counts(CACHES)[workload] <= 3 * counts(CACHES)[plain]


# -- resident sets --------------------------------------------------------------------------------------------------

def measure(function, allocator):
    """The figures of a function of `programs` as {name: value}; skips where this machine cannot run it."""
    try:
        return {name: value for name, (value, _) in function(BUILD, allocator).figures.items()}
    except Skipped as reason:
        pytest.skip(str(reason))


def medians(function, allocator, runs=RUNS):
    """{figure: median of some runs}"""
    rows = [measure(function, allocator) for _ in range(runs)]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


@contextlib.contextmanager
def libraries_at(place):
    """Programs that are started now find their libraries so many pages lower than at place 0, and nothing random: the
    kernel begins below the room that the stack may take."""
    libc, (soft, hard) = ctypes.CDLL(None), resource.getrlimit(resource.RLIMIT_STACK)
    before = libc.personality(ctypes.c_ulong(0xffffffff))
    try:
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES + place * resource.getpagesize(), hard))
    except (OSError, ValueError) as refusal:
        pytest.skip(f"no stack of {STACK_BYTES} bytes here: {refusal}")
    try:
        if libc.personality(ctypes.c_ulong(before | NO_RANDOM_ADDRESSES)) == -1:
            pytest.skip("personality(2) is forbidden here, and without it the loader puts libraries where it likes")
        yield
    finally:
        libc.personality(ctypes.c_ulong(before))
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


@pytest.fixture(scope="module")
def fixed_costs():
    """Means over all the places that libraries may have, so that they repeat to the page."""
    rows = []
    for place in range(PLACES):
        with libraries_at(place):
            rows.append([measure(memory.measure_fixed_cost, allocator) for allocator in (GLIBC, SLABMALLOC)])
    return [{name: statistics.mean(row[i][name] for row in rows) for name in rows[0][i]} for i in range(2)]


@pytest.mark.xdist_group("fixed costs")
@pytest.mark.parametrize("mix, live_rss, freed_anonymous", [("even", 240, 180), ("server", 184, 124)])
def test_fixed_cost_over_glibc(fixed_costs, mix, live_rss, freed_anonymous):
    glibc, ours = fixed_costs
    names = ("live_rss", "live_anonymous", "freed_rss", "freed_anonymous")
    over = {name: ours[f"{mix}_{name}"] - glibc[f"{mix}_{name}"] for name in names}
    assert over["live_rss"] <= live_rss and over["freed_anonymous"] <= freed_anonymous, over
    assert over["freed_rss"] <= 300, over


SHOW = "import sys; print(open(sys.argv[1]).read())"
SHOW_IN_A_THREAD = f"""
import _thread
done = _thread.allocate_lock()
def show():
    {SHOW}
for work in list, show:  # a thread that ends, and one that looks
    def run():
        work()
        done.release()
    done.acquire()
    _thread.start_new_thread(run, ())
    done.acquire()
    done.release()
"""
SHOW_THEMSELVES = {"cat": ["cat"], "sed": ["sed", ""], "perl": ["perl", "-pe", "1"],
                   "python3": ["python3", "-S", "-c", SHOW], "a thread": ["python3", "-S", "-c", SHOW_IN_A_THREAD]}


@pytest.mark.parametrize("command", SHOW_THEMSELVES.values(), ids=SHOW_THEMSELVES)
def test_ordinary_programs_do_not_have_in_memory_what_few_call(command):
    """The last mapping of code (preload/sections.ld). One call into it brings in sixteen pages. The one before it is that
    of sampling: whether a program of some MiB comes to it is chance. What a program always calls is there in every run;
    one that a busy machine holds up for half a second has the worker's first purge, too."""
    (program,) = need(command[0])
    environment = {"PATH": "/usr/bin:/bin", "LD_PRELOAD": str(LIBRARY), "PYTHONMALLOC": "malloc"}
    for _ in range(20):
        smaps = subprocess.run([program, *command[1:], "/proc/self/smaps"], env=environment, check=True, timeout=HANG_S,
                               stdout=subprocess.PIPE, encoding="utf-8").stdout
        codes = re.findall(rf" r-xp .*{re.escape(LIBRARY.name)}\n(?:.*\n)*?Rss: +(\d+) kB", smaps)
        assert len(codes) == 3 and int(codes[0]) > 0, codes
        if int(codes[2]) == 0:
            return
    pytest.fail(f"in each of 20 runs {codes[2]} kB of what few call were in memory")


def test_parked_thread_costs_at_most_32_kib():
    ours = medians(memory.measure_parked, SLABMALLOC)
    assert ours["rss_a_parked_thread"] <= 32, ours


def test_small_objects_cost_at_most_0_8_percent_beside_themselves():
    """Bits, descriptors, maps, magazines, and the threads' stacks."""
    found = measure(functools.partial(programs.measure, argv=["small_objects"]), SLABMALLOC)
    assert 0 < found["beyond_objects"] <= 0.8, found


def test_metadata_is_counted_and_at_most_0_8_percent_of_small_objects():
    environment = {"PATH": "/usr/bin:/bin", "LD_PRELOAD": str(LIBRARY), "SLABMALLOC_OPTIONS": "stats=1"}
    told = subprocess.run([BUILD / "bench" / "small_objects"], env=environment, check=True, timeout=HANG_S,
                          capture_output=True, encoding="utf-8").stderr
    live, counted = (int(re.search(rf": {name} (\d+)$", told, re.M)[1])
                     for name in ("live_bytes", "metadata_charged_bytes"))
    assert live >= 256 << 20 and live / 512 < counted <= 0.008 * live, (live, counted)


def idle_postgres_mib(allocator):
    """Anonymous memory of a server with idle connections: in each of its processes, and what it is altogether, as
    bench/idle_postgres.py has it; when no process has anything left to do."""
    with idle_postgres.running_server(allocator.library) as server, contextlib.ExitStack() as clients:
        for _ in range(CONNECTIONS):
            idle_postgres.run_query(clients.enter_context(server.connect()), idle_postgres.QUERY)
        wait_until(lambda: all_asleep(family(server.process.pid)), "the server is idle")
        pids = family(server.process.pid)
        return smaps_mib(pids, "Anonymous"), smaps_mib(pids, "Pss_Anon")


def mean_idle_postgres_mib(allocator, servers=5):
    """Which of a server's processes take a sample, and so some pages for it, is chance."""
    return [statistics.mean(figure) for figure in zip(*(idle_postgres_mib(allocator) for _ in range(servers)))]


def test_idle_postgres_takes_at_most_1_08_times_glibc():
    need(*idle_postgres.servers.Postgres.needs)
    for glibc, ours in zip(mean_idle_postgres_mib(GLIBC), mean_idle_postgres_mib(SLABMALLOC)):
        assert ours <= 1.08 * glibc


# -- object caches --------------------------------------------------------------------------------------------------

NO_WORKER = dataclasses.replace(CACHES, options="worker=0")  # which does things of its own when time has passed


@pytest.fixture(scope="module")
def cache_memory():
    return measure(programs.measure_cache_memory, NO_WORKER)


@pytest.mark.xdist_group("cache memory")
@pytest.mark.parametrize("how, most_bytes", [("create", 512), ("create_own", 1024)])
def test_ten_thousand_caches_cost_little_before_their_first_use(cache_memory, how, most_bytes):
    assert cache_memory[f"{how}_caches"] == CREATED
    assert cache_memory[f"{how}_rss_a_cache"] <= most_bytes, cache_memory
    assert cache_memory[f"{how}_membarriers"] == 0, cache_memory


@pytest.mark.xdist_group("cache memory")
def test_tuning_a_cache_is_one_membarrier(cache_memory):
    assert cache_memory["tune_membarriers"] == cache_memory["tune_caches"], cache_memory


CREATING = """
#include <slabmalloc.h>
#include <stdio.h>
int main(void)
{
    const slab_cache_attr attributes = {.flags = FLAGS};
    for (int i = 0; i < CREATED; i++) {
        char name[32];
        snprintf(name, sizeof name, "tenant-%d", i);
        if (!slab_cache_create(name, 64, &attributes))
            return 1;
    }
    return 0;
}
"""


@pytest.mark.parametrize("flags, most", [("0", 500), ("SLAB_NO_MERGE", 1_300)])
def test_creating_a_cache_takes_few_instructions(flags, most, tmp_path):
    """In the mean of ten thousand, which a search among them, or anything else that grows with their number, would
    show."""
    gcc, valgrind = need("gcc", "valgrind")
    (tmp_path / "create.c").write_text(CREATING)
    subprocess.run([gcc, "-O2", f"-DFLAGS={flags}", f"-DCREATED={CREATED}", "-I", ROOT / "include", "create.c", "-o",
                    "create", "-L", BUILD, "-lslabmalloc", f"-Wl,-rpath,{BUILD}"], cwd=tmp_path, check=True)
    subprocess.run([valgrind, "--quiet", "--tool=callgrind", "--toggle-collect=slab_cache_create",
                    "--callgrind-out-file=profile", "./create"], cwd=tmp_path, check=True, timeout=HANG_S,
                   env=instructions.environment_for(NO_WORKER))
    counted = int(re.search(r"^(?:summary|totals): (\d+)$", (tmp_path / "profile").read_text(), re.M)[1])
    assert 0 < counted <= most * CREATED, counted / CREATED


def test_a_cache_takes_as_much_on_512_cpus_as_on_one():
    """On machines that the checked build simulates."""
    found = {machine: measure(functools.partial(programs.measure, argv=["cache_memory", "use"]), dataclasses.replace(
        CACHES, library=str(CHECKED), options=f"topology={machine},worker=0")) for machine in ("1x1", "1x512")}
    for name in ("first_thread_rss_a_cache", "further_thread_rss_a_cache"):
        assert found["1x512"][name] <= 1.05 * found["1x1"][name] + 64, found
