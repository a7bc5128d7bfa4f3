"""What the tests of slabctl share: the tool, the processes that it looks into, and what others read of its profiles."""
import os
import pathlib
import re
import signal
import subprocess

import pytest

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


def ends_well(done):
    """0, or 1 and a line that says why; in front of it may be notes about what a profile leaves out."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("slabctl: note: ")]
    return done.returncode == 0 or (done.returncode, len(lines)) == (1, 1)


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


# -- files ------------------------------------------------------------------------------------------------------------

def with_wrong_bytes(good, chance):
    """Those of an ELF file, of which a few are others: in its headers, or anywhere."""
    data, first = bytearray(good), chance.choice((64, 1024, 8192, len(good), len(good)))
    for _ in range(chance.choice((0, 1, 2, 8, 64, 1000))):
        at, length = chance.randrange(first), chance.choice((1, 2, 4, 8))
        data[at:at + length] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    data[:4] = b"\x7fELF"
    return data


# -- profiles ---------------------------------------------------------------------------------------------------------

ROW = re.compile(r" *(?P<bytes>\d+) +(?P<share>[\d.]+)% +(?P<low>\d+) +(?P<high>\d+) +(?P<objects>\d+) +"
                 r"(?P<samples>\d+)  (?P<what>.*)")


def top(pid, *words, **more):
    """The rows of `top`, as dicts whose `stack` has the lines."""
    rows = []
    text = tells("--bytes", *(pid if isinstance(pid, list) else [pid]), "top", *words, **more)
    for line in text.split("\n\n")[0].splitlines()[1:]:
        if match := ROW.fullmatch(line):
            rows.append({name: value if name == "what" else float(value) for name, value in match.groupdict().items()})
            rows[-1]["stack"] = [match["what"]]
        elif rows:
            rows[-1]["stack"].append(line.strip())
    return rows


def by_function(pid, *words):
    return {row["what"]: row for row in top(pid, "--by", "function", *words)}


PPROF_ROW = re.compile(r"\s*(-?[\d.]+)([kMG]?B) +-?[\d.]+% +-?[\d.]+% +\S+ +\S+ +(.+)")
UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def pprof_top(file, *words):
    go, = need("go")
    done = subprocess.run([go, "tool", "pprof", "-top", *words, file], capture_output=True, text=True,
                          env=plain_env(HOME=str(file.parent), PPROF_TMPDIR=str(file.parent)))
    assert done.returncode == 0, done.stderr
    rows = filter(None, map(PPROF_ROW.fullmatch, done.stdout.splitlines()))
    return {row[3].removesuffix(" (inline)"): float(row[1]) * UNITS[row[2]] for row in rows if float(row[1])}


def google_pprof(file, program, *words):
    pprof, = need("google-pprof")
    done = subprocess.run([pprof, "--text", *words, program, file], capture_output=True, text=True, env=plain_env())
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(?m)^ +(-?[\d.]+) +[\d.]+% +[\d.]+% +[\d.]+ +[\d.]+% (.*)$", done.stdout)
    return {name.removesuffix(" (inline)"): float(mib) * (1 << 20) for mib, name in rows if float(mib)}


def agree(found, rows):
    """What others find in a profile, {function: bytes}, is what `top` says."""
    assert set(found) == set(rows), (found, rows)
    for name, bytes_ in found.items():
        assert bytes_ == pytest.approx(rows[name]["bytes"], rel=0.01, abs=60000), (name, bytes_, rows[name])
