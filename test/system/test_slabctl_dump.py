"""Profiles that the library writes itself, by slab_profile_dump and the options profile_file and profile_signal: slabctl
reads from them what it reads from the process."""
import pathlib
import random
import re
import signal
import shutil
import subprocess

import pytest

from conftest import BUILD, LIBRARY, OURS, SLABCTL_CHECKED, need, scaled
from programs import PYTHON
from slabctl_tools import Child, compile_program, complains, ends_well, slabctl, tells
from test_slabctl_hostile import with_wrong_bytes
from tools.python import servers
from tools.python.processes import plain_env, stat_fields, wait_until

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_built"),
              pytest.mark.skipif(LIBRARY != OURS, reason="other allocators write no profiles")]
OPTIONS = {"SLABMALLOC_OPTIONS": "sample_bytes=4K"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The dumper in each form in which a program can run on the library: {name: (program, environment)}."""
    folder = tmp_path_factory.mktemp("programs")
    library, archive = shutil.copy(BUILD / "libslabmalloc.so", folder), BUILD / "libslabmalloc.a"
    found = {"linked": (compile_program("dumper.c", folder, library),
                        plain_env(LD_LIBRARY_PATH=str(folder), **OPTIONS))}
    for name, words in {"archive": [], "static": ["-static"], "static PIE": ["-static-pie"]}.items():
        found[name] = (compile_program("dumper.c", folder, archive, *words, name=name),
                       plain_env(SLABMALLOC_OPTIONS="sample_bytes=256K"))  # static ones keep more of each stack
    return found


@pytest.fixture
def dumper(programs, tmp_path):
    program, env = programs["linked"]
    with Child(program, env=env, cwd=tmp_path) as child:
        yield child


def top(target, *words):
    return tells("--bytes", *target, "top", *words)


def functions(core):
    """Live bytes by function."""
    text = top(["--core", core], "--by", "function")
    return {row[1]: int(row[0]) for row in re.findall(r"(?m)^ *(\d+) +[\d.]+% +\d+ +\d+ +\d+ +\d+  (\S.*)$", text)}


def code_in(maps):
    return set(re.findall(r"(?m)^(\S+ r-xp \S+) \S+ \S+ +(/.*)$", maps))


def code_of(pid):
    return code_in(pathlib.Path(f"/proc/{pid}/maps").read_text())


def legacy(target):
    """The stacks of a profile, and the mappings of code."""
    stacks, mappings = tells(*target, "profile", "--legacy", "-").split("MAPPED_LIBRARIES:\n")
    return stacks, code_in(mappings)


@pytest.mark.parametrize("form", ["linked", "archive", "static", "static PIE"])
def test_a_dump_says_what_the_process_does(programs, tmp_path, form):
    program, env = programs[form]
    with Child(program, env=env, cwd=tmp_path) as child:
        child.tell("d", "done")
        core, live = ["--core", tmp_path / "dump"], [child.pid]
        for words in ([], ["--full", "--lines", 1000], ["--by", "cache"], ["--by", "function", "--allocated"]):
            assert top(core, *words) == top(live, *words), words
        assert re.search(r"(?m)^ *31457280 .* 3  (?:.*\n +){0,2}table_new ", top(core, "--full"))
        assert " session\n" in top(core, "--by", "cache")
        # Objects that have gone are not there, and yet were allocated.
        child.tell("f", "done")
        child.tell("d", "done")
        assert "buffer_new" not in top(core) and "buffer_new" in top(core, "--allocated")
        written, dumped = legacy(live), legacy(core)
        assert written[0] == dumped[0] and code_of(child.pid) <= dumped[1]


def test_a_dump_is_small_and_without_the_objects(dumper, tmp_path):
    dumper.tell("d", "done")
    assert (tmp_path / "dump").stat().st_size < 2 << 20  # of 46 MiB, of which there are some 8000 samples


def test_a_dump_is_of_a_core_and_no_process(dumper, tmp_path):
    dumper.tell("d", "done")
    core = tmp_path / "dump"
    assert complains("--core", core, "purge") == f"{core}: a core dump takes no commands"
    readelf, = need("readelf")
    done = subprocess.run([readelf, "-hln", core], capture_output=True, text=True, env=plain_env(LC_ALL="C"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "CORE (Core file)" in done.stdout and "NT_FILE" in done.stdout and "NT_PRPSINFO" in done.stdout


def test_another_program_of_the_same_name_gives_no_names(programs, tmp_path):
    """It was updated since, or is gone: its functions have addresses, not the names of others."""
    program, env = programs["linked"]
    copy, core = tmp_path / "program", ["--core", tmp_path / "dump"]
    shutil.copy(program, copy)
    with Child(copy, env=env, cwd=tmp_path) as child:
        child.tell("d", "done")
    before = top(core, "--by", "function")
    assert "table_new" in before
    copy.unlink()
    shutil.copy(PYTHON, copy)
    after = top(core, "--by", "function")
    copy.unlink()
    assert after == top(core, "--by", "function") and "table_new" not in after
    total = re.compile(r"\d+ live, between \d+ and \d+, by \d+ samples")
    assert total.search(before)[0] == total.search(after)[0]


def samples_in(text):
    return int(re.search(r" by (\d+) samples?", text)[1])


def cut_at(core, whole, size):
    """The core is so short; what `top` says of it, which ends with 1."""
    core.write_bytes(whole[:size])
    done = slabctl("--core", core, "top")
    assert done.returncode == 1, done
    return done


def test_a_dump_that_was_cut_says_so(dumper, tmp_path):
    """Its figures are too low: that is no success, and there are no bounds. The last 64 bytes are a sample."""
    dumper.tell("d", "done")
    whole, core = (tmp_path / "dump").read_bytes(), tmp_path / "core"
    count = samples_in(top(["--core", tmp_path / "dump"]))
    for lost, size in ((1, 1), (1, 64), (2, 65), (1000, 64000), (count, count * 64)):
        done = cut_at(core, whole, len(whole) - size)
        assert samples_in(done.stdout) == count - lost and "between" not in done.stdout
        line = f"the file is cut: up to {lost} of {count} samples cannot be read; the figures are too low\n"
        assert done.stderr == f"slabctl: {core}: {line}" and f"note: {line}" in done.stdout
        rows = done.stdout.split("\n\n")[0].splitlines()[1:]
        assert all(re.match(r" +\S+ [KMG]?i?B +\S+% +- +- ", row) for row in rows if re.match(" +[0-9]", row))
        done = slabctl("--core", core, "profile", tmp_path / "profile")
        assert (done.returncode, done.stderr) == (1, f"slabctl: {core}: {line}")
        assert f"in what could be read, by {count - lost} samples" in done.stdout and (tmp_path / "profile").exists()


def test_a_dump_of_which_little_is_left(dumper, tmp_path):
    dumper.tell("d", "done")
    whole, core = (tmp_path / "dump").read_bytes(), tmp_path / "core"
    for size in range(64, len(whole) - 64 * 10, len(whole) // 50):
        done = cut_at(core, whole, size)
        assert "cut" in done.stderr or "not a core dump" in done.stderr, done
        assert done.stderr.count("\n") == 1


def test_a_process_whose_samples_cannot_be_read(dumper):
    """Some of them: what is said of the others says so."""
    count = samples_in(top([dumper.pid]))
    assert 2048 < count <= 4088
    dumper.tell("h")
    wait_until(lambda: stat_fields(dumper.pid)[0] == "T", "it has stopped")
    done = slabctl(dumper.pid, "top")
    said = re.fullmatch(r"slabctl: \d+: up to (\d+) of (\d+) samples cannot be read; the figures are too low\n", done.stderr)
    assert done.returncode == 1 and "between" not in done.stdout
    lost, records = map(int, said.groups())
    assert records >= count and 1024 < lost <= 2048 and samples_in(done.stdout) >= count - lost
    row = next(line for line in slabctl().stdout.splitlines() if line.split()[0] == str(dumper.pid))
    assert row.endswith(" -")  # its live bytes


def test_a_core_that_was_cut_says_so(dumper, tmp_path):
    """Wherever that is: it has all samples, or says that it has not. What the core had is not taken from the files."""
    gcore, = need("gcore")
    subprocess.run([gcore, "-o", tmp_path / "whole", str(dumper.pid)], capture_output=True, check=True)
    whole, = tmp_path.glob("whole.*")
    good = top(["--core", whole])
    size = whole.stat().st_size
    outcomes = set()
    for part in range(1, 25):
        with open(whole, "r+b") as file:
            file.truncate(size - size * part // 25)
        done = slabctl("--bytes", "--core", whole, "top")
        if done.returncode == 0:
            assert samples_in(done.stdout) == samples_in(good)
        else:
            assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "the file is cut" in done.stderr, done
        outcomes.add(done.returncode)
    assert 1 in outcomes


@pytest.mark.usefixtures("slabctl_checked_built")
def test_dumps_with_wrong_bytes(dumper, tmp_path):
    dumper.tell("d", "done")
    good, core = (tmp_path / "dump").read_bytes(), tmp_path / "core"
    for _ in range(scaled(30)):
        seed = random.SystemRandom().getrandbits(48)
        chance = random.Random(seed)
        core.write_bytes(with_wrong_bytes(good, chance, chance.choice((64, 1024, 65536, len(good)))))
        words = chance.choice((["top"], ["top", "--by", "cache"], ["profile", "-"]))
        done = slabctl("--core", core, *words, tool=SLABCTL_CHECKED)
        said = f"seed {seed}: {done}"
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, said
        assert ends_well(done), said


# -- options ----------------------------------------------------------------------------------------------------------

def environment(options, **more):
    return plain_env(LD_PRELOAD=str(LIBRARY), SLABMALLOC_OPTIONS=options, **more)


def profiles(folder):
    """{PID: file}; there is nothing else, and each is only its owner's."""
    found = {int(re.fullmatch(r"heap\.(\d+)", path.name)[1]): path for path in folder.iterdir()}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in found.values())
    return found


def test_each_process_writes_one_at_exit(tmp_path):
    script = "import os; os.fork() and os.wait(); os.system('cat /dev/null; exit 3')"
    done = subprocess.Popen([PYTHON, "-c", script], env=environment(f"profile_file={tmp_path}/heap,sample_bytes=1K"),
                            stderr=subprocess.PIPE, text=True)
    assert done.communicate()[1] == "" and done.returncode == 0
    found = profiles(tmp_path)
    assert done.pid in found and len(found) >= 4  # two of Python, two of cat; dash ends by _exit
    for path in found.values():
        assert " live, between " in top(["--core", path])


def test_a_relative_path_is_where_the_process_is_then(tmp_path):
    (tmp_path / "there").mkdir()
    done = subprocess.run([PYTHON, "-c", "import os; os.chdir('there')"], env=environment("profile_file=heap"), cwd=tmp_path,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(profiles(tmp_path / "there")) == 1


def test_who_does_not_exit_writes_none(tmp_path):
    subprocess.run([PYTHON, "-c", "import os; os._exit(0)"], env=environment(f"profile_file={tmp_path}/heap"), check=True)
    assert profiles(tmp_path) == {}


class Redis(servers.Redis):
    options = ("--enable-debug-command", "yes")


def test_a_server_writes_one_on_a_signal(place, preload):
    """Again and again: each is whole, and it goes on."""
    need("redis-server", "redis-cli")
    folder = place / "redis"
    options = f"profile_file={folder}/heap,profile_signal={signal.SIGUSR1:d},sample_bytes=64K"
    with Redis(folder, preload.library, env=plain_env(LD_PRELOAD=str(preload.library), SLABMALLOC_OPTIONS=options)) as redis:
        pid = redis.process.pid
        file, seen = folder / f"heap.{pid}", None
        redis.ask("DEBUG", "POPULATE", scaled(50_000), "key", 1000)
        for _ in range(3):
            redis.process.send_signal(signal.SIGUSR1)
            wait_until(lambda: redis.process.poll() is not None or file.exists() and file.stat().st_ino != seen,
                       "it is written")
            seen = file.stat().st_ino
        assert redis.ask("PING") == "PONG"
        assert sum(functions(file).values()) > scaled(50_000) * 900
    assert file.stat().st_ino != seen  # it has exited


def test_a_program_with_a_handler_of_its_own_keeps_the_signal(tmp_path):
    script = ("import os, signal; signal.signal(10, lambda *_: print('mine', flush=True)); os.kill(os.getpid(), 10);"
              f"print(os.listdir('{tmp_path}'))")
    done = subprocess.run([PYTHON, "-c", script], env=environment(f"profile_file={tmp_path}/heap,profile_signal=10"),
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n[]\n", "")


def ignore_usr1():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def test_a_signal_that_is_ignored_at_start_is_left_alone(tmp_path):
    done = subprocess.run(["/bin/true"], env=environment(f"profile_file={tmp_path}/heap,profile_signal=10"),
                          capture_output=True, text=True, preexec_fn=ignore_usr1)
    assert (done.returncode, done.stderr) == (0, "slabmalloc: option profile_signal=10: the process ignores it; no profile "
                                                 "will be written on it\n")


@pytest.mark.parametrize("options, said", [
    ("profile_file=/nowhere/heap", "profile_file=/nowhere/heap: there is no such folder; no profile will be written"),
    ("profile_signal=10", "profile_signal=10: there is no profile_file; no profile will be written on it"),
    ("profile_file=heap,profile_signal=11",
     "profile_signal=11: not a signal that can be taken; no profile will be written on it"),
])
def test_what_cannot_be_is_told_at_start(tmp_path, options, said):
    done = subprocess.run(["sh", "-c", "kill -9 $$"], env=environment(options), cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == f"slabmalloc: option {said}\n"
