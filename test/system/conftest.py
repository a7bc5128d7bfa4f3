"""What the system tests share: where the build is, how a program is run on the library, what its counters say.

The tests run whole programs. They read from the environment

    SLABMALLOC_BUILD         the build folder, default build/
    SLABMALLOC_LIBRARY       the file to preload, for trying a test out against another allocator; its counters are
                             then not asked
    SLABMALLOC_TEST_SCALE    a factor for the amount of work, default 1
    SLABMALLOC_TEST_REQUIRE  1: where a program is missing, the test fails instead of being skipped

Several run at a time (pytest -n 2 --dist loadgroup): each has its own folder, ports are claimed machine-wide, the build
folder is only read, but for numa-vm's cache, which has a lock. Tests that share a measurement are of one xdist_group.
"""
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SLABMALLOC_BUILD", ROOT / "build")).resolve()
OURS = BUILD / "libslabmalloc.so"
LIBRARY = pathlib.Path(os.environ.get("SLABMALLOC_LIBRARY", OURS)).resolve()
# The library with its checkers, which knows simulated machines.
CHECKED = BUILD / "test" / "variants" / "checked" / "libslabmalloc.so"
SLABCTL = BUILD / "tools" / "slabctl" / "slabctl"
SLABCTL_CHECKED = SLABCTL.with_name("slabctl_checked")  # with sanitizers
NUMA_VM = ROOT / "tools" / "numa-vm"  # boots machines that this one is not: see vm.py
SCALE = float(os.environ.get("SLABMALLOC_TEST_SCALE") or 1)
REQUIRE = os.environ.get("SLABMALLOC_TEST_REQUIRE") == "1"
sys.path.insert(0, str(ROOT))  # for tools.python, the servers and processes that benches start too

from tools.python.processes import HANG_S  # noqa: E402

# Debian's package of a program that has another name, by the end of the program's path.
PACKAGES = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "busybox": "busybox-static", "c++": "g++", "cc": "gcc",
    "cgi-fcgi": "libfcgi-bin", "gcore": "gdb",
    "clang++": "clang", "cmp": "diffutils", "db_bench": "rocksdb-tools", "diff": "diffutils",
    "go": "golang-go", "google-pprof": "google-perftools", "h2load": "nghttp2-client", "java": "default-jre-headless", "ldb": "rocksdb-tools", "mariadb": "mariadb-client",
    "mariadb-admin": "mariadb-client", "mariadb-install-db": "mariadb-server", "mariadbd": "mariadb-server",
    "nginx": "nginx-light", "nm": "binutils", "node": "nodejs", "objdump": "binutils", "pgbench": "postgresql",
    "php": "php-cli",
    "pkg-config": "pkgconf", "postgres": "postgresql", "qemu-system-x86_64": "qemu-system-x86",
    "readelf": "binutils", "redis-benchmark": "redis-tools", "redis-cli": "redis-tools", "setpriv": "util-linux",
    "sort": "coreutils", "timeout": "coreutils", "unshare": "util-linux",
    "xz": "xz-utils",
}


def missing(what, package):
    """Skip the test, which needs something that this machine has not; or fail, where it should have it."""
    reason = f"no {what} on this machine: Debian's package {package}"
    if REQUIRE:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def fail_with(complaints):
    """End a test with what it complains of, a line each; not if there is nothing."""
    if complaints:
        pytest.fail("\n".join(sorted(complaints)), pytrace=False)


def need(*programs):
    """The paths of programs; without one of them the test is skipped with the reason, or fails: see `missing`."""
    paths = [shutil.which(name) for name in programs]
    for name, path in zip(programs, paths):
        if path is None:
            last = pathlib.Path(name).name
            missing(name, PACKAGES.get(last, last))
    return paths


def scaled(amount):
    """An amount of work, for the effort that is asked for."""
    return max(1, round(amount * SCALE))


def pytest_collection_modifyitems(items):
    """What takes long comes first: towards the end no worker is left alone with it."""
    first = ("test_vm", "test_programs", "test_servers", "test_bench", "test_figures", "test_style")
    items.sort(key=lambda item: next((i for i, name in enumerate(first) if item.path.name.startswith(name)),
                                     len(first)))


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

    def check_served(self, program, least_objects=1, least_processes=1):
        """So many processes of that name ended, and the library had handed so many objects to them."""
        if LIBRARY != OURS:
            return
        mine = [row for row in self.counters() if row["program"] == program]
        assert len(mine) >= least_processes, f"{program}: {self.counters()}"
        assert sum(row["objects_taken"] for row in mine) >= least_objects, f"{program}: {mine}"


@pytest.fixture(scope="session")
def vm_env():
    """The environment in which numa-vm finds its kernel; skips with a reason where no machine can be emulated."""
    if platform.machine() != "x86_64":
        pytest.skip("numa-vm boots x86-64 machines")
    need("qemu-system-x86_64", "busybox", "cpio")
    env = {**os.environ, "NUMA_VM_CACHE": os.environ.get("NUMA_VM_CACHE", str(BUILD / "numa-vm"))}
    fetched = subprocess.run([NUMA_VM, "--fetch"], env=env, capture_output=True, text=True, timeout=HANG_S)
    if fetched.returncode != 0:
        missing(f"kernel to boot ({fetched.stderr.strip()})", "linux-image-cloud-amd64")
    return env


@pytest.fixture(scope="session")
def slabctl_built():
    if not SLABCTL.exists():
        missing("slabctl in this build", "libdw-dev, libelf-dev and zlib1g-dev")


@pytest.fixture(scope="session")
def slabctl_checked_built():
    if not SLABCTL_CHECKED.exists():
        missing("slabctl with sanitizers in this build (ninja -C build slabctl-programs)", "libelf-dev")


@pytest.fixture
def place():
    """A new folder that servers reach after they have dropped their rights: pytest's own lie in one that it closes to
    others whenever a session starts."""
    with tempfile.TemporaryDirectory(prefix="place-", ignore_cleanup_errors=True) as folder:
        pathlib.Path(folder).chmod(0o755)
        yield pathlib.Path(folder)


@pytest.fixture
def preload(place):
    (place / "library").mkdir()
    return Preload(place / "library")
