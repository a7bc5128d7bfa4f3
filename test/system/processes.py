"""Processes that the system tests start: how they are run, watched and ended.

A process under test gets the environment of `Preload.env()`; every other (clients, load generators) gets
`plain_env()`, so that a test compares allocators on one side only.
"""
import collections
import os
import pathlib
import signal
import subprocess
import time

WATCH_EVERY_S = 0.005


def plain_env(**extra):
    """The environment of a process that must not run on the library."""
    hidden = ("LD_PRELOAD", "SLABMALLOC_OPTIONS")
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, **extra}


def run(argv, *, env, folder, log, timeout_s, stdin=os.devnull, watch=lambda pid: None):
    """Run a program to its end and return what it wrote, both streams together; fail the test unless it exits with 0.

    While it lives, `watch` is called with its process id again and again.
    """
    argv = [str(part) for part in argv]
    with open(log, "wb") as output, open(stdin, "rb") as given:
        process = subprocess.Popen(argv, env=env, cwd=folder, stdin=given, stdout=output, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        deadline = time.monotonic() + timeout_s
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline, f"{argv} runs for over {timeout_s} s: {tail(log)}"
                watch(process.pid)
                time.sleep(WATCH_EVERY_S)
        finally:
            end_group(process)
    assert process.returncode == 0, f"{argv} ended with {process.returncode}: {tail(log)}"
    return pathlib.Path(log).read_text(errors="replace")


def tail(log, characters=3000):
    return pathlib.Path(log).read_text(errors="replace")[-characters:]


def end_group(process):
    """Kill what is left of a process that leads its own group, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


Stat = collections.namedtuple("Stat", "parent born")


def stat_of(pid):
    """Parent and time of birth of a live process (an id alone may come back as someone else's); None when it is gone
    or only waits to be reaped."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, *others = stat.rpartition(")")[2].split()
    return None if state in "ZX" else Stat(int(parent), int(others[17]))


def family(pid):
    """The time of birth of a live process and of all that descend from it, by id (postgres' backends leave the
    process group)."""
    stats = {int(entry.name): stat_of(entry.name) for entry in pathlib.Path("/proc").glob("[0-9]*")}
    found = [pid]
    for member in found:
        found.extend(child for child, stat in stats.items() if stat and stat.parent == member)
    return {member: stats[member].born for member in found if stats.get(member)}


def still_there(born):
    """Those of the processes in `born` (times of birth by id) that have not ended."""
    return [pid for pid, time_of_birth in born.items() if (stat := stat_of(pid)) and stat.born == time_of_birth]


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_until(condition, within_s, what):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.02)


def maps(pid):
    """The mappings of a process; empty once it is about to go."""
    try:
        return pathlib.Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_mapped(library, pid):
    """The library is in the address space of a process, or that is gone."""
    mappings = maps(pid)
    return not mappings or str(library) in mappings
