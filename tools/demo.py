#!/usr/bin/python3
"""The demonstration of tools/run: redis-server under one bounded load on each allocator in turn, and a table.

    demo.py [--load AVERAGE] LIBRARY

Debian's redis is linked with libjemalloc. A preloaded malloc overrides that: LIBRARY does, and so does
libc.so.6 itself, which is how redis comes to run on glibc's malloc here. The third column is redis as it is
installed, on its own allocator. Every run proves which allocator served it, by the address space of the
server and by what the idle jemalloc says it has handed out.

The load: fill a keyspace with values of 100 to 4000 bytes, in rounds, so that keys change their size; then a mix of
redis-benchmark's commands; then delete every second key and sit idle. All of it through loopback, on a free
port, in a temporary folder; nothing stays behind.

Figures of a busy machine say little, so the demonstration watches the machine, and says what it saw.
"""
import contextlib
import csv
import os
import pathlib
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for tools.python
from tools.python import messages, servers
from tools.python.processes import Failure, status_mib

KEYS = 40_000
FILL_ROUNDS = 4
FILL_BYTES = [100, 700, 1500, 4000]
FILL_REQUESTS = 10_000  # of each size, a round
MIX = "set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset"
MIX_BYTES = 100
MIX_REQUESTS = 50_000  # of each command
REPETITIONS = 3
IDLE_SECONDS = 2
TIME_LIMIT_SECONDS = 55
SAY_EVERY_SECONDS = 15

# What a quiet machine stays under. All shares are of the CPUs' whole time.
QUIET_LOAD = 0.5  # the load average of the last minute, before the start, a CPU
QUIET_OTHERS = 0.10  # what other processes took while it ran
QUIET_STOLEN = 0.02  # what the hypervisor gave to others meanwhile
QUIET_SPREAD = 0.20  # how far the throughputs of an allocator's runs lie apart, of their median

COLUMNS = {"glibc": "libc.so.6", "slabmalloc": None, "as installed": ""}  # what is preloaded; None: LIBRARY
ROWS = [
    ("throughput, requests/s", "throughput", "{:,.0f}"),
    ("p99 latency, ms (mean of the commands)", "p99_ms", "{:.2f}"),
    ("CPU time of the server, s", "cpu_s", "{:.2f}"),
    ("peak RSS, MiB", "peak_mib", "{:.1f}"),
    ("RSS after the load, MiB", "after_mib", "{:.1f}"),
]


class Redis(servers.Redis):
    """A redis-server with a library preloaded; stopped at the end of the `with`."""

    def delete_every_second_key(self):
        names = [f"key:{number:012d}" for number in range(0, KEYS, 2)]
        for start in range(0, len(names), 1000):
            self.ask("DEL", *names[start:start + 1000])

    def benchmark(self, tests, value_bytes, requests):
        """(requests, their rate a second, p99 in ms) of each command that redis-benchmark is asked for."""
        table = self.client("redis-benchmark", "-h", "127.0.0.1", "-p", self.port, "-P", 16, "--csv", "-r", KEYS,
                            "-t", tests, "-d", value_bytes, "-n", requests)
        rows = list(csv.DictReader(line for line in table.splitlines() if line.startswith('"')))
        if not rows:
            raise Failure(f"redis-benchmark failed: {table.strip()}")
        return [(requests, float(row["rps"]), float(row["p99_latency_ms"])) for row in rows]


@contextlib.contextmanager
def redis_on(preload):
    with tempfile.TemporaryDirectory(prefix="slabmalloc-demo-") as folder:
        os.chmod(folder, 0o755)  # redis runs as another user where one is root, and has to reach the library
        if "/" in preload:
            preload = shutil.copy(preload, folder)
        with Redis(pathlib.Path(folder, "redis"), preload) as redis:
            yield redis


def run_load(preload, say):
    """One server's life under the load: what ROWS name, as a dict. `say` hears what is being done."""
    with redis_on(preload) as redis:
        commands = []
        say(f"{KEYS:,} keys are filled, in {FILL_ROUNDS} rounds")
        for size in FILL_ROUNDS * FILL_BYTES:
            commands += redis.benchmark("set", size, FILL_REQUESTS)
        say("a mix of commands")
        commands += redis.benchmark(MIX, MIX_BYTES, MIX_REQUESTS)
        redis.check_allocator()
        say("every second key is deleted, and then it is idle")
        redis.delete_every_second_key()
        time.sleep(IDLE_SECONDS)
        return {
            "throughput": sum(n for n, _, _ in commands) / sum(n / rate for n, rate, _ in commands),
            "p99_ms": statistics.mean(p99 for _, _, p99 in commands),
            "cpu_s": float(redis.info("cpu", "used_cpu_user")) + float(redis.info("cpu", "used_cpu_sys")),
            "peak_mib": status_mib(redis.process.pid, "VmHWM"),
            "after_mib": status_mib(redis.process.pid, "VmRSS"),
        }


def installed_allocator():
    """What redis runs on when nothing is preloaded."""
    with redis_on("") as redis:
        return redis.info("server", "redis_version"), redis.info("memory", "mem_allocator")


def measure(columns, progress):
    """Results of every repetition by column; the allocators take turns, so that a slow minute hits all of them."""
    start, results = time.monotonic(), {name: [] for name in columns}
    for repetition in range(1, REPETITIONS + 1):
        for name, preload in columns.items():
            run = f"run {repetition} of {REPETITIONS} on {name}"
            results[name].append(run_load(preload, lambda doing, run=run: progress.say(f"{run}: {doing}")))
        elapsed = time.monotonic() - start
        if elapsed + elapsed / repetition > TIME_LIMIT_SECONDS:
            break
    return results


class Progress:
    """Says on standard error what is being done, and says it again while that takes long. A context manager."""

    def __init__(self, stream=None, again_after_s=SAY_EVERY_SECONDS):
        self.stream, self.again_after_s = stream or sys.stderr, again_after_s
        self.doing, self.since = "", time.monotonic()
        self.changed, self.ended = threading.Event(), False
        self.thread = threading.Thread(target=self.repeat, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        self.changed.set()
        self.thread.join()
        if self.stream.isatty():
            print("\r\033[K", end="", file=self.stream, flush=True)

    def say(self, doing):
        self.doing, self.since = doing, time.monotonic()
        self.changed.set()
        self.show(doing)

    def show(self, text):
        """On a terminal one line that changes; in a log a line each."""
        line = f"\r\033[K{text}" if self.stream.isatty() else f"demo: {text}\n"
        print(line, end="", file=self.stream, flush=True)

    def repeat(self):
        while not self.ended:
            if self.changed.wait(self.again_after_s):
                self.changed.clear()
            elif self.doing:
                self.show(f"{self.doing}, for {time.monotonic() - self.since:.0f} s so far")


# -- how busy the machine is ----------------------------------------------------------------------------------------

def cpu_times():
    """Seconds that all CPUs have been there, that programs took of them, and that the hypervisor gave to others."""
    fields = pathlib.Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, *_, stolen = times = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
    return sum(times), user + nice + system, stolen


def our_cpu_seconds():
    """What this process has taken, with all that it started and that have ended."""
    return sum(usage.ru_utime + usage.ru_stime
               for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


class Watch:
    """What others took of the CPUs since it was made."""

    def __init__(self):
        self.begin, self.ours = cpu_times(), our_cpu_seconds()

    def shares(self):
        """The shares of other processes and of the hypervisor; None where the system does not tell."""
        there, programs, stolen = (now - before for now, before in zip(cpu_times(), self.begin))
        if there <= 0:
            return None, None
        return max(0, programs - (our_cpu_seconds() - self.ours)) / there, stolen / there


def widest_spread(results):
    """How far the throughputs of an allocator's runs lie apart at most, of their median; None after one run of each."""
    throughputs = [[row["throughput"] for row in rows] for rows in results.values() if len(rows) > 1]
    return max(((max(values) - min(values)) / statistics.median(values) for values in throughputs), default=None)


def judge(load, cpus, others, stolen, spread):
    """A sentence on how busy the machine is, with what it is judged by. Each but the load may be None."""
    seen = [(load / cpus > QUIET_LOAD, f"a load of {load:.1f} on {cpus} CPU{'s' * (cpus > 1)} before the start")]
    if others is not None:
        seen.append((others > QUIET_OTHERS, f"{others:.0%} of the CPUs' time taken by other processes"))
        seen.append((stolen > QUIET_STOLEN, f"{stolen:.0%} by other machines of the same host"))
    if spread is not None:
        seen.append((spread > QUIET_SPREAD, f"runs of one allocator up to {spread:.0%} apart"))
    told = ", ".join(text for _, text in seen)
    if any(is_busy for is_busy, _ in seen):
        return f"The machine is busy, figures are unsure: {told}."
    return f"The machine was quiet: {told}."


# -- what came out --------------------------------------------------------------------------------------------------

def print_table(results):
    width = max(len(title) for title, _, _ in ROWS)
    print(" " * width, *(f"{name:>18}" for name in results))
    for title, key, form in ROWS:
        values = [form.format(statistics.median(row[key] for row in rows)) for rows in results.values()]
        print(f"{title:<{width}}", *(f"{value:>18}" for value in values))


def describe_runs(results):
    count = len(results["glibc"])
    return f"Medians of {count} runs of each, taking turns." if count > 1 else \
        "One run of each: the machine is slow, and there was time for no more."


def report(version, installed, results, verdict):
    requests = FILL_ROUNDS * len(FILL_BYTES) * FILL_REQUESTS + (MIX.count(",") + 1) * MIX_REQUESTS
    print(f"redis-server {version}, {requests:,} pipelined requests of redis-benchmark, then every second of "
          f"{KEYS:,} keys deleted.")
    over = f" glibc: preloaded over the {installed} that this redis is linked with." if installed in results else ""
    print(describe_runs(results) + over)
    print(verdict)
    print_table(results)


def parse_arguments(words):
    parser = messages.Parser(
        "demo", prog="demo.py", description="The demonstration of tools/run: redis-server under the same load on "
        "glibc's malloc, on LIBRARY's and on its own. It prints a table of the results.")
    parser.add_argument("library", metavar="LIBRARY", help="the libslabmalloc.so to show")
    parser.add_argument("--load", type=float, metavar="AVERAGE",
                        help="the load average before anything was built (default: now's)")
    given = parser.parse_args(words)
    if not os.path.isfile(given.library):
        sys.exit(f"demo: no file {given.library}; tools/run builds the library")
    missing = [name for name in ("setpriv", *Redis.needs) if not shutil.which(name)]
    if missing:
        sys.exit(f"demo: no {', '.join(missing)} on this machine; tools/run installs what is missing")
    return given


def main(words):
    given = parse_arguments(words)
    load = os.getloadavg()[0] if given.load is None else given.load
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: terminated"))
    columns = {name: given.library if preload is None else preload for name, preload in COLUMNS.items()}
    version, installed = installed_allocator()
    if not installed.startswith("jemalloc"):
        del columns["as installed"]  # it would be glibc once more
    columns = {name if preload != "" else installed: preload for name, preload in columns.items()}
    print(f"demo: redis-server on {', '.join(columns)} in turn; about a minute", file=sys.stderr)
    watch = Watch()
    with Progress() as progress:
        results = measure(columns, progress)
    report(version, installed, results,
           judge(load, len(os.sched_getaffinity(0)), *watch.shares(), widest_spread(results)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Failure, OSError) as failure:
        sys.exit(f"demo: {messages.plain(failure)}")
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
