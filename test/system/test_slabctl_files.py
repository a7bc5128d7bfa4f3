"""slabctl's profiles where files are not as they were when a process mapped them: upgraded, deleted, closed, mapped twice.

Their owner is not root, who could still open what was deleted: the kernel lets no other do that. What is mapped is read
from memory then.
"""
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, LIBRARY, OURS, SLABCTL, SLABCTL_CHECKED, need
from slabctl_tools import NOBODY, SOURCES, Child, compile_program, tells, top, with_wrong_bytes
from test_slabctl_profile import compile_sampled, fuzz
from tools.python.processes import plain_env

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_built"),
              pytest.mark.skipif(LIBRARY != OURS, reason="other allocators have no samples")]
OWNER = NOBODY if os.getuid() == 0 else {}
STACK = ["inner_new", "plug_new", "load", "main"]
ENDS = "... (what is known of the stack ends here)"


class Loader(Child):
    """The program with its plug-in, all in `place`, and its owner's tool."""

    def __init__(self, place, program="loader", options="", **env):
        self.place = place
        env = plain_env(LD_PRELOAD=str(place / "libslabmalloc.so"), SLABMALLOC_OPTIONS=f"sample_bytes=64K{options}", **env)
        super().__init__(place / program, place / "plugin.so", env=env, cwd=place, **OWNER)

    def stack(self, *words):
        return stack(self.pid, *words, **self.as_owner)

    @property
    def as_owner(self):
        return {"tool": self.place / "slabctl", **OWNER}


def stacks(target, *words, **more):
    """Those that hold something, without lines."""
    return [[re.sub(r"  \(.*", "", line) for line in row["stack"]] for row in top(target, *words, **more)
            if row["share"] > 5]


def stack(target, *words, **more):
    """The one that holds nearly all."""
    found, = stacks(target, *words, **more)
    return found


def all_end_with_main_or_say_so(found, first):
    """The library keeps images of stacks, which need the files, and, once it knows the code, return addresses."""
    assert all(re.fullmatch(first, stack[0]) for stack in found), found
    assert {stack[-1] for stack in found} in ({ENDS}, {ENDS, "main"}), found


def plugin(place, name, kind, *more):
    return compile_program("loader.c", place, "-shared", "-fPIC", f'-DPLUGIN="{kind}"', *more, name=name)


@pytest.fixture
def loader(place):
    """The folder, with the program, its plug-in, the library, and the tool, all of which are its owner's."""
    shutil.copy(BUILD / "libslabmalloc.so", place)
    shutil.copy(SLABCTL, place)
    compile_program("loader.c", place, "-ldl")
    plugin(place, "plugin.so", "first")
    if OWNER:
        os.chown(place, OWNER["user"], OWNER["group"])
    return place


def replace(file, by):
    """As a package's upgrade does it."""
    new = file.with_name("new")
    shutil.copy(by, new)
    new.rename(file)


# -- mapped twice -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["-no-pie", "-pie"])
def test_a_program_that_maps_its_code_twice(loader, form):
    """As V8 does."""
    compile_program("loader.c", loader, form, "-fPIE" if form == "-pie" else "-fno-PIE", "-ldl", name="twice")
    with Loader(loader, "twice") as child:
        assert child.stack() == STACK
        child.tell("m", "done")
        assert child.stack() == STACK


# -- upgraded, deleted, closed ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("change", ["replaced", "deleted", "written again"])
@pytest.mark.parametrize("names", [["libslabmalloc.so"], ["plugin.so"], ["libc.so.6"], ["loader"],
                                   ["libslabmalloc.so", "plugin.so", "libc.so.6", "loader"]], ids="+".join)
def test_what_is_mapped_is_unwound_though_its_file_is_gone(loader, names, change):
    if "libc.so.6" in names:
        maps = pathlib.Path("/proc/self/maps").read_text()
        shutil.copy(re.search(r"(?m) (/.*/libc\.so\.6)$", maps)[1], loader)
    other = plugin(loader, "other", "other")
    with Loader(loader, LD_LIBRARY_PATH=str(loader)) as child:
        before = child.stack("--full")
        assert before[:4] == STACK
        for name in names:
            if change == "deleted":
                (loader / name).unlink()
            else:
                replace(loader / name, other if change == "replaced" else loader / name)
        after = child.stack("--full")
        if "plugin.so" in names and change != "written again":  # what is not loaded is lost: names of static functions
            assert re.fullmatch(r"plugin\.so\+0x[0-9a-f]+", after[0])
            before[0] = after[0]
        assert after == before


def test_a_file_of_the_same_build_has_its_names(loader):
    """One with the same id and other sections; another build's, which is as long, does not."""
    strip, = need("strip")
    shutil.copy(loader / "plugin.so", loader / "whole")
    other = plugin(loader, "other", "other")
    subprocess.run([strip, loader / "plugin.so"], check=True)
    with Loader(loader) as child:
        assert child.stack()[0].startswith("plugin.so+0x")
        replace(loader / "plugin.so", other)
        assert child.stack()[0].startswith("plugin.so+0x")
        replace(loader / "plugin.so", loader / "whole")
        assert child.stack() == STACK


def test_builds_without_an_id_are_told_by_their_bytes(loader):
    """Their first pages are the same, and so is where the code lies."""
    words = ["-Wl,--build-id=none", "-Wl,-z,separate-code"]
    plugin(loader, "plugin.so", "first", *words)
    whole, other = shutil.copy(loader / "plugin.so", loader / "whole"), plugin(loader, "other", "first", "-DBYTES=4999", *words)
    assert whole.read_bytes()[:4096] == other.read_bytes()[:4096] and whole.read_bytes() != other.read_bytes()
    with Loader(loader) as child:
        replace(loader / "plugin.so", whole)
        assert child.stack() == STACK
        replace(loader / "plugin.so", other)
        assert child.stack()[1:] == STACK[1:] and child.stack()[0].startswith("plugin.so+0x")


def test_a_stack_through_a_file_that_was_closed_says_so(loader):
    with Loader(loader) as child:
        child.tell("c", "done")
        all_end_with_main_or_say_so(stacks(child.pid, **child.as_owner), "0x[0-9a-f]+")


def test_a_dump_whose_library_was_upgraded_says_so(loader):
    """It has no code: what it cannot follow it says; once the file is there again, it can."""
    with Loader(loader, options=f",profile_file={loader}/heap") as child:
        child.tell("e", "done")
        child.process.wait()
    dump = ["--core", loader / f"heap.{child.pid}"]
    assert stack(dump) == STACK
    library = loader / "libslabmalloc.so"
    shutil.copy(library, loader / "kept")
    replace(library, loader / "plugin.so")
    found = stacks(dump)
    all_end_with_main_or_say_so(found, r"libslabmalloc\.so\+0x[0-9a-f]+")
    library.unlink()
    assert stacks(dump) == found
    replace(library, loader / "kept")
    assert stack(dump) == STACK


def test_a_core_dump_with_the_code_needs_no_files(loader, tmp_path):
    gcore, = need("gcore")
    with Loader(loader) as child:
        pathlib.Path(f"/proc/{child.pid}/coredump_filter").write_text("0xff")
        subprocess.run([gcore, "-o", tmp_path / "core", str(child.pid)], capture_output=True, check=True)
    core = ["--core", tmp_path / f"core.{child.pid}"]
    assert stack(core) == STACK
    for name in ("libslabmalloc.so", "plugin.so"):
        replace(loader / name, loader / "loader")
    assert stack(core)[1:] == STACK[1:]


@pytest.mark.parametrize("change", ["deleted", "replaced"])
@pytest.mark.parametrize("names", [["libslabmalloc.so"], ["libslabmalloc.so", "plugin.so", "loader"]], ids="+".join)
def test_a_kernels_core_dump_needs_no_files(loader, names, change):
    """It has one page of each file's headers, and no code. What images of stacks hold needs the library's; that is told."""
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not re.fullmatch(r"[\w.%-]+", pattern):
        pytest.skip(f"this kernel gives core dumps to {pattern}")
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # the program inherits it
    try:
        child = Loader(loader, options=",sample_bytes=4K")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    with child:
        child.kill(signal.SIGABRT)
        child.process.wait()
    found = [file for file in loader.iterdir() if file.name not in names and file.read_bytes()[16:18] == b"\x04\0"]
    if not found:
        pytest.skip("this machine writes no core dumps")
    core, = found
    assert stacks(["--core", core]) == [STACK]
    for name in names:
        (loader / name).unlink() if change == "deleted" else replace(loader / name, "/bin/true")
    first, *others = stacks(["--core", core])
    if "plugin.so" in names:
        assert len(first) >= 4 and [frame.split("+")[0] for frame in first[:4]] == 2 * ["plugin.so"] + 2 * ["loader"]
    else:
        assert first == STACK
    assert others in ([], [["(no stack)"]])
    assert re.search("note: samples whose stack cannot be followed out of the library's own code: [0-9]+",
                     tells("--core", core, "top"))


# -- lies -------------------------------------------------------------------------------------------------------------

def test_memory_with_wrong_bytes(loader, tmp_path, slabctl_checked_built):
    """Of a file that was deleted."""
    tool, file = shutil.copy(SLABCTL_CHECKED, loader), loader / "file"
    compile_program("sampler.c", tmp_path, "-O2", "-fPIC", "-shared", "-Wl,-soname,libslabmalloc.so", "-lm",
                    name="libslabmalloc.so")
    good = compile_sampled(tmp_path, "one-segment", "-Wl,-z,noseparate-code").read_bytes()

    def change(chance):
        file.write_bytes(with_wrong_bytes(good, chance))

    hostile = compile_program("hostile_samples.c", loader, "-rdynamic")
    with Child(hostile, file, "gone", **OWNER) as child:
        fuzz(child, change, leaks=False, tool=tool, **OWNER)
