"""Servers and programs of Debian's under a fixed amount of work, one repetition of one on one allocator at a time.

WORKLOADS maps names to classes with `about`, `needs` and `measure(library, effort, folder)`. Every one does a fixed
number of requests, so that CPU seconds compare; they are user and system time of all the server's processes during
the load, children that have ended included, and so are page faults (those that needed no disk). Clients run on glibc, in other processes, through the loopback; that the
server runs on the library is seen in the address space of each of its processes.

Memory, in MiB, is VmRSS and VmHWM where a server is one process. Where it is many, it is the sum of their PSS, in
which a page that several share counts once, without shared memory (PostgreSQL's buffers), which is no malloc's; its
peak is then the highest of the samples. `final_rss` is what is left when the server has been idle for SETTLE_S after
its load. p99 latencies are the clients'.
"""
import dataclasses
import itertools
import pathlib
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from tools.python import servers
from tools.python.processes import (Failure, cpu_seconds, family, maps, page_faults, plain_env, run,
                                    smaps_mib, status_mib)

from .measurement import Measurement, RunFailed, Skipped

SAMPLE_EVERY_S = 0.1
SETTLE_S = {"quick": 0.2, "full": 2}
PROGRAM_WITHIN_S = 300
MAPPED_AFTER_S = 0.3
SEED = 20_240_607


class Workload:
    """A repetition: what its subclass does in `work`, with failures in the runner's terms."""
    about = ""  # and `needs`, programs without which it cannot run

    @classmethod
    def measure(cls, library, effort, folder):
        missing = [name for name in cls.needs if not shutil.which(name)]
        if missing:
            raise Skipped(f"no {', '.join(missing)} on this machine (tools/packages-servers.txt)")
        try:
            return cls.work(library, effort, pathlib.Path(folder))
        except (Failure, OSError) as failure:
            raise RunFailed(" ".join(str(failure).split())[:500]) from failure

    @classmethod
    def work(cls, library, effort, folder):
        raise NotImplementedError


class Recorder:
    """Samples of memory over time."""

    def __init__(self):
        self.begin, self.points, self.peak = time.monotonic(), [], 0.0

    def due(self):
        return not self.points or self.elapsed() - self.points[-1][0] >= SAMPLE_EVERY_S

    def elapsed(self):
        return time.monotonic() - self.begin

    def add(self, now_mib, peak_mib):
        self.points.append((round(self.elapsed(), 3), round(now_mib, 2)))
        self.peak = max(self.peak, peak_mib)

    def measurement(self, figures, spent, wall_s):
        return Measurement(figures, {"rss": ("s", "MiB", self.points)}, spent.cpu_s, wall_s, self.peak, spent.faults)


@dataclasses.dataclass
class Spent:
    """CPU seconds and page faults of processes so far, or of a time."""
    cpu_s: float = 0.0
    faults: int = 0

    @classmethod
    def by(cls, pids):
        return cls(cpu_seconds(pids), page_faults(pids))

    def __add__(self, other):
        return Spent(self.cpu_s + other.cpu_s, self.faults + other.faults)

    def __sub__(self, other):
        return Spent(self.cpu_s - other.cpu_s, self.faults - other.faults)


class Measured(Workload, servers.Server):
    """A server whose memory is sampled while its clients work; a subclass gives the load."""
    look_every_s = 1.0
    many_processes = False
    amount = {"quick": 0, "full": 0}  # of work, in the load's own unit

    def load(self, amount):
        """Do the work and return figures."""
        raise NotImplementedError

    @classmethod
    def work(cls, library, effort, folder):
        folder.chmod(0o755)  # servers run as other users where one is root
        with cls(folder / "server", preload_for(cls.program, library, folder)) as server:
            server.recorder = Recorder()
            before = Spent.by(family(server.process.pid))
            figures = server.load(cls.amount[effort])
            wall_s = server.recorder.elapsed()
            server.check_allocator()
            server.idle(SETTLE_S[effort])
            spent = Spent.by(family(server.process.pid)) - before  # what an allocator does later counts, too
            figures["final_rss"] = (server.recorder.points[-1][1], "MiB")
            return server.recorder.measurement(figures, spent, wall_s)

    def look(self, *_):
        super().look()
        recorder = getattr(self, "recorder", None)
        if recorder and recorder.due():
            recorder.add(*self.memory())

    def memory(self):
        """MiB now, and the highest that is known of."""
        pid = self.process.pid
        if not self.many_processes:
            return status_mib(pid, "VmRSS"), status_mib(pid, "VmHWM")
        now = smaps_mib(family(pid), "Pss_Anon", "Pss_File")
        return now, now

    def idle(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(SAMPLE_EVERY_S)
            self.look()

    def check_allocator(self):
        self.looked_at = 0.0
        self.look()


def preload_for(program, library, folder):
    """What to preload: a copy that the server's user can read. A program that brings an allocator of its own has to
    have libc itself preloaded to run on glibc's."""
    if library:
        return shutil.copy(library, folder)
    linked = subprocess.run(["ldd", shutil.which(program) or program], capture_output=True, text=True, check=False)
    return "libc.so.6" if re.search("jemalloc|tcmalloc|mimalloc", linked.stdout) else ""


class Templates:
    """What servers start from, made on glibc once in the life of the runner."""
    folders = {}

    @classmethod
    def copy(cls, key, make, target):
        """Copy the data folder that `make` leaves in the folder it is given to `target`, owners and all."""
        if key not in cls.folders:
            folder = tempfile.TemporaryDirectory(prefix="slabmalloc-bench-data-")
            pathlib.Path(folder.name).chmod(0o755)
            make(pathlib.Path(folder.name))
            cls.folders[key] = folder
        subprocess.run(["cp", "-a", f"{cls.folders[key].name}/server/data", target], check=True)


def number(pattern, text):
    """The number that a report has in the place of the pattern's group."""
    found = re.search(pattern, text)
    if not found:
        raise Failure(f"no {pattern!r} in {text[-300:]!r}")
    return float(found[1])


def percentile_99(values):
    return statistics.quantiles(values, n=100)[98]


# -- redis


class RedisServer(Measured, servers.Redis):
    def check_allocator(self):
        super().check_allocator()
        servers.Redis.check_allocator(self)


class Redis(RedisServer):
    about = "redis-benchmark, ten commands, one request at a time (P1) and sixteen (P16)"
    amount = {"quick": 2_000, "full": 20_000}  # requests of a command at P1; five times as many at P16
    commands = "set,get,incr,lpush,lpop,sadd,hset,zadd,lrange_100,mset"
    keys = 20_000

    def load(self, amount):
        return {**self.benchmark(1, amount), **self.benchmark(16, 5 * amount)}

    def benchmark(self, pipelined, requests):
        table = self.client("redis-benchmark", "-p", self.port, "-P", pipelined, "-r", self.keys, "-d", 100, "--csv",
                            "-t", self.commands, "-n", requests)
        rows = re.findall(r'^"[^"]*","([\d.]+)",.*"([\d.]+)","[\d.]+"$', table, re.M)  # requests/s, p99, maximum
        if len(rows) <= self.commands.count(","):
            raise Failure(f"redis-benchmark printed {table[-300:]!r}")
        return {f"throughput_P{pipelined}": (len(rows) / sum(1 / float(rate) for rate, _ in rows), "requests/s"),
                f"p99_P{pipelined}": (statistics.mean(float(p99) for _, p99 in rows), "ms")}


class RedisValues(RedisServer):
    """The client is ours, with a fixed seed: what lives at the end is the same on every allocator, and known."""
    about = "redis with random keys whose values of 100 to 4000 bytes change their size; half deleted, then refilled"
    amount = {"quick": 10_000, "full": 80_000}  # keys
    rounds = 6
    batch = 100
    sizes = (100, 4_000)
    refill_sizes = (50, 1_500)

    def load(self, amount):
        self.chance = random.Random(SEED)
        self.blob = self.chance.randbytes(1 << 20)
        self.lengths = {}  # of what lives, by key
        self.batches_us = []  # how long each took, from its first byte to its last answer
        begin = time.monotonic()
        for _ in range(self.rounds):
            self.set_all((self.chance.randrange(amount) for _ in range(amount)), self.sizes)
        throughput = self.rounds * amount / (time.monotonic() - begin)
        gone = self.chance.sample(sorted(self.lengths), len(self.lengths) // 2)
        self.delete_all(gone)
        deleted = self.ratio()
        self.set_all(gone, self.refill_sizes)
        return {"throughput": (throughput, "requests/s"), "p99_batch": (percentile_99(self.batches_us) / 1e3, "ms"),
                "rss_over_live_deleted": (deleted, "times"), "rss_over_live": (self.ratio(), "times")}

    def set_all(self, keys, sizes):
        def commands():
            for key in keys:
                size, start = self.chance.randint(*sizes), self.chance.randrange(len(self.blob) // 2)
                self.lengths[key] = size
                yield self.encode(b"SET", b"key:%08d" % key, self.blob[start:start + size])
        self.send(commands(), b"+OK\r\n")

    def delete_all(self, keys):
        for key in keys:
            del self.lengths[key]
        self.send((self.encode(b"DEL", b"key:%08d" % key) for key in keys), b":1\r\n")

    def send(self, commands, reply):
        """A batch on its way at a time; redis gives each command the same reply."""
        while batch := list(itertools.islice(commands, self.batch)):
            begin = time.monotonic_ns()
            self.connection.sendall(b"".join(batch))
            answer = self.replies.read(len(reply) * len(batch))
            self.batches_us.append((time.monotonic_ns() - begin) / 1e3)
            if answer != reply * len(batch):
                raise Failure(f"redis answered {answer[:100]!r}")
            self.look()

    def ratio(self):
        """RSS over the bytes of all keys and values that live."""
        return status_mib(self.process.pid, "VmRSS") / (sum(12 + size for size in self.lengths.values()) / (1 << 20))


# -- memcached


class Memcached(Measured, servers.Memcached):
    """memcached cuts its items from slabs of its own; malloc serves those slabs, connections, buffers and its hash
    table. memcslap's test of multi-gets is left out: one request for all keys makes memcached keep buffers for ever,
    as many as chance has it. It prints no latencies: a connection of ours takes them, a request at a time."""
    about = "memcached with memcslap's sets and gets, and waves of connections with large values"
    needs = ("memcached", "memcslap")
    amount = {"quick": 1_000, "full": 10_000}  # keys, of each of 16 threads
    threads = 16
    connections_a_wave = 300

    def load(self, amount):
        done = {test: self.slap(test, amount) for test in ("set", "get")}
        begin, waves = time.monotonic(), max(1, amount // 1_000)
        for _ in range(waves):
            self.wave()
        connections = self.connections_a_wave * waves / (time.monotonic() - begin)
        return {**{f"throughput_{test}": (rate, "requests/s") for test, rate in done.items()},
                "connections": (connections, "connections/s"), "p99": (self.p99_us(amount) / 1e3, "ms")}

    def p99_us(self, requests):
        times_us, value = [], bytes(1_000)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            replies = connection.makefile("rb")
            for key in range(requests):
                begin = time.monotonic_ns()
                connection.sendall(b"set one:%d 0 0 %d\r\n%b\r\n" % (key, len(value), value))
                if replies.readline() != b"STORED\r\n":
                    raise Failure("memcached did not store a value")
                times_us.append((time.monotonic_ns() - begin) / 1e3)
        return percentile_99(times_us)

    def slap(self, test, amount):
        report = self.client("memcslap", f"--servers=127.0.0.1:{self.port}", f"--concurrency={self.threads}",
                             f"--execute-number={amount}", f"--test={test}")
        return self.threads * amount / number(rf"Time to {test} +\d+ keys by +\d+ threads: +([\d.]+) seconds", report)

    def wave(self):
        """Connections that live at once, each with a request whose value outgrows the first buffers."""
        value = bytes(30_000)
        opened = [socket.create_connection(("127.0.0.1", self.port), timeout=10)
                  for _ in range(self.connections_a_wave)]
        for key, connection in enumerate(opened):
            connection.sendall(b"set wave:%d 0 0 %d\r\n%b\r\nget wave:%d\r\n" % (key, len(value), value, key))
        for connection in opened:
            with connection, connection.makefile("rb") as replies:
                while (line := replies.readline()) != b"END\r\n":
                    if not line:
                        raise Failure("memcached closed a connection")
        self.look()


# -- databases


class MariaDB(Measured, servers.MariaDB):
    about = "MariaDB with sysbench oltp_read_write, eight connections"
    amount = {"quick": 200, "full": 8_000}  # transactions
    rows = 20_000
    settings = ("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-method=fsync")  # through the page cache, so that the disk hardly matters

    def prepare(self):
        Templates.copy("mariadb", self.make_template, self.folder / "data")

    @classmethod
    def make_template(cls, folder):
        with TemplateMariaDB(folder / "server") as server:
            server.ask("CREATE DATABASE sbtest")
            server.sysbench(cls.rows, "prepare")

    def load(self, amount):
        report = self.sysbench(self.rows, "--threads=8", f"--events={amount}", "--percentile=99", "run")
        return {"throughput": (number(r"transactions: +\d+ +\(([\d.]+) per sec", report), "transactions/s"),
                "p99": (number(r"99th percentile: +([\d.]+)", report), "ms")}


class TemplateMariaDB(servers.MariaDB):
    settings = MariaDB.settings


class Postgres(Measured, servers.Postgres):
    about = "PostgreSQL with pgbench, eight clients: reads, writes, and a connection for each transaction"
    many_processes = True
    amount = {"quick": 100, "full": 1_000}  # writing transactions of a client
    scale = 3
    settings = {**servers.Postgres.settings, "autovacuum": "off"}  # its moments are chance

    def prepare(self):
        Templates.copy("postgres", self.make_template, self.folder / "data")

    @classmethod
    def make_template(cls, folder):
        with servers.Postgres(folder / "server") as server:
            server.client(*server.to_server(server.bin / "pgbench", "-i", "-q", "-s", cls.scale))

    def load(self, amount):
        return {**self.bench("read", "-S", "-t", 10 * amount), **self.bench("write", "-t", amount),
                **self.bench("connect", "-S", "-C", "-t", amount // 10)}

    def bench(self, name, *words):
        """pgbench notes each transaction's time in a file for each of its threads."""
        report = self.client(*self.to_server(self.bin / "pgbench", "-n", "-c", 8, "-j", 2, f"--random-seed={SEED}",
                                             "--log", f"--log-prefix={self.folder / name}", *words))
        times_us = [int(line.split()[2]) for path in self.folder.glob(f"{name}.*")
                    for line in path.read_text().splitlines()]
        return {f"throughput_{name}": (number(r"\ntps = ([\d.]+)", report), "transactions/s"),
                f"p99_{name}": (percentile_99(times_us) / 1e3, "ms")}


# -- nginx


class Nginx(Measured, servers.Nginx):
    about = "nginx, packing a page and passing it on to itself as a proxy, with h2load"
    needs = ("nginx", "h2load")
    many_processes = True
    amount = {"quick": 1_000, "full": 10_000}  # requests of the packed page; five times as many of the small one
    clients = 32

    def prepare(self):
        super().prepare()
        chance = random.Random(SEED)
        (self.folder / "packed.txt").write_text(" ".join(str(chance.randrange(5_000)) for _ in range(4_000)))
        (self.folder / "small.html").write_text("<p>small</p>" * 10)

    def load(self, amount):
        return {**self.ask_for("packed", "proxied/packed.txt", amount),
                **self.ask_for("small", "small.html", 5 * amount)}

    def ask_for(self, name, page, requests):
        """h2load notes for each request its begin, status and microseconds."""
        times = self.folder / "times"
        times.unlink(missing_ok=True)
        report = self.client("h2load", "--h1", "-n", requests, "-c", self.clients, "-t", 1, f"--log-file={times}",
                             "-H", "accept-encoding: gzip", self.address(page))
        answers = [line.split() for line in times.read_text().splitlines()]
        good = [int(time_us) for _, status, time_us in answers if status == "200"]
        if len(good) != requests:
            raise Failure(f"{requests - len(good)} of {requests} requests for {page} failed")
        return {f"throughput_{name}": (number(r"([\d.]+) req/s", report), "requests/s"),
                f"p99_{name}": (percentile_99(good) / 1e3, "ms")}


# -- programs that end by themselves


class Program(Workload):
    """A program that is preloaded itself, run to its end. Its page faults include some hundred of setpriv, which
    starts it."""
    amount = {"quick": 0, "full": 0}
    environment = {}

    def __init__(self, library, folder):
        self.folder, self.recorder, self.library = folder, Recorder(), library
        self.spent, self.spent_last = Spent(), Spent()
        self.preload, self.program, self.born, self.proved = "", "", 0.0, False

    def do(self, amount):
        """Run the program, or several, and return figures."""
        raise NotImplementedError

    @classmethod
    def work(cls, library, effort, folder):
        self = cls(library, folder)
        figures = self.do(cls.amount[effort])
        return self.recorder.measurement(figures, self.spent, self.recorder.elapsed())

    def run(self, *argv, stdin="/dev/null"):
        self.spent_last, self.proved, self.born = Spent(), False, time.monotonic()
        self.preload = preload_for(argv[0], self.library, self.folder)
        self.program = str(pathlib.Path(shutil.which(argv[0])).resolve())
        env = plain_env(**self.environment, **({"LD_PRELOAD": self.preload} if self.preload else {}))
        output = run(argv, env=env, folder=self.folder, log=self.folder / "output", timeout_s=PROGRAM_WITHIN_S,
                     stdin=stdin, watch=self.look)
        self.spent += self.spent_last
        if self.preload and not self.proved:
            raise Failure(f"{argv[0]} ended before {self.preload} was seen in its address space")
        return output

    def look(self, pid):
        """The last time is when it has ended, with its times and without its memory."""
        self.spent_last = Spent.by([pid])
        now, peak = status_mib(pid, "VmRSS"), status_mib(pid, "VmHWM")
        self.recorder.peak = max(self.recorder.peak, peak)
        if now and self.recorder.due():
            self.recorder.add(now, peak)
        if self.preload and not self.proved:
            self.look_for_preload(maps(pid))

    def look_for_preload(self, mappings):
        """It begins as setpriv, and the loader takes a moment."""
        self.proved = self.program in mappings and self.preload in mappings
        if not self.proved and mappings and time.monotonic() - self.born > MAPPED_AFTER_S:
            raise Failure(f"{self.preload} is not in the address space")


class RocksDB(Program):
    """The writer beside the readers is held to a rate, so that slower readers mean hardly more of its work."""
    about = "RocksDB's db_bench: fillrandom, readrandom, readwhilewriting"
    needs = ("db_bench",)
    amount = {"quick": 20_000, "full": 250_000}  # keys
    common = ("--db=db", f"--seed={SEED}", "--compression_type=none", "--progress_reports=false", "--histogram",
              "--write_buffer_size=8000000", "--cache_size=33554432", "--value_size=400")

    def do(self, amount):
        report = self.run("db_bench", *self.common, f"--num={amount}", f"--reads={amount}",
                          "--benchmarks=fillrandom,readrandom")
        report += self.run("db_bench", *self.common, f"--num={amount}", f"--reads={amount // 2}", "--threads=2",
                           "--use_existing_db=1", "--benchmark_write_rate_limit=2000000",
                           "--benchmarks=readwhilewriting")
        figures = {}
        for name in ("fillrandom", "readrandom", "readwhilewriting"):
            figures[f"throughput_{name}"] = (number(rf"{name} .* (\d+) ops/sec", report), "operations/s")
            figures[f"p99_{name}"] = (number(rf"(?s){name} .*?P99: ([\d.]+)", report) / 1e3, "ms")
        return figures


class Cc1plus(Program):
    """The source is preprocessed on glibc once a repetition; what is measured is the compiler proper."""
    about = "a compile of a C++ file with many of the standard library's headers and templates, by cc1plus -O2"
    needs = ("g++",)
    amount = {"quick": 0, "full": 2}  # classes; the headers alone are most of the quick one

    HEADERS = ("algorithm", "functional", "iostream", "map", "memory", "numeric", "random", "regex", "sstream",
               "string", "thread", "unordered_map", "variant", "vector")
    PART = """
        struct Part%(n)d {
            using Value = std::variant<int, std::string, std::vector<double>, std::map<std::string, Part%(n)d>>;
            std::unordered_map<std::string, Value> values;
            std::vector<std::function<int(Part%(n)d &)>> steps;
            std::string show() const {
                std::ostringstream out;
                for (auto &[name, value] : values)
                    std::visit([&](auto &held) { out << name << sizeof held << %(n)d; }, value);
                return out.str();
            }
            bool match(const std::string &text) {
                static const std::regex pattern("(a+)(b|c)*[0-9]{%(n)d,}");
                std::smatch found;
                steps.push_back([text](Part%(n)d &part) { return int(part.values.size() + text.size()); });
                return std::regex_search(text, found, pattern) && std::accumulate(steps.begin(), steps.end(), 0,
                    [this](int sum, auto &step) { return sum + step(*this); }) > %(n)d;
            }
        };
        bool use%(n)d(const std::string &text) { Part%(n)d part; return part.match(text) || part.show() == text; }
    """

    def do(self, amount):
        source = self.folder / "source.cc"
        source.write_text("".join(f"#include <{name}>\n" for name in self.HEADERS)
                          + "".join(self.PART % {"n": part} for part in range(1, amount + 1)))
        subprocess.run(["g++", "-std=c++17", "-E", source, "-o", self.folder / "source.ii"], check=True)
        compiler = subprocess.run(["g++", "-print-prog-name=cc1plus"], check=True, capture_output=True, text=True)
        self.recorder = Recorder()
        self.run(compiler.stdout.strip(), "-quiet", "-std=c++17", "-O2", "-fpreprocessed", "source.ii",
                 "-o", "source.s")
        return {"time": (self.recorder.elapsed(), "s")}


class PythonJson(Program):
    """Python asks its own allocator for small objects, and that one asks for arenas of 256 KiB; it is out of the way
    here (PYTHONMALLOC=malloc), so that malloc sees each object."""
    about = "a Python program that makes, writes and reads JSON documents, with PYTHONMALLOC=malloc"
    needs = ("/usr/bin/python3",)
    environment = {"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
    amount = {"quick": 300, "full": 3_000}  # documents
    SCRIPT = """
import json, random, sys
chance = random.Random(7)
def node(depth):
    kind = chance.randrange(4 if depth else 2)
    if kind == 0:
        return chance.randrange(10 ** 9)
    if kind == 1:
        return "%x" % chance.getrandbits(4 * chance.choice((6, 20, 100, 900)))
    if kind == 2:
        return [node(depth - 1) for _ in range(chance.randrange(12))]
    return {"field%d" % chance.randrange(1000): node(depth - 1) for _ in range(chance.randrange(12))}
kept, length = [], 0
for document in range(int(sys.argv[1])):
    text = json.dumps([node(4) for _ in range(12)])
    read = json.loads(text)
    length += len(text)
    if len(kept) < 500:
        kept.append(read)
    else:
        kept[chance.randrange(500)] = read
print(length)
"""

    def do(self, amount):
        (self.folder / "script.py").write_text(self.SCRIPT)
        self.run("/usr/bin/python3", "script.py", amount)
        return {"throughput": (amount / self.recorder.elapsed(), "documents/s")}


class Sqlite(Program):
    """The database is in memory, so that every page of it is malloc's and no disk is in the way."""
    about = "sqlite3 on a database in memory: inserts, indexes, joins, updates, deletes"
    needs = ("sqlite3",)
    amount = {"quick": 100_000, "full": 500_000}  # rows
    SCRIPT = """
        CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, body BLOB);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
            INSERT INTO item SELECT i, i * 7919 % 101, printf('%08x', i * 2654435761 % 4294967296),
                zeroblob(i % 300) FROM n;
        CREATE INDEX item_kind ON item(kind, name);
        CREATE UNIQUE INDEX item_name ON item(name);
        SELECT kind, count(*), min(name), sum(length(body)) FROM item GROUP BY kind ORDER BY 3 DESC LIMIT 20;
        SELECT count(*) FROM item a JOIN item b ON b.name > a.name AND b.kind = a.kind WHERE a.id % 4000 = 0;
        SELECT length(group_concat(name)), sum(length(json_object('n', name, 'k', kind))) FROM item;
        DELETE FROM item WHERE id % 3 = 0;
        UPDATE item SET name = name || '-' || kind, body = body || name WHERE kind < 40;
        INSERT INTO item(kind, name, body) SELECT kind, name || '+', body || body FROM item WHERE kind > 50;
        VACUUM;
        SELECT count(*), sum(length(body)) FROM item;
        """

    def do(self, amount):
        script = self.folder / "script.sql"
        script.write_text(self.SCRIPT.format(rows=amount))
        self.run("sqlite3", ":memory:", stdin=script)
        return {"throughput": (amount / self.recorder.elapsed(), "rows/s")}


class Z3(Program):
    """Started again and again: a program that makes a heap of tens of MB, works for a moment, and ends."""
    about = "z3, which places twelve queens on a board, started anew each time"
    needs = ("z3",)
    amount = {"quick": 2, "full": 20}  # runs
    queens = 12

    def problem(self):
        """In linear arithmetic: the row of each queen."""
        yield "(set-logic QF_LIA)"
        for one in range(self.queens):
            yield f"(declare-const q{one} Int) (assert (and (<= 1 q{one}) (<= q{one} {self.queens})))"
            for other in range(one):
                apart = " ".join(f"(not (= (- q{one} q{other}) {rows}))" for rows in (0, one - other, other - one))
                yield f"(assert (and {apart}))"
        yield "(check-sat)"

    def do(self, amount):
        problem = self.folder / "queens.smt2"
        problem.write_text("\n".join(self.problem()))
        for _ in range(amount):
            if self.run("z3", problem).strip() != "sat":
                raise Failure("z3 has found no solution")
        return {"time": (self.recorder.elapsed() / amount, "s")}


WORKLOADS = {
    "redis": Redis,
    "redis_values": RedisValues,
    "memcached": Memcached,
    "mariadb": MariaDB,
    "postgres": Postgres,
    "nginx": Nginx,
    "rocksdb": RocksDB,
    "cc1plus": Cc1plus,
    "python_json": PythonJson,
    "sqlite3": Sqlite,
    "z3": Z3,
}
