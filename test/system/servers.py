"""What the system tests do to the servers of tools/python/servers.py: a load, and the data read back.

`load_and_read_back` does bounded work with clients that are not preloaded and returns facts, a dict of everything
that must be the same on every allocator.
"""
import glob
import gzip
import hashlib
import pathlib
import random
import re
import signal
import socket
import textwrap
import threading
import time
import urllib.error
import urllib.request

import php
from conftest import scaled
from tools.python import servers
from tools.python.processes import HANG_S, family, still_there, tail, wait_until

REDIS_BENCHMARK_REQUESTS = scaled(3_000)
REDIS_KEYS = scaled(10_000)
MEMCACHED_CONNECTIONS = 8
MEMCACHED_ITEMS = scaled(400)  # a connection
NGINX_REQUESTS = scaled(400)  # of a page
PGBENCH_READS = scaled(800)  # a client, of 8
PGBENCH_WRITES = scaled(150)
SYSBENCH_ROWS = 2_000  # a table, of 2
SYSBENCH_EVENTS_ALONE = scaled(100)
SYSBENCH_EVENTS_TOGETHER = scaled(400)
PHP_REQUESTS = scaled(30)
SEED = 20_240_607


def digest(data):
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()


class Tested(servers.Server):
    """A server under test, on the library where there is a `preload`."""
    files = {}  # without which the test is skipped, with the packages that have them
    least_processes = 1  # of its own, that have ended and counted
    least_objects = 200  # taken from the depots by all its processes

    def __init__(self, folder, preload=None):
        super().__init__(folder, *((preload.library, preload.env()) if preload else ()))

    def load_and_read_back(self):
        raise NotImplementedError

    def __exit__(self, failure, *details):
        if failure and self.process:
            print(f"{self.program} wrote:\n{tail(self.log)}")  # pytest shows it beside the failure
        super().__exit__(failure, *details)

    def stop(self):
        """Its normal shutdown, in which counters get written, and nothing that the library complained of."""
        super().stop()
        complaints = [line for line in self.log.read_text(errors="replace").splitlines() if "slabmalloc" in line]
        assert not complaints, complaints


class Redis(Tested, servers.Redis):
    least_objects = 50_000
    options = ("--io-threads", "2", "--enable-debug-command", "yes")

    def ask(self, *words):
        return self.client("redis-cli", "-p", self.port, *words).strip()

    def load_and_read_back(self):
        table = self.client("redis-benchmark", "-p", self.port, "-P", 16, "-c", 20, "-r", 10_000, "--csv",
                            "-n", REDIS_BENCHMARK_REQUESTS)
        self.ask("FLUSHALL")
        commands = self.folder / "commands"
        commands.write_text("\r\n".join(self.deterministic_commands()) + "\r\n")
        return {
            "benchmarks": re.findall(r'^"(.*?)"', table, re.M),
            "replies": self.client("redis-cli", "-p", self.port, "--pipe", "--pipe-timeout", 0,
                                   stdin=commands).splitlines()[-1],
            "keys": self.ask("DBSIZE"),
            "digest": self.ask("DEBUG", "DIGEST"),
            "script": self.ask("EVAL", "local t = {} for i = 1, 20000 do t[i] = i .. ':' .. i * i end "
                                       "return redis.sha1hex(table.concat(t))", 0),
            "sorted": digest(self.ask("SORT", "list:7", "ALPHA")),
            "reload": self.ask("DEBUG", "RELOAD"),
            "digest after reload": self.ask("DEBUG", "DIGEST"),
            "save in a child": self.saved_in_a_child(),
        }

    def saved_in_a_child(self):
        self.ask("BGSAVE")
        wait_until(lambda: "rdb_bgsave_in_progress:0" in self.ask("INFO", "persistence"), "saved")
        return re.findall("rdb_last_bgsave_status:.*", self.ask("INFO", "persistence"))

    @staticmethod
    def deterministic_commands():
        chance = random.Random(SEED)
        for i in range(REDIS_KEYS):
            word = "%x" % chance.getrandbits(4 * chance.choice((6, 20, 100, 900)))
            yield chance.choice((
                f"SET key:{i} {word}",
                f"APPEND key:{i // 3} {word}",
                f"HSET hash:{i % 300} {word[:9]} {word}",
                f"RPUSH list:{i % 50} {word}",
                f"SADD set:{i % 40} {word[:30]}",
                f"ZADD sorted:{i % 30} {i} {word[:40]}",
                f"XADD stream:{i % 20} {i + 1}-1 field {word}",
                f"SETRANGE key:{i} {len(word)} {word}",
                f"DEL key:{i // 2}",
            ))


class Memcached(Tested, servers.Memcached):
    def load_and_read_back(self):
        idle = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(150)]
        found = [None] * MEMCACHED_CONNECTIONS
        talks = [threading.Thread(target=self.talk, args=(number, found)) for number in range(len(found))]
        for talk in talks:
            talk.start()
        while any(talk.is_alive() for talk in talks):
            self.look()
            time.sleep(self.look_every_s)
        for connection in idle:
            connection.close()
        assert all(found), found
        return {"read back": found, "stats": self.stats()}

    def talk(self, number, found):
        """Fill one connection's keys, change some, read all back; its digest is left in `found`."""
        chance = random.Random(SEED + number)
        keys = [f"key:{number}:{i}" for i in range(MEMCACHED_ITEMS)]
        answers = hashlib.sha256()
        with socket.create_connection(("127.0.0.1", self.port), timeout=HANG_S) as connection:
            stream = connection.makefile("rwb")

            def say(line, body=None):
                stream.write(line.encode() + b"\r\n" + (b"" if body is None else body + b"\r\n"))
                stream.flush()
                answers.update(stream.readline())

            for key in keys:
                body = chance.randbytes(chance.choice((10, 300, 2_000, 9_000, 40_000)))
                say(f"set {key} 0 0 {len(body)}", body)
            for i, key in enumerate(keys[::3]):
                say(f"append {key} 0 0 500", chance.randbytes(500))
                say(f"set count:{number}:{i} 0 0 2", b"40")
                say(f"incr count:{number}:{i} {i}")
                say(f"delete {keys[i]}")
            for start in range(0, len(keys), 50):  # many keys a request: the answer is a chain of buffers
                stream.write(b"get " + " ".join(keys[start:start + 50]).encode() + b"\r\n")
                stream.flush()
                self.read_values(stream, answers)
        found[number] = answers.hexdigest()

    @staticmethod
    def read_values(stream, answers):
        while (line := stream.readline()) != b"END\r\n":
            answers.update(line + stream.read(int(line.split()[3]) + 2))

    def stats(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=HANG_S) as connection:
            stream = connection.makefile("rwb")
            stream.write(b"stats\r\n")
            stream.flush()
            lines = iter(stream.readline, b"END\r\n")
            stats = dict(line.decode().split()[1:] for line in lines)
        compared = ("curr_items", "bytes", "cmd_set", "get_hits", "get_misses", "evictions")
        return {name: stats[name] for name in compared}


class Nginx(Tested, servers.Nginx):
    least_processes = 3  # the master and two workers
    least_objects = 2_000
    connections = 1_000  # a worker that is late still has those of the clients before
    pages = ("small.html", "middle.txt", "large.bin", "proxied/middle.txt", "absent")

    def prepare(self):
        super().prepare()
        chance = random.Random(SEED)
        (self.folder / "small.html").write_text("<p>small</p>" * 20)
        (self.folder / "middle.txt").write_text(" ".join(str(chance.randrange(5_000)) for _ in range(20_000)))
        (self.folder / "large.bin").write_bytes(chance.randbytes(3_000_000))

    def load_and_read_back(self):
        facts = {"requests": [self.load("small.html"), self.load("proxied/middle.txt")]}
        self.replace_workers()
        facts["requests after a reload"] = self.load("middle.txt")
        facts["bodies"] = {(page, coding): self.body(page, coding) for page in self.pages for coding in ("", "gzip")}
        errors = (self.folder / "error.log").read_text()
        facts["complaints of nginx"] = re.findall(r"\[(?:alert|crit|emerg)\].*", errors)
        return facts

    def replace_workers(self):
        """Have the master read its configuration again: new workers start, the old ones end."""
        old = family(self.process.pid)
        del old[self.process.pid]
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not still_there(old), "the old workers are gone")

    def load(self, page):
        """What became of so many requests."""
        report = self.client("h2load", "--h1", "-n", NGINX_REQUESTS, "-c", 32, "-t", 2, "-H", "accept-encoding: gzip",
                             self.address(page))
        return re.findall("^(?:requests|status codes): .*", report, re.M)

    def body(self, page, coding):
        request = urllib.request.Request(self.address(page), headers={"Accept-Encoding": coding})
        try:
            answer = urllib.request.urlopen(request, timeout=HANG_S)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            body = answer.read()
        packed = answer.headers["Content-Encoding"] == "gzip"
        return answer.status, packed, digest(gzip.decompress(body) if packed else body)


class Postgres(Tested, servers.Postgres):
    least_processes = 10  # the postmaster, its helpers and eight backends
    least_objects = 50_000

    QUERIES = {
        "accounts": "SELECT md5(string_agg(aid || ':' || abalance, ',' ORDER BY aid)) FROM pgbench_accounts",
        "balances": """
            SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
                (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)""",
        "history": """
            SELECT count(*), md5(string_agg(tid || ':' || delta, ',' ORDER BY tid, delta)) FROM pgbench_history""",
        "compiled": """
            SET jit = on; SET jit_above_cost = 0; SET jit_inline_above_cost = 0; SET jit_optimize_above_cost = 0;
            SELECT count(*), sum(a.aid % 7 * b.bid) FROM pgbench_accounts a JOIN pgbench_branches b USING (bid)""",
        "documents": """
            SELECT md5(string_agg(j::text, '' ORDER BY j->>'n')) FROM (
                SELECT jsonb_build_object('n', n, 'words', array_agg(md5(n::text || m))) AS j
                FROM generate_series(1, 500) n, generate_series(1, 20) m GROUP BY n) t""",
    }

    def ask(self, query):
        return self.client(*self.to_server(self.bin / "psql", "-XAtq", "-c", query)).strip()

    def bench(self, *words):
        report = self.client(*self.to_server(self.bin / "pgbench", "-c", 8, "-j", 2, f"--random-seed={SEED}", *words))
        return re.findall(r"^number of .*", report, re.M)

    def load_and_read_back(self):
        self.client(*self.to_server(self.bin / "pgbench", "-i", "-q", "-s", 1))
        return {
            "read-only": self.bench("-S", "-t", PGBENCH_READS),
            "read-write": self.bench("-t", PGBENCH_WRITES),
            **{name: self.ask(query) for name, query in self.QUERIES.items()},
        }


class MariaDB(Tested, servers.MariaDB):
    least_objects = 3_000

    def rows_of_ours(self):
        """Rows that are the same in every run: what sysbench makes with one seed is not, on every machine."""
        return [self.ask(statement) for statement in (
            "CREATE TABLE sbtest.ours (n INT PRIMARY KEY, word CHAR(64), KEY(word))"
            " SELECT seq AS n, md5(seq) AS word FROM sbtest.seq_1_to_20000",
            "UPDATE sbtest.ours SET word = concat(reverse(word), n) WHERE n % 3 = 0",
            "DELETE FROM sbtest.ours WHERE n % 11 = 0",
            "CHECKSUM TABLE sbtest.ours",
            "SELECT count(*), md5(group_concat(word ORDER BY word)) FROM sbtest.ours WHERE n <= 25",
            "SELECT substr(word, 1, 1) AS first, count(*), sum(n) FROM sbtest.ours GROUP BY first ORDER BY first")]

    def load_and_read_back(self):
        self.ask("CREATE DATABASE sbtest")
        self.sysbench(SYSBENCH_ROWS, "prepare")
        alone = self.sysbench(SYSBENCH_ROWS, "--threads=1", f"--events={SYSBENCH_EVENTS_ALONE}", "run")
        facts = {
            "work of one client": re.findall(r"(\w+): +(\d+) ", alone),
            "rows of ours": self.rows_of_ours(),
        }
        # several clients meet deadlocks by chance, so that what is compared is that all they did is whole
        together = self.sysbench(SYSBENCH_ROWS, "--threads=8", f"--events={SYSBENCH_EVENTS_TOGETHER}", "run")
        facts["work of eight"] = re.findall(r"total number of events: +\d+", together)
        # a check beside the purge warns, at times, of what is just going: wait for the purge
        self.ask("SET GLOBAL innodb_max_purge_lag_wait = 0")
        facts["checks"] = self.ask("CHECK TABLE sbtest.sbtest1, sbtest.sbtest2 EXTENDED")
        facts["row counts"] = [self.ask(f"SELECT count(*) FROM sbtest.sbtest{n}") for n in (1, 2)]
        self.client(*self.to_server("mariadb-admin", "debug"))  # the server prints mallinfo2() into its log
        return facts


class Php(Tested):
    """Serves a page of PHP, whose extensions are plug-ins."""
    least_processes = 3  # the master and the first two that serve, who have served their share
    least_objects = 10_000

    def prepare(self):
        (self.folder / "page.php").write_text(php.PAGE)

    def page(self, n):
        raise NotImplementedError

    def load_and_read_back(self):
        pages = [self.page(30 + i % 7 * 100) for i in range(PHP_REQUESTS)]
        assert all(page.endswith("}\n") for page in pages), pages
        return {"pages": pages}


class PhpFpm(Php):
    path = pathlib.Path(max(glob.glob("/usr/sbin/php-fpm[0-9]*"), default="/usr/sbin/php-fpm"))
    needs = (str(path), "cgi-fcgi")
    program = path.name
    stop_signal = signal.SIGQUIT

    CONFIGURATION = """
        [global]
        daemonize = no
        error_log = {folder}/error.log
        [www]
        listen = 127.0.0.1:{port}
        pm = static
        pm.max_children = 2
        pm.max_requests = 8
    """

    def prepare(self):
        super().prepare()
        text = textwrap.dedent(self.CONFIGURATION).format(folder=self.folder, port=self.port)
        (self.folder / "fpm.conf").write_text(text)

    def command(self):
        return [self.path, "--fpm-config", self.folder / "fpm.conf"]

    def page(self, n):
        question = {"REQUEST_METHOD": "GET", "SCRIPT_FILENAME": self.folder / "page.php", "QUERY_STRING": f"n={n}"}
        return self.client("env", *(f"{name}={value}" for name, value in question.items()),
                           "cgi-fcgi", "-bind", "-connect", f"127.0.0.1:{self.port}")


class ApachePhp(Php):
    modules = pathlib.Path("/usr/lib/apache2/modules")
    php_module = max(modules.glob("libphp*.so"), default=modules / "libphp.so")
    needs = ("apache2",)
    files = {php_module: "libapache2-mod-php"}
    program = "apache2"

    CONFIGURATION = """
        ServerRoot {folder}
        ServerName localhost
        Listen 127.0.0.1:{port}
        PidFile {folder}/apache.pid
        ErrorLog {folder}/error.log
        DefaultRuntimeDir {folder}
        Mutex pthread
        LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
        LoadModule authz_core_module {modules}/mod_authz_core.so
        LoadModule php_module {php_module}
        StartServers 2
        MinSpareServers 1
        MaxSpareServers 2
        MaxConnectionsPerChild 10
        DocumentRoot {folder}
        <FilesMatch "[.]php$">
            SetHandler application/x-httpd-php
        </FilesMatch>
    """

    def prepare(self):
        super().prepare()
        (self.folder / "apache.conf").write_text(self.CONFIGURATION.format(
            folder=self.folder, port=self.port, modules=self.modules, php_module=self.php_module))

    def command(self):
        return ["apache2", "-f", self.folder / "apache.conf", "-DFOREGROUND"]

    def page(self, n):
        self.look()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/page.php?n={n}", timeout=HANG_S) as answer:
            return answer.read().decode()


ALL = (Redis, Memcached, Nginx, Postgres, MariaDB, PhpFpm, ApachePhp)
