"""clang-format, clang-tidy and shellcheck find nothing; what they look for is in .clang-format and .clang-tidy."""
import concurrent.futures
import json
import os
import re
import subprocess

import pytest

from conftest import BUILD, ROOT, need


def c_files(*folders):
    return sorted(path for folder in folders for kind in ("*.c", "*.h") for path in (ROOT / folder).rglob(kind))


def complaints_of(*command):
    """The findings in what a command wrote, a line each, if it failed; everything if they are not there."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=300)
    lines = (done.stdout + done.stderr).splitlines() if done.returncode else []
    return {line for line in lines if re.search(" (error|warning): ", line)} or set(lines)


def fail_with(complaints):
    if complaints:
        pytest.fail("\n".join(sorted(complaints)), pytrace=False)


def test_clang_format():
    need("clang-format")
    files = c_files("src", "preload", "include", "test", "bench")
    fail_with(complaints_of("clang-format", "--dry-run", "--Werror", *files))


def test_clang_tidy():
    """Every file of the library, as it is compiled in the build folder, where gcc knows flags that clang does not."""
    need("clang-tidy")
    compiled = {(BUILD / row["file"]).resolve() for row in json.loads((BUILD / "compile_commands.json").read_text())}
    files = [path for path in c_files("src", "preload") if path in compiled]
    assert files
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        fail_with(set().union(*pool.map(lambda path: complaints_of(
            "clang-tidy", "--quiet", "--extra-arg=-Wno-ignored-optimization-argument", "-p", BUILD, path), files)))


def test_shellcheck():
    """The scripts that people run, and the library that two of them source."""
    need("shellcheck")
    files = [path for folder in (".ci", "tools") for path in (ROOT / folder).iterdir()
             if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh\n", b"#!/usr/bin/env bash\n"))]
    assert ROOT / "tools" / "test" in files
    fail_with(complaints_of("shellcheck", "--external-sources", "--format=gcc", *files, "tools/lib.sh"))
