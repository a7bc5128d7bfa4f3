"""slabctl on processes that run on the library as they are: nothing is prepared in them. What the tool cannot do it
says in one line, and ends with 1."""
import fcntl
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest

from conftest import BUILD, LIBRARY, OURS, SLABCTL, need, scaled
from slabctl_tools import NOBODY, PATIENCE, Child, compile_program, complains, ends_well, slabctl, tells
from tools.python import servers
from tools.python.processes import plain_env, stat_of, status_mib, wait_until

pytestmark = [pytest.mark.xdist_group("slabctl"), pytest.mark.usefixtures("slabctl_built"),
              pytest.mark.skipif(LIBRARY != OURS, reason="other allocators have no slab_inspect")]
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
ATTACHED = scaled(50)  # a thousand in a run that is twenty times as long


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The victim in each form in which a program can run on the library: {name: (program, environment)}."""
    folder = tmp_path_factory.mktemp("programs")
    folder.chmod(0o755)
    library = shutil.copy(BUILD / "libslabmalloc.so", folder)
    archive = BUILD / "libslabmalloc.a"
    preloaded = plain_env(LD_PRELOAD=str(library), LD_LIBRARY_PATH=str(folder))
    linked = compile_program("victim.c", folder, library)
    found = {"linked": (linked, plain_env(LD_LIBRARY_PATH=str(folder))), "preloaded": (linked, preloaded)}
    for name, words in {"archive": ["-pie"], "archive, no PIE": ["-no-pie"], "static": ["-static"],
                        "static PIE": ["-static-pie"], "archive, stripped": ["-s"],
                        "static, stripped": ["-static", "-s"]}.items():
        found[name] = compile_program("victim.c", folder, archive, *words, name=name), plain_env()
    return found


FORMS = ["linked", "preloaded", "archive", "archive, no PIE", "static", "static PIE", "archive, stripped",
         "static, stripped"]


@pytest.fixture
def victim(programs):
    program, env = programs["linked"]
    with Child(program, env=env) as child:
        yield child


def figures(pid, *words):
    """What `stats` prints, exactly."""
    rows = (line.rsplit(maxsplit=1) for line in tells("--bytes", *words, pid, "stats").splitlines())
    return {name: int(value) if value.isdigit() else value for name, value in rows}


def listed(*words, **more):
    """The rows of `slabctl` alone, by process, and the lines below them."""
    lines = tells(*words, **more).splitlines()
    rows = [line.split() for line in lines]
    table = [row for row in rows if row[0].isdigit() and len(row) > 5]
    return {int(row[0]): row for row in table}, [line for line in lines if "may not" in line]


# -- a server ---------------------------------------------------------------------------------------------------------

class Redis(servers.Redis):
    options = ("--enable-debug-command", "yes")  # for POPULATE

    def populate(self, keys):
        assert self.ask("DEBUG", "POPULATE", keys, "key", 1000) == "OK"


def test_a_server_that_was_started_with_nothing_but_the_preload(preload, place):
    need("redis-server", "redis-cli")
    with Redis(place / "redis", preload.library) as redis:
        pid = redis.process.pid
        rows, _ = listed()
        assert rows[pid][1] == "redis-server"
        before = figures(pid)
        redis.populate(scaled(20_000))
        after = figures(pid)
        assert after["live_bytes"] - before["live_bytes"] >= scaled(20_000) * 1000
        assert after["threads"] >= 1 and after["program"] == "redis-server"
        redis.ask("FLUSHALL")
        full = status_mib(pid, "VmRSS")
        assert re.fullmatch(r"purged .*; RSS .* -> .*\n", tells(pid, "purge"))
        assert status_mib(pid, "VmRSS") < full
        assert "size-" in tells(pid, "caches")
        assert tells(pid, "limit", "900M") == "limit 900.0 MiB; it was none\n"
        assert figures(pid)["limit_bytes"] == 900 << 20
        assert tells(pid, "limit", "0") == "limit none; it was 900.0 MiB\n"
        assert redis.ask("PING") == "PONG"


def test_an_idle_server_that_was_emptied_is_as_small_as_a_fresh_one(preload, place):
    need("redis-server", "redis-cli")
    with Redis(place / "redis", preload.library) as redis:
        pid = redis.process.pid
        redis.ask("PING")
        fresh = status_mib(pid, "VmRSS")
        redis.populate(scaled(50_000))
        redis.ask("FLUSHALL")
        tells(pid, "purge")
        assert status_mib(pid, "VmRSS") <= 1.1 * fresh


# -- every kind of program --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_program(programs, form):
    program, env = programs[form]
    with Child(program, env=env) as child:
        assert child.pid in listed()[0]
        assert figures(child.pid)["live_bytes"] >= 1000 * 1000
        assert "victim" in tells(child.pid, "caches")


def test_several_copies(programs):
    """A program that has the archive, with the library preloaded: the first one is in use."""
    with Child(programs["archive"][0], env=programs["preloaded"][1]) as child:
        found = figures(child.pid)
        assert found["copies of the library"] == 2 and found["live_bytes"] >= 1000 * 1000


@pytest.mark.parametrize("form", ["linked", "static"])
def test_a_file_without_the_note(programs, tmp_path, form):
    """What it has left is the symbol."""
    program, env = programs[form]
    original = BUILD / "libslabmalloc.so" if form == "linked" else program
    note = struct.pack("3I", 11, 4, 2) + b"slabmalloc"
    changed = tmp_path / original.name
    data = original.read_bytes()
    assert data.count(note) == 1
    changed.write_bytes(data.replace(note, note[:-1] + b"?"))
    changed.chmod(0o755)
    if form == "linked":
        env = plain_env(LD_LIBRARY_PATH=str(tmp_path))
    else:
        program = changed
    with Child(program, env=env) as child:
        assert child.pid in listed()[0]
        assert figures(child.pid)["live_bytes"] >= 1000 * 1000


def test_a_program_that_was_deleted_and_its_library_too(programs, tmp_path):
    """By what is in memory; root may open the files still."""
    library = shutil.copy(BUILD / "libslabmalloc.so", tmp_path)
    program = shutil.copy(programs["linked"][0], tmp_path)
    with Child(program, env=plain_env(LD_LIBRARY_PATH=str(tmp_path))) as child:
        os.unlink(library)
        os.unlink(program)
        assert child.pid in listed()[0]
        if os.getuid() == 0:
            assert figures(child.pid)["live_bytes"] >= 1000 * 1000


def test_another_file_in_the_library_s_place(programs, tmp_path):
    """Its path names a file by now that is not the one that is mapped."""
    library = pathlib.Path(shutil.copy(BUILD / "libslabmalloc.so", tmp_path))
    with Child(programs["linked"][0], env=plain_env(LD_LIBRARY_PATH=str(tmp_path))) as child:
        library.unlink()
        shutil.copy("/bin/true", library)
        assert child.pid in listed()[0]


def unshared(*argv):
    """In a mount namespace of its own, and a process namespace; the test is skipped where that is not allowed."""
    unshare, = need("unshare")
    command = [unshare, "--mount", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here")
    return [*command, *argv]


def only_child(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@AS_ROOT
def test_a_container(programs, tmp_path):
    """The paths of its mappings lead nowhere outside, and its own number is another."""
    shutil.copy(BUILD / "libslabmalloc.so", tmp_path)
    shutil.copy(programs["linked"][0], tmp_path / "victim")
    script = f"mount --bind {tmp_path} /mnt && LD_LIBRARY_PATH=/mnt exec /mnt/victim"
    with Child(*unshared("sh", "-c", script)) as child:
        inside, = only_child(child.pid)
        assert "/mnt/libslabmalloc.so" in pathlib.Path(f"/proc/{inside}/maps").read_text()
        assert child.said[1] != str(inside)
        assert inside in listed()[0]
        assert figures(inside)["live_bytes"] >= 1000 * 1000


@AS_ROOT
def test_a_changed_root(programs, tmp_path):
    shutil.copy(programs["static"][0], tmp_path / "victim")
    with Child("chroot", tmp_path, "/victim") as child:
        assert figures(child.pid)["live_bytes"] >= 1000 * 1000


def test_a_main_thread_that_has_ended(victim):
    victim.tell("w", "done")
    victim.tell("t", "done")
    wait_until(lambda: pathlib.Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z",
               "the main thread has ended")
    found = figures(victim.pid)
    assert found["live_bytes"] >= 1000 * 1000
    assert found["resident_bytes"] >= found["live_bytes"]
    before, after = re.search(r"RSS (\d+) -> (\d+)\n", tells("--bytes", victim.pid, "purge")).groups()
    assert int(before) >= 1000 * 1000 and int(after) >= 1000 * 1000
    assert int(listed("--bytes")[0][victim.pid][3]) >= 1000 * 1000


# -- commands ---------------------------------------------------------------------------------------------------------

def test_stats_for_people_and_exactly(victim):
    assert re.search(r"(?m)^live +\d+\.\d MiB$", tells(victim.pid, "stats"))
    exact = figures(victim.pid)
    assert exact["program"] == "victim" and exact["live_bytes"] > 1 << 20
    assert exact["resident_bytes"] >= exact["live_bytes"]


def test_purge_says_what_it_gave(victim):
    victim.tell("m", "done")
    said = re.fullmatch(r"purged (\d+); RSS (\d+) -> (\d+)\n", tells("--bytes", victim.pid, "purge"))
    purged, before, after = map(int, said.groups())
    assert before - after >= purged / 2 > 1 << 20


def test_caches_have_their_objects(victim):
    head, *rows = tells("--bytes", victim.pid, "caches").splitlines()
    names = head.split()
    row, = [dict(zip(names, row.split())) for row in rows if row.startswith("victim ")]
    assert (row["OBJECT"], row["LIVE"], row["BYTES"]) == ("200", "1000", "200000")


def test_a_cache_can_be_tuned_and_shrunk(victim):
    assert tells(victim.pid, "tune", "victim", 16, 3) == (
        "victim: magazines of 16 rounds, of which a depot keeps 3\n")
    assert tells(victim.pid, "tune", "victim", 0) == (
        "victim: magazines of as many rounds as it finds good, of which a depot keeps as many as it finds good\n")
    assert re.fullmatch(r"victim: slabs of .* were given back\n", tells(victim.pid, "shrink", "victim"))
    assert re.fullmatch(r"all caches: slabs of .* were given back\n", tells(victim.pid, "shrink"))


def test_caches_of_one_name(victim):
    """All of that name are meant."""
    victim.tell("c", "done")
    assert re.fullmatch(r"conn \(2 caches\): slabs of .* were given back\n", tells(victim.pid, "shrink", "conn"))
    assert tells(victim.pid, "tune", "conn", 7, 3) == (
        "conn (2 caches): magazines of 7 rounds, of which a depot keeps 3\n")
    assert tells(victim.pid, "shrink", "size-1024").startswith("size-1024 (2 caches): ")


def test_a_cache_that_is_named_like_a_class(programs):
    """They are two, whatever they are called."""
    program, env = programs["linked"]
    with Child(program, env={**env, "SLABMALLOC_OPTIONS": "sample_bytes=1K"}) as child:
        child.tell("c", "done")
        said = tells("--bytes", child.pid, "top", "--by", "cache", "-n", 100)
        rows = re.findall(r"(?m)^ *(\d+) .*  (conn|size-(?:1024|64f).*|cache.*)$", said)
    found = {name: int(bytes_) for bytes_, name in rows}
    assert set(found) == {"conn", "size-1024", "size-1024 (named)", "size-64foo", "cache-945"}
    assert found["conn"] == pytest.approx(512 * (2048 + 2112), rel=0.2)
    assert found["size-1024 (named)"] == pytest.approx(512 * 2176, rel=0.2)
    assert found["size-1024"] == pytest.approx((1024 + 1000) * 1024, rel=0.2)


@pytest.mark.parametrize("words", [["shrink", ""], ["tune", "", 3], ["option", ""]])
def test_an_empty_word_is_no_name(victim, words):
    """Of a script whose variable was not set: least of all does it mean all caches."""
    assert complains(victim.pid, *words, status=2) == "(empty): not a name (--help says more)"


def test_numbers_that_a_cache_cannot_be_tuned_to(victim):
    assert complains(*PATIENCE, victim.pid, "tune", "size-48", 255) == (
        f"{victim.pid}: rounds may be 0 to 254, magazines 0 to 4294967295")
    assert "up to 4294967295" in complains(victim.pid, "tune", "size-48", 1, 2**32, status=2)


@pytest.mark.parametrize("words", [["tune", "nonsense", 16], ["shrink", "nonsense"]])
def test_a_cache_that_is_not_there(victim, words):
    assert complains(*PATIENCE, victim.pid, *words) == f"{victim.pid}: nonsense: there is no such cache"


def test_options(victim):
    assert tells(victim.pid, "option", "purge_delay_ms") == "purge_delay_ms=500\n"
    assert tells(victim.pid, "option", "purge_delay_ms=100") == "purge_delay_ms=100\n"
    assert tells(victim.pid, "option", "purge_delay_ms") == "purge_delay_ms=100\n"


@pytest.mark.parametrize("option", ["nonsense", "nonsense=1", "purge_delay_ms=x", "purge_delay_ms=99999999999"])
def test_options_that_are_wrong(victim, option):
    assert complains(*PATIENCE, victim.pid, "option", option).startswith(f"{victim.pid}: ")


def test_tools_at_once(victim):
    """None gets another's answer, none waits for ever, and whatever was set was set by one of them."""
    failures = []

    def work(number):
        for i in range(scaled(10)):
            bytes_ = (1 << 40) + 1000 * number + i
            said = slabctl(*PATIENCE, "--bytes", victim.pid, "limit", bytes_)
            if said.returncode or not said.stdout.startswith(f"limit {bytes_}; "):
                failures.append(said)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_process_at_work_is_looked_into_again_and_again(victim):
    victim.tell("w", "done")
    for _ in range(ATTACHED):
        assert figures(victim.pid)["live_bytes"] >= 999 * 1000
    victim.tell("m", "done")


# -- what cannot be done ----------------------------------------------------------------------------------------------

def test_no_such_process():
    assert complains(2**31 - 1, "stats") == "2147483647: no such process"


def test_a_process_that_runs_on_another_malloc():
    with subprocess.Popen(["sleep", "1000"], env=plain_env()) as process:
        try:
            assert complains(process.pid, "stats") == f"{process.pid}: does not run on slabmalloc"
            assert process.pid not in listed()[0]
        finally:
            process.kill()


@AS_ROOT
def test_another_user_is_refused(victim, place):
    tool = shutil.copy(SLABCTL, place)
    for words in (["stats"], ["purge"], ["option", "worker"]):
        assert complains(victim.pid, *words, tool=tool, **NOBODY) == (
            f"{victim.pid}: no permission (may you ptrace it?)")
    rows, below = listed(tool=tool, **NOBODY)
    assert victim.pid not in rows and re.fullmatch(r"\d+ process(es)? may not be looked into", below[0])


@AS_ROOT
def test_the_same_user_is_not_refused(programs, place):
    tool = shutil.copy(SLABCTL, place)
    program = shutil.copy(programs["static"][0], place)
    with Child(program, **NOBODY) as child:
        assert "live" in tells(child.pid, "stats", tool=tool, **NOBODY)
        assert child.pid in listed(tool=tool, **NOBODY)[0]


def test_a_stopped_process(victim):
    victim.stop()
    assert complains(victim.pid, "purge") == f"{victim.pid}: is stopped"
    assert victim.pid in listed()[0]
    victim.kill(signal.SIGCONT)
    assert tells(victim.pid, "purge").startswith("purged ")


def test_a_process_that_has_ended_and_one_that_was_not_waited_for(victim):
    victim.kill(signal.SIGKILL)
    wait_until(lambda: stat_of(victim.pid) is None, "it has ended")
    assert complains(victim.pid, "stats") == f"{victim.pid}: ended (its parent has not waited for it yet)"
    victim.process.wait()
    assert complains(victim.pid, "stats") == f"{victim.pid}: no such process"


@pytest.mark.parametrize("command", ["stats", "top"])
def test_a_tool_that_may_open_few_files(victim, command):
    """It does what it can, and never says that a process has ended which has not."""
    said = set()
    for files in range(4, 12):
        limits = {"preexec_fn": lambda files=files: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))}
        done = slabctl(*PATIENCE, victim.pid, command, **limits)
        assert ends_well(done), done
        said.add(done.stderr)
    assert all(not line or line.endswith("Too many open files\n") for line in said), said


@pytest.mark.parametrize("command", ["stats", "top"])
def test_a_process_that_is_ending(victim, command):
    """Its memory is gone at some time, and it is not: that takes long where it had much."""
    victim.tell("b", "done")
    victim.kill(signal.SIGKILL)
    said, last = set(), f"slabctl: {victim.pid}: ended (its parent has not waited for it yet)\n"
    while last not in said:
        done = slabctl(victim.pid, command)
        if done.returncode:  # the first one may be in time
            said.add(done.stderr)
    assert said <= {f"slabctl: {victim.pid}: is ending\n", last}


def test_a_process_that_has_executed_another_program(victim):
    victim.tell("x")
    comm = pathlib.Path(f"/proc/{victim.pid}/comm")
    wait_until(lambda: comm.read_text() == "sleep\n", "it has executed sleep")
    # The library comes along where it was preloaded, not where it was linked.
    assert complains(victim.pid, "stats") == f"{victim.pid}: does not run on slabmalloc"


def test_a_process_that_has_forked(victim):
    child = int(victim.tell("f", "done")[1])
    try:
        assert {victim.pid, child} <= listed()[0].keys()
        assert figures(victim.pid)["live_bytes"] >= 1000 * 1000
        # A child of one thread has no worker: nobody is there to answer.
        done = slabctl("--timeout", 0.1, child, "stats")
        assert done.returncode == 0 or "no answer within 0.1 s" in done.stderr
    finally:
        os.kill(child, signal.SIGKILL)


ALLOCATES = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    kept = [bytes(5000) for _ in range(20000)]
    print("done", flush=True)
"""


def running(words):
    """The processes whose arguments end with these words."""
    end = b"".join(b"%s\0" % os.fsencode(str(word)) for word in words)
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path] if path.read_bytes().endswith(end) else []
        except OSError:
            pass
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])  # a shell may have SIGINT ignored
def test_a_killed_tool_leaves_no_command_behind(preload, number):
    with Child("/usr/bin/python3", "-c", ALLOCATES, env=preload.env("", PYTHONMALLOC="malloc")) as child:
        words = [child.pid, "limit", "1M"]
        tool = subprocess.Popen([SLABCTL, "--timeout", "1000", *map(str, words)])
        wait_until(lambda: len(running(words)) == 3, "its child watches over a command")
        time.sleep(0.2)  # it is written by now, or soon
        tool.send_signal(number)
        assert tool.wait() == -number
        wait_until(lambda: not running(words), "the command has been taken back")
        assert child.tell("go", "done")


def test_a_tool_that_holds_the_mailbox_is_told_from_an_idle_process(preload):
    """One without a worker, so that it does not answer."""
    with Child("/usr/bin/python3", "-c", ALLOCATES, env=preload.env("", PYTHONMALLOC="malloc")) as child:
        words = ["--timeout", 0.1, child.pid, "stats"]
        assert "(its threads are idle" in complains(*words)
        with open(f"/proc/{child.pid}/mem", "rb") as memory:
            fcntl.flock(memory, fcntl.LOCK_EX)
            assert "(another slabctl is at it, or its threads are idle" in complains(*words)


# A thread that finds all it needs in its magazines.
BUSY = """
import time
print("ready", flush=True)
while True:
    for i in range(10000):
        kept = bytes(5000 + i % 1000)
    time.sleep(0.01)
"""


def test_sampling_can_be_switched_on_in_a_busy_process_of_one_thread(preload):
    with Child("/usr/bin/python3", "-c", BUSY, env=preload.env("sample_bytes=0", PYTHONMALLOC="malloc")) as child:
        assert "sampling is off" in tells(child.pid, "top")
        assert tells(child.pid, "option", "sample_bytes=64K") == "sample_bytes=65536\n"
        wait_until(lambda: " 0 samples" not in tells(child.pid, "top", "--allocated"), "something is sampled")
        said = tells(child.pid, "top", "--allocated")
        assert "sampling was off for a time" in said and "without what was allocated while sampling was off" in said


# -- core dumps -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def core(programs, tmp_path_factory):
    gcore, = need("gcore")
    folder = tmp_path_factory.mktemp("cores")
    program, env = programs["linked"]
    with Child(program, env=env) as child:
        subprocess.run([gcore, "-o", folder / "core", str(child.pid)], capture_output=True, check=True)
    path, = folder.glob("core.*")
    return path


def test_a_core_dump_takes_no_commands(core):
    assert complains("--core", core, "purge") == f"{core}: a core dump takes no commands"


def test_a_core_dump_of_something_else(tmp_path):
    (tmp_path / "text").write_text("text\n")
    assert "not a core dump" in complains("--core", tmp_path / "text", "stats")
    assert "not a core dump" in complains("--core", "/bin/true", "stats")
    assert "No such file" in complains("--core", tmp_path / "nothing", "stats")
    assert complains("--core", tmp_path, "stats") == f"{tmp_path}: Is a directory"
    for device in ("/dev/null", "/dev/zero"):
        assert complains("--core", device, "stats") == f"{device}: not a file"


# -- words ------------------------------------------------------------------------------------------------------------

def test_help_names_every_command():
    said = tells("--help")
    for name in ("stats", "caches", "purge", "limit", "shrink", "tune", "option", "--core", "--bytes", "--timeout"):
        assert name in said
    assert tells(1, "limit", "--help").startswith("Usage: slabctl PID limit")
    assert re.fullmatch(r"slabctl \d+\.\d+\.\d+\n", tells("--version"))


@pytest.mark.parametrize("words", [
    ["--nonsense"], ["nonsense"], ["0", "stats"], ["-1", "stats"], ["99999999999", "stats"], ["1"], ["1", "nonsense"],
    ["1", "stats", "more"], ["1", "limit"], ["1", "limit", "1", "2"], ["1", "tune", "victim", "-1"],
    ["1", "stats", "--nonsense"], ["--timeout", "x"], ["--timeout", "-1"], ["--core"], ["--core", "x"]])
def test_wrong_usage(words):
    done = slabctl(*words)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("slabctl")


@pytest.mark.parametrize("words", [["limit", "x"], ["limit", "1Q"], ["limit", "99999999999999999999"],
                                   ["limit", "17179869184G"], ["tune", "victim", "x"],
                                   ["option", "x" * 200]])
def test_words_that_make_no_sense(victim, words):
    assert complains(victim.pid, *words, status=2).endswith("(--help says more)")


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["1", "top", "--help"]])
def test_a_full_disk_is_seen(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([SLABCTL, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "slabctl: standard output: No space left on device\n")
