"""The command behind tools/bench, which sets up what this one needs."""
import dataclasses
import shlex
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # before there is anything to report, it just ends

from tools.python import messages  # noqa: E402

from . import allocators, arguments, compare, instructions, results, runner, table, workloads  # noqa: E402

INTERRUPTED = 130


def print_and_write(measured, folder, command):
    measured.write(folder)
    table.show(measured.report, sys.stdout)
    written = f"{folder}/results.json"
    try:
        from . import report  # pylint: disable=import-outside-toplevel # needs what may not be installed
        report.write(measured.report, folder / "report.html")
        written = f"{folder}/report.html and {written}"
    except (ImportError, OSError) as error:
        print(f"bench: the report is not written: {messages.plain(error)}", file=sys.stderr)
    print(f"\n{command} took {measured.report['seconds']:.0f} s; all of it: {written}")


def measure(given, command):
    effort = workloads.FULL if given.full else workloads.QUICK
    if given.repetitions:
        effort = dataclasses.replace(effort, repetitions=given.repetitions, repetitions_servers=given.repetitions)
    build = given.build.resolve()
    folder = (given.out or build / "results").resolve()
    chosen = arguments.choose(given.only, effort, given.instructions)
    compared = list(allocators.find(given.allocators.split(","), build).values())
    arguments.make_folder(folder)
    plan = list(runner.make_plan(chosen, compared, allocators.variants(compared, build), effort))
    measured = results.Results(command, compared, chosen)
    try:
        handle_signals(stop)
        runner.Runner(measured, build, effort, folder).run(plan)
    except KeyboardInterrupt:
        measured.interrupt()
        print("bench: interrupted; what is done:", file=sys.stderr)
    finally:
        handle_signals(signal.SIG_DFL)  # a second one ends the report too
    print_and_write(measured, folder, command)
    if measured.report["interrupted"]:
        return INTERRUPTED
    if given.write_table:
        instructions.write_table(measured.report)
    return int(measured.any_failed())


def stop(*_):
    raise KeyboardInterrupt


def handle_signals(how):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, how)


def main():
    sys.stdout.reconfigure(errors="replace")  # a terminal that knows ASCII alone
    given = arguments.parse(sys.argv[1:])
    if given.compare:
        sys.exit(compare.main(*given.compare))
    sys.exit(measure(given, shlex.join(["tools/bench", *sys.argv[1:]])))


if __name__ == "__main__":
    main()
