"""slabctl ends though a process never lets go who reads its memory: the list has all others, and a command says so.

Kernels let only root do what such a process does; a hostile one may have other means.
"""
import fcntl
import os
import pathlib
import signal
import subprocess

import pytest

from conftest import LIBRARY, OURS, SLABCTL
from slabctl_tools import Child, compile_program, complains, slabctl
from tools.python.processes import stat_fields, wait_until

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_built"),
              pytest.mark.skipif(LIBRARY != OURS, reason="other allocators have no slab_inspect"),
              pytest.mark.skipif(os.getuid() != 0, reason="only root may have userfaultfd and mount"),
              pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this kernel has no FUSE")]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compile_program("silent.c", tmp_path_factory.mktemp("silent"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """It has a slab_inspect, so that it is in the list."""
    return compile_program("hostile.c", tmp_path_factory.mktemp("hostile"), "-rdynamic")


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(params=["fault", "file"])
def silent(request, program):
    # Where userfaultfd works on a file, which is in memory only.
    place = pathlib.Path(f"/dev/shm/slabctl-silent-{os.getpid()}")
    if request.param == "file":
        place.mkdir()
    try:
        with Child(program, request.param, place) as child:
            yield child
    finally:
        place.rmdir() if request.param == "file" else place.unlink()


def test_the_list_has_all_others(silent, hostile):
    with Child(hostile, "nothing") as first, Child(hostile, "nothing") as second:
        done = slabctl("--timeout", 1)
        assert done.returncode == 0
        rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
        about = {row[0]: row[1] for row in rows}
        assert about[str(silent.pid)] == "(silent) does not answer"
        assert all(about[str(other.pid)].startswith("hostile ") for other in (first, second))


def test_a_command_says_so(silent):
    assert complains("--timeout", 1, silent.pid, "stats") == \
        f"{silent.pid}: does not answer: its memory or a file of it could not be read for 1 s"


def test_its_child_ends_with_the_tool(silent):
    tool = subprocess.Popen([SLABCTL, "--timeout", "600", str(silent.pid), "stats"])
    wait_until(lambda: children(tool.pid) and stat_fields(children(tool.pid)[0])[0] in "SD", "the child waits")
    child, = children(tool.pid)
    tool.kill()
    tool.wait()
    silent.kill(signal.SIGKILL)  # what is in its file cannot end before
    wait_until(lambda: not os.path.exists(f"/proc/{child}") or stat_fields(child)[0] in "ZX", "the child ends")


# -- what takes a command back ----------------------------------------------------------------------------------------

def guards(pid):
    """Processes of a tool for this one that has ended."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == os.fsencode(SLABCTL) and b"%d" % pid in words:
            found.append(folder.name)
    return found


def test_it_ends_where_the_process_keeps_it_waiting(hostile):
    with Child(hostile, "hang") as child:
        assert complains("--timeout", 1, child.pid, "purge") == \
            f"{child.pid}: does not answer: its memory or a file of it could not be read for 1 s"
        wait_until(lambda: not guards(child.pid), "all processes of the tool have ended")
        with open(f"/proc/{child.pid}/mem", "rb") as memory:
            fcntl.flock(memory, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_it_holds_nothing(hostile):
    """No lock, no output, nothing that the tool was given: only the socket that ends with the tool."""
    with Child(hostile, "silence") as child, open("/dev/null") as more:
        tool = subprocess.Popen([SLABCTL, "--timeout", "600", str(child.pid), "purge"], pass_fds=[more.fileno()],
                                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        child.hear("asked")
        worker, = children(tool.pid)
        guard, = children(worker)
        wait_until(lambda: os.listdir(f"/proc/{guard}/fd") == ["0"], "all else is closed")
    tool.wait()
