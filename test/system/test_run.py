"""tools/run and its neighbours as a person meets them: which program, what is missing, help, and the demonstration.

Scripts that may install are tried in a copy of tools/ in which each list names a package that nobody has, and what
would install it only says that it was called: whoever asks for help must not get that far.
"""
import importlib.util
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from conftest import BUILD, HANG_S, OURS, ROOT, need

ALARM = "THE INSTALLER WAS CALLED"
INSTALLER = f"#!/bin/bash\necho '{ALARM}' >&2\nexit 1\n"
RUN = BUILD / "slabmalloc-run"


def run(*words, path="", **environment):
    """A command, ended; programs in the folder `path` come first."""
    search = f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]
    return subprocess.run([str(word) for word in words], env={**os.environ, "PATH": search, **environment},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path):
    """A copy of the scripts in which something is always missing, and modules that Debian's packages bring are, too."""
    root = tmp_path / "tree"
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "bench" / "suite", root / "bench" / "suite", ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("jinja2", "matplotlib"):
        (root / "bench" / f"{module}.py").write_text(f"raise ImportError('no {module} yet')\n")
    for packages in (root / "tools").glob("packages-*.txt"):
        packages.write_text("package-that-nobody-has\n")
    write_program(root / "tools" / "install-packages", INSTALLER)
    (root / "bin").mkdir()
    write_program(root / "bin" / "apt-get", INSTALLER)
    return root


def is_clean(tree):
    """Nothing was built."""
    return not list(tree.glob("build*"))


# -- help and mistakes ----------------------------------------------------------------------------------------------

SCRIPTS = sorted(path.name for path in (ROOT / "tools").iterdir() if path.is_file() and path.suffix != ".in"
                 and path.read_bytes().startswith(b"#!"))


def run_script(tree, name, *words):
    """A script of the copy; the one that installs is the real one, if it is meant itself."""
    if name == "install-packages":
        shutil.copy(ROOT / "tools" / name, tree / "tools")
    interpreter = ["/usr/bin/python3"] if name.endswith(".py") else []
    return run(*interpreter, tree / "tools" / name, *words, path=tree / "bin")


def test_a_script_that_must_install_does_so_here(tree):
    """So that the tests below can fail."""
    for words in (["run", "true"], ["bench"]):
        done = run_script(tree, *words)
        assert done.returncode != 0 and (ALARM in done.stderr or "neither root nor sudo" in done.stderr), done


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_installs_nothing(tree, name):
    done = run_script(tree, name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.lower().startswith("usage: ") and "--help" in done.stdout
    assert is_clean(tree)


@pytest.mark.parametrize("name, words", [
    *((name, ["--nonsense"]) for name in SCRIPTS), ("bench", ["--only", "nosuch"]), ("bench", ["--only"]),
    ("bench", ["--repetitions", "0"]), ("bench", ["--repetitions", "few"]), ("bench", ["--quick", "--full"]),
    ("bench", ["--allocators", "nosuch"]), ("bench", ["--allocators", "mine=/nonexistent.so"]),
    ("bench", ["--write-table"]), ("bench", ["extra"]), ("bench", ["--out", "/proc/nowhere"]), ("test", ["--only"]),
    ("numa-vm", ["--nodes", "0"]), ("demo.py", []), ("demo.py", ["/nonexistent.so"]), ("waste", []), ("waste", ["--sizes"]),
    ("waste", ["--sizes", "nosuch"]), ("waste", ["--classes", "16", "true"]), ("waste", ["--sizes", "redis", "true"]),
    ("install-packages", []),
    ("install-packages", ["two words"])])
def test_a_mistake_is_one_line_and_installs_nothing(tree, name, words):
    done = run_script(tree, name, *words)
    assert done.returncode in (1, 2, 125) and done.stdout == ""
    assert done.stderr.count("\n") == 1 and ALARM not in done.stderr, done.stderr
    assert is_clean(tree)


def test_comparing_two_runs_installs_and_builds_nothing(tree):
    done = run_script(tree, "bench", "--compare", "/nowhere", "/nowhere")
    assert (done.returncode, done.stderr) == (2, "bench: /nowhere: No such file or directory\n")
    assert is_clean(tree)


def test_what_cannot_be_installed_is_one_line_with_the_reason(tmp_path):
    """As where there is no network."""
    if os.getuid() != 0:
        pytest.skip("install-packages is for root")
    words = "W: Failed to fetch http://deb.debian.org/x  Temporary failure\nE: Unable to locate package some-package\n"
    write_program(tmp_path / "apt-get", f"#!/bin/sh\nprintf '{words}'\nexit 100\n")
    done = run(ROOT / "tools" / "install-packages", "some-package", path=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"install-packages: some-package could not be installed: no network\? apt-get says: Unable to "
                        r"locate package some-package \(all of it: \S+\)\n", done.stderr), done.stderr


# -- which program --------------------------------------------------------------------------------------------------

def test_a_program_that_does_not_exist_is_one_line_before_anything_is_installed(tree):
    done = run_script(tree, "run", "no-such-program", "--port", "7000")
    assert (done.returncode, done.stdout, is_clean(tree)) == (127, "", True)
    assert done.stderr.startswith("run: no-such-program: not found") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("helper, said", [
    ("apt-file", "the-package\\nanother\\n"),
    ("command-not-found",
     "Command no-such-program not found, but can be installed with:\\napt install the-package\\n")])
def test_a_program_that_does_not_exist_is_told_with_the_package_that_has_it(tree, helper, said):
    write_program(tree / "bin" / helper, f"#!/bin/sh\nprintf '{said}'\n")
    if helper != "apt-file" and shutil.which("apt-file"):
        pytest.skip("apt-file, which is installed here, is asked first")
    done = run_script(tree, "run", "no-such-program")
    assert (done.returncode, done.stderr) == (
        127, "run: no-such-program: not found; Debian has it in the package the-package\n")


@pytest.mark.parametrize("name, status, complaint", [
    ("./nosuch", 127, "no such file"), ("./folder", 126, "is a folder"), ("./file", 126, "is not executable")])
def test_a_path_to_no_program_is_one_line(tree, tmp_path, name, status, complaint):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    done = subprocess.run([tree / "tools" / "run", name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n"), is_clean(tree)) == (status, 1, True)
    assert complaint in done.stderr


def without_programs(tree, *names):
    """A folder of all programs of /usr/bin but some, and a dpkg-query that knows none of the packages."""
    for path in pathlib.Path("/usr/bin").iterdir():
        if path.name not in names and not (tree / "bin" / path.name).exists():
            (tree / "bin" / path.name).symlink_to(path)
    (tree / "bin" / "dpkg-query").unlink(missing_ok=True)
    write_program(tree / "bin" / "dpkg-query", "#!/bin/sh\n")
    return str(tree / "bin")


def test_the_package_of_a_program_that_readme_names_is_installed(tree):
    need("dpkg-query")
    done = run(tree / "tools" / "run", "redis-server", PATH=without_programs(tree, "redis-server"))
    assert "package-that-nobody-has redis-server" in done.stderr
    assert ALARM in done.stderr or "neither root nor sudo" in done.stderr
    done = run(tree / "tools" / "run", "--no-install", "redis-server", PATH=without_programs(tree, "redis-server"))
    assert (done.returncode, done.stderr) == (
        2, "run: missing Debian packages: package-that-nobody-has redis-server\n")


def test_every_program_that_readme_runs_is_known():
    """The first command of README."""
    section = (ROOT / "README.md").read_text().split("\n## The two commands\n")[1].split("\n## ")[0]
    program, = re.findall(r"^    tools/run (\S+)", section, re.M)
    assert re.search(rf"^    .*\b{program}\b.*\) echo", (ROOT / "tools" / "run").read_text(), re.M)


def test_an_interrupt_while_it_builds_is_one_line(tree):
    """Here meson never ends; the interrupt comes to all, as from a terminal."""
    write_program(tree / "bin" / "dpkg-query", "#!/bin/sh\necho installed package-that-nobody-has\n")
    write_program(tree / "bin" / "meson", f"#!/bin/sh\ntouch {tree}/is-there\nexec sleep infinity\n")
    with subprocess.Popen([tree / "tools" / "run", "true"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, start_new_session=True,
                          env={**os.environ, "PATH": f"{tree}/bin:{os.environ['PATH']}"},
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        while not (tree / "is-there").exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        said, complaints = process.communicate()
    assert (process.returncode, said) == (130, "")
    assert complaints.splitlines()[1:] == ["run: interrupted"], complaints


def test_a_command_that_takes_long_says_its_last_line_that_is_not_empty(tmp_path):
    """The command goes on until it has been said; the shell's sleep is shorter here."""
    said = tmp_path / "said"
    script = f"""
        . {ROOT}/tools/lib.sh
        sleep() {{ command sleep 0.02; }}
        quietly bash -c 'printf "first\\n\\n \\n"; until grep -q ": still at it: first$" {said}; do sleep 0.02; done'
        """
    with open(said, "w", encoding="utf-8") as stderr:
        done = subprocess.run(["bash", "-c", script], stderr=stderr, stdout=subprocess.PIPE, timeout=HANG_S, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


# -- slabmalloc-run -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, status", [("./nosuch", 127), ("./folder", 126), ("./file", 126), ("cd", 127),
                                          ("find_library", 127)])
def test_the_wrapper_runs_programs_only(tmp_path, name, status):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    done = subprocess.run(["sh", RUN, name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """One program, linked dynamically and statically."""
    need("cc")
    folder = tmp_path_factory.mktemp("linked")
    (folder / "program.c").write_text("int main(void) { return 0; }\n")
    for name, option in (("dynamic", "-pie"), ("static", "-static"), ("static-pie", "-static-pie")):
        subprocess.run(["cc", option, *(["-fPIE"] if "pie" in name or name == "dynamic" else []), "-o", folder / name,
                        folder / "program.c"], check=True)
    write_program(folder / "script", "#!/bin/sh\nexit 0\n")
    return folder


@pytest.mark.parametrize("name, warning", [
    ("dynamic", ""), ("script", ""), ("static", "is linked statically"), ("static-pie", "is linked statically")])
def test_the_wrapper_warns_of_programs_that_it_has_no_effect_on(linked, name, warning):
    done = run("sh", RUN, linked / name)
    assert done.returncode == 0
    assert warning in done.stderr and done.stderr.count("\n") == bool(warning)


def test_the_wrapper_warns_of_set_user_id_programs_of_others(linked, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can make a program of another user's")
    shutil.copy(linked / "dynamic", tmp_path / "program")
    for owner, warning in ((65534, "runs set-user-ID and keeps its own malloc"), (0, "")):
        os.chown(tmp_path / "program", owner, 0)
        (tmp_path / "program").chmod(0o4755)
        assert warning in run("sh", RUN, tmp_path / "program").stderr


# -- the demonstration ----------------------------------------------------------------------------------------------

@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results_of(count, spread=0.0):
    row = {"p99_ms": 1.0, "cpu_s": 1.0, "peak_mib": 1.0, "after_mib": 1.0}
    return {name: [{**row, "throughput": 1000 * (1 + spread * number)} for number in range(count)]
            for name in ("glibc", "slabmalloc")}


@pytest.mark.parametrize("count", [1, 3])
def test_figures_of_one_run_are_not_called_medians(demo, capsys, count):
    demo.report("7.0.15", "jemalloc-5.3.0", results_of(count), "The machine was quiet.")
    said = capsys.readouterr().out
    assert ("Medians of 3 runs" in said) == (count == 3) and ("edian" in said) == (count == 3)
    assert ("One run of each" in said) == (count == 1)


@pytest.mark.parametrize("seen, is_busy", [
    ((0.1, 2, 0.01, 0.0, 0.03), False), ((8.0, 2, 0.01, 0.0, 0.03), True), ((8.0, 64, 0.01, 0.0, 0.03), False),
    ((0.1, 2, 0.5, 0.0, 0.03), True), ((0.1, 2, 0.01, 0.2, 0.03), True), ((0.1, 2, 0.01, 0.0, 0.6), True),
    ((0.1, 2, None, None, None), False), ((8.0, 2, None, None, None), True)])
def test_a_busy_machine_is_said_with_what_it_is_judged_by(demo, seen, is_busy):
    verdict = demo.judge(*seen)
    assert verdict.startswith("The machine is busy, figures are unsure: " if is_busy else "The machine was quiet: ")
    for text, value in (("a load of", seen[0]), ("other processes", seen[2]), ("other machines", seen[3]),
                        ("apart", seen[4])):
        assert (text in verdict) == (value is not None)


def test_the_spread_is_that_of_the_allocator_whose_runs_lie_furthest_apart(demo):
    assert demo.widest_spread(results_of(1)) is None
    assert demo.widest_spread({**results_of(3), "x": results_of(3, spread=0.5)["glibc"]}) == pytest.approx(1 / 1.5)


@pytest.mark.parametrize("later, shares", [((120, 22, 2), (0.4, 0.05)), ((100, 10, 1), (None, None)),
                                           ((120, 13, 1), (0, 0))])
def test_what_others_take_of_the_cpus_is_what_all_take_but_ours(demo, monkeypatch, later, shares):
    """Seconds there were, taken by programs, stolen; four of those taken are ours, by a clock that is not the same."""
    monkeypatch.setattr(demo, "cpu_times", lambda: (100, 10, 1))
    monkeypatch.setattr(demo, "our_cpu_seconds", lambda: 3)
    watch = demo.Watch()
    monkeypatch.setattr(demo, "cpu_times", lambda: later)
    monkeypatch.setattr(demo, "our_cpu_seconds", lambda: 7)
    assert watch.shares() == shares


class Said(io.StringIO):
    """A stream that lets one wait for the n-th line."""

    def __init__(self):
        super().__init__()
        self.condition = threading.Condition()

    def write(self, text):
        with self.condition:
            super().write(text)
            self.condition.notify_all()

    def wait_for_lines(self, count):
        with self.condition:
            self.condition.wait_for(lambda: self.getvalue().count("\n") >= count)
            return self.getvalue().splitlines()


def test_progress_is_said_again_while_something_takes_long(demo):
    said = Said()
    with demo.Progress(said, again_after_s=0.01) as progress:
        progress.say("a long thing")
        lines = said.wait_for_lines(3)
    assert lines[0] == "demo: a long thing"
    assert all(re.fullmatch(r"demo: a long thing, for \d+ s so far", line) for line in lines[1:3])
    assert demo.SAY_EVERY_SECONDS <= 20


def smaller(demo):
    """The demonstration with next to no load."""
    demo.KEYS, demo.FILL_ROUNDS, demo.FILL_REQUESTS, demo.MIX_REQUESTS = 100, 1, 100, 100
    demo.REPETITIONS, demo.IDLE_SECONDS = 1, 0


def test_the_demonstration(demo, capsys):
    need("redis-server", "redis-benchmark")
    smaller(demo)
    demo.main(["--load", "7.5", str(OURS)])
    told = capsys.readouterr()
    assert re.search(r"^The machine .*: a load of 7\.5 on \d+ CPUs? before the start", told.out, re.M)
    assert "One run of each" in told.out and "edian" not in told.out
    assert re.search(r"glibc +slabmalloc", told.out) and told.out.count("requests/s") == 1
    assert "demo: run 1 of 1 on slabmalloc: a mix of commands" in told.err


def test_an_interrupted_demonstration_ends_with_a_line():
    need("redis-server", "redis-benchmark")
    with subprocess.Popen(["/usr/bin/python3", ROOT / "tools" / "demo.py", OURS], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate()
    assert first.startswith("demo: redis-server on glibc")
    assert process.returncode == 130 and said == ""
    assert complaints.splitlines()[-1] == "demo: interrupted" and "Traceback" not in complaints


def test_a_demonstration_that_fails_says_why_in_one_line(place):
    """A redis that cannot start, as on a machine where it finds no room."""
    need("redis-server", "redis-benchmark", "setpriv")
    write_program(place / "redis-server", "#!/bin/sh\necho 'no room'\necho 'at all'\nexit 1\n")
    done = run("/usr/bin/python3", ROOT / "tools" / "demo.py", OURS, path=place)
    assert done.returncode == 1 and done.stderr == "demo: redis-server ended with 1: no room at all\n"
