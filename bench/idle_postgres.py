#!/usr/bin/python3
"""What an idle PostgreSQL server holds: idle_postgres.py [--connections 20], with the allocator in BENCH_PRELOAD.

A fresh cluster in a temporary folder, reached through a Unix socket only. Every connection runs one simple query and
then stays open; no client library, so that nothing but the server is measured. Two sums over the server's processes:

  anonymous      "Anonymous" of /proc/PID/smaps_rollup. A page that a child still shares with the postmaster after the
                 fork counts once in each.
  anonymous_pss  "Pss_Anon": such a page counts once, divided among those who share it. It is what the machine pays.

Shared buffers are in neither: they are shared memory.
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import socket
import struct
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # for tools.python
from tools.python import servers
from tools.python.processes import Failure, family, smaps_mib

QUERY = "select count(*) from pg_class"
SETTLE_SECONDS = 1.0


def read_exactly(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise RuntimeError("the server closed the connection")
        data += piece
    return data


def read_until_ready(connection):
    """Pass over messages until the server says that it is ready for a query."""
    while True:
        kind, length = struct.unpack("!cI", read_exactly(connection, 5))
        body = read_exactly(connection, length - 4)
        if kind == b"E":
            raise RuntimeError(f"the server answered {body!r}")
        if kind == b"Z":
            return


def connect(socket_path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(socket_path))
    words = b"user\0postgres\0database\0postgres\0\0"
    connection.sendall(struct.pack("!II", len(words) + 8, 3 << 16) + words)
    read_until_ready(connection)
    return connection


def run_query(connection, query):
    text = query.encode() + b"\0"
    connection.sendall(b"Q" + struct.pack("!I", len(text) + 4) + text)
    read_until_ready(connection)


class UnixPostgres(servers.Postgres):
    """The server with its own defaults, reached through a socket in its folder."""

    settings = {"listen_addresses": "", "fsync": "off", "autovacuum_naptime": "1d"}

    def command(self):
        return [*super().command(), "-k", self.folder]

    def connect(self):
        return connect(self.folder / f".s.PGSQL.{self.port}")

    def listens(self):
        self.check_alive()
        with contextlib.suppress(OSError, RuntimeError):
            self.connect().close()
            return True
        return False


@contextlib.contextmanager
def running_server(library):
    with tempfile.TemporaryDirectory(prefix="idle-postgres-") as folder:
        os.chmod(folder, 0o755)  # the server runs as another user where one is root, and has to reach the library
        if library:
            library = shutil.copy(library, folder)
        with UnixPostgres(pathlib.Path(folder, "postgres"), library) as server:
            yield server


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=20)
    connections = parser.parse_args().connections
    if not shutil.which(servers.Postgres.needs[0]):
        sys.exit("skip: no PostgreSQL server in /usr/lib/postgresql")
    with (running_server(os.environ.get("BENCH_PRELOAD", "")) as server, contextlib.ExitStack() as clients):
        for _ in range(connections):
            run_query(clients.enter_context(server.connect()), QUERY)
        time.sleep(SETTLE_SECONDS)
        server.look()  # that the library is in all of its processes
        pids = family(server.process.pid)
        print("processes", len(pids), "processes")
        print("anonymous", smaps_mib(pids, "Anonymous"), "MiB")
        print("anonymous_pss", smaps_mib(pids, "Pss_Anon"), "MiB")
        print("private_dirty", smaps_mib(pids, "Private_Dirty"), "MiB")


if __name__ == "__main__":
    try:
        main()
    except (Failure, RuntimeError, OSError) as failure:
        sys.exit(f"idle_postgres: {failure}")
