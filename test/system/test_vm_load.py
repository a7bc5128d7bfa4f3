"""A server's load on a machine of two nodes: bench/numa_load.c says what the load is, and asks the kernel.

Promised: of the objects that malloc has just returned at least 95 % lie on the node of the thread that asked, whether
threads are pinned, run where the kernel puts them, or are moved to another node again and again; and where one node
makes what another one frees. There each node's memory stays as it is: what is freed afar goes home and is used again.

The machine balances, as Debian's kernel does; it leaves alone what is bound to a node. Longer runs, other machines
and other allocators: tools/bench --only numa.
"""
import json
import re

import pytest
import vm

from conftest import BUILD, LIBRARY, OURS, ROOT

MODES = ("pinned", "unpinned", "moved", "producer")
OPTIONS = "stats_file=/dev/stdout"
SECONDS = 3  # a mode, and more until it has shown enough; samples are of the second half
NODE_LINE = re.compile(r"^node (\d+): (\d+) samples, (\d+) astray; .*? (\d+) unanswered; (\d+) frees, (\d+) remote$",
                       re.M)
GROWN = re.compile(r"^node(\d+)_grown (\S+) MiB$", re.M)
WORKERS = 8
LEAST_SAMPLES = 100  # of a node: fewer show nothing
LEAST_REMOTE = 5_000  # frees: a tenth of all objects is handed on, in the producer's mode all that its node makes
MOST_ASTRAY = 0.05
MOST_MORE_METADATA = 1 << 20
MOST_GROWN_MIB = 8  # what may be on its way between the nodes is under 3 MiB
LEAST_HANDED = 40_000  # of a KiB and more in the mean, half of them since half-time: over twice of that

pytestmark = pytest.mark.long


def rows_of(text):
    """[(node, samples, those astray, and those without an answer, frees, those that were remote)]"""
    rows = [tuple(int(word) for word in row) for row in NODE_LINE.findall(text)]
    assert [row[0] for row in rows] == [0, 1], text
    return rows


def frees_of(text):
    """(All frees, and those that were remote) by the program's own count."""
    return tuple(sum(row[part] for row in rows_of(text)) for part in (4, 5))


def shows_enough(mode, text):
    """The load has been what it is to be: on a busy host a node's CPUs may have stood still."""
    moves = re.search(r"^(\d+) moves$", text, re.M)
    return (all(samples >= LEAST_SAMPLES for _, samples, *_ in rows_of(text))
            and frees_of(text)[1] >= (LEAST_HANDED if mode == "producer" else LEAST_REMOTE)
            and (mode != "moved" or int(moves[1]) > 0))


def boot_all(vm_env, seconds):
    program = BUILD / "bench" / "numa_load"
    runs = [f"echo mode {mode} && LD_PRELOAD={LIBRARY} {program} --{mode} --seconds {seconds}" for mode in MODES]
    text = vm.boot(vm_env, vm.TWO_BY_TWO, ["sh", "-c", f"export SLABMALLOC_OPTIONS={OPTIONS}; {' && '.join(runs)}"],
                   files=[program, LIBRARY, ROOT / "bench" / "data" / "sizes"])
    parts = re.split(r"^mode (\w+)$", text, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2]))


@pytest.fixture(scope="module")
def outputs(vm_env):
    """What the program writes, by mode; one boot for all, and another one until each has shown enough."""
    seconds = SECONDS
    while not all(shows_enough(mode, text) for mode, text in (found := boot_all(vm_env, seconds)).items()):
        seconds *= 2
    assert sorted(found) == sorted(MODES)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_fresh_objects_lie_on_their_threads_node(outputs, mode):
    for _, samples, astray, unanswered, _, _ in rows_of(outputs[mode]):
        assert unanswered <= samples / 100, outputs[mode]
        assert astray <= MOST_ASTRAY * samples, outputs[mode]


def counters_of(text):
    """What the library has counted; another allocator counts nothing."""
    if LIBRARY != OURS:
        pytest.skip("another allocator has no counters")
    return json.loads(re.search(r"^{.*}$", text, re.M)[0])


@pytest.mark.parametrize("mode", ["pinned", "producer"])
def test_remote_frees_are_counted(outputs, mode):
    """Where threads stay on their nodes, the library counts what the program does; and what libc keeps for each
    thread, if the main thread frees it on another node than it made it."""
    counters = counters_of(outputs[mode])
    assert 0 <= counters["remote_frees"] - frees_of(outputs[mode])[1] <= WORKERS, (counters, outputs[mode])


def test_a_producers_and_a_consumers_nodes_keep_their_memory(outputs):
    grown = {int(node): float(mib) for node, mib in GROWN.findall(outputs["producer"])}
    assert sorted(grown) == [0, 1] and max(grown.values()) <= MOST_GROWN_MIB, outputs["producer"]


def test_magazines_that_go_home_with_their_rounds_come_back(outputs):
    """Eight bytes each round, if they did not: that is over the bound from 131,072 rounds on."""
    pinned, producer = (counters_of(outputs[mode])["metadata_bytes"] for mode in ("pinned", "producer"))
    assert producer <= pinned + MOST_MORE_METADATA, outputs["producer"]
