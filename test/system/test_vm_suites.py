"""The library's own tests and programs preloaded with it, on NUMA machines that this one is not (docs/numa-vm.md).

Promised: what passes on one node passes on two and four, with a node without memory and one without CPUs. The
programs are those of the build folder, with the words and the environment that `meson test` gives them, but for less
work, as emulated CPUs are slow.

Always: one boot, a few tests of each kind. The long run has more machines, whole suites of `meson test`, and the system
tests of programs and servers in the guest.
"""
import json
import os
import pathlib
import re
import shlex
import sysconfig

import pytest

import vm
from conftest import BUILD, CHECKED, HANG_S, OURS, ROOT, SCALE, need

MACHINES = {"2x2": vm.TWO_BY_TWO, "4x2": vm.FOUR_BY_TWO, "lopsided": vm.LOPSIDED}
# Tests of every kind, with more words for some.
FEW = {
    "contract / test_cache_limits": (),
    "contract / test_deferred_cxx": (),
    "contract / test_percpu_cxx": (),
    "misuse / misuse": ("--only", "double_free"),
    "stress / stress": (),
    "stress / caches, race": (),
    "stress / epochs, calls": (),
    "stress / percpu, storm": (),
}
LESS = 0.02  # of the work that a test does here
SUITES_LESS = 0.05
# What emulated CPUs do not show, by name.
LEFT_OUT = {
    "stress / percpu, adding by hand is found": "they are never interrupted in the middle of straight code",
}

# job NAME WORD...: run it and say what became of it; where it failed, also what it wrote last.
JOB = f"""\
job() {{
    name=$1
    shift
    read -r began idle </proc/uptime
    timeout -k 5 {HANG_S} "$@" >/tmp/said 2>&1
    status=$?
    read -r ended idle </proc/uptime
    echo "$name: status $status, from $began s to $ended s"
    [ $status -eq 0 ] || tail -n 40 /tmp/said | cut -c 1-400 | sed 's/^/    | /'
    rm -f /tmp/said
}}
"""
ENDED = re.compile(r"^(.*): status (\d+), from [\d.]+ s to [\d.]+ s$", re.M)

# Programs of every Debian, first on glibc, then on the library, which writes a line of counters as each ends.
PRELOADED = """\
set -e
work() {
    mkdir /tmp/$1 && cd /tmp/$1
    perl -e 'for (1..4000) { $x = ($x * 1103515245 + 12345) % 2147483648; printf "%x %d\\n", $x, $_ }' >lines
    sort --parallel=4 -S 10M -o sorted lines
    sort --parallel=2 -S 300K -T . -k2,2 -o pieces lines
    xz -T4 -0 --block-size=64KiB --keep lines
    xz -T4 --decompress --stdout lines.xz >back
    bash -c 'declare -A seen; while read -r word number; do seen[${word::3}]+=$number,; done <sorted
        for key in "${!seen[@]}"; do echo "$key ${#seen[$key]}"; done | sort; (echo "child: ${seen[1a2]}")' >counted
}
work plain
export LD_PRELOAD=$1 SLABMALLOC_OPTIONS=stats_file=/tmp/counters
work preloaded
unset LD_PRELOAD
cmp /tmp/preloaded/lines /tmp/preloaded/back
diff -r /tmp/plain /tmp/preloaded
for program in perl sort xz bash; do
    grep "\\"$program\\"" /tmp/counters || { echo "no counters of $program"; exit 1; }
done
"""
USED = ("bash", "cmp", "diff", "perl", "sort", "timeout", "xz")  # rather than busybox's


def meson_tests():
    """The tests of the build by "suite / name": words and environment. None where there is no build."""
    listed = BUILD / "meson-info" / "intro-tests.json"
    rows = json.loads(listed.read_text()) if listed.exists() else []
    return {f"{row['suite'][0].partition(':')[2]} / {row['name']}": row for row in rows}


def job(name, words, env=()):
    """A line of the guest's script."""
    settings = [f"{key}={value}" for key, value in dict(env).items()]
    return shlex.join(map(str, ["job", name, "env", *settings, *words]))


def meson_job(name, row, less, words=()):
    return job(name, [*row["cmd"], *words], {**row["env"], "SLABMALLOC_TEST_SCALE": less * SCALE})


def files_of(rows):
    """What the tests' commands name, the libraries, and what lies beside a contract test: its helpers and plug-ins."""
    libraries = {path for path in (OURS, CHECKED) if path.exists()}
    named = {path for row in rows for word in row["cmd"] if (path := BUILD / word).is_file()}
    folders = {path.parent for path in named if path.parent.name == "contract"}
    beside = {path for folder in folders for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)}
    return sorted(named | beside | libraries)


def check(vm_env, machine, jobs, files):
    """Run the jobs in one boot; each must end with status 0."""
    script = "\n".join([shlex.join(["cd", str(BUILD)]), JOB, *jobs])
    text = vm.boot(vm_env, machine, ["sh", "-c", script], [*files, *need(*USED)], HANG_S * len(jobs))
    ended = ENDED.findall(text)
    assert len(ended) == len(jobs), text
    failed = [name for name, status in ended if status != "0"]
    assert not failed, f"{len(failed)} of {len(jobs)} failed: {failed}"


@pytest.mark.parametrize("machine", ["2x2", *(pytest.param(name, marks=pytest.mark.long) for name in MACHINES
                                                 if name != "2x2")])
def test_a_few(vm_env, machine):
    tests = {name: row for name, row in meson_tests().items() if name in FEW}
    assert len(tests) == len(FEW), sorted(set(FEW) - set(tests))
    jobs = [meson_job(name, row, LESS, FEW[name]) for name, row in tests.items()]
    jobs.append(job("preloaded", ["bash", "-c", PRELOADED, "bash", OURS]))
    check(vm_env, MACHINES[machine], jobs, files_of(tests.values()))


# -- the system tests of programs and servers, in the guest with a Python of its own. Those are left out that would
# take hundreds of megabytes along (compilers, java; Python's own tests call a linker), or users and folders of their
# own (databases).

GUESTS_TESTS = ("test_programs.py", "test_servers.py")
GUESTS_CHOICE = "sort or xz or perl or sqlite or git or node or rocksdb or Redis or Memcached"
GUESTS_PROGRAMS = ("/usr/bin/python3", "setpriv", "sort", "xz", "perl", "sqlite3", "git", "node", "db_bench", "ldb",
                   "redis-server", "redis-cli", "redis-benchmark", "memcached")
PYTHON = pathlib.Path(sysconfig.get_path("stdlib"))
PACKAGES = pathlib.Path(pytest.__file__).parents[1]
OF_PYTEST = ("_pytest", "attr", "iniconfig", "packaging", "pluggy", "py", "pytest")
GUESTS_FOLDERS = (PYTHON, *(PACKAGES / name for name in OF_PYTEST), "/usr/share/perl",
                  "/usr/lib/x86_64-linux-gnu/perl", "/usr/lib/x86_64-linux-gnu/perl-base", "/usr/share/nodejs",
                  "/usr/lib/locale/C.utf8", ROOT / "test" / "system", ROOT / "tools")


def check_programs(vm_env, machine):
    modules = sorted(PYTHON.glob("lib-dynload/*.so"))  # with their shared libraries
    folders = [folder for folder in map(pathlib.Path, GUESTS_FOLDERS) if folder.exists()]  # not all of every release
    files = [*need(*GUESTS_PROGRAMS), *modules, *folders, OURS]
    users = "echo nobody:x:65534:65534::/:/bin/sh >>/etc/passwd; echo nogroup:x:65534: >>/etc/group"
    words = ["env", "LANG=C.UTF-8", f"SLABMALLOC_BUILD={BUILD}", "/usr/bin/python3", "-m", "pytest", "-vv", "-p",
             "no:cacheprovider", "-k", GUESTS_CHOICE, *(ROOT / "test" / "system" / name for name in GUESTS_TESTS)]
    vm.boot(vm_env, machine, ["sh", "-c", f"{users}; {shlex.join(map(str, words))}"], files, 12 * HANG_S)


def check_suite(vm_env, machine, suite):
    tests = {name: row for name, row in meson_tests().items() if name.startswith(f"{suite} / ")}
    for name in LEFT_OUT.keys() & tests.keys():
        print(f"{name}: left out, for {LEFT_OUT[name]}")
        del tests[name]
    jobs = [meson_job(name, row, SUITES_LESS) for name, row in tests.items()]
    check(vm_env, machine, jobs, files_of(tests.values()))


SUITES = sorted({name.partition(" / ")[0] for name in meson_tests()} - {"model"})  # models are searched, not run


@pytest.mark.long
@pytest.mark.hours
@pytest.mark.parametrize("suite", [*SUITES, "programs"])
@pytest.mark.parametrize("machine", MACHINES)
def test_suite(vm_env, machine, suite):
    if suite == "programs":
        check_programs(vm_env, MACHINES[machine])
    else:
        check_suite(vm_env, MACHINES[machine], suite)
