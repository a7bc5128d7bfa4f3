"""Installs as README says, into an empty DESTDIR and into a prefix, with Debian's dpkg-architecture and without, and
uses what is there as a stranger would: pkg-config, a compiler, the wrapper. The library itself is the build's, and so is
slabctl: only what an installation configures is made anew."""
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from conftest import BUILD, ROOT, need

# Each program proves that its malloc is the library's: live_bytes follows what it allocates. The size is 5000 times
# 1000 bytes, so that stocks and rounding do not hide it; a volatile pointer keeps compilers from leaving malloc out.
BODY = """
int main(void)
{
    enum { COUNT = 5000, BYTES = 1000 };
    static void *volatile objects[COUNT];
    slab_stats before, after;
    if (slab_get_stats(&before, sizeof before) != 0)
        return 2;
    for (int i = 0; i < COUNT; i++)
        objects[i] = TAKE(BYTES);
    if (slab_get_stats(&after, sizeof after) != 0)
        return 3;
    for (int i = 0; i < COUNT; i++)
        GIVE(objects[i]);
    if (after.live_bytes < before.live_bytes + (uint64_t)COUNT * BYTES)
        return 4;
    printf("%s\\n", slab_version());
    return REST;
}
"""

C_PROGRAM = """
#include <slabmalloc.h>
#include <stdio.h>
#include <stdlib.h>
#define TAKE(bytes) malloc(bytes)
#define GIVE(object) free(object)
#define REST 0
""" + BODY

CXX_PROGRAM = """
#include <slabmalloc.h>
#include <cstdio>
#include <new>
#define TAKE(bytes) ::operator new(bytes)
#define GIVE(object) ::operator delete(object)
#define REST catches_bad_alloc() ? 0 : 5
static bool catches_bad_alloc()
{
    volatile std::size_t impossible = PTRDIFF_MAX - 4096;
    try {
        ::operator delete(::operator new(impossible));
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}
""" + BODY

BUILT = ("libslabmalloc.so", "libslabmalloc.a", "tools/slabctl/slabctl")
SOURCES = {"c": (C_PROGRAM, "cc", ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]),
           "cxx": (CXX_PROGRAM, "c++", ["-std=c++17", "-Wall", "-Wextra", "-Werror"])}


def run(*command, **keywords):
    """The output of a command; what it wrote is in the failure when it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, **keywords)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def readme(section):
    """The lines of a section that are commands or files."""
    text = (ROOT / "README.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def options_in_readme():
    setup = next(line for line in readme("Installing it") if line.startswith("meson setup "))
    return shlex.split(setup.partition("&&")[0])[3:]


@pytest.fixture(scope="module", params=["with dpkg-architecture", "without"])
def path(request, tmp_path_factory):
    """A PATH on which meson finds Debian's architecture, and one on which it does not, as without dpkg-dev."""
    if request.param != "without":
        need("dpkg-architecture")
        return os.environ["PATH"]
    folder = tmp_path_factory.mktemp("bin")
    for place in os.environ["PATH"].split(":"):
        for program in pathlib.Path(place).glob("*"):
            if program.name != "dpkg-architecture" and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def configure(folder, path, *options):
    """README's setup, with the library that the tests are of in the place of the one that it would compile."""
    run("ninja", "-C", BUILD, *BUILT)
    run("meson", "setup", folder, ROOT, *options_in_readme(), *options, env={**os.environ, "PATH": path})
    for name in BUILT:
        shutil.copy(BUILD / name, folder / name)
    return folder


class Installed:
    """A DESTDIR with everything in it."""

    def __init__(self, folder, configured):
        self.folder = folder
        run("meson", "install", "--no-rebuild", "-C", configured, "--destdir", folder)

    def find(self, name):
        found = list(self.folder.rglob(name))
        assert len(found) == 1, f"{name}: {found}"
        return found[0]

    def pkg_config(self, *words):
        environment = {**os.environ, "PKG_CONFIG_LIBDIR": str(self.find("slabmalloc.pc").parent),
                       "PKG_CONFIG_SYSROOT_DIR": str(self.folder)}
        return run("pkg-config", *words, "slabmalloc", env=environment).split()

    def library_folder(self):
        return str(self.find("libslabmalloc.so").parent)


@pytest.fixture(scope="module")
def configured(path, tmp_path_factory):
    need("meson", "ninja", "pkg-config", "cc", "c++")
    return configure(tmp_path_factory.mktemp("build") / "configured", path)


@pytest.fixture(scope="module")
def installed(configured, tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("destdir"), configured)


@pytest.fixture(params=sorted(SOURCES))
def compiled(request, installed, tmp_path):
    """An object file, and the command that links it but for the library."""
    text, compiler, options = SOURCES[request.param]
    source, result = tmp_path / f"program.{request.param}", tmp_path / "program.o"
    source.write_text(text)
    run(compiler, *options, *installed.pkg_config("--cflags"), "-c", source, "-o", result)
    return [compiler, result, "-o", tmp_path / "program"]


def check(program, installed, **environment):
    """The program runs and says the version that the pkg-config file says."""
    output = run(program, env={"PATH": os.environ["PATH"], **environment})
    assert output.split() == installed.pkg_config("--modversion")


def needed_by(program):
    return [line for line in run("readelf", "-d", program).splitlines() if "NEEDED" in line and "slabmalloc" in line]


def test_shared(installed, compiled):
    run(*compiled, *installed.pkg_config("--libs"))
    assert needed_by(compiled[-1])
    check(compiled[-1], installed, LD_LIBRARY_PATH=installed.library_folder())


def test_archive_of_ours_alone(installed, compiled):
    """libslabmalloc.a in a program that is linked dynamically with the rest."""
    libraries = ["-l:libslabmalloc.a" if word == "-lslabmalloc" else word
                 for word in installed.pkg_config("--static", "--libs")]
    run(*compiled, *libraries)
    assert not needed_by(compiled[-1])
    check(compiled[-1], installed)


def test_static(installed, compiled):
    run(*compiled, "-static", *installed.pkg_config("--static", "--libs"))
    check(compiled[-1], installed)
    assert "GNU_EH_FRAME" in run("readelf", "-lW", compiled[-1])  # by which stacks are followed; gcc leaves it out


def test_the_archive_leaves_dlopen_alone(installed):
    """A static program has no other one to go on to."""
    nm, = need("nm")
    lines = run(nm, "--defined-only", installed.find("libslabmalloc.a")).splitlines()
    names = {line.split()[-1] for line in lines if line}
    assert {"malloc", "__libc_malloc", "slab_free"} <= names and "dlopen" not in names


# -- where everything lies ------------------------------------------------------------------------------------------

def test_the_library_lands_where_everybody_looks_and_where_readme_says(configured):
    """Not in lib64, where neither ld.so nor pkg-config looks on Debian."""
    lands = json.loads(run("meson", "introspect", "--installed", configured)).values()
    service, = [line.partition("LD_PRELOAD=")[2] for line in readme("Installing it") if "LD_PRELOAD=" in line]
    assert service in lands
    assert str(pathlib.Path(service).parent / "pkgconfig" / "slabmalloc.pc") in lands


def test_readme_builds_the_library_alone(configured):
    sources = [row["file"] for row in json.loads((configured / "compile_commands.json").read_text())]
    sources = [name for name in sources if not re.search(r"(^|/)tools/slabctl/", name)]
    assert len(sources) < 110 and not [name for name in sources if re.search(r"(^|/)(test|bench|examples)/", name)]


def test_readme_names_the_packages_that_a_build_needs():
    first = shlex.split(readme("Installing it")[0])
    lists = (ROOT / "tools" / "packages-build.txt").read_text()
    assert first[:3] == ["sudo", "apt-get", "install"]
    assert set(first[3:]) >= {line for line in lists.splitlines() if line and not line.startswith("#")}


def test_readme_names_the_packages_that_slabctl_needs():
    second = next(line for line in readme("Installing it") if "install libdw-dev" in line)
    needed = re.findall(r"'(\S+-dev)'", (ROOT / "tools" / "slabctl" / "meson.build").read_text())
    assert shlex.split(second) == ["sudo", "apt-get", "install", *needed]
    assert set(needed) <= set(re.findall(r"(?m)^\S+", (ROOT / "tools" / "packages-test.txt").read_text()))


def test_the_tool_is_installed_and_the_library_does_without_it(installed, tmp_path):
    said = run(installed.find("slabctl"), "--version").split()
    assert said == ["slabctl", *installed.pkg_config("--modversion")]
    run("meson", "setup", tmp_path / "without", ROOT, "-Dslabctl=disabled")
    lands = json.loads(run("meson", "introspect", "--installed", tmp_path / "without"))
    assert [name for name in lands if "libslabmalloc" in name] and not [name for name in lands if "slabctl" in name]


@pytest.fixture(scope="module")
def prefix(path, tmp_path_factory):
    """A user's own folder, as README has it."""
    need("meson", "ninja", "pkg-config", "cc", "c++")
    folder = tmp_path_factory.mktemp("home") / "slabmalloc"
    run("meson", "install", "--no-rebuild", "-C",
        configure(tmp_path_factory.mktemp("build") / "configured", path, "--prefix", folder))
    return folder


def test_a_prefix_works_as_readme_says(prefix, tmp_path):
    """The very lines, in a shell whose home has the folder."""
    (tmp_path / "program.c").write_text(C_PROGRAM)
    told = next(line for line in readme("Installing it") if line.startswith("export "))
    for line in readme("Linking it"):
        said = run("sh", "-ec", f"{told}\n{line}\n./a.out", cwd=tmp_path,
                   env={"PATH": os.environ["PATH"], "HOME": str(prefix.parent)})
        assert re.fullmatch(r"\d+\.\d+\.\d+\n", said)
    wrapper = next(line for line in readme("Installing it") if line.startswith('"$HOME/')).partition(" ")[0]
    assert str(prefix / "lib" / "libslabmalloc.so") in run(
        "sh", "-ec", f"{wrapper} cat /proc/self/maps", env={"PATH": os.environ["PATH"], "HOME": str(prefix.parent)})


def test_the_wrapper_goes_by_its_own_place(prefix, tmp_path):
    """A prefix that was copied elsewhere, and a link to the wrapper."""
    shutil.copytree(prefix, tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved" / "bin" / "slabmalloc-run")
    for wrapper in (tmp_path / "moved" / "bin" / "slabmalloc-run", tmp_path / "link"):
        assert str(tmp_path / "moved" / "lib" / "libslabmalloc.so") in run(wrapper, "cat", "/proc/self/maps")


@pytest.mark.parametrize("options", [["--libdir", "lib/deep/er"], ["--bindir", "/opt/bin"], ["--libdir", "/opt/lib"]])
def test_the_wrapper_finds_the_library_wherever_folders_were_put(tmp_path, options):
    need("meson", "ninja")
    there = Installed(tmp_path / "destdir", configure(tmp_path / "configured", os.environ["PATH"], *options))
    assert str(there.find("libslabmalloc.so")) in run(there.find("slabmalloc-run"), "cat", "/proc/self/maps")


# -- the wrapper ----------------------------------------------------------------------------------------------------

def test_preload_wrapper(installed):
    output = run(installed.find("slabmalloc-run"), "cat", "/proc/self/maps")
    assert str(installed.find("libslabmalloc.so")) in output


def test_wrapper_keeps_other_preloads(installed):
    output = run(installed.find("slabmalloc-run"), "sh", "-c", "echo $LD_PRELOAD",
                 env={**os.environ, "LD_PRELOAD": "libm.so.6"})
    assert output.strip() == str(installed.find("libslabmalloc.so")) + ":libm.so.6"


@pytest.mark.parametrize("arguments, status", [([], 2), (["--nonsense"], 2), (["no-such-program-here"], 127)])
def test_wrapper_says_in_one_line_what_is_wrong(installed, arguments, status):
    done = subprocess.run([installed.find("slabmalloc-run"), *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (status, 1, "")


def test_wrapper_helps(installed):
    assert run(installed.find("slabmalloc-run"), "--help").startswith("usage: slabmalloc-run PROGRAM")
