"""Processes that tests, benches and the demonstration start: how they are run, watched and ended.

Imported as tools.python.processes, with the root of the repository in sys.path. Only the process under test gets an
allocator preloaded; every other (clients, load generators) gets `plain_env()`, so that allocators differ on one side
only. Whatever goes wrong is a Failure, whose message begins with one line that says what.

What is waited for is an event. HANG_S is for what never comes: no machine is so busy that it takes as long.
"""
import collections
import errno
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import time

HANG_S = 600
WATCH_EVERY_S = 0.005
PORTS = range(10_000, 65_000)


class Failure(Exception):
    """A process did not do what it was started for."""


def plain_env(**extra):
    """The environment of a process that must not run on an allocator of ours."""
    hidden = ("LD_PRELOAD", "SLABMALLOC_OPTIONS")
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, **extra}


class Port:
    """A TCP port of the loopback, for one server of this machine at a time: `number` is ours until `release`.

    It is none that the kernel gives to clients: else one of them might come first, in the moment before the server
    takes it. Who else looks for a port sees that it is taken by a socket without a file that has its number for a
    name, which goes when we do.
    """

    def __init__(self):
        first, last = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        candidates = [port for port in PORTS if not first <= port <= last] or list(PORTS)
        random.SystemRandom().shuffle(candidates)
        for number in candidates:
            claim = socket.socket(socket.AF_UNIX)
            if binds(claim, f"\0slabmalloc port {number}") and is_free(number):
                self.number, self.claim = number, claim
                return
            claim.close()
        raise Failure("no port is free")

    def release(self):
        self.claim.close()


def is_free(port):
    with socket.socket() as probe:
        return binds(probe, ("127.0.0.1", port))


def binds(sock, address):
    """Give a socket an address; whether nobody had it."""
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def run(argv, *, env, folder, log, timeout_s=HANG_S, stdin=os.devnull, watch=lambda pid: None):
    """Run a program to its end and return what it wrote, both streams together; a Failure unless it exits with 0.

    While it lives, `watch` is called with its process id again and again, and a last time when it has ended but is
    not reaped yet, so that the kernel still has its times.
    """
    argv = [str(part) for part in argv]
    with open(log, "wb") as output, open(stdin, "rb") as given:
        process = subprocess.Popen(dying_with_us("KILL", argv), env=env, cwd=folder, stdin=given, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + timeout_s
        try:
            while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if time.monotonic() > deadline:
                    raise Failure(f"{argv} runs for over {timeout_s} s: {tail(log)}")
                watch(process.pid)
                time.sleep(WATCH_EVERY_S)
            watch(process.pid)
        finally:
            end_group(process)
    if process.returncode != 0:
        raise Failure(f"{argv} ended with {process.returncode}: {tail(log)}")
    return pathlib.Path(log).read_text(errors="replace")


def dying_with_us(signal_name, argv, rights=()):
    """The command that gets a signal should the process that starts it die; with setpriv's options for its rights."""
    return ["setpriv", "--pdeathsig", signal_name, *rights, *argv]


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


def stat_fields(pid):
    """What /proc/PID/stat says behind the program's name, from the state on; nothing once the process is reaped."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def stat_of(pid):
    """Parent and time of birth of a live process (an id alone may come back as someone else's); None when it is gone
    or only waits to be reaped."""
    fields = stat_fields(pid)
    return Stat(int(fields[1]), int(fields[19])) if fields and fields[0] not in "ZX" else None


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


def all_asleep(pids):
    """There was a moment at which every thread of the processes slept: all did before it, and had not run after it."""
    before = [sleep_of(pid) for pid in pids]
    return None not in before and before == [sleep_of(pid) for pid in pids]


def sleep_of(pid):
    """How often each thread of a process has been switched to something else, if all sleep; else None."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        rows = dict(re.findall(r"^(\w+):\s+(\S+)", read_of(pid, f"task/{task.name}/status"), re.M))
        if rows.get("State") != "S":
            return None
        found[task.name] = rows["voluntary_ctxt_switches"], rows["nonvoluntary_ctxt_switches"]
    return found or None


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_until(condition, what):
    deadline = time.monotonic() + HANG_S
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {HANG_S} s")
        time.sleep(0.02)


def maps(pid):
    """The mappings of a process; empty once it is about to go."""
    return read_of(pid, "maps")


def is_mapped(library, pid):
    """The library is in the address space of a process, or that is gone."""
    mappings = maps(pid)
    return not mappings or str(library) in mappings


def read_of(pid, name):
    """A file of /proc/PID; empty once the process is about to go."""
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def cpu_seconds(pids):
    """User and system time of processes and of the children that they have reaped; a hundredth of a second fine."""
    ticks = sum(int(field) for pid in pids for field in stat_fields(pid)[11:15])  # utime stime cutime cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def page_faults(pids):
    """Those that needed no disk, of processes and of the children that they have reaped."""
    return sum(int(field) for pid in pids for field in stat_fields(pid)[7:9])  # minflt cminflt


def status_mib(pid, field):
    """VmRSS or VmHWM (the peak of it) of a live process; 0 once it is about to go."""
    return _row_kib(read_of(pid, "status"), field) / 1024


def smaps_mib(pids, *fields):
    """The sum over processes of rows of smaps_rollup, such as Pss, in which shared pages count once altogether."""
    texts = [read_of(pid, "smaps_rollup") for pid in pids]
    return sum(_row_kib(text, field) for text in texts for field in fields) / 1024


def _row_kib(text, field):
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(field + ":")), 0)
