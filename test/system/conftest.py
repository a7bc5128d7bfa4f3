"""What the system tests share: where the build is, how a program is run on the library, what its counters say.

The tests run whole programs; they read SLABMALLOC_BUILD (the build folder, default build/) and, for trying a
test out against another allocator, SLABMALLOC_LIBRARY (the file to preload; its counters are then not asked).
"""
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SLABMALLOC_BUILD", ROOT / "build")).resolve()
OURS = BUILD / "libslabmalloc.so"
LIBRARY = pathlib.Path(os.environ.get("SLABMALLOC_LIBRARY", OURS)).resolve()
NUMA_VM = ROOT / "tools" / "numa-vm"  # boots machines that this one is not: see vm.py
sys.path.insert(0, str(ROOT))  # for tools.python, the servers and processes that benches start too


def need(*programs):
    """Skip the test with a reason unless every program is on the PATH; return their paths."""
    paths = [shutil.which(name) for name in programs]
    for name, path in zip(programs, paths):
        if path is None:
            pytest.skip(f"no {name} on this machine")
    return paths


class Preload:
    """A program's environment with the library in front, and what its processes counted (one JSON line each at exit)."""

    def __init__(self, folder):
        self.library = pathlib.Path(shutil.copy(LIBRARY, folder))  # the build may lie where other users cannot reach
        self.counters_file = folder / "counters"
        self.counters_file.touch()
        self.counters_file.chmod(0o666)

    def env(self, options="", **extra):
        parts = [f"stats_file={self.counters_file}"] + ([options] if options else [])
        return {**os.environ, "LD_PRELOAD": str(self.library), "SLABMALLOC_OPTIONS": ",".join(parts), **extra}

    def counters(self):
        """The counters of every process that has ended so far: dicts with pid, program, objects_taken, refills ..."""
        return [json.loads(line) for line in self.counters_file.read_text().splitlines()]

    def check_mapped(self, pid):
        """The library is in the address space of a live process."""
        assert str(self.library) in pathlib.Path(f"/proc/{pid}/maps").read_text()

    def check_served(self, program, at_least=1):
        """Processes of that name ended, and the library had handed objects to them."""
        if LIBRARY != OURS:
            return
        mine = [row for row in self.counters() if row["program"] == program]
        assert mine, f"no counters of {program}: {self.counters()}"
        assert sum(row["objects_taken"] for row in mine) >= at_least


@pytest.fixture(scope="session")
def vm_env():
    """The environment in which numa-vm finds its kernel; skips with a reason where no machine can be emulated."""
    if platform.machine() != "x86_64":
        pytest.skip("numa-vm boots x86-64 machines")
    need("qemu-system-x86_64", "busybox", "cpio")
    env = {**os.environ, "NUMA_VM_CACHE": os.environ.get("NUMA_VM_CACHE", str(BUILD / "numa-vm"))}
    fetched = subprocess.run([NUMA_VM, "--fetch"], env=env, capture_output=True, text=True, timeout=200)
    if fetched.returncode != 0:
        pytest.skip(f"no kernel to boot: {fetched.stderr.strip()}")
    return env


@pytest.fixture
def place(tmp_path_factory):
    """A new folder that servers reach after they have dropped their rights."""
    folder = tmp_path_factory.mktemp("place")
    for path in [folder, *folder.parents]:
        if path.stat().st_uid == os.getuid() and path.is_relative_to(tmp_path_factory.getbasetemp().parent):
            path.chmod(0o755)
    return folder


@pytest.fixture
def preload(place):
    (place / "library").mkdir()
    return Preload(place / "library")
