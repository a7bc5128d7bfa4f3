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
import csv
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

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


class Redis:
    """A redis-server on a free loopback port, with a library preloaded; stopped at the end of the `with`."""

    def __init__(self, preload, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = pathlib.Path(folder, "redis.log")
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", folder, "--logfile", self.log]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, cwd=folder,
            env={"PATH": "/usr/bin:/bin", "LD_PRELOAD": str(preload)})

    def __enter__(self):
        try:
            self.connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def connect(self):
        give_up = time.monotonic() + 10
        while True:
            try:
                self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
                self.replies = self.connection.makefile("rb")
                return
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > give_up:
                    log = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
                    raise Failure(f"redis-server does not answer (exit status {self.process.poll()})\n{log}")
                time.sleep(0.02)

    def ask(self, *command):
        """One command whose answer is a number or one block of text."""
        self.connection.sendall(encode(*command))
        head = self.replies.readline()
        if not head.startswith(b"$"):
            return head[1:].strip().decode()
        return self.replies.read(int(head[1:]) + 2).decode()

    def info(self, section, field):
        return next(line.split(":")[1] for line in self.ask("INFO", section).splitlines()
                    if line.startswith(field + ":"))

    def delete_every_second_key(self):
        names = [f"key:{number:012d}" for number in range(0, KEYS, 2)]
        for start in range(0, len(names), 1000):
            self.ask("DEL", *names[start:start + 1000])

    def benchmark(self, tests, value_bytes, requests):
        """(requests, their rate a second, p99 in ms) of each command that redis-benchmark is asked for."""
        command = ["redis-benchmark", "-h", "127.0.0.1", "-p", self.port, "-P", 16, "--csv", "-r", KEYS,
                   "-t", tests, "-d", value_bytes, "-n", requests]
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
        rows = list(csv.DictReader(line for line in done.stdout.splitlines() if line.startswith('"')))
        if done.returncode != 0 or not rows:
            raise Failure(f"redis-benchmark failed: {done.stderr.strip() or done.stdout.strip()}")
        return [(requests, float(row["rps"]), float(row["p99_latency_ms"])) for row in rows]

    def status_mib(self, field):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024

    def maps(self):
        return pathlib.Path(f"/proc/{self.process.pid}/maps").read_text()

    def check_allocator(self, preload):
        """The library is loaded, and where redis brings a jemalloc, it is idle exactly when it was overridden."""
        if preload and str(preload) not in self.maps():
            raise Failure(f"{preload} is not in the address space of redis-server")
        if "jemalloc" in self.maps():
            jemalloc_bytes = int(self.info("memory", "allocator_allocated"))
            used_bytes = int(self.info("memory", "used_memory"))
            if (jemalloc_bytes < used_bytes / 2) != bool(preload):
                raise Failure(f"preload {preload!r}, and jemalloc has handed out {jemalloc_bytes} of {used_bytes} bytes")


class Failure(Exception):
    pass


def encode(*words):
    words = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def run_load(preload):
    """One server's life under the load: what ROWS name, as a dict."""
    with tempfile.TemporaryDirectory(prefix="slabmalloc-demo-") as folder, Redis(preload, folder) as redis:
        commands = []
        for size in FILL_ROUNDS * FILL_BYTES:
            commands += redis.benchmark("set", size, FILL_REQUESTS)
        commands += redis.benchmark(MIX, MIX_BYTES, MIX_REQUESTS)
        redis.check_allocator(preload)
        redis.delete_every_second_key()
        time.sleep(IDLE_SECONDS)
        return {
            "throughput": sum(n for n, _, _ in commands) / sum(n / rate for n, rate, _ in commands),
            "p99_ms": statistics.mean(p99 for _, _, p99 in commands),
            "cpu_s": float(redis.info("cpu", "used_cpu_user")) + float(redis.info("cpu", "used_cpu_sys")),
            "peak_mib": redis.status_mib("VmHWM:"),
            "after_mib": redis.status_mib("VmRSS:"),
        }


def installed_allocator():
    """What redis runs on when nothing is preloaded."""
    with tempfile.TemporaryDirectory(prefix="slabmalloc-demo-") as folder, Redis("", folder) as redis:
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
    except Failure as failure:
        sys.exit(f"demo: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
