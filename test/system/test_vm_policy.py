"""Where objects' pages lie on a NUMA machine that this one is not, asked of its kernel (docs/numa-vm.md).

Promised: a node's objects lie on the node that was asked for, malloc's small ones on the thread's, large ones where
they are written first; and wherever a user's policy says otherwise it wins. test/vm/placement.c and test/vm/policy.c
open with what each of their scenarios asks for; both run in one boot, and each scenario is a test here.
"""
import re
import shlex

import pytest

import vm
from conftest import BUILD, HANG_S, ROOT

pytestmark = pytest.mark.xdist_group("policies")  # one boot
PROGRAMS = ("placement", "policy")
# Two nodes with CPUs and memory, one without memory, one without CPUs.
MACHINE = ["--node", "0-1:768", "--node", "2-3:768", "--node", "4:", "--node", ":256", *vm.NO_BALANCING]
# A scenario's line in its program's list: {"its name", function, ...
SCENARIO = re.compile(r'^ +\{"([^"]+)", \w+, ', re.M)

SCENARIOS = [(program, name) for program in PROGRAMS
             for name in SCENARIO.findall((ROOT / "test" / "vm" / f"{program}.c").read_text())]


@pytest.fixture(scope="module")
def told(vm_env):
    """What each scenario ended with, by program and name; what they wrote to standard error, under None."""
    paths = [BUILD / "test" / "vm" / program for program in PROGRAMS]
    command = "; ".join(f"echo program {path.name}; {shlex.quote(str(path))}" for path in paths)
    done = vm.run(vm_env, MACHINE, ["sh", "-c", command], paths, HANG_S * len(SCENARIOS))
    ends, program = {None: done.stderr}, None
    for line in done.stdout.splitlines():
        first, rest = line.rsplit(maxsplit=1)
        if first == "program":
            program = rest
        else:
            ends[program, first] = rest
    return ends


@pytest.mark.parametrize("program, name", SCENARIOS)
def test_scenario(told, program, name):
    assert told.get((program, name)) == "ok", told[None]
