"""Per-CPU memory on machines that this one is not: tools/numa-vm boots them, the programs of test/vm run there.

Promised: every copy's page lies on its CPU's node, also where nodes are interleaved, uneven or without memory; CPUs
that are offline have their copies, and may come and go under those who use them; no count is lost on four CPUs. Each
program runs twice: with restartable sequences, which the guest's kernel has, and with the atomic operations that
stand in for them.
"""
import re
import shlex

import pytest

import vm
from conftest import BUILD

pytestmark = pytest.mark.long

WAYS = {"restartable sequences": "", "atomic operations": "GLIBC_TUNABLES=glibc.pthread.rseq=0"}
CPU_LINE = re.compile(r"cpu (\d+) node (-?\d+) memory (own|others') (offline )?pages (\d+)")
OBJECTS = 40  # of each of the three kinds in percpu_nodes.c


def by_way(vm_env, machine, program, *words):
    """What a program of the build writes on such a machine, by the way in which it changes copies."""
    path = BUILD / program
    command = " && ".join(f"{way} {shlex.join([str(path), *words])} && echo" for way in WAYS.values())
    return dict(zip(WAYS, vm.boot(vm_env, machine, ["sh", "-c", command], files=[path]).split("\n\n")))


def check_nodes(vm_env, machine, nodes, foreign=(), offline=()):
    """On that machine CPU c is of nodes[c], and every page that is promised to lies there."""
    for way, text in by_way(vm_env, machine, "test/vm/percpu_nodes").items():
        rows = [CPU_LINE.fullmatch(line) for line in text.splitlines()[:-1]]
        assert all(rows), text
        assert [int(row[2]) for row in rows] == nodes, text
        assert {int(row[1]) for row in rows if row[3] == "others'"} == set(foreign), text
        assert {int(row[1]) for row in rows if row[4]} == set(offline), text
        assert all(int(row[5]) == (2 if row[4] else 3) * OBJECTS for row in rows), text
        assert text.splitlines()[-1] == f"0 pages astray; by {way}"


def test_four_nodes_of_four_cpus(vm_env):
    check_nodes(vm_env, ["--nodes", "4", "--cpus", "16"], [cpu // 4 for cpu in range(16)])


def test_interleaved_uneven_nodes(vm_env):
    """As some firmware numbers CPUs; the kernel numbers nodes in the order of their first CPUs."""
    machine = ["--node", "0,3:300", "--node", "1,4-5:400", "--node", "2:200", "--node", ":300"]
    check_nodes(vm_env, machine, [0, 1, 2, 0, 1, 1])


def test_a_node_without_memory(vm_env):
    machine = ["--node", "0-1:512", "--node", "2-3:", "--node", "4:300", *vm.NO_BALANCING]
    check_nodes(vm_env, machine, [0, 0, 1, 1, 2], foreign=[2, 3])


def test_cpus_that_are_offline(vm_env):
    """CPU 5 is not even plugged in: nobody knows its node."""
    machine = ["--nodes", "2", "--cpus", "5", "--append", "maxcpus=3", "--append", "possible_cpus=6", *vm.NO_BALANCING]
    check_nodes(vm_env, machine, [0, 0, 1, 1, 1, -1], foreign=[5], offline=[3, 4, 5])


def test_cpus_come_and_go(vm_env):
    machine = ["--nodes", "2", "--cpus", "4", "--append", "maxcpus=3"]
    for way, text in by_way(vm_env, machine, "test/vm/percpu_hotplug").items():
        assert re.fullmatch(rf"CPU 3 came and went \d+ times under \d+ steps; by {way}\n?", text)


def test_storm(vm_env):
    """The stress test's storm, of a length for emulated CPUs."""
    storm = by_way(vm_env, vm.TWO_BY_TWO, "test/stress/percpu", "--storm", "--adds", "5000000", "--forks")
    for text in storm.values():
        assert "percpu: storm, nothing wrong" in text
