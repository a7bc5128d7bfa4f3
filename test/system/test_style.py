"""clang-format, clang-tidy and shellcheck find nothing; what they look for is in .clang-format and .clang-tidy."""
import json
import pathlib
import re
import shlex
import subprocess

import pytest

from conftest import BUILD, HANG_S, ROOT, need

FOLDERS = ("src", "preload", "include", "test", "bench", "examples")
# How the library is compiled for tests, beside how it is shipped.
TEST_BUILDS = {"checked, counting": ("-DSLM_CHECKED=1", "-UNDEBUG", "-DSLM_BENCH"),
               "ThreadSanitizer": ("-DSLM_CHECKED=1", "-UNDEBUG", "-fsanitize=thread", "-D__SANITIZE_THREAD__=1")}


def c_files(*folders):
    return sorted(path for folder in folders for kind in ("*.c", "*.h") for path in (ROOT / folder).rglob(kind))


def names_of(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def complaints_of(*command):
    """The findings in what a command wrote, a line each, if it failed; everything if they are not there."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=HANG_S)
    lines = (done.stdout + done.stderr).splitlines() if done.returncode else []
    return {line for line in lines if re.search(" (error|warning): ", line)} or set(lines)


def fail_with(complaints):
    if complaints:
        pytest.fail("\n".join(sorted(complaints)), pytrace=False)


@pytest.mark.parametrize("folder", FOLDERS)
def test_clang_format(folder):
    need("clang-format")
    fail_with(complaints_of("clang-format", "--dry-run", "--Werror", *c_files(folder)))


def commands_of(path):
    """The commands by which the build compiles a file, in its order."""
    rows = json.loads((BUILD / "compile_commands.json").read_text())
    return [row for row in rows if (pathlib.Path(row["directory"]) / row["file"]).resolve() == path]


def tidy(path, folder, *more):
    """What clang-tidy says of a file of the library as it is shipped, or with more words for the compiler. The build
    compiles it in many ways, and clang-tidy would look at each."""
    shipped = [row for row in commands_of(path) if not re.search(r" (-DSLM_|-fsanitize=|-UNDEBUG)", row["command"])]
    if not shipped:
        pytest.fail(f"{BUILD} does not compile {path}")
    command = shlex.join([*shlex.split(shipped[0]["command"]), *more])
    (folder / "compile_commands.json").write_text(json.dumps([{**shipped[0], "command": command}]))
    # gcc knows flags that clang does not
    return complaints_of("clang-tidy", "--quiet", "--extra-arg=-Wno-ignored-optimization-argument", "-p", folder, path)


def each_source():
    return pytest.mark.parametrize("name", names_of(p for p in c_files("src", "preload") if p.suffix == ".c"))


@each_source()
def test_clang_tidy(name, tmp_path):
    need("clang-tidy")
    fail_with(tidy(ROOT / name, tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("build", TEST_BUILDS)
@each_source()
def test_clang_tidy_of_builds_for_tests(name, build, tmp_path):
    need("clang-tidy")
    fail_with(tidy(ROOT / name, tmp_path, *TEST_BUILDS[build]))


def test_shellcheck():
    """The scripts that people run, and the library that two of them source."""
    need("shellcheck")
    files = [path for folder in (".ci", "tools") for path in (ROOT / folder).iterdir()
             if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh\n", b"#!/usr/bin/env bash\n"))]
    assert ROOT / "tools" / "test" in files
    fail_with(complaints_of("shellcheck", "--external-sources", "--format=gcc", *files, "tools/lib.sh"))
