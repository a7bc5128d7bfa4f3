"""slabctl does not trust what it looks into: a process that lies, ELF files and core dumps with wrong bytes in them. It
ends with an answer or with one line, whatever it finds; here it is built with sanitizers, which would end it otherwise.

The fuzzers run for FUZZ_S, in the long run for a minute each; a failure says the seed.
"""
import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib

import pytest

from conftest import SCALE, SLABCTL, SLABCTL_CHECKED, need
from slabctl_tools import NOBODY, Child, compile_program, slabctl

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_checked_built")]
FUZZ_S = 6 * SCALE
COMMANDS = (["stats"], ["caches"], ["purge"], ["limit", "1G"], ["shrink", "x"], ["tune", "x", "3"],
            ["option", "worker"])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return compile_program("hostile.c", tmp_path_factory.mktemp("hostile"), "-rdynamic")


def checked(*words, **more):
    """The tool with sanitizers: it ends by itself, with an answer or with one line. (To look for leaks takes ptrace,
    which containers do not always have.)"""
    done = slabctl(*words, tool=SLABCTL_CHECKED, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}, **more)
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done
    assert (done.returncode, done.stderr.count("\n")) in ((0, 0), (1, 1)), done
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr), done
    return done


def seeds():
    """For so long; at least a few."""
    until = time.monotonic() + FUZZ_S
    for number in itertools.count():
        if number >= 5 and time.monotonic() > until:
            return
        yield random.SystemRandom().getrandbits(48)


# -- one lie each -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("lie, command, said", [
    ("magic", "stats", "PID: does not run on slabmalloc"),
    ("bytes", "stats", "PID: does not run on slabmalloc"),
    ("version", "stats", "PID: runs version 2 of the layout, this tool knows 1"),
    ("head", "stats", "PID: its library takes no commands"),
    ("nowhere", "purge", "PID: its library takes no commands"),
    ("silence", "purge", "PID: no answer within 0.1 s (its threads are idle, stopped, or busy without the library)"),
    ("data", "stats", "PID: what it answers cannot be read"),
    ("data", "caches", "PID: what it answers cannot be read"),
    ("error", "purge", "PID: Unknown error -2147483648"),
])
def test_a_lie_is_seen(hostile, lie, command, said):
    with Child(hostile, lie) as child:
        done = checked("--timeout", 0.1 if lie == "silence" else 600, child.pid, command)
        assert done.stderr == f"slabctl: {said}\n".replace("PID", str(child.pid))


@pytest.mark.parametrize("lie, command, said", [
    ("nothing", ["option", "worker"], "worker=1\n"),
    ("longer", ["option", "worker"], "worker=1\n"),  # a later library with more to show
    ("no bell", ["option", "worker"], "worker=1\n"),
    ("escape", ["option", "worker"], "worker=?[31m1?2?\n"),
    ("text", ["option", "worker"], "x" * 159 + "\n"),
    ("endless", ["--bytes", "purge"], None),
    ("endless", ["caches"], None),
])
def test_a_lie_does_no_harm(hostile, lie, command, said):
    with Child(hostile, lie) as child:
        done = checked("--timeout", 600, child.pid, *command)
        assert done.returncode == 0 and said in (None, done.stdout)


def test_the_list_has_it_without_harm(hostile):
    with Child(hostile, "version") as child:
        done = slabctl(tool=SLABCTL_CHECKED)
        assert f"slabctl: {child.pid}: runs version 2 of the layout, this tool knows 1\n" in done.stderr


# -- while it waits for an answer -------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, said", [
    ("kill", "ended (its parent has not waited for it yet)"),
    ("stop", "is stopped"),
    ("exec", "executed another program meanwhile"),
])
def test_what_happens_while_it_waits(hostile, change, said):
    with Child(hostile, "silence") as child:
        found = []
        tool = threading.Thread(target=lambda: found.append(checked("--timeout", 600, child.pid, "purge")))
        tool.start()
        child.hear("asked")
        if change == "exec":
            child.tell("exec")
        else:
            child.kill(signal.SIGKILL if change == "kill" else signal.SIGSTOP)
        tool.join()
        assert found[0].stderr == f"slabctl: {child.pid}: {said}\n"


# -- fuzzers ----------------------------------------------------------------------------------------------------------

def test_random_contents(hostile):
    with Child(hostile, "random") as child:
        for seed in seeds():
            child.tell(seed, "ready")
            try:
                checked("--timeout", 0.02, child.pid, *random.Random(seed).choice(COMMANDS))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error


def with_wrong_bytes(data, chance, first):
    """A copy with some bytes of its first part changed, or with an end that is missing."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 2, 8, 64))):
        at = chance.randrange(min(first, len(data)))
        length = chance.choice((1, 2, 4, 8))
        data[at:at + length] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return data if chance.randrange(4) else data[:chance.randrange(4096, len(data))]


def test_mapped_files_with_wrong_bytes(hostile, tmp_path):
    """Of a file that has the symbol, its headers and its symbols."""
    good = hostile.read_bytes()
    file = tmp_path / "file"
    file.write_bytes(good)
    with Child(hostile, "map", file) as child:
        for seed in seeds():
            chance = random.Random(seed)
            data = with_wrong_bytes(good, chance, chance.choice((64, 1024, len(good))))
            data[:4] = b"\x7fELF"
            file.unlink()
            file.write_bytes(data)
            child.tell("again", "ready")
            try:
                checked("--timeout", 0.02, child.pid, "stats")
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error


def test_core_dumps_with_wrong_bytes(hostile, tmp_path):
    gcore, = need("gcore")
    with Child(hostile, "nothing") as child:
        subprocess.run([gcore, "-o", tmp_path / "core", str(child.pid)], capture_output=True, check=True)
    good = (tmp_path / f"core.{child.pid}").read_bytes()
    core = tmp_path / "core"
    for seed in seeds():
        chance = random.Random(seed)
        core.write_bytes(with_wrong_bytes(good, chance, chance.choice((64, 4096, 65536, len(good)))))
        try:
            checked("--core", core, "stats")
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


MACHINE = {"x86_64": 62, "aarch64": 183}[os.uname().machine]


def core_with(loads, rows, names):
    """A core dump with PT_LOADs that have nothing of their (address, bytes), and rows of NT_FILE."""
    files = struct.pack("2Q", len(rows), 4096) + b"".join(struct.pack("3Q", *row) for row in rows) + names
    note = struct.pack("3I4sI", 5, len(files), 0x46494c45, b"CORE", 0) + files + bytes(-len(files) % 4)
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("2HI3QI6H", 4, MACHINE, 1, 0, 64, 0, 0, 64, 56, len(loads) + 1,
                                                       0, 0, 0)
    segments = struct.pack("2I6Q", 4, 0, 64 + 56 * (len(loads) + 1), 0, 0, len(note), 0, 4)
    segments += b"".join(struct.pack("2I6Q", 1, 4, 0, start, 0, 0, bytes_, 4096) for start, bytes_ in loads)
    return head + segments + note


@pytest.mark.parametrize("stride, rows, names, said", [
    (1, lambda pages: [(0, pages[-1] + 4096, 0)] * 2_000_000, b"/\0" * 2_000_000, "does not run on slabmalloc"),
    (2, lambda pages: [(page, page + 4096, 0) for page in pages], b"".join(b"/x/%d\0" % i for i in range(65000)),
     "does not run on slabmalloc"),
    (2, lambda pages: [(8192 * number, 8192 * number + 4096, 0) for number in range(1 << 20, (1 << 20) + 800_000)],
     b"".join(b"/x/%d\0" % i for i in range(800_000)), "does not run on slabmalloc"),
    (2, lambda pages: [(0, pages[-1], 0)], b"/" * 4000 + b"\0",
     "its mapped files have more names than a process can have"),
    (2, lambda pages: [(0, pages[-1], 0)], b"/" * 5000 + b"\0", "does not run on slabmalloc"),
], ids=["rows that cover all", "many files", "very many files", "a long name", "a name that is too long"])
def test_core_dumps_that_make_work(tmp_path, stride, rows, names, said):
    """A second or two of it, where each row with each mapping, or each mapping with each, were minutes."""
    prlimit, = need("prlimit")
    pages = [stride * 4096 * number for number in range(1, 65001)]
    core = tmp_path / "core"
    core.write_bytes(core_with([(page, 4096) for page in pages], rows(pages), names))
    done = slabctl("--cpu=30", SLABCTL_CHECKED, "--core", core, "stats", tool=prlimit)
    assert (done.returncode, done.stderr) == (1, f"slabctl: {core}: {said}\n"), done


# -- files that take memory -------------------------------------------------------------------------------------------

def elf(kind, segments_at, segments, sections_at, sections):
    """The header."""
    return b"\x7fELF\2\1\1" + bytes(9) + struct.pack("2HI3QI6H", kind, MACHINE, 1, 0, segments_at, sections_at, 0, 64, 56,
                                                     segments, 64, sections, 0)


def section(*, name=0, kind=0, flags=0, at=0, bytes_=0, link=0, info=0, align=1, each=0):
    return struct.pack("2I4Q2I2Q", name, kind, flags, 0, at, bytes_, link, info, align, each)


SEGMENT = struct.pack("2I6Q", 1, 4, 0, 0, 0, 4096, 4096, 4096)


def many_segments(file, kind=3, count=8_000_000):
    """A file of holes, whose number of segments is in its first section."""
    file.write(elf(kind, 8192, 0xffff, 4096, 1).ljust(4096, b"\0") + section(info=count).ljust(4096, b"\0") + SEGMENT)
    file.truncate(8192 + 56 * count)


def many_sections(file, kind=3, count=2_000_000):
    file.write((elf(kind, 64, 1, 4096, 0) + SEGMENT).ljust(4096, b"\0") + section(bytes_=count))
    file.truncate(4096 + 64 * count)


def packed_names(file, count=512):
    """So many MiB of zeros."""
    pack = zlib.compressobj(9)
    names = struct.pack("2I2Q", 1, 0, count << 20, 1)
    names += b"".join(pack.compress(bytes(1 << 20)) for _ in range(count)) + pack.flush()
    symbols = bytes(24) + struct.pack("I2BH2Q", 5, 0x11, 0, 1, 4096, 64)
    sections_at = 8192 + len(names) + -len(names) % 64
    file.write((elf(3, 64, 1, sections_at, 3) + SEGMENT).ljust(4096, b"\0") + symbols.ljust(4096, b"\0"))
    file.write(names.ljust(sections_at - 8192, b"\0") + section())
    file.write(section(kind=2, at=4096, bytes_=len(symbols), link=2, info=1, align=8, each=24))
    file.write(section(kind=3, flags=0x800, at=8192, bytes_=len(names)))


PEAK = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def peak(*words):
    """What the tool says, and the most memory that it or a child of its has had at once. (Those of a process begin with
    what its parent has, which has to be small.)"""
    *said, kib = slabctl("-c", PEAK, SLABCTL, *words, tool=sys.executable).stdout.splitlines()
    return "\n".join(said), int(kib) << 10


@pytest.mark.parametrize("make", [many_segments, many_sections, packed_names])
def test_mapped_files_take_no_memory(hostile, tmp_path, slabctl_built, make):
    with open(tmp_path / "file", "wb") as file:
        make(file)
    with Child(hostile, "map", tmp_path / "file") as child:
        child.tell("again", "ready")
        said, bytes_ = peak(child.pid, "stats")
        assert said == f"slabctl: {child.pid}: does not run on slabmalloc" and bytes_ < 100 << 20, (said, bytes_)


@pytest.mark.parametrize("make", [many_segments, many_sections])
def test_core_dumps_take_no_memory(tmp_path, slabctl_built, make):
    core = tmp_path / "core"
    with open(core, "wb") as file:
        make(file, kind=4)
    said, bytes_ = peak("--core", core, "stats")
    assert said.startswith(f"slabctl: {core}: not a core dump of this machine") and bytes_ < 100 << 20, (said, bytes_)


def test_a_core_dump_may_have_more_segments_than_its_header_can_say(tmp_path):
    core, count = tmp_path / "core", 70_000
    loads = b"".join(struct.pack("2I6Q", 1, 4, 0, 8192 * number, 0, 0, 4096, 4096) for number in range(1, count + 1))
    core.write_bytes(elf(4, 128, 0xffff, 64, 1) + section(info=count) + loads)
    assert checked("--core", core, "stats").stderr == f"slabctl: {core}: does not run on slabmalloc\n"


def test_memory_has_a_limit(hostile, slabctl_built):
    """And who has to go where there is none left is the tool."""
    with Child(hostile, "silence") as child:
        tool = subprocess.Popen([SLABCTL, "--timeout", "600", str(child.pid), "purge"], stderr=subprocess.DEVNULL)
        child.hear("asked")
        worker, = pathlib.Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
        limits = pathlib.Path(f"/proc/{worker}/limits").read_text()
        score = pathlib.Path(f"/proc/{worker}/oom_score_adj").read_text()
    tool.wait()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert int(re.search(r"Max data size +(\d+)", limits)[1]) <= max(total / 4, 4 << 30) and score == "1000\n"


def test_a_huge_file_is_not_compared_to_its_end(hostile, place, slabctl_built):
    """One of holes, which has been replaced by another, and has no build id. (For root the first one is still there.)"""
    prlimit, = need("prlimit")
    owner = NOBODY if os.getuid() == 0 else {}
    tool, program, file = shutil.copy(SLABCTL, place), shutil.copy(hostile, place), place / "file"

    def make():
        with open(file, "wb") as to:
            to.write(elf(3, 64, 1, 0, 0) + SEGMENT)
            to.truncate(256 << 30)
    make()
    with Child(program, "map", file, **owner) as child:
        child.tell("again", "ready")
        file.unlink()
        make()
        done = slabctl("--cpu=30", tool, child.pid, "stats", tool=prlimit, **owner)
        assert (done.returncode, done.stderr) == (1, f"slabctl: {child.pid}: does not run on slabmalloc\n"), done
