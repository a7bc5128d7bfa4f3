"""Servers of Debian's under a fixed amount of work, one repetition of one on one allocator at a time.

WORKLOADS maps names to classes with `about`, `needs` and `measure(library, effort, folder, options)`. Every one does a
fixed number of requests, so that CPU seconds compare; they are user and system time of all the server's processes
during the load, children that have ended included, and so are page faults (those that needed no disk). Clients run on
glibc, in other processes, through the loopback; that the server runs on the library is seen in the address space of
each of its processes.

Memory, in MiB, is VmRSS and VmHWM where a server is one process. Where it is many, it is the sum of their PSS, in
which a page that several share counts once, without shared memory (PostgreSQL's buffers), which is no malloc's; its
peak is then the highest of the samples. `final_rss` is what is left when the server has been idle for SETTLE_S after
its load. p99 latencies are the clients'.
"""
import itertools
import pathlib
import random
import re
import socket
import statistics
import subprocess
import tempfile
import time

from tools.python import servers
from tools.python.processes import Failure, family, smaps_mib, status_mib

from .recorded import SAMPLE_EVERY_S, SEED, Recorder, Spent, Workload, environment_for, number, preload_for

SETTLE_S = {"quick": 0.2, "full": 2}


class Measured(Workload, servers.Server):
    """A server whose memory is sampled while its clients work; a subclass gives the load."""
    look_every_s = 1.0
    many_processes = False
    amount = {"quick": 0, "full": 0}  # of work, in the load's own unit

    def load(self, amount):
        """Do the work and return figures."""
        raise NotImplementedError

    @classmethod
    def work(cls, library, effort, folder, options):
        folder.chmod(0o755)  # servers run as other users where one is root
        preload = preload_for(cls.program, library, folder)
        with cls(folder / "server", preload, environment_for(preload, options)) as server:
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


WORKLOADS = {
    "redis": Redis,
    "redis_values": RedisValues,
    "memcached": Memcached,
    "mariadb": MariaDB,
    "postgres": Postgres,
    "nginx": Nginx,
}
