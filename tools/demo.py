#!/usr/bin/python3
"""The demonstration of tools/run: redis-server under one bounded load on each allocator in turn, and a table.

    demo.py LIBRARY

Debian's redis is linked with libjemalloc. A preloaded malloc overrides that: LIBRARY does, and so does
libc.so.6 itself, which is how redis comes to run on glibc's malloc here. The third column is redis as it is
installed, on its own allocator. Every run proves which allocator served it, by the address space of the
server and by what the idle jemalloc says it has handed out.

The load: fill a keyspace with values of 100 to 4000 bytes, in rounds, so that keys change their size; then a mix of
redis-benchmark's commands; then delete every second key and sit idle. All of it through loopback, on a free
port, in a temporary folder; nothing stays behind.
"""
import contextlib
import csv
import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for tools.python
from tools.python import servers
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


def run_load(preload):
    """One server's life under the load: what ROWS name, as a dict."""
    with redis_on(preload) as redis:
        commands = []
        for size in FILL_ROUNDS * FILL_BYTES:
            commands += redis.benchmark("set", size, FILL_REQUESTS)
        commands += redis.benchmark(MIX, MIX_BYTES, MIX_REQUESTS)
        redis.check_allocator()
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


def measure(columns):
    """Results of every repetition by column; the allocators take turns, so that a slow minute hits all of them."""
    start, results = time.monotonic(), {name: [] for name in columns}
    print(f"demo: redis-server on {', '.join(columns)} in turn; up to a minute", file=sys.stderr)
    for repetition in range(1, REPETITIONS + 1):
        for name, preload in columns.items():
            progress(f"repetition {repetition} of {REPETITIONS}: {name}")
            results[name].append(run_load(preload))
        elapsed = time.monotonic() - start
        if elapsed + elapsed / repetition > TIME_LIMIT_SECONDS:
            break
    progress("")
    return results


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_table(results):
    width = max(len(title) for title, _, _ in ROWS)
    print(" " * width, *(f"{name:>18}" for name in results))
    for title, key, form in ROWS:
        values = [form.format(statistics.median(row[key] for row in rows)) for rows in results.values()]
        print(f"{title:<{width}}", *(f"{value:>18}" for value in values))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: demo.py LIBRARY")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: terminated"))
    columns = {name: sys.argv[1] if preload is None else preload for name, preload in COLUMNS.items()}
    version, installed = installed_allocator()
    if not installed.startswith("jemalloc"):
        del columns["as installed"]  # it would be glibc once more
    results = measure({name if preload != "" else installed: preload for name, preload in columns.items()})
    requests = FILL_ROUNDS * len(FILL_BYTES) * FILL_REQUESTS + (MIX.count(",") + 1) * MIX_REQUESTS
    print(f"redis-server {version}, {requests:,} pipelined requests of redis-benchmark, then every second of "
          f"{KEYS:,} keys deleted.")
    print("Medians of", len(results["glibc"]), "runs of each, taking turns.",
          f"glibc: preloaded over the {installed} that this redis is linked with." if len(columns) == 3 else "")
    print_table(results)


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as failure:
        sys.exit(f"demo: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
