"""The command line of tools/bench: what may be asked for, and what is wrong with it.

It imports nothing that a Debian package has to bring but Python itself, so that help and mistakes are answered before
anything is installed or built: python3 -m suite.arguments WORD... says what is wrong, or nothing.
"""
import argparse
import pathlib
import sys
import tempfile

from tools.python.messages import Parser

from . import allocators, workloads

USAGE = pathlib.Path(__file__).parent / "usage.txt"  # tools/bench prints it, too, where there is no Python yet


class SuiteParser(Parser):
    def format_help(self):
        return USAGE.read_text()


def parse(words):
    parser = SuiteParser("bench")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quick", action="store_true")
    how_much.add_argument("--full", action="store_true")
    how_much.add_argument("--instructions", action="store_true")
    how_much.add_argument("--compare", nargs=2, metavar=("A", "B"), type=pathlib.Path)
    parser.add_argument("--allocators", default=",".join(allocators.DEFAULT))
    parser.add_argument("--only", default="")
    parser.add_argument("--repetitions", type=positive)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--write-table", action="store_true")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--build", type=pathlib.Path, default=allocators.ROOT / "build-bench")  # for tests
    given = parser.parse_args(words)
    if given.write_table and not given.instructions:
        parser.error("--write-table goes with --instructions")
    return given


def positive(text):
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number, at least 1, and not {text!r}")
    return int(text)


def choose(text, effort, counting):
    """The workloads that are asked for by name or group; without a name, those that belong to this effort."""
    known = workloads.all_of_them()
    words = text.split(",") if text else ["instructions"] if counting else workloads.GROUPS
    chosen = []
    for word in words:
        named = [known[word]] if word in known else [one for one in known.values() if one.group == word]
        if not named:
            allocators.fail(f"no workload or group {word!r} (--help lists them)")
        if not text and not counting:
            named = [one for one in named if one.group != "instructions"
                     and (effort.name == "full" or one.least_effort == "quick")]
        chosen += [one for one in named if one not in chosen]
    return chosen


def make_folder(folder):
    """Where the results will go: found out before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        allocators.fail(f"results cannot be written to {folder}: {error.strerror}")


def check(words):
    """Ends with status 2 and one line where something is wrong that needs no build to be found."""
    given = parse(words)
    if given.compare:
        return
    choose(given.only, workloads.FULL, given.instructions)
    allocators.check(given.allocators.split(","))
    if given.out:
        make_folder(given.out)


if __name__ == "__main__":
    check(sys.argv[1:])
