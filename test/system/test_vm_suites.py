"""The library's own tests and programs preloaded with it, on NUMA machines that this one is not (docs/numa-vm.md).

Promised: what passes on one node passes on two and four, with a node without memory and one without CPUs. The
programs are those of the build folder, with the words and the environment that `meson test` gives them, but for less
work, as emulated CPUs are slow.

Always: a boot a machine, a few tests of each kind. SLABMALLOC_VM_SUITES="unit contract misuse stress programs" asks
for whole suites of `meson test`, and for the system tests of programs and servers in the guest.
"""
import json
import os
import pathlib
import re
import shlex
import sysconfig

import pytest

import vm
from conftest import BUILD, OURS, ROOT, need

MACHINES = {"2x2": vm.TWO_BY_TWO, "4x2": vm.FOUR_BY_TWO, "lopsided": vm.LOPSIDED}
SUITES = os.environ.get("SLABMALLOC_VM_SUITES", "").split()
# Tests of every kind, and what is asked of the long ones.
FEW = {
    "contract / test_caches": (),
    "contract / test_cache_limits": (),
    "contract / test_cache_constructors": (),
    "contract / test_deferred_cxx": (),
    "contract / test_percpu_cxx": (),
    "misuse / misuse": ("--only", "double_free"),
    "stress / stress": ("--seconds", 1),
    "stress / caches, race": ("--seconds", 1),
    "stress / caches, forks": ("--children", 20),
    "stress / caches, limits": ("--seconds", 1),
    "stress / epochs, torture": ("--seconds", 3),
    "stress / epochs, calls": ("--seconds", 1),
    "stress / percpu, storm": ("--adds", 2_000_000),
    "stress / percpu, storm, checked": ("--adds", 2_000_000),
    "stress / percpu, alloc, checked": ("--seconds", 1),
}
# What whole suites ask for by these options is cut down to this.
AT_MOST = {"--seconds": 4, "--adds": 20_000_000, "--children": 30}
# What emulated CPUs do not show, by name.
LEFT_OUT = {
    "stress / percpu, adding by hand is found": "they are never interrupted in the middle of straight code",
}
SLOWER = 5  # than the machines that the time limits in the build are made for

# job NAME LIMIT OPTION AMOUNT WORD...: run it, asking for that much work unless OPTION is empty, and say what became
# of it; where it failed, also what it wrote last. A stress test fails when something that it is about has hardly
# happened, as on emulated CPUs, where threads that spin keep others off for long. It has shown nothing then, good or
# bad, and runs again, for longer.
JOB = """\
job() {
    name=$1 limit=$2 option=$3 amount=$4
    shift 4
    hardly='did not happen at all|nothing was retired|calls had an object'
    read -r began idle </proc/uptime
    for run in 1 2 3; do
        timeout -k 5 "$limit" "$@" ${option:+$option $amount} >/tmp/said 2>&1
        status=$?
        [ $status -ne 0 ] && grep -q -E "$hardly" /tmp/said || break
        amount=$((amount * 5))
    done
    read -r ended idle </proc/uptime
    echo "$name${option:+ $option $amount}: status $status, from $began s to $ended s"
    [ $status -eq 0 ] || tail -n 40 /tmp/said | cut -c 1-400 | sed 's/^/    | /'
    rm -f /tmp/said
}
"""
ENDED = re.compile(r"^(.*): status (\d+), from [\d.]+ s to [\d.]+ s$", re.M)

# Programs of every Debian, first on glibc, then on the library, which writes a line of counters as each ends.
PRELOADED = """\
set -e
work() {
    mkdir /tmp/$1 && cd /tmp/$1
    perl -e 'for (1..12000) { $x = ($x * 1103515245 + 12345) % 2147483648; printf "%x %d\\n", $x, $_ }' >lines
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
    """The tests of the build by "suite / name": words, environment and time limit."""
    rows = json.loads((BUILD / "meson-info" / "intro-tests.json").read_text())
    return {f"{row['suite'][0].partition(':')[2]} / {row['name']}": row for row in rows}


def reduced(words):
    """Option and amount that make a stress test's work less than its words do: of an option that comes twice the last
    one counts."""
    for option, amount in zip(words, words[1:]):
        if option in AT_MOST:
            return option, min(int(amount), AT_MOST[option])
    return ("--adds", AT_MOST["--adds"]) if "--storm" in words else ()


def job(name, words, limit_s, work=(), env=()):
    """A line of the guest's script."""
    settings = [f"{key}={value}" for key, value in dict(env).items()]
    option, amount = work or ("", 0)
    return shlex.join(map(str, ["job", name, limit_s, option, amount, "env", *settings, *words]))


def meson_job(name, row, work):
    return job(name, row["cmd"], row["timeout"] * SLOWER, work, row["env"])


def files_of(rows):
    """What the tests' commands name, and what lies beside a contract test: its helpers and plug-ins."""
    named = {path for row in rows for word in row["cmd"] if (path := BUILD / word).is_file()}
    folders = {path.parent for path in named if path.parent.name == "contract"}
    beside = {path for folder in folders for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)}
    return sorted(named | beside)


def check(vm_env, machine, jobs, files, timeout_s):
    """Run the jobs in one boot; each must end with status 0."""
    script = "\n".join([shlex.join(["cd", str(BUILD)]), JOB, *jobs])
    text = vm.boot(vm_env, machine, ["sh", "-c", script], files=[*files, *need(*USED)], timeout_s=timeout_s)
    ended = ENDED.findall(text)
    assert len(ended) == len(jobs), text
    failed = [name for name, status in ended if status != "0"]
    assert not failed, f"{len(failed)} of {len(jobs)} failed: {failed}"


@pytest.mark.parametrize("machine", MACHINES)
def test_a_few(vm_env, machine):
    tests = {name: row for name, row in meson_tests().items() if name in FEW}
    assert len(tests) == len(FEW), sorted(set(FEW) - set(tests))
    jobs = [meson_job(name, row, FEW[name]) for name, row in tests.items()]
    jobs.append(job("preloaded", ["bash", "-c", PRELOADED, "bash", OURS], 60))
    check(vm_env, MACHINES[machine], jobs, [OURS, *files_of(tests.values())], 400)


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
    files = [*need(*GUESTS_PROGRAMS), *modules, *GUESTS_FOLDERS, OURS]
    users = "echo nobody:x:65534:65534::/:/bin/sh >>/etc/passwd; echo nogroup:x:65534: >>/etc/group"
    words = ["env", "LANG=C.UTF-8", f"SLABMALLOC_BUILD={BUILD}", "/usr/bin/python3", "-m", "pytest", "-vv", "-p",
             "no:cacheprovider", "-k", GUESTS_CHOICE, *(ROOT / "test" / "system" / name for name in GUESTS_TESTS)]
    vm.boot(vm_env, machine, ["sh", "-c", f"{users}; {shlex.join(map(str, words))}"], files, 3600)


def check_suite(vm_env, machine, suite):
    tests = {name: row for name, row in meson_tests().items() if name.startswith(f"{suite} / ")}
    assert tests, f"the build has no suite {suite}"
    for name in LEFT_OUT.keys() & tests.keys():
        print(f"{name}: left out, for {LEFT_OUT[name]}")
        del tests[name]
    jobs = [meson_job(name, row, reduced(row["cmd"])) for name, row in tests.items()]
    check(vm_env, machine, jobs, files_of(tests.values()), 7200)


@pytest.mark.skipif(not SUITES, reason="SLABMALLOC_VM_SUITES asks for no whole suite")
@pytest.mark.parametrize("suite", SUITES or ["none"])
@pytest.mark.parametrize("machine", MACHINES)
def test_suite(vm_env, machine, suite):
    if suite == "programs":
        check_programs(vm_env, MACHINES[machine])
    else:
        check_suite(vm_env, MACHINES[machine], suite)
