"""C++'s default forms of operator new and delete call what the standard says they call, whatever is replaced, and where.

operators/calls.cc calls every form, and has the standard's table. operators/replaced.cc has every form once more, as
a program would replace them: objcopy makes those local that are not replaced. Each way is also run without the
library, which proves the table; with it nothing may differ, but for one thing that is so of every library in
LD_PRELOAD: it stands in front of what is loaded behind it, and nothing there is called.
"""
import os
import pathlib
import subprocess

import pytest
from conftest import BUILD, LIBRARY, OURS, missing, need

SOURCES = pathlib.Path(__file__).parent / "operators"
COMPILERS = {"libstdc++": ["g++"], "libc++": ["clang++", "-stdlib=libc++"]}
STANDARDS = ["c++14", "c++17", "c++20", "c++2b", "c++2c"]  # the last is C++26, where the compiler knows it
MANGLED = ["_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t",
           "_ZnwmSt11align_val_t", "_ZnamSt11align_val_t",
           "_ZnwmSt11align_val_tRKSt9nothrow_t", "_ZnamSt11align_val_tRKSt9nothrow_t",
           "_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdaPvm", "_ZdlPvRKSt9nothrow_t", "_ZdaPvRKSt9nothrow_t",
           "_ZdlPvSt11align_val_t", "_ZdaPvSt11align_val_t", "_ZdlPvmSt11align_val_t", "_ZdaPvmSt11align_val_t",
           "_ZdlPvSt11align_val_tRKSt9nothrow_t", "_ZdaPvSt11align_val_tRKSt9nothrow_t"]  # as calls.cc numbers them
EACH = [1 << form for form in range(len(MANGLED))]
CLASSIC, FIREFOX, ALIGNED, ALL = 0x101, 0x330f, 0x4010, 0xfffff
TOGETHER = [CLASSIC, FIREFOX, ALIGNED, CLASSIC | ALIGNED, 0x303, 0x300, 0x003, 0x202, 0xf0f, 0xc00, 0x00c, 0x3030, ALL]
FEW = [0, CLASSIC, FIREFOX, CLASSIC | ALIGNED, ALL]
WITH_HEADERS = {CLASSIC, FIREFOX, CLASSIC | ALIGNED, 0x303, ALL}  # both or neither are replaced of each new and delete

pytestmark = pytest.mark.skipif(LIBRARY != OURS, reason="other allocators' operators go their own ways")


class Maker:
    """Compiles the sources, and links them with some forms replaced."""

    def __init__(self, folder, library):
        need(COMPILERS[library][0], "objcopy")
        self.folder, self.compiler = folder, COMPILERS[library]
        if library == "libc++":
            self.check_headers()
        self.compile("replaced", "c++17")
        self.compile("main", "c++17")
        self.run("cc", "-c", SOURCES / "host.c", "-o", self.folder / "host.o")

    def check_headers(self):
        if subprocess.run([*self.compiler, "-x", "c++", "-", "-o", self.folder / "probe"], text=True,
                          input="#include <new>\nint main() {}", stderr=subprocess.DEVNULL).returncode != 0:
            missing("C++ library libc++", "libc++-dev libc++abi-dev")

    @staticmethod
    def run(*argv):
        done = subprocess.run([str(word) for word in argv], capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"

    def compile(self, name, standard):
        self.run(*self.compiler, f"-std={standard}", "-O1", "-fPIC", "-fno-builtin", "-fsized-deallocation", "-Wall",
                 "-Wextra", "-Werror", "-c", SOURCES / f"{name}.cc", "-o", self.folder / f"{name}.o")

    def knows(self, standard):
        return subprocess.run([*self.compiler, f"-std={standard}", "-x", "c++", "-fsyntax-only", "/dev/null"],
                              stderr=subprocess.DEVNULL).returncode == 0

    def replacing(self, mask):
        """An object file with these forms; nothing for none."""
        if mask == 0:
            return []
        path = self.folder / f"replaced_{mask:x}.o"
        others = (f"--localize-symbol={name}" for form, name in enumerate(MANGLED) if not mask >> form & 1)
        self.run("objcopy", *others, self.folder / "replaced.o", path)
        return [path]

    def link(self, name, *what):
        self.run(*self.compiler, *what, "-o", self.folder / name)
        return self.folder / name


@pytest.fixture(scope="module", params=COMPILERS)
def maker(request, tmp_path_factory):
    return Maker(tmp_path_factory.mktemp("operators"), request.param)


def complaint(argv, preloaded=(), headers=False):
    """What a run says if it fails, else nothing."""
    argv, preloaded = [str(word) for word in argv], ":".join(map(str, preloaded))
    env = {**os.environ, **({"LD_PRELOAD": preloaded} if preloaded else {}),
           **({"REPLACED_HEADERS": "1"} if headers else {})}
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    failed = done.returncode != 0 or done.stdout + done.stderr
    return [f"{' '.join(argv)} with {preloaded or 'glibc'}: {done.returncode}\n{done.stdout}{done.stderr}"] if failed else []


def complaints(argv, mask, *preloads):
    """The same of several runs, with headers too where the forms allow that."""
    return [line for headers in ([False, True] if mask in WITH_HEADERS else [False]) for preloaded in preloads
            for line in complaint([*argv, f"{mask:x}"], preloaded, headers)]


def report(lines):
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("standard", STANDARDS)
def test_replaced_in_the_program(maker, standard):
    if not maker.knows(standard):
        pytest.skip(f"{maker.compiler[0]} does not know {standard}")
    maker.compile("calls", standard)
    found = []
    for mask in [0, *EACH, *TOGETHER] if standard == "c++17" else FEW:
        program = maker.link("program", "-rdynamic", maker.folder / "main.o", maker.folder / "calls.o",
                             *maker.replacing(mask))
        found += complaints([program], mask, [], [LIBRARY])
    report(found)


def test_replaced_in_a_program_with_plug_ins(maker):
    """The plug-in calls; the program, in C but for these forms, has replaced them."""
    maker.compile("calls", "c++17")
    plug_in = maker.link("plug_in.so", "-shared", maker.folder / "calls.o")
    found = []
    for mask in FEW:
        program = maker.link("host", maker.folder / "host.o", *maker.replacing(mask), "-rdynamic")
        found += complaints([program, plug_in], mask, [], [LIBRARY])
    report(found)


def test_replaced_in_a_plug_in(maker):
    """With the library in front those of the plug-in are not called, and all objects are the library's."""
    maker.compile("calls", "c++17")
    maker.run("cc", maker.folder / "host.o", "-o", maker.folder / "host")
    found = []
    for mask in [0, *EACH, *TOGETHER]:
        plug_in = maker.link("plug_in.so", "-shared", maker.folder / "calls.o", *maker.replacing(mask))
        found += complaints([maker.folder / "host", plug_in], mask, [])
        found += complaints([maker.folder / "host", plug_in], 0, [LIBRARY])
    report(found)


@pytest.mark.parametrize("options", [["-Wl,--version-script=exports"], ["-Wl,-Bsymbolic"]], ids=["hidden", "bound"])
def test_replaced_for_a_plug_in_alone(maker, options, monkeypatch):
    """Only its own calls come to its forms. Its objects are larger than the library's forms of delete are told."""
    monkeypatch.chdir(maker.folder)
    pathlib.Path("exports").write_text("{ global: run; local: *; };")
    maker.compile("calls", "c++17")
    host = maker.link("host", maker.folder / "host.o", "-Wl,--no-as-needed")
    found = []
    for mask in [0, 1 << 0, 1 << 4, *EACH[8:], CLASSIC, FIREFOX, ALIGNED, CLASSIC | ALIGNED, 0x303, 0xf0f, ALL]:
        plug_in = maker.link("plug_in.so", "-shared", maker.folder / "calls.o", *maker.replacing(mask), *options)
        for preloaded in [], [LIBRARY]:
            found += complaint([host, plug_in, f"{mask:x}", "hidden"], preloaded)
    report(found)


@pytest.mark.parametrize("source", ["calls", "minimal"])
@pytest.mark.parametrize("options", [[], ["-Wl,--exclude-libs,ALL"]], ids=["exported", "hidden"])
def test_a_plug_in_with_a_static_cxx_library(maker, source, options):
    """Its own new-handlers run, and it catches its own std::bad_alloc."""
    maker.compile(source, "c++17")
    maker.run("cc", maker.folder / "host.o", "-o", maker.folder / "host")
    static = ["-static-libstdc++"] if maker.compiler[0] == "g++" else \
        ["-nostdlib++", "-Wl,-Bstatic", "-lc++", "-lc++abi", "-Wl,-Bdynamic", "-lpthread"]
    plug_in = maker.link("plug_in.so", "-shared", maker.folder / f"{source}.o", *static, *options)
    report(complaints([maker.folder / "host", plug_in], 0, [], [LIBRARY]))


def test_replaced_in_a_preloaded_library(maker):
    maker.compile("calls", "c++17")
    program = maker.link("program", maker.folder / "main.o", maker.folder / "calls.o", "-rdynamic")
    found = []
    for mask in FEW[1:]:
        other = maker.link("other.so", "-shared", *maker.replacing(mask))
        found += complaints([program], mask, [other], [other, LIBRARY])
        found += complaints([program], 0, [LIBRARY, other])
    report(found)


@pytest.mark.parametrize("options", [["-rdynamic"], ["-static"], ["-static-pie"]], ids=lambda options: options[0])
def test_replaced_in_a_program_with_the_archive(maker, options):
    """A program that has only some forms takes the others from the archive."""
    maker.run("ninja", "-C", BUILD, "libslabmalloc.a")
    maker.compile("calls", "c++17")
    found = []
    for mask in FEW:
        program = maker.link("program", maker.folder / "main.o", maker.folder / "calls.o", *maker.replacing(mask),
                             BUILD / "libslabmalloc.a", *options)
        found += complaints([program], mask, [])
    report(found)
