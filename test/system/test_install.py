"""Installs into an empty DESTDIR and uses what is there as a stranger would: pkg-config, a compiler, the wrapper."""
import os
import subprocess

import pytest

from conftest import BUILD, need

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

SOURCES = {"c": (C_PROGRAM, "cc", ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]),
           "cxx": (CXX_PROGRAM, "c++", ["-std=c++17", "-Wall", "-Wextra", "-Werror"])}


def run(*command, **keywords):
    """The output of a command; what it wrote is in the failure when it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=120, **keywords)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Installed:
    """A DESTDIR with everything in it."""

    def __init__(self, folder):
        self.folder = folder
        run("meson", "install", "-C", BUILD, "--destdir", folder)

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
def installed(tmp_path_factory):
    need("meson", "pkg-config", "cc", "c++")
    return Installed(tmp_path_factory.mktemp("destdir"))


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
