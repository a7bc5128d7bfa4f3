"""SLABMALLOC_OPTIONS as a user meets it: the README's table, the answer to mistakes, figures at exit."""
import os
import subprocess

import pytest

from conftest import LIBRARY, ROOT


def environment(options, **more):
    return {**os.environ, "LD_PRELOAD": str(LIBRARY), "SLABMALLOC_OPTIONS": options, **more}


def run(argv, options, **more):
    return subprocess.run(argv, env=environment(options), **{"capture_output": True, "text": True, **more})


def standard_error_with(options):
    """What a program that writes nothing itself leaves on standard error with these options."""
    done = run(["/bin/true"], options)
    assert done.returncode == 0
    return done.stderr.splitlines()


def test_readme_has_the_table_that_help_prints():
    section = (ROOT / "README.md").read_text().split("\n## Options\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    assert table[1] == "|---|---|---|---|---|"
    assert table[2:] == standard_error_with("help=1")


# -- good and bad options -------------------------------------------------------------------------------------------

def test_good_options_are_silent():
    assert standard_error_with("purge_delay_ms=100,magazine_bytes=32K,thread_bytes=1m,,worker=0,worker=1") == []


@pytest.mark.parametrize("options, said", [
    ("nonsense=1", "nonsense: no such option (help=1 lists all)"),
    ("nonsense", "nonsense: no such option (help=1 lists all)"),
    ("stat=1", "stat: no such option, did you mean stats? (help=1 lists all)"),
    ("worker=2", "worker=2: too large (0 to 1, as in 1); using 1"),
    ("worker=", "worker=: no value (0 to 1, as in 1); using 1"),
    ("worker", "worker: no value (0 to 1, as in 1); using 1"),
    ("worker=1x", "worker=1x: not a number (0 to 1, as in 1); using 1"),
    ("worker=-1", "worker=-1: negative (0 to 1, as in 1); using 1"),
    ("magazine_bytes=64q", "magazine_bytes=64q: not a number (256 to 16777216, as in 64K); using 65536"),
    ("magazine_bytes=255", "magazine_bytes=255: too small (256 to 16777216, as in 64K); using 65536"),
    ("purge_delay_ms=99999999999999999999",
     "purge_delay_ms=99999999999999999999: too large (0 to 3600000, as in 500); using 500"),
    ("purge_delay_ms=5,purge_delay_ms=x", "purge_delay_ms=x: not a number (0 to 3600000, as in 500); using 5"),
    ("topology=2x2", "topology: only in checked builds (-Dcheckers=true); ignored"),
    ("refuse_blocks=1", "refuse_blocks: only in checked builds (-Dcheckers=true); ignored"),
])
def test_a_mistake_is_one_line_and_no_failure(options, said):
    if "only in checked" in said and any("topology" in row for row in standard_error_with("help=1")):
        pytest.skip("this is a checked build")
    assert standard_error_with(options) == [f"slabmalloc: option {said}"]


def test_stats_are_printed_at_exit():
    lines = standard_error_with("stats=1")
    assert [line.split()[:2] for line in lines[:2]] == [["slabmalloc:", "live_bytes"], ["slabmalloc:", "cached_bytes"]]
