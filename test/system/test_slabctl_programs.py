"""slabctl's profiles of real programs on the library: what an unwinder makes of them, and of the library's own samples.

What the tool itself does is test_slabctl_profile.py's.
"""
import bisect
import random
import re
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, LIBRARY, OURS, ROOT, SLABCTL_CHECKED, need, scaled
from slabctl_tools import SOURCES, Child, agree, by_function, ends_well, google_pprof, pprof_top, slabctl, tells, top
from tools.python.processes import plain_env
from tools.python.servers import MariaDB, Redis

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_built"),
              pytest.mark.skipif(LIBRARY != OURS, reason="other allocators have no samples")]
ROUNDED = re.compile(r"with what sizes are rounded up by (\d+)")


def rounded_up(pid):
    """Live bytes with what sizes are rounded up by: what malloc_usable_size says of all of them."""
    return int(ROUNDED.search(tells("--bytes", pid, "top"))[1])


def often(preload):
    """An interval in which there are enough samples for five in a hundred."""
    return preload.env("sample_bytes=16384")


class FilledRedis(Redis):
    options = ("--enable-debug-command", "yes")


def test_redis(place, preload, tmp_path):
    """Its own figure counts what malloc_usable_size says."""
    program, _ = need("redis-server", "redis-cli")
    with FilledRedis(place / "redis", preload.library, often(preload)) as redis:
        pid = redis.process.pid
        before, used = rounded_up(pid), int(redis.info("memory", "used_memory"))
        assert redis.ask("DEBUG", "POPULATE", scaled(200_000), "key", 200) == "OK"
        used = int(redis.info("memory", "used_memory")) - used
        assert rounded_up(pid) - before == pytest.approx(used, rel=0.05)
        stacks = [" ".join(row["stack"]) for row in top(pid)]
        assert "zmalloc" in stacks[0] and "main" in stacks[0] and "libslabmalloc" not in "".join(stacks)
        assert any("dbAdd" in stack or "dictAdd" in stack for stack in stacks), stacks
        for words, found in (((), pprof_top), (("--legacy",), lambda file: google_pprof(file, program))):
            tells(pid, "profile", tmp_path / "profile", *words)
            rows = {name: row for name, row in by_function(pid).items() if row["share"] > 2}  # or left out
            assert "zmalloc_usable" in rows or "zmalloc" in rows
            agree({name: bytes_ for name, bytes_ in found(tmp_path / "profile").items() if name in rows}, rows)
        redis.ask("FLUSHALL")
        assert rounded_up(pid) < before + used / 2


def test_mariadb(place, preload):
    """The library's own count of what is live knows each object."""
    need(*MariaDB.needs)
    with MariaDB(place / "mariadb", preload.library, often(preload)) as mariadb:
        mariadb.ask("SET GLOBAL max_heap_table_size = 1 << 30; CREATE DATABASE d")
        mariadb.ask("SET max_heap_table_size = 1 << 30; CREATE TABLE d.t (a INT, b CHAR(200)) ENGINE=MEMORY; "
                    f"INSERT INTO d.t SELECT seq, 'x' FROM d.seq_1_to_{scaled(100_000)}")
        pid = mariadb.process.pid
        live = int(re.search(r"(?m)^live_bytes +(\d+)$", tells("--bytes", pid, "stats"))[1])
        assert rounded_up(pid) == pytest.approx(live, rel=0.1)
        assert any(row["stack"][-1].startswith("main") or len(row["stack"]) > 3 for row in top(pid))
        tells(pid, "leaks", "--seconds", 1)


PYTHON = """
import sys
lists = [[str(number) * 20 for number in range(100)] for _ in range(int(sys.argv[1]))]
text = [bytes(5000) for _ in range(int(sys.argv[1]))]
print("ready", flush=True)
sys.stdin.read()
"""


def test_python(preload):
    """Python asks for memory itself for objects over 512 bytes."""
    number = scaled(4000)
    with Child(sys.executable, "-c", PYTHON, number, env=often(preload)) as child:
        rows = top(child.pid)
        assert rows[0]["bytes"] > number * 5000 * 0.9
        assert sum(row["bytes"] for row in rows if "Py" in " ".join(row["stack"])) > number * 5000 * 0.9


CXX = """
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>
#define KEEP __attribute__((noinline))
struct session { std::map<int, std::string> values; };
static session *sessions[SESSIONS];
KEEP static void session_fill(session *s) { for (int i = 0; i < 100; i++) s->values[i] = std::string(200, 'x'); }
KEEP void sessions_make() { for (auto &s : sessions) session_fill(s = new session); std::free(std::malloc(1)); }
int main() { std::thread(sessions_make).join(); std::puts("ready"); std::fflush(stdout); std::getchar(); }
"""


@pytest.mark.parametrize("form", ["preloaded", "static", "no index"])
def test_cxx(tmp_path, preload, form):
    """Without frame pointers, in a thread, on the library in front and linked in; by far more samples than the few
    that are kept as images in any case, also where linkers write no index of the tables (.eh_frame_hdr)."""
    cxx, = need("c++")
    (tmp_path / "sessions.cc").write_text(CXX)
    words = {"preloaded": [], "static": [BUILD / "libslabmalloc.a", "-static"], "no index": ["-Wl,--no-eh-frame-hdr"]}
    sessions = scaled(1000)
    done = subprocess.run([cxx, "-O2", "-fno-builtin", "-fomit-frame-pointer", "-pthread",
                           f"-DSESSIONS={sessions}", tmp_path / "sessions.cc", "-o", tmp_path / "sessions",
                           *words[form]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    env = plain_env(SLABMALLOC_OPTIONS="sample_bytes=16384") if form == "static" else often(preload)
    with Child(tmp_path / "sessions", env=env) as child:
        rows = top(child.pid, "-n", 1000)
        mine = [row for row in rows if any("sessions_make" in line for line in row["stack"])]
        assert sum(row["samples"] for row in mine) > 8 * 128
        assert sum(row["bytes"] for row in mine) == pytest.approx(sessions * 100 * (201 + 72), rel=0.15)
        assert not any(re.search("slm_|slab_|operator new|^malloc", line) for row in rows for line in row["stack"])


SECTIONS = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) void *holder(void) { void *volatile object = malloc(1000); return object; }
int main(void)
{
    for (int i = 0; i < COUNT; i++)
        holder();
    puts("ready");
    fflush(stdout);
    getchar();
}
"""


def test_a_section_for_each_function(tmp_path, preload):
    """As linkers make them when they are told to keep them apart."""
    cc, = need("cc")
    (tmp_path / "many.c").write_text(SECTIONS)
    (tmp_path / "more.s").write_text("".join(f'.section .s{i},"ax",@progbits\n.long {i}\n' for i in range(6000)))
    count = scaled(5000)
    subprocess.run([cc, "-O1", "-fno-builtin", f"-DCOUNT={count}", tmp_path / "many.c", tmp_path / "more.s", "-o",
                    tmp_path / "many"], check=True)
    with Child(tmp_path / "many", env=often(preload)) as child:
        assert by_function(child.pid)["holder"]["bytes"] == pytest.approx(count * 1000, rel=0.2)


# -- the archive ------------------------------------------------------------------------------------------------------

WAYS = set(re.findall(r"(?m)^WAY\((\w+),", (SOURCES / "ways.cc").read_text()))
HOLDERS = {f"by_{way}" for way in WAYS} | {"made"}


@pytest.fixture(scope="module", params=["-no-pie", "-pie", "-static-pie"])
def ways(request, tmp_path_factory):
    """The program with the archive linked into it."""
    cxx, = need("c++")
    program = tmp_path_factory.mktemp("ways") / "ways"
    done = subprocess.run([cxx, "-std=c++17", "-O2", "-g", "-fno-builtin", f"-I{ROOT / 'include'}", SOURCES / "ways.cc",
                           BUILD / "libslabmalloc.a", "-o", program, "-pthread", request.param],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def started(program, options=""):
    return Child(program, env=plain_env(SLABMALLOC_OPTIONS=f"sample_bytes=16384{options}"))


def shows_all_holders(*target):
    rows = {re.sub(r"\(.*\)$", "", name): row for name, row in by_function([*target], "--lines", 100).items()}
    return HOLDERS <= set(rows) and sum(rows[name]["share"] for name in HOLDERS) > 97


@pytest.mark.parametrize("strip", [[], ["-g"], ["-x"]], ids=lambda words: " ".join(["strip", *words]))
def test_the_archive_shows_the_programs_functions(ways, strip):
    """Not what the library has between the program's call and its samples: static functions, calls that end others."""
    program = ways
    if strip:
        program = ways.with_name("stripped")
        subprocess.run([*need("strip"), *strip, ways, "-o", program], check=True)
    with started(program) as child:
        if "-x" not in strip:  # which takes the names of static functions: all of the program's
            assert shows_all_holders(child.pid)
            return
        rows = by_function(child.pid, "--lines", 100)
        assert not [name for name in rows if re.search("slm_|our_|slab_|alloc$|operator", name)], rows
        assert len([row for row in rows.values() if row["samples"] > 20]) == len(HOLDERS), rows


def test_the_archive_without_symbols_shows_one_or_two_more(ways):
    """Sections tell which code takes samples; who calls that may still stand in front of the program's functions."""
    lines = subprocess.run([*need("nm"), "-n", "--defined-only", ways], capture_output=True, text=True).stdout.splitlines()
    symbols = [(int(line.split()[0], 16), line.split()[2]) for line in lines if line.split()[1] in "tTwW"]
    sections = subprocess.run([*need("readelf"), "-SW", ways], capture_output=True, text=True).stdout
    address, offset = re.search(r" \.text +PROGBITS +([0-9a-f]+) ([0-9a-f]+)", sections).groups()
    stripped = ways.with_name("stripped")
    subprocess.run([*need("strip"), ways, "-o", stripped], check=True)

    def name(line):
        match = re.match(r"stripped\+0x([0-9a-f]+)", line)
        place = int(match[1], 16) - int(offset, 16) + int(address, 16) if match else 0
        return re.sub(r"^_ZL\d+(\w+?)v?(Pv.*)?$", r"\1", symbols[bisect.bisect(symbols, (place, "~")) - 1][1])

    with started(stripped) as child:
        stacks = [[name(line) for line in row["stack"]] for row in top(child.pid, "--lines", 100) if row["samples"] > 20]
    assert all(HOLDERS & set(stack[:3]) for stack in stacks), stacks
    assert HOLDERS == {next(function for function in stack if function in HOLDERS) for stack in stacks}, stacks
    assert any(stack[0] == "by_malloc" for stack in stacks), stacks


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_program_with_the_archive_whose_file_is_gone(ways, tmp_path, change):
    """If it is static no file with another name is mapped."""
    program = tmp_path / "program"
    shutil.copy(ways, program)
    with started(program) as child:
        program.unlink()
        if change == "replaced":
            shutil.copy("/bin/true", program)
        assert shows_all_holders(child.pid)


def test_what_no_file_is_there_for_says_so(ways, tmp_path):
    """The library's dump has no code."""
    program = tmp_path / "program"
    shutil.copy(ways, program)
    with started(program, f",profile_file={tmp_path / 'heap'}") as child:
        child.tell("", None)
        child.process.wait()
    dump = ["--core", tmp_path / f"heap.{child.pid}"]
    assert shows_all_holders(*dump)
    program.unlink()
    said = tells(*dump, "top")
    is_static = "interpreter" not in subprocess.run([*need("readelf"), "-lW", ways], capture_output=True, text=True).stdout
    assert is_static == ("note: call stacks cannot be followed: none of the mapped files is to be had" in said), said


def test_a_core_dump_of_a_program_with_the_archive(ways, tmp_path):
    """Whose file is gone, which knew what of the code was whose."""
    gcore, program = *need("gcore"), tmp_path / "program"
    shutil.copy(ways, program)
    with started(program) as child:
        subprocess.run([gcore, "-o", tmp_path / "core", str(child.pid)], capture_output=True, check=True)
    core = ["--core", tmp_path / f"core.{child.pid}"]
    assert shows_all_holders(*core)
    program.unlink()
    assert re.search("(?m)^note: (call stacks cannot be followed|frames of the library's are shown, too): ",
                     tells(*core, "top"))


def test_a_program_with_the_archive_and_wrong_symbols(ways, tmp_path, slabctl_checked_built):
    """And sections: what is not loaded, so that the program runs. libdw has leaks of its own where a file is damaged."""
    good = ways.read_bytes()
    segments = subprocess.run([*need("readelf"), "-lW", ways], capture_output=True, text=True).stdout
    loaded = max(int(offset, 16) + int(size, 16) for offset, size in
                 re.findall(r"(?m)^  LOAD +(0x\w+) 0x\w+ 0x\w+ (0x\w+)", segments))
    for number in range(scaled(8)):
        seed = random.SystemRandom().getrandbits(48)
        chance, data = random.Random(seed), bytearray(good)
        first = max(loaded, len(good) - chance.choice((2000, 20000, 200000, len(good))))
        for _ in range(chance.choice((1, 8, 64, 1000))):
            at, length = chance.randrange(first, len(good) - 8), chance.choice((1, 2, 4, 8))
            data[at:at + length] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
        program = tmp_path / f"program{number}"
        program.write_bytes(data)
        program.chmod(0o755)
        with started(program) as child:
            done = slabctl(child.pid, "top", tool=SLABCTL_CHECKED, env=plain_env(ASAN_OPTIONS="detect_leaks=0"))
            assert ends_well(done) and "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, (seed, done)
        program.unlink()
