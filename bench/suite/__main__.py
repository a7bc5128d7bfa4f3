"""The command behind tools/bench, which sets up what this one needs."""
import argparse
import dataclasses
import pathlib
import shlex
import signal
import sys
import tempfile

from . import allocators, compare, instructions, report, results, runner, table, workloads

INTERRUPTED = 130


def parse_arguments(words):
    parser = argparse.ArgumentParser(
        prog="tools/bench", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures allocators side by side, and writes a table, results.json and report.html.",
        epilog=f"workloads, by group:\n{workload_list()}")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quick", action="store_true",
                          help="all but the servers and several nodes, in under 6 minutes (default)")
    how_much.add_argument("--full", action="store_true", help="longer runs, more threads, and these")
    how_much.add_argument("--instructions", action="store_true", help="count instructions instead of seconds")
    how_much.add_argument("--compare", nargs=2, metavar=("A", "B"), type=pathlib.Path,
                          help="do two runs (results.json, or folders with one) rank the allocators the same?")
    parser.add_argument("--allocators", default=",".join(allocators.DEFAULT), metavar="A,B,NAME=PATH",
                        help="which to measure (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="W,W", help="these workloads or groups")
    parser.add_argument("--repetitions", type=positive, metavar="N", help="of each workload on each allocator")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where the results go (default: "
                        "build-bench/results)")
    parser.add_argument("--write-table", action="store_true",
                        help="with --instructions: make this run the table that the tests hold")
    parser.add_argument("--no-install", action="store_true", help="install nothing: go on without what is missing")
    parser.add_argument("--build", type=pathlib.Path, default=allocators.ROOT / "build-bench", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def workload_list():
    groups = {}
    for workload in workloads.all_of_them().values():
        groups.setdefault(workload.group, []).append(workload.name)
    return "\n".join(f"  {group}: {' '.join(names)}" for group, names in groups.items())


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


def print_and_write(measured, folder, command):
    measured.write(folder)
    table.show(measured.report, sys.stdout)
    try:
        report.write(measured.report, folder / "report.html")
    except OSError as error:
        print(f"bench: the report is not written: {error}", file=sys.stderr)
    print(f"\n{command} took {measured.report['seconds']:.0f} s; all of it: {folder}/report.html and "
          f"{folder}/results.json")


def make_folder(folder):
    """Where the results will go: found out before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        allocators.fail(f"results cannot be written to {folder}: {error.strerror}")


def measure(arguments, command):
    effort = workloads.FULL if arguments.full else workloads.QUICK
    if arguments.repetitions:
        effort = dataclasses.replace(effort, repetitions=arguments.repetitions)
    build = arguments.build.resolve()
    folder = (arguments.out or build / "results").resolve()
    chosen = choose(arguments.only, effort, arguments.instructions)
    compared = list(allocators.find(arguments.allocators.split(","), build).values())
    make_folder(folder)
    plan = list(runner.make_plan(chosen, compared, allocators.variants(compared, build), effort))
    measured = results.Results(command, compared, chosen)
    try:
        runner.Runner(measured, build, effort, folder).run(plan)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the report too
        measured.interrupt()
        print("bench: interrupted; what is done:", file=sys.stderr)
    print_and_write(measured, folder, command)
    if measured.report["interrupted"]:
        return INTERRUPTED
    if arguments.write_table:
        instructions.write_table(measured.report)
    return int(measured.any_failed())


def stop(*_):
    raise KeyboardInterrupt


def main():
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows ASCII alone
    arguments = parse_arguments(sys.argv[1:])
    if arguments.compare:
        sys.exit(compare.main(*arguments.compare))
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    sys.exit(measure(arguments, shlex.join(["tools/bench", *sys.argv[1:]])))


if __name__ == "__main__":
    main()
