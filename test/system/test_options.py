"""SLABMALLOC_OPTIONS as a user meets it: the README's table, the answer to mistakes, programs that must not listen."""
import os
import subprocess

import pytest

from conftest import LIBRARY, ROOT


def standard_error_with(options):
    """What a program that writes nothing itself leaves on standard error with these options."""
    done = subprocess.run(["/bin/true"], env={**os.environ, "LD_PRELOAD": str(LIBRARY), "SLABMALLOC_OPTIONS": options},
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    return done.stderr.splitlines()


def test_readme_has_the_table_that_help_prints():
    section = (ROOT / "README.md").read_text().split("\n## Options\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    assert table[1] == "|---|---|---|---|"
    assert table[2:] == standard_error_with("help=1")


def test_good_options_are_silent():
    assert standard_error_with("purge_delay_ms=100,magazine_bytes=32K,,worker=0") == []


@pytest.mark.parametrize("options", ["nonsense=1", "worker=2", "worker=", "purge_delay_ms=fast", "magazine_bytes=1T",
                                     "purge_delay_ms=99999999999999999999", "nonsense", "worker=1x"])
def test_a_mistake_is_one_line_and_no_failure(options):
    lines = standard_error_with(options)
    assert len(lines) == 1
    assert lines[0].startswith("slabmalloc: ") and options.split("=")[0] in lines[0]


def test_stats_are_printed_at_exit():
    lines = standard_error_with("stats=1")
    assert [line.split()[:2] for line in lines[:2]] == [["slabmalloc:", "live_bytes"], ["slabmalloc:", "cached_bytes"]]
