"""Programs that people run every day give the same output on the library as they do without it."""
import concurrent.futures
import shutil
import subprocess

import programs
import pytest
from conftest import missing, need


def need_modules(modules):
    """Modules of Debian's Python, with their packages."""
    for name, package in modules.items():
        if subprocess.call([programs.PYTHON, "-c", f"import {name}"], stderr=subprocess.DEVNULL):
            missing(f"{name} in Debian's Python", package)


@pytest.mark.parametrize("program", programs.ALL, ids=lambda program: program.work.__name__)
def test_same_output(program, preload, place):
    need(*program.needs)
    need_modules(program.modules)
    plain = programs.Runner(place / "plain", program.environment)
    preloaded = programs.Runner(place / "preloaded", program.environment, preload)
    with concurrent.futures.ThreadPoolExecutor() as both_at_once:
        expected, found = both_at_once.map(program.work, (plain, preloaded))
    assert found == expected
    for name in program.counted:
        preload.check_served(name, program.least_objects if name == program.counted[0] else 1)


@pytest.mark.long
def test_firefox(preload, place):
    """No child dies. Firefox is too large for the lists of packages: where it is missing the test is skipped."""
    if shutil.which("firefox-esr") is None:
        pytest.skip("no firefox-esr on this machine")
    facts = []
    for name, library in (("plain", None), ("preloaded", preload)):
        (place / f"home-{name}").mkdir()
        environment = {"HOME": str(place / f"home-{name}"), "SLABMALLOC_OPTIONS": ""}  # no counters: children are jailed
        runner = programs.Runner(place / name, environment, library)
        facts.append(programs.firefox(runner))
    assert facts[1] == facts[0]
