"""SLABMALLOC_OPTIONS as a user meets it: the README's table, the answer to mistakes, figures at exit of all kinds of
programs, files that get nothing that is not theirs."""
import collections
import os
import re
import resource
import shutil
import signal
import subprocess

import pytest

from conftest import LIBRARY, ROOT, need
from programs import PYTHON

FIGURE = re.compile(r"slabmalloc: (\S+)\[(\d+)\]: ((?:node \d+ )?[a-z_]+) \d+")


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
    ("topology=2x2", "topology: only in checked builds; ignored"),
    ("refuse_blocks=1", "refuse_blocks: only in checked builds; ignored"),
])
def test_a_mistake_is_one_line_and_no_failure(options, said):
    if "only in checked" in said and any("topology" in row for row in standard_error_with("help=1")):
        pytest.skip("this is a checked build")
    assert standard_error_with(options) == [f"slabmalloc: option {said}"]


@pytest.mark.parametrize("path, reason", [
    ("nowhere/at/all/figures", "there is no such folder"),
    ("file/figures", "a part of the path is no folder"),
    ("folder", "it is a folder"),
    ("closed/figures", "permission denied"),
    ("read-only", "permission denied"),
])
def test_a_stats_file_that_cannot_be_written_is_told_at_start(place, preload, path, reason):
    (place / "file").touch()
    (place / "folder").mkdir()
    (place / "closed").mkdir(mode=0o555)
    (place / "read-only").touch(mode=0o444)
    nobody = {"user": 65534, "group": 65534} if os.getuid() == 0 else {}
    env = environment(f"stats_file={path}", LD_PRELOAD=str(preload.library))
    done = subprocess.run(["sh", "-c", "echo >&2 begins"], env=env, cwd=place, capture_output=True, text=True, **nobody)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"slabmalloc: option stats_file={path}: {reason}; no figures will be written"
                                        " to it", "begins"]


def test_a_stats_file_is_made_at_exit_by_who_exits(tmp_path):
    """A server begins as root, and ends as somebody else: it must not find root's file."""
    script = "import os, sys; sys.exit(os.path.exists('figures'))"
    done = run([PYTHON, "-c", script], "stats_file=figures", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "figures").read_text().count("\n") == 1


def test_a_pipe_without_a_reader_stops_no_program_at_start(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = run([PYTHON, "-c", "import os; os._exit(7)"], f"stats_file={tmp_path / 'pipe'}")
    assert (done.returncode, done.stderr) == (7, "")


# -- figures at exit ------------------------------------------------------------------------------------------------

def blocks(text):
    """Who reported, in turn: (program, pid) once for each run of its lines; each has all figures, in order."""
    found, names = [], collections.defaultdict(list)
    for line in text.splitlines():
        match = FIGURE.fullmatch(line)
        assert match, line
        who = match[1], int(match[2])
        if found[-1:] != [who]:
            found.append(who)
        names[who].append(match[3])
    for each in names.values():
        assert each[:2] == ["live_bytes", "cached_bytes"] and each[28] == "remote_frees"
        assert len(each) == len(set(each)) and each == next(iter(names.values()))
    return found


def reports_of(argv, **more):
    """(status, the names on its own figures, those on its children's) of a program; they are told apart by PID."""
    with subprocess.Popen(argv, env=environment("stats=1"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, **more) as process:
        said = process.stderr.read()
    own = [name for name, pid in blocks(said) if pid == process.pid]
    return process.returncode, own, [name for name, pid in blocks(said) if pid != process.pid]


CLOSED = "import os; os.close(2)"
PROGRAMS = {  # what they do with standard error before they exit
    "ls": ["ls", "/"],  # closes it, as all of coreutils
    "cat": ["cat", "/etc/passwd"],
    "sort": ["sort", "/etc/passwd"],
    "perl": ["perl", "-e", "close STDERR; print 1"],
    "bash": ["bash", "-c", "exec 2>&-; echo a; true"],
    "dash": ["dash", "-c", "exec cat /etc/passwd"],
    "python": [PYTHON, "-c", CLOSED],
    "from 3 on": [PYTHON, "-c", "import os; os.closerange(3, 65536)"],
    "another": [PYTHON, "-c", "import os; os.dup2(os.open('/dev/null', os.O_WRONLY), 2)"],
}
NAMES = {"dash": "cat", "python": None, "from 3 on": None, "another": None}


@pytest.mark.parametrize("how", PROGRAMS)
def test_figures_are_printed_whatever_a_program_does_with_standard_error(how):
    argv = PROGRAMS[how]
    need(argv[0])
    status, own, others = reports_of(argv)
    assert (status, others) == (0, [])
    assert own == [NAMES.get(how, how) or os.path.basename(PYTHON)]


def test_a_script_reports_its_programs():
    """dash itself ends by _exit."""
    need("dash")
    status, own, others = reports_of(["dash", "-c", "ls / | sort; exit 3"])
    assert (status, own, sorted(others)) == (3, [], ["ls", "sort"])


@pytest.mark.parametrize("end, status", [("os._exit(5)", 5), ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
                                         ("os.abort()", -signal.SIGABRT)])
def test_who_does_not_exit_reports_nothing(end, status):
    no_core = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))}
    assert reports_of([PYTHON, "-c", f"import os; {end}"], **no_core) == (status, [], [])


def test_children_of_fork_report_themselves():
    status, own, others = reports_of([PYTHON, "-c", f"{CLOSED}; child = os.fork(); child and os.wait()"])
    assert (status, len(own), others) == (0, 1, own)


def test_a_program_that_closed_everything_keeps_its_files_to_itself(tmp_path):
    """It opens so many that one has the number that the library's descriptor had."""
    script = ("import os; os.closerange(0, 65536)\n"
              f"for i in range(1024): assert os.open(f'{tmp_path}/{{i}}', os.O_CREAT | os.O_RDWR) == i")
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1100, 1100))}
    assert reports_of([PYTHON, "-c", script], **limit) == (0, [], [])
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert len(sizes) == 1024 and not any(sizes.values()), sizes


def test_a_file_in_the_place_of_standard_error_gets_nothing(tmp_path):
    script = f"{CLOSED}; assert os.open('{tmp_path / 'file'}', os.O_CREAT | os.O_RDWR) == 2"
    status, own, _ = reports_of([PYTHON, "-c", script])
    assert (status, len(own)) == (0, 1)
    assert (tmp_path / "file").read_text() == ""


def test_standard_error_closed_at_start_is_nobody_s():
    done = subprocess.run(["bash", "-c", 'exec "$0" "$@" 2>&-', PYTHON, "-c", "print(open('/dev/null').fileno())"],
                          env=environment("stats=1"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("most, least", [(8, None), (20, 16), (100, 80), (1024, 900), (4096, 900)])
def test_the_descriptor_is_high_and_within_the_limit(most, least):
    """Where there are few none is taken: standard error itself serves, if it is open."""
    need("bash")
    listing = ["bash", "-c", f"ulimit -n {most} && exec ls /proc/self/fd"]
    done = run(listing, "stats=1")
    own, kept = [0, 1, 2, 3], [int(word) for word in done.stdout.split() if int(word) > 3]
    assert sorted(int(word) for word in done.stdout.split()) == own + kept
    assert len(kept) == (least is not None) and all(least <= number < most for number in kept)
    assert len(blocks(done.stderr)) == len(kept)  # ls closes its own


def test_there_is_no_descriptor_unasked_nor_after_exec():
    listing = run(["ls", "/proc/self/fd"], "").stdout.split()
    after_exec = run(["env", "-u", "LD_PRELOAD", "ls", "/proc/self/fd"], "stats=1").stdout.split()
    assert listing == after_exec == ["0", "1", "2", "3"]


def test_reports_of_many_processes_stay_whole():
    """On one pipe, which may tear what is longer than 4096 bytes."""
    script = "import os\nfor i in range(5): os.fork()\ntry:\n    while True: os.wait()\nexcept OSError: pass"
    _, own, others = reports_of([PYTHON, "-c", script])
    assert len(own) + len(others) == 32  # and not more: none is in two pieces


def test_nobody_who_reads_does_not_change_the_status():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(["/bin/true"], env=environment("stats=1"), stderr=write,
                          preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL))
    os.close(write)
    assert done.returncode == 0
