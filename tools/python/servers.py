"""The servers that tests, benches and the demonstration run: how each is set up, started, found ready and stopped.

Imported as tools.python.servers, with the root of the repository in sys.path. A subclass of Server says what differs;
what is done to the server once it runs is its user's matter. Servers that give up a client who is slow are told to
wait HANG_S for it: on a busy machine every client is slow.
"""
import glob
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import time

from tools.python.processes import (HANG_S, Failure, Port, dying_with_us, end_group, family, is_mapped, kill,
                                    plain_env, run, still_there, tail, wait_until)

if "/usr/sbin" not in os.environ["PATH"].split(":"):
    os.environ["PATH"] += ":/usr/sbin"  # where Debian has servers, and its users no path to


class Server:
    """One server with its processes, on a free port of the loopback, in a new folder of its own; a context manager.

    With a `library`, every live process of the server must have it mapped, each time one looks; it is preloaded
    unless there is an `env` that does it. Where one is root, servers run as another user: folder and library must lie
    where that one reaches them.
    """
    needs = ()  # programs without which it cannot run
    program = ""  # the name of its processes
    user = "nobody"  # who it runs as where one is root
    stop_signal = signal.SIGTERM  # its normal shutdown
    look_every_s = 0.2

    def __init__(self, folder, library="", env=None):
        self.folder, self.library = pathlib.Path(folder), str(library)
        self.claim = Port()
        self.port = self.claim.number
        self.env = env or plain_env(**({"LD_PRELOAD": self.library} if library else {}))
        self.log = self.folder / "server.log"
        self.seen, self.looked_at = {}, 0.0  # times of birth by process id
        self.process = None
        self.folder.mkdir()
        if os.getuid() == 0:
            shutil.chown(self.folder, self.user)

    # -- what a subclass says

    def prepare(self):
        """Write what the server needs before its start."""

    def command(self):
        raise NotImplementedError

    # -- its life

    def __enter__(self):
        try:
            self.prepare()
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(self.in_its_name(self.command()), env=self.env, cwd=self.folder,
                                                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                                start_new_session=True)
            wait_until(self.listens, f"{self.program} listens")
            self.look()
        except BaseException:
            self.__exit__(True)
            raise
        return self

    def __exit__(self, failure, *_):
        try:
            if self.process and not failure:
                self.stop()
        finally:
            if self.process:
                self.end()
            self.claim.release()

    def end(self):
        if self.process.poll() is None:
            self.seen.update(family(self.process.pid))
        end_group(self.process)
        kill(still_there(self.seen))

    def in_its_name(self, argv):
        """The server's own user, and a normal shutdown should the process that starts it die without cleaning up."""
        rights = []
        if os.getuid() == 0:
            rights = [f"--reuid={self.user}", f"--regid={pwd.getpwnam(self.user).pw_gid}", "--init-groups"]
        command = dying_with_us(signal.Signals(self.stop_signal).name, argv, rights)
        return [str(part) for part in command]

    def listens(self):
        self.check_alive()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.program} ended with {self.process.returncode}: {tail(self.log)}")

    def stop(self):
        """Its normal shutdown: it exits by itself, with 0, and so do its children."""
        os.kill(self.process.pid, self.stop_signal)
        wait_until(lambda: self.process.poll() is not None, f"{self.program} stops")
        if self.process.returncode != 0:
            self.check_alive()
        wait_until(lambda: not still_there(self.seen), f"the processes of {self.program} are gone")

    def look(self, *_):
        """Every process of the server that lives now runs on the library."""
        if time.monotonic() - self.looked_at < self.look_every_s:
            return
        self.looked_at = time.monotonic()
        found = family(self.process.pid)
        self.seen.update(found)
        for pid, born in found.items() if self.library else ():
            # not yet, in one that begins a program; and one that ends while it is read shows a part of its mappings,
            # and nothing when it is read again
            wait_until(lambda: is_mapped(self.library, pid) or not still_there({pid: born}) or self.check_preload(),
                       f"process {pid} of {self.program} has {self.library} in its address space")

    def check_preload(self):
        """The loader has not complained."""
        if "cannot be preloaded" in self.log.read_text(errors="replace"):
            raise Failure(f"{self.program} runs without {self.library}: {tail(self.log)}")

    # -- what its clients do

    def client(self, *argv, stdin=os.devnull):
        """Run a client against the server, look at the server meanwhile, and return what the client wrote."""
        return run(argv, env=plain_env(), folder=self.folder, log=self.folder / "client.log", stdin=stdin,
                   watch=self.look)


class Redis(Server):
    needs = ("redis-server", "redis-cli", "redis-benchmark")
    program = "redis-server"
    options = ()

    def command(self):
        return ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "",
                "--appendonly", "no", *self.options]

    def __enter__(self):
        super().__enter__()
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=HANG_S)
        self.replies = self.connection.makefile("rb")
        return self

    def __exit__(self, *failure):
        if hasattr(self, "connection"):
            self.replies.close()
            self.connection.close()
        super().__exit__(*failure)

    @staticmethod
    def encode(*words):
        """A command as it goes over the wire."""
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def ask(self, *command):
        """One command whose answer is a number or one block of text."""
        self.connection.sendall(self.encode(*command))
        head = self.replies.readline()
        if not head.startswith(b"$"):
            return head[1:].strip().decode()
        return self.replies.read(int(head[1:]) + 2).decode()

    def info(self, section, field):
        return next(line.split(":")[1] for line in self.ask("INFO", section).splitlines()
                    if line.startswith(field + ":"))

    def check_allocator(self):
        """Where redis brings a jemalloc, as Debian's does, it is idle exactly when another malloc is preloaded."""
        if not self.info("memory", "mem_allocator").startswith("jemalloc"):
            return
        of_jemalloc = int(self.info("memory", "allocator_allocated"))
        used = int(self.info("memory", "used_memory"))
        other = bool(self.library) and "jemalloc" not in pathlib.Path(self.library).name
        if (of_jemalloc < used / 2) != other:
            raise Failure(f"preload {self.library!r}, and jemalloc has handed out {of_jemalloc} of {used} bytes")


class Memcached(Server):
    needs = ("memcached",)
    program = "memcached"  # makes its own slabs: connections and little else are malloc's
    memory_mib = 200

    def command(self):
        # -M: no room is an error, not a silent eviction
        return ["memcached", "-l", "127.0.0.1", "-p", self.port, "-U", 0, "-t", 2, "-m", self.memory_mib, "-M"]


class Nginx(Server):
    needs = ("nginx", "h2load")
    program = "nginx"
    stop_signal = signal.SIGQUIT

    CONFIGURATION = """
        daemon off;
        worker_processes 2;
        pid {folder}/nginx.pid;
        error_log {folder}/error.log;
        events {{ worker_connections {connections}; }}
        http {{
            access_log {folder}/access.log;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            gzip on;
            gzip_types text/plain;
            types {{ text/html html; text/plain txt; }}
            server {{
                listen 127.0.0.1:{port};
                root {folder};
                keepalive_requests 1000000;
                {patience}
                location /proxied/ {{ proxy_pass http://127.0.0.1:{port}/; }}
            }}
        }}
    """

    connections = 256  # of a worker
    WAITS_FOR = ("client_header", "client_body", "send", "keepalive", "proxy_connect", "proxy_read", "proxy_send")

    def prepare(self):
        patience = " ".join(f"{what}_timeout {HANG_S}s;" for what in self.WAITS_FOR)
        (self.folder / "nginx.conf").write_text(self.CONFIGURATION.format(folder=self.folder, port=self.port,
                                                                          connections=self.connections,
                                                                          patience=patience))

    def command(self):
        return ["nginx", "-e", "stderr", "-p", self.folder, "-c", self.folder / "nginx.conf"]

    def address(self, page):
        return f"http://127.0.0.1:{self.port}/{page}"


class Postgres(Server):
    bin = pathlib.Path(max(glob.glob("/usr/lib/postgresql/*/bin"), default="/usr/lib/postgresql/none/bin"))
    needs = (str(bin / "postgres"), "pgbench")
    program = "postgres"
    user = "postgres"
    stop_signal = signal.SIGINT  # "fast": clients are told to go
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
                "shared_buffers": "32MB", "max_connections": 30}

    def prepare(self):
        run(self.in_its_name([self.bin / "initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust",
                              "--no-sync", "--no-locale", "-E", "UTF8"]),
            env=self.env, folder=self.folder, log=self.folder / "initdb.log")

    def command(self):
        return [self.bin / "postgres", "-D", self.folder / "data", "-c", f"port={self.port}",
                "-c", f"authentication_timeout={HANG_S}s",
                *(word for name, value in self.settings.items() for word in ("-c", f"{name}={value}"))]

    def to_server(self, client, *words):
        return [client, "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", *words, "postgres"]

    def listens(self):
        # a port that is open may still answer that the system is starting up
        question = self.to_server(self.bin / "pg_isready", "-q", "-d")
        return super().listens() and subprocess.call([str(word) for word in question]) == 0


class MariaDB(Server):
    needs = ("mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin", "sysbench")
    program = "mariadbd"
    user = "mysql"
    settings = ("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0")

    def prepare(self):
        run(self.in_its_name(["mariadb-install-db", "--no-defaults", f"--datadir={self.folder}/data",
                              "--skip-test-db", "--auth-root-authentication-method=normal", *self.settings]),
            env=self.env, folder=self.folder, log=self.folder / "install.log")

    def command(self):
        return ["mariadbd", "--no-defaults", f"--datadir={self.folder}/data", f"--port={self.port}",
                "--bind-address=127.0.0.1", f"--socket={self.folder}/socket", f"--tmpdir={self.folder}",
                *(f"--{what}-timeout={HANG_S}" for what in ("connect", "net-read", "net-write")), *self.settings]

    def to_server(self, client, *words):
        return [client, "--no-defaults", "--protocol=tcp", "-h127.0.0.1", f"-P{self.port}", "-uroot", *words]

    def ask(self, query):
        return self.client(*self.to_server("mariadb", "-N", "-B", "-e", query)).strip()

    def sysbench(self, rows, *words):
        """sysbench's transactions on two tables, always the same ones."""
        return self.client("sysbench", "oltp_read_write", "--db-driver=mysql", "--mysql-host=127.0.0.1",
                           f"--mysql-port={self.port}", "--mysql-user=root", "--mysql-db=sbtest", "--tables=2",
                           f"--table-size={rows}", "--rand-seed=20240607", "--time=0", *words)
