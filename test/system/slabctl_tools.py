"""What the tests of slabctl share: the tool, and the processes that it looks into."""
import os
import pathlib
import re
import signal
import subprocess

from conftest import HANG_S, ROOT, SLABCTL, need
from tools.python.processes import dying_with_us, plain_env, stat_fields, wait_until

SOURCES = pathlib.Path(__file__).parent / "slabctl"
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}
PATIENCE = ("--timeout", HANG_S)  # for what has to be answered


def slabctl(*words, tool=SLABCTL, **more):
    """The tool, ended: whatever it is asked, it does not hang."""
    return subprocess.run([str(word) for word in (tool, *words)], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=HANG_S, **{"text": True, "errors": "replace", **more})


def tells(*words, **more):
    """What it prints when it can do what it is asked."""
    done = slabctl(*PATIENCE, *words, **more)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def complains(*words, status=1, **more):
    """The one line that it says when it cannot."""
    done = slabctl(*words, **more)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done
    return re.fullmatch(r"slabctl: (.*)\n", done.stderr)[1]


def compile_program(source, folder, *more, name=None):
    cc, = need("cc")
    program = folder / (name or pathlib.Path(source).stem)
    done = subprocess.run([cc, "-O1", "-g", "-D_GNU_SOURCE", "-Wall", "-Wno-parentheses", f"-I{ROOT / 'include'}",
                           f"-I{ROOT / 'src'}", SOURCES / source, "-o", program, "-pthread", *map(str, more)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


class Child:
    """A program that says "ready" when it is, obeys lines on standard input, and ends with the block."""

    def __init__(self, *argv, env=None, **more):
        self.process = subprocess.Popen(dying_with_us("KILL", [str(word) for word in argv]), env=env or plain_env(),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)
        self.pid = self.process.pid

    def __enter__(self):
        try:
            self.said = self.hear("ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def hear(self, word):
        line = self.process.stdout.readline()
        assert line.startswith(word), f"{line!r} in the place of {word!r}"
        return line.split()

    def tell(self, line, answer=None):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.hear(answer) if answer else None

    def kill(self, number):
        os.kill(self.pid, number)

    def stop(self):
        self.kill(signal.SIGSTOP)
        wait_until(lambda: stat_fields(self.pid)[0] == "T", "it is stopped")
