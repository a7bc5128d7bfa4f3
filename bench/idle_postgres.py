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
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

SERVER_FOLDERS = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
QUERY = "select count(*) from pg_class"
SETTLE_SECONDS = 1.0


def server_rights():
    """PostgreSQL refuses to run as root; then it runs as the user that Debian made for it."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


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


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sum_kib(pids, row):
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(row + ":"):
                total += int(line.split()[1])
    return total


@contextlib.contextmanager
def running_server(bin_folder, library):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="idle-postgres-"))
    if library: # the server's user may not be able to read it where it is
        library = shutil.copy(library, folder)
    if server_rights():
        shutil.chown(folder, "postgres", "postgres")
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    log = open(folder / "log", "w+")
    server = None
    try:
        subprocess.run([bin_folder / "initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-D", folder / "data"],
                       check=True, stdout=log, stderr=log, cwd="/", env=plain, **server_rights())
        server = subprocess.Popen(
            [bin_folder / "postgres", "-D", folder / "data", "-k", folder, "-h", "", "-c", "fsync=off",
             "-c", "autovacuum_naptime=1d"],
            stdout=log, stderr=log, cwd="/", env={**plain, **({"LD_PRELOAD": library} if library else {})},
            **server_rights())
        wait_for_socket(server, folder / ".s.PGSQL.5432")
        yield server, folder / ".s.PGSQL.5432", library
    except Exception:
        log.seek(0)
        sys.stderr.write(log.read())
        raise
    finally:
        if server and server.poll() is None:
            server.send_signal(signal.SIGINT)  # "fast": it ends its sessions
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_socket(server, path):
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        with contextlib.suppress(OSError, RuntimeError):
            connect(path).close()
            return
        time.sleep(0.1)
    raise RuntimeError("the server does not answer")


def check_preloaded(library, pids):
    for pid in pids if library else []:
        if os.path.realpath(library) not in pathlib.Path(f"/proc/{pid}/maps").read_text():
            raise RuntimeError(f"{library} is not loaded in process {pid}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=20)
    connections = parser.parse_args().connections
    if not SERVER_FOLDERS:
        sys.exit("skip: no PostgreSQL server in /usr/lib/postgresql")
    preload = os.environ.get("BENCH_PRELOAD", "")
    with (running_server(SERVER_FOLDERS[0], preload) as (server, socket_path, library),
          contextlib.ExitStack() as clients):
        for _ in range(connections):
            run_query(clients.enter_context(connect(socket_path)), QUERY)
        time.sleep(SETTLE_SECONDS)
        pids = [server.pid, *children(server.pid)]
        check_preloaded(library, pids)
        print("processes", len(pids), "processes")
        print("anonymous", sum_kib(pids, "Anonymous") / 1024, "MiB")
        print("anonymous_pss", sum_kib(pids, "Pss_Anon") / 1024, "MiB")
        print("private_dirty", sum_kib(pids, "Private_Dirty") / 1024, "MiB")


if __name__ == "__main__":
    main()
