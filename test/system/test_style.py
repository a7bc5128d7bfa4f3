"""clang-format, clang-tidy and shellcheck find nothing; what they look for is in .clang-format and .clang-tidy.

clang-format leaves comments as they are, for it would break diagrams. So what it would say of comments is said here:
no line is longer than its limit, and no comment ends with a word or a mark that has a line to itself.
"""
import json
import pathlib
import re
import shlex
import subprocess

import pytest

from conftest import BUILD, HANG_S, ROOT, fail_with, need

FOLDERS = ("src", "preload", "include", "test", "bench", "examples", "tools")
# How the library is compiled for tests, beside how it is shipped.
TEST_BUILDS = {"checked, counting": ("-DSLM_CHECKED=1", "-UNDEBUG", "-DSLM_BENCH"),
               "ThreadSanitizer": ("-DSLM_CHECKED=1", "-UNDEBUG", "-fsanitize=thread", "-D__SANITIZE_THREAD__=1")}


def c_files(*folders, kinds=("*.c", "*.h")):
    return sorted(path for folder in folders for kind in kinds for path in (ROOT / folder).rglob(kind))


def names_of(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def complaints_of(*command):
    """The findings in what a command wrote, a line each, if it failed; everything if they are not there."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=HANG_S)
    lines = (done.stdout + done.stderr).splitlines() if done.returncode else []
    return {line for line in lines if re.search(" (error|warning): ", line)} or set(lines)


@pytest.mark.parametrize("folder", FOLDERS)
def test_clang_format(folder):
    need("clang-format")
    fail_with(complaints_of("clang-format", "--dry-run", "--Werror", *c_files(folder)))


def columns():
    return int(re.search(r"(?m)^ColumnLimit: (\d+)$", (ROOT / ".clang-format").read_text())[1])


def long_lines(text):
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > columns()]


def orphans(text):
    """The lines on which a comment's end, or a paragraph's last word, stands alone behind prose. Behind a diagram, which
    is indented, the end may."""
    lines, found, inside = text.splitlines(), [], False
    for number, line in enumerate(lines, 1):
        above = lines[number - 2] if number > 1 else ""
        prose = inside and re.search(r"/\* ?\S|^ *\* \S", above)
        row = inside and re.search(r"/\*.*\S|^ *\* .*\S", above)
        last = line.rstrip().endswith("*/") or (number < len(lines) and re.fullmatch(r" *\*", lines[number]))
        if (prose and line.strip() == "*/") or (row and last and re.fullmatch(r" *(\* )?[^\s*]+( \*/)?", line)):
            found.append(number)
        inside = line.rfind("/*") > line.rfind("*/") or (inside and "*/" not in line)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("rule", [long_lines, orphans])
def test_comments(folder, rule):
    fail_with({f"{path.relative_to(ROOT)}:{line}" for path in c_files(folder, kinds=("*.c", "*.h", "*.cc"))
               for line in rule(path.read_text())})


@pytest.mark.parametrize("text, wrong", [
    ("/* One line. */\n", []),
    ("/* Two lines that are\n * prose. */\n", [2]),
    ("/* Two lines that are\n * good prose. */\n", []),
    ("    /* Two lines that are prose.\n     */\n", [2]),
    ("/* A paragraph and its\n * end.\n *\n * Another one. */\n", [2]),
    ("/* A diagram:\n *\n *     | a | b |\n */\n", []),
    ("/* A table:\n *     row    what it says, up to its\n * end\n *\n * Prose. */\n", [3]),
    ("int row;     /* of a table */\nint longer;  /* what is said of it has a\n              */\n", [3]),
    ("void (*call)(void); /* code */\n*p = 1;\n", [])])
def test_orphans_are_seen(text, wrong):
    assert orphans(text) == wrong


def test_long_lines_are_seen():
    assert long_lines("x" * columns() + "\n" + "/* " + "x" * columns() + " */\n") == [2]


def test_diagrams_stay_whole(tmp_path):
    """Whatever their length, clang-format changes no comment; code it does."""
    need("clang-format")
    diagram = "/* A diagram:\n *\n *     |" + " part |" * 20 + "\n *       ^ its start\n */\n"
    source, style = tmp_path / "a.c", f"--style=file:{ROOT / '.clang-format'}"
    source.write_text(diagram + "int x;\n")
    assert complaints_of("clang-format", style, "--dry-run", "--Werror", source) == set()
    source.write_text(diagram + "int  x;\n")
    assert complaints_of("clang-format", style, "--dry-run", "--Werror", source) != set()


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


@pytest.mark.parametrize("name", names_of(c_files("src", "preload", "tools", kinds=("*.c",))))
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
