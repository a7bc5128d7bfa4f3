"""Programs with limit=cgroup in control groups of both versions, on an emulated machine (docs/numa-vm.md).

Promised: README.md, "Memory limits". test/vm/limits.c has the scenarios; the last one shows that without the option the
kernel ends the program for lack of memory.
"""
import shlex

import pytest

import vm
from conftest import BUILD

PROGRAM = BUILD / "test" / "vm" / "limits"
MACHINE = ["--nodes", "1", "--cpus", "2", "--mem", "1024"]
FOLDERS = {"2": "/sys/fs/cgroup", "1": "/groups"}
MOUNT = "mkdir /groups && mount -t cgroup -o memory none /groups && "


@pytest.mark.parametrize("version", ["2", pytest.param("1", marks=pytest.mark.long)])
def test_a_control_group_is_followed(vm_env, version):
    command = f"exec {shlex.quote(str(PROGRAM))} {FOLDERS[version]}"
    said = vm.boot(vm_env, MACHINE, ["sh", "-c", (MOUNT if version == "1" else "") + command], [PROGRAM])
    assert said.split()[1::2] == ["ok"] * 9, said
