"""slabctl's profiles: who holds how much, by samples. pprof and google-pprof read its files and say what `top` says.

Most of it looks at test/system/slabctl/sampled.cc, a program whose truth is known, with sampler.c in the library's
place. test_slabctl_programs.py looks at real programs, and at the library's own samples.
"""
import gzip
import itertools
import os
import pathlib
import random
import re
import shutil
import subprocess
import time

import pytest

from conftest import SCALE, SLABCTL, SLABCTL_CHECKED, need
from slabctl_tools import (NOBODY, SOURCES, Child, agree, by_function, compile_program, complains, ends_well,
                           google_pprof, pprof_top, slabctl, tells, top, with_wrong_bytes)
from tools.python.processes import plain_env

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_built")]
MEAN = 65536
FUZZ_S = 6 * SCALE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("profile")


def compile_sampled(folder, name, *more):
    cxx, = need("c++")
    done = subprocess.run([cxx, "-O2", "-g", "-fomit-frame-pointer", "-Wall", SOURCES / "sampled.cc", "-o",
                           folder / name, folder / "libslabmalloc.so", *map(str, more)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / name


@pytest.fixture(scope="module")
def program(folder):
    compile_program("sampler.c", folder, "-O2", "-fPIC", "-shared", "-Wl,-soname,libslabmalloc.so", "-lm",
                    name="libslabmalloc.so")
    return compile_sampled(folder, "sampled")


class Sampled(Child):
    """The program, which has said what is true: {function: (live bytes, bytes allocated)}."""

    def __init__(self, program, mean=MEAN, seed=5, **more):
        super().__init__(program, mean, seed, env=plain_env(LD_LIBRARY_PATH=str(program.parent)), **more)

    def hear(self, word):
        self.truth = {}
        while (line := self.process.stdout.readline().split()) != ["done"]:
            assert line, "it has ended"
            self.truth[line[0]] = float(line[1]), float(line[2])

    def does(self, word):
        self.tell(word, "done")


@pytest.fixture
def sampled(program):
    with Sampled(program) as child:
        yield child


TOTAL = re.compile(r"(\d+) (live|allocated since the start), between (\d+) and (\d+), by (\d+) samples?")


def holds(row, truth):
    return row["low"] <= truth <= row["high"]


# -- top --------------------------------------------------------------------------------------------------------------

def test_functions_hold_what_they_have_allocated(program):
    """As often as the intervals say, 95 times in 100: here in 72 with fixed seeds."""
    held = []
    for seed in range(1, 19):
        with Sampled(program, seed=seed) as child:
            rows = by_function(child.pid)
            assert set(rows) == set(child.truth)
            assert sum(row["share"] for row in rows.values()) == pytest.approx(100, abs=0.3)
            held += [holds(rows[name], live) for name, (live, _) in child.truth.items()]
    assert sum(held) >= 0.92 * len(held), held


def test_the_total_says_how_sure_it_is(sampled):
    total, _, low, high, samples = TOTAL.search(tells("--bytes", sampled.pid, "top")).groups()
    truth = sum(live for live, _ in sampled.truth.values())
    assert int(low) <= truth <= int(high) and int(low) < int(total) < int(high)
    assert int(samples) == sum(row["samples"] for row in top(sampled.pid))


@pytest.mark.parametrize("seed", range(2, 6))
def test_the_largest_comes_first(program, seed):
    with Sampled(program, seed=seed) as child:
        rows = top(child.pid)
        assert [row["bytes"] for row in rows] == sorted((row["bytes"] for row in rows), reverse=True)
        assert len(top(child.pid, "--lines", 2)) == 2


def test_stacks_begin_with_the_programs_function(sampled):
    """The library's frames are gone; what was inlined is there; a long name is cut, but not with --full."""
    def stack_of(name, *words):
        found = [row["stack"] for row in top(sampled.pid, *words) if row["what"].startswith(name)]
        assert len(found) == 1, found
        return [re.sub(r"  \(.*", "", line) for line in found[0]]

    assert stack_of("inlined_malloc") == ["inlined_malloc", "store::table<>::insert", "store::table<>::fill", "main"]
    assert stack_of("inlined_malloc", "--full")[1].startswith("store::table<std::")
    # words of dead frames, which differ, lie between those of this one
    assert stack_of("buffer_new") == ["buffer_new", "session_open", "open_sessions", "main"]


def test_places_have_lines(sampled):
    text = tells(sampled.pid, "top")
    lines = (SOURCES / "sampled.cc").read_text().splitlines()
    number = int(re.search(r"buffer_new  \(sampled\.cc:(\d+)\)", text)[1])
    assert "sampler_malloc(bytes)" in lines[number - 1]


def test_a_stack_that_was_cut_says_so(sampled):
    stack, = (row["stack"] for row in top(sampled.pid) if row["what"].startswith("rarely_new"))
    assert re.search(r"deep .*\(\d+ times\)", stack[1]) and "ends here" in stack[-1]


def test_caches_have_names(sampled):
    rows = {row["what"]: row for row in top(sampled.pid, "--by", "cache")}
    assert set(rows) == {"size-48", "size-32768", "connection", "large"}
    assert holds(rows["connection"], sampled.truth["huge_new"][0])
    done = slabctl(sampled.pid, "top", "--by", "cache", "--allocated")
    assert done.returncode == 2 and "counted by stacks, not by caches" in done.stderr


def test_what_was_allocated_stays(sampled):
    before = by_function(sampled.pid, "--allocated")
    sampled.does("free")
    live, allocated = by_function(sampled.pid), by_function(sampled.pid, "--allocated")
    assert "inlined_malloc" not in live and allocated.keys() == before.keys()
    for name, (_, bytes_) in sampled.truth.items():
        assert holds(allocated[name], bytes_), name
        assert allocated[name]["bytes"] == before[name]["bytes"]


def test_what_is_missing_is_said(sampled):
    assert "note:" not in tells(sampled.pid, "top")
    sampled.does("lose")
    text = tells(sampled.pid, "top")
    assert re.search("note: samples lost, .*: 7;", text) and re.search("note: samples without a stack, .*: 11\n", text)
    sampled.does("off")
    assert "note: sampling is off" in tells(sampled.pid, "top")


@pytest.mark.parametrize("name, more, expected", [
    ("dynamic", ["-s", "-rdynamic"], {"buffer_new", "huge_new", "rarely_new"}),
    ("stripped", ["-s"], {"stripped+0x"}),
])
def test_programs_without_symbols(program, folder, name, more, expected):
    with Sampled(compile_sampled(folder, name, *more)) as child:
        assert expected <= {re.sub("(0x).*", r"\1", row) for row in by_function(child.pid)}


def test_a_deleted_program_is_named(program, folder):
    copy = folder / "deleted"
    copy.write_bytes(program.read_bytes())
    copy.chmod(0o755)
    with Sampled(copy) as child:
        copy.unlink()
        assert set(by_function(child.pid)) == set(child.truth)


def test_a_core_dump_says_the_same(sampled, tmp_path):
    gcore, = need("gcore")
    subprocess.run([gcore, "-o", tmp_path / "core", str(sampled.pid)], capture_output=True, check=True)
    core = ["--core", tmp_path / f"core.{sampled.pid}"]
    assert top(core) == top(sampled.pid)
    assert "does not grow" in complains(*core, "leaks")


# -- profiles ---------------------------------------------------------------------------------------------------------

def varint(data, at):
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return number, at


def fields(data):
    """The fields of a message of protobuf's: (number, int or bytes)."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        value, at = varint(data, at)
        if key & 7 == 2:
            value, at = data[at:at + value], at + value
        else:
            assert key & 7 == 0
        yield key >> 3, value


def numbers(data):
    at, found = 0, []
    while at < len(data):
        number, at = varint(data, at)
        found.append(number - (1 << 64) if number >> 63 else number)
    return found


def message(data):
    """All values of a message, by field."""
    found = {}
    for field, value in fields(data):
        found.setdefault(field, []).append(value)
    return found


class Pprof:
    """A file as profile.proto describes it, with everything in it looked at."""

    def __init__(self, data):
        whole = message(gzip.decompress(data))
        self.text = text = [value.decode() for value in whole[6]]
        assert text[0] == "" and len(text) == len(set(text))
        one = lambda data: {field: values[0] for field, values in message(data).items()}  # noqa: E731
        self.types = [(text[row[1]], text[row[2]]) for row in map(one, whole[1])]
        functions = {row[1]: row for row in map(one, whole.get(5, []))}
        mappings = {row[1]: row for row in map(one, whole.get(3, []))}
        locations = {}
        for row in map(message, whole.get(4, [])):
            mapping = row.get(2, [0])[0]
            assert not mapping or mappings[mapping][2] <= row[3][0] < mappings[mapping][3]
            locations[row[1][0]] = [text[functions[one(line)[1]][2]] for line in row[4]]
        assert sorted(locations) == list(range(1, len(locations) + 1))
        self.files = [text[row[5]] for row in mappings.values()]
        self.ids = [text[row.get(6, 0)] for row in mappings.values()]
        self.samples = []
        for row in map(message, whole.get(2, [])):
            stack = [locations[number] for number in numbers(row[1][0])]
            values = numbers(row[2][0])
            assert len(values) == 4
            self.samples.append((stack, values))
        self.period, self.shown = whole[12][0], text[whole[14][0]]
        self.period_type = tuple(text[one(whole[11][0])[field]] for field in (1, 2))

    def flat(self, value):
        """By innermost function."""
        found = {}
        for stack, values in self.samples:
            found[stack[0][0]] = found.get(stack[0][0], 0) + values[value]
        return found


ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE = range(4)


@pytest.fixture
def profile(sampled, tmp_path):
    """profile(words...): the file that is written."""
    def write(*words, name="profile.gz"):
        tells(sampled.pid, "profile", tmp_path / name, *words)
        return tmp_path / name
    return write


def test_a_profile_is_as_the_format_says(sampled, profile, program):
    read = Pprof(profile().read_bytes())
    assert read.types == [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"),
                          ("inuse_space", "bytes")]
    assert read.period_type == ("space", "bytes") and read.period == MEAN and read.shown == "inuse_space"
    assert read.files[0] == str(program) and re.fullmatch("[0-9a-f]{40}", read.ids[0])
    rows, allocated = by_function(sampled.pid), by_function(sampled.pid, "--allocated")
    for found, field, expected in ((INUSE_SPACE, "bytes", rows), (INUSE_OBJECTS, "objects", rows),
                                   (ALLOC_SPACE, "bytes", allocated), (ALLOC_OBJECTS, "objects", allocated)):
        flat = read.flat(found)
        assert set(flat) == set(expected)
        for name in flat:
            assert flat[name] == pytest.approx(expected[name][field], abs=3), name
    chains = [[name for lines in stack for name in lines] for stack, _ in read.samples]
    assert ["buffer_new", "session_open", "open_sessions", "main"] in chains
    assert Pprof(profile("--allocated").read_bytes()).shown == "alloc_space"


def test_pprof_agrees(sampled, profile):
    file = profile()
    agree(pprof_top(file), by_function(sampled.pid))
    sampled.does("free")
    file = profile("--allocated")
    agree(pprof_top(file), by_function(sampled.pid, "--allocated"))
    agree(pprof_top(file, "-sample_index=inuse_space"), by_function(sampled.pid))


def test_google_pprof_agrees(sampled, profile, program):
    """It has names of its own for what was inlined; how it finds them depends on what else is installed."""
    rows = by_function(sampled.pid)
    rows["store::table::insert"] = rows.pop("inlined_malloc")
    agree(google_pprof(profile("--legacy"), program), rows)
    sampled.does("free")
    rows = by_function(sampled.pid, "--allocated")
    rows["store::table::insert"] = rows.pop("inlined_malloc")
    agree(google_pprof(profile("--legacy", "--allocated"), program), rows)
    text = profile("--legacy").read_text()
    assert re.match(r"heap profile: +\d+: +\d+ \[ *\d+: +\d+\] @ heapprofile\n", text)
    assert re.search(rf"(?m)^MAPPED_LIBRARIES:\n(?:.*\n)*?[0-9a-f]+-[0-9a-f]+ r-xp .* {re.escape(str(program))}$", text)


ODD = "a\nb\x1b[31m\x7f\u0085\u00e4"


def test_a_path_with_a_newline_is_one_line(program, folder):
    """The kernel writes it so in /proc/PID/maps."""
    copy = shutil.copy(program, folder / ODD)
    with Sampled(copy) as child:
        tells(child.pid, "profile", folder / "odd", "--legacy")
    text = (folder / "odd").read_text().partition("MAPPED_LIBRARIES:\n")[2]
    assert all(re.match("[0-9a-f]+-[0-9a-f]+ ", line) for line in text.split("\n")[:-1])
    assert rf"{folder}/{ODD}".replace("\n", r"\012") in text


def test_names_in_a_profile_are_nothing_that_a_terminal_obeys(program, folder, tmp_path):
    plain = folder / ODD
    with Sampled(compile_sampled(folder, ODD, "-s")) as child:
        tells(child.pid, "profile", tmp_path / "new")
        tells(child.pid, "profile", tmp_path / "none", "--diff", tmp_path / "new")
    read = Pprof((tmp_path / "new").read_bytes())
    assert read.files[0] == f"{folder}/a?b?[31m??\u00e4" and str(plain) not in read.text
    assert any(name.startswith("a?b?[31m??\u00e4+0x") for name in read.flat(INUSE_SPACE))
    assert all(text.isprintable() for text in read.text)
    assert Pprof((tmp_path / "none").read_bytes()).samples == []


def test_growth_since_an_older_profile(sampled, profile, program):
    old = profile(name="old.gz")
    before = by_function(sampled.pid)
    sampled.does("free")
    for _ in range(3):
        sampled.does("grow")
    after, diff = by_function(sampled.pid), Pprof(profile("--diff", old).read_bytes())
    flat = diff.flat(INUSE_SPACE)
    assert set(flat) == {"buffer_new", "inlined_malloc"}
    assert flat["inlined_malloc"] == pytest.approx(-before["inlined_malloc"]["bytes"], abs=2)
    assert flat["buffer_new"] == pytest.approx(after["buffer_new"]["bytes"] - before["buffer_new"]["bytes"], abs=4)
    with Sampled(program) as anew:  # at other addresses
        tells(anew.pid, "profile", old, "--diff", old)
        assert Pprof(old.read_bytes()).samples == []


def test_old_profiles_of_others_are_told(sampled, tmp_path):
    other, words = tmp_path / "other", (sampled.pid, "profile", tmp_path / "x", "--diff")
    for contents in (b"", b"text", gzip.compress(b"text"), b"\x1f\x8b\x08"):
        other.write_bytes(contents)
        assert "not a profile that slabctl has written" in complains(*words, other)
    assert "No such file" in complains(*words, tmp_path / "none")
    assert "not a file" in complains(*words, "/dev/zero")
    assert sorted(os.listdir(tmp_path)) == ["other"]


# -- leaks ------------------------------------------------------------------------------------------------------------

def leaks(child, between):
    tool = subprocess.Popen([SLABCTL, str(child.pid), "leaks", "--seconds", "1"], stdout=subprocess.PIPE, text=True)
    while tool.poll() is None:
        between()
    return tool.stdout.read()


def test_what_grows_is_shown(sampled):
    def grow():
        sampled.does("grow")
        time.sleep(0.01)

    text = leaks(sampled, grow)
    first = re.search(r"(?m)^([\d.]+) [KMG]iB/s: .*; (\d+) samples, (\d+) of them new; "
                      r".*the oldest is \d+ s old\n +(\S+)", text)
    assert first and first[4] == "buffer_new" and 0 < int(first[3]) <= int(first[2])
    assert "no proof of a leak" in text and "huge_new" not in text and "inlined_malloc" not in text


def test_what_does_not_grow_is_not_shown(sampled):
    text = leaks(sampled, lambda: time.sleep(0.01))
    assert "No call stack has live bytes that only grew." in text and "mostly not seen" in text


def test_a_process_that_ends_meanwhile(program):
    with Sampled(program) as child:
        tool = subprocess.Popen([SLABCTL, str(child.pid), "leaks", "--seconds", "4"], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
        time.sleep(0.2)
        child.process.kill()
        child.process.wait()
        out, line = tool.communicate()
        assert (tool.returncode, out) == (1, "")
        assert re.fullmatch(r"slabctl: \d+: (no such process|ended .*|is ending)\n", line), line
        assert "no such process" in complains(child.pid, "top")


# -- lies -------------------------------------------------------------------------------------------------------------

HOSTILE_COMMANDS = (["top"], ["top", "--full"], ["top", "--by", "cache"], ["top", "--allocated", "--by", "function"],
                    ["profile", "/dev/null"], ["profile", "--legacy", "-"])


def fuzz(child, change=None, leaks=True, tool=SLABCTL_CHECKED, **more):
    """Built with sanitizers, it ends with an answer or with one line, for FUZZ_S seeds long. libdw has leaks of its own
    where a file is damaged."""
    until = time.monotonic() + FUZZ_S
    for number in itertools.count():
        if number >= 5 and time.monotonic() > until:
            return
        seed = random.SystemRandom().getrandbits(48)
        chance = random.Random(seed)
        if change:
            change(chance)
        child.tell(seed, "ready")
        words, options = chance.choice(HOSTILE_COMMANDS), {} if leaks else {"ASAN_OPTIONS": "detect_leaks=0"}
        done = slabctl(child.pid, *words, tool=tool, env=plain_env(**options), **more)
        said = f"seed {seed}: {words}: {done}"
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, said
        assert ends_well(done), said
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr), said


@pytest.fixture
def hostile(slabctl_checked_built, tmp_path):
    return compile_program("hostile_samples.c", tmp_path, "-rdynamic")


def test_samples_that_lie(hostile):
    with Child(hostile) as child:
        fuzz(child)


def test_files_with_wrong_bytes(hostile, program, folder, tmp_path):
    """In headers, symbols, unwind tables and DWARF. The file's first segment is code, as the process maps it so."""
    good = compile_sampled(folder, "one-segment", "-Wl,-z,noseparate-code").read_bytes()
    file = tmp_path / "file"

    def change(chance):
        file.unlink(missing_ok=True)
        file.write_bytes(with_wrong_bytes(good, chance))

    with Child(hostile, file) as child:
        fuzz(child, change, leaks=False)


def test_a_file_that_becomes_shorter(hostile, folder, program, tmp_path):
    """Each read of it may fail then: it is one line, or an answer without names."""
    file = tmp_path / "file"
    file.write_bytes(compile_sampled(folder, "one-segment", "-Wl,-z,noseparate-code").read_bytes())
    with Child(hostile, file) as child:
        child.tell(1, "ready")
        for size in (5000, 4096, 100, 0):
            os.truncate(file, size)
            done = slabctl(child.pid, "top")
            assert ends_well(done), done
