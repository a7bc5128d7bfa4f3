"""Programs that people run every day give the same output on the library as they do without it."""
import concurrent.futures
import subprocess

import programs
import pytest
from conftest import need


def need_modules(names):
    for name in names:
        if subprocess.call([programs.PYTHON, "-c", f"import {name}"], stderr=subprocess.DEVNULL):
            pytest.skip(f"no {name} in Debian's Python on this machine")


@pytest.mark.parametrize("program", programs.ALL, ids=lambda program: program.work.__name__)
def test_same_output(program, preload, place):
    need(*program.needs)
    need_modules(program.modules)
    plain = programs.Runner(place / "plain", program.environment)
    preloaded = programs.Runner(place / "preloaded", program.environment, preload)
    with concurrent.futures.ThreadPoolExecutor() as both_at_once:
        expected, found = both_at_once.map(program.work, (plain, preloaded))
    assert found == expected
    assert preloaded.mapped, "no command lived long enough for its mappings to be seen"
    for name in program.counted:
        preload.check_served(name, at_least=program.least_objects if name == program.counted[0] else 1)
