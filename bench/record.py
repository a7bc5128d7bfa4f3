#!/usr/bin/python3
"""Records which sizes real programs ask malloc for, into bench/data/sizes/NAME.csv: bench/record.py NAME...

Each program runs under a bounded load with librecord_sizes.so in front (bench/record_sizes.c); its clients do not.
What all of its processes asked for, at their start and under the load, is added up. So that a file is some hundred
lines long, sizes that are seldom asked for share a row, a class of 1/32 of a power of two with its mean; and the rows
that make up 99.99 % of the calls are kept.

`--library PATH` names another librecord_sizes.so than that of the folder `build`. Without a name, all are recorded.
"""
import argparse
import collections
import contextlib
import datetime
import pathlib
import platform
import random
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.python import servers  # noqa: E402 (the path comes first)
from tools.python.processes import Failure, plain_env, run  # noqa: E402

SIZES = ROOT / "bench" / "data" / "sizes"
KEPT = 0.9999  # of the calls
SELDOM = 0.0005  # of the calls
CLASSES_A_DOUBLING = 32
SEED = 20_261_121
PROGRAM_WITHIN_S = 120


class Recording:
    """One program's turn: a folder of its own, the environment that it is recorded in, and what was run."""

    def __init__(self, library, folder):
        self.folder, self.prefix, self.commands, self.port = folder, folder / "counted", [], 0
        preload = shutil.copy(library, folder / "librecord_sizes.so")  # where servers with fewer rights reach it
        self.env = plain_env(LD_PRELOAD=preload, RECORD_SIZES=str(self.prefix))

    def note(self, words):
        """Remember a command for the file's head, without what differs from run to run."""
        command = " ".join(shlex.quote(str(word)) for word in words).replace(f"{self.folder}/", "")
        self.commands.append(command.replace(str(self.port), "PORT") if self.port else command)

    @contextlib.contextmanager
    def server(self, kind):
        """A server under recording; what it counted while it was set up is forgotten."""
        with kind(self.folder / kind.program, env=self.env) as server:
            for file in self.files():
                file.unlink()
            self.port = server.port
            self.note(server.command())
            yield server

    def client(self, server, *words, stdin="/dev/null"):
        self.note(words)
        return server.client(*words, stdin=stdin)

    def program(self, *words, stdin="/dev/null"):
        """A program under recording, to its end."""
        self.note(words)
        run(words, env=self.env, folder=self.folder, log=self.folder / "log", stdin=stdin,
            timeout_s=PROGRAM_WITHIN_S)

    def files(self):
        return list(self.folder.glob(self.prefix.name + ".*.csv"))

    def counts(self, program):
        """Calls by size, over all processes of the program (not of shells and drivers that started it)."""
        calls = collections.Counter()
        for file in self.files():
            head, *rows = file.read_text().splitlines()
            if head.startswith(f"# {program}:"):
                for row in rows:
                    size, count = row.split(",")
                    calls[int(size)] += int(count)
        if not calls:
            raise Failure(f"no process of {program} has counted anything")
        return calls


# -- what is run ----------------------------------------------------------------------------------------------------

def redis(recording):
    """redis-benchmark's commands, then 100,000 SET of 100 to 4000 bytes in a keyspace of 50,000, a tenth deleted."""
    chance = random.Random(SEED)
    with recording.server(servers.Redis) as server:
        recording.client(server, "redis-benchmark", "-p", server.port, "-P", 16, "-c", 20, "-r", 20_000, "-d", 200,
                         "-n", 10_000, "--csv")
        commands = recording.folder / "commands"
        with open(commands, "wb") as file:
            for _ in range(100_000):
                key = f"key:{chance.randrange(50_000)}"
                value = bytes(chance.randint(100, 4000))
                file.write(server.encode("DEL", key) if chance.random() < 0.1 else server.encode("SET", key, value))
        recording.client(server, "redis-cli", "-p", server.port, "--pipe", stdin=commands)


def postgres(recording):
    """pgbench on eight clients: tables of scale 1 made, 8,000 transactions that only read, 3,200 that write."""
    with recording.server(servers.Postgres) as server:
        for words in (["-i", "-q", "-s", 1], ["-c", 8, "-j", 2, "-S", "-t", 1000], ["-c", 8, "-j", 2, "-t", 400]):
            recording.client(server, *server.to_server("pgbench", *words))


def mariadb(recording):
    """sysbench's oltp_read_write: two tables of 10,000 rows made, 2,000 transactions on eight clients."""
    rows = 10_000
    with recording.server(servers.MariaDB) as server:
        server.ask("CREATE DATABASE sbtest")
        for words in (["prepare"], ["--threads=8", "--events=2000", "run"]):
            server.sysbench(rows, *words)
            recording.note(["sysbench oltp_read_write --tables=2", f"--table-size={rows}", *words])


def rocksdb(recording):
    """db_bench: 200,000 keys with values of 400 bytes written, then overwritten, read and scanned at random."""
    recording.program("db_bench", "--db=database", "--benchmarks=fillrandom,overwrite,readrandom,seekrandom",
                      "--num=200000", "--reads=50000", "--value_size=400", "--threads=1", "--seed=1")


def nginx(recording):
    """wrk for 3 s on a page of 260 bytes, 3 s on one of 100 KB that is compressed."""
    with recording.server(servers.Nginx) as server:
        (server.folder / "small.html").write_text("<p>small</p>" * 20)
        (server.folder / "middle.txt").write_text(" ".join(map(str, range(20_000))))
        for page in ("small.html", "middle.txt"):
            recording.client(server, "wrk", "-t1", "-c16", "-d3s", "-H", "Accept-Encoding: gzip",
                             server.address(page))


PYTHON_JSON = """
import json, random
chance = random.Random(1)
def document(depth):
    if depth == 0:
        return chance.choice([chance.random(), chance.randrange(10**9), 'x' * chance.randrange(900), None, True])
    if chance.random() < 0.5:
        return [document(depth - 1) for _ in range(chance.randrange(12))]
    return {'key%d' % chance.randrange(1000): document(depth - 1) for _ in range(chance.randrange(12))}
for _ in range(300):
    text = json.dumps(document(5), indent=1)
    assert json.dumps(json.loads(text), indent=1) == text
"""


def python(recording):
    """300 nested documents made, written as JSON, read and written again. Objects up to 512 bytes are pymalloc's."""
    (recording.folder / "json_run.py").write_text(PYTHON_JSON)
    recording.program("/usr/bin/python3.11", recording.folder / "json_run.py")


def cc1plus(recording):
    """g++ -O2 compiles bench/gbench.cc, with Google Benchmark's and the standard library's headers."""
    source = ROOT / "bench" / "gbench.cc"
    shutil.copy(source, recording.folder)
    shutil.copy(source.with_suffix(".h"), recording.folder)
    recording.program("g++", "-std=c++17", "-O2", "-g", "-c", "gbench.cc")


SQLITE_SCRIPT = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, parent INTEGER, data BLOB);
INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
    SELECT i, hex(randomblob(8 + i % 40)), i / 7, randomblob(i % 1500) FROM n;
CREATE INDEX by_name ON item(name);
CREATE INDEX by_parent ON item(parent);
UPDATE item SET name = name || id WHERE id % 3 = 0;
DELETE FROM item WHERE id % 11 = 0;
SELECT count(*), sum(length(b.name)) FROM item a JOIN item b ON b.parent = a.id;
SELECT substr(name, 1, 2) AS head, count(*), group_concat(id) FROM item GROUP BY head ORDER BY 2 DESC LIMIT 20;
SELECT name, sum(length(data)) OVER (ORDER BY name) FROM item ORDER BY data LIMIT 1000;
"""


def sqlite(recording):
    """50,000 rows made, indexed, changed and asked for, and 20,000 single statements."""
    chance = random.Random(SEED)
    script = recording.folder / "script.sql"
    singles = "".join(f"SELECT name FROM item WHERE id = {chance.randrange(50_000)};\n" for _ in range(20_000))
    script.write_text(SQLITE_SCRIPT + singles)
    recording.program("sqlite3", "database.sqlite", stdin=script)


PERL_SCRIPT = """
srand(1);
my (%count, %lines, @texts);
for my $n (1 .. 60000) {
    my $text = join ' ', map { 'word' . int(rand(5000)) } 1 .. 1 + int(rand(30));
    push @texts, $text;
    $count{$_}++ for split / /, $text;
    push @{$lines{length $text}}, $n;
}
my @top = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 99];
my $all = join "\\n", map { (my $t = $_) =~ s/word(\\d+)/<$1>/g; $t } @texts;
print length($all), " @top\\n";
"""


def perl(recording):
    """60,000 lines of words made, split, counted in hashes, sorted, and changed by regular expressions."""
    (recording.folder / "words.pl").write_text(PERL_SCRIPT)
    recording.program("perl", recording.folder / "words.pl")


# what is run, and the program that is recorded: its process's name, or its path where the two differ
PROGRAMS = {
    "redis": (redis, "redis-server"),
    "postgres": (postgres, str(servers.Postgres.bin / "postgres")),
    "mariadb": (mariadb, "mariadbd"),
    "rocksdb": (rocksdb, "db_bench"),
    "nginx": (nginx, "nginx"),
    "python": (python, "/usr/bin/python3.11"),
    "cc1plus": (cc1plus, "cc1plus"),
    "sqlite": (sqlite, "sqlite3"),
    "perl": (perl, "perl"),
}


# -- what is written ------------------------------------------------------------------------------------------------

def output_of(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def package_of(program):
    """The Debian package of a program (cc1plus only its compiler finds), with its version."""
    path = shutil.which(program) or output_of("g++", f"-print-prog-name={program}")
    package = output_of("dpkg-query", "-S", path).split(":")[0]
    return f"{package} {output_of('dpkg-query', '-W', '-f', '${Version}', package)}"


def with_classes(calls):
    """The seldom sizes put together in classes; a class's size is its mean."""
    rows, classes = collections.Counter(), collections.defaultdict(collections.Counter)
    for size, count in calls.items():
        if count >= SELDOM * calls.total():
            rows[size] = count
        else:
            doubling = size.bit_length()
            classes[doubling, size * CLASSES_A_DOUBLING * 2 >> doubling][size] = count
    for members in classes.values():
        mean = sum(size * count for size, count in members.items()) / members.total()
        rows[round(mean)] += members.total()
    return rows


def most_frequent(rows):
    """The rows that make up KEPT of the calls."""
    kept, enough = collections.Counter(), KEPT * rows.total()
    for size, count in rows.most_common():
        if kept.total() >= enough:
            break
        kept[size] = count
    return kept


def write(name, run_it, program, recording):
    calls = recording.counts(pathlib.Path(program).name)
    kept = most_frequent(with_classes(calls))
    head = [
        f"Sizes that a program asked malloc for: bytes,count. Recorded by: bench/record.py {name}",
        run_it.__doc__.strip(),
        f"{package_of(program)}; {platform.freedesktop_os_release()['PRETTY_NAME']}, {datetime.date.today()}",
        *(f"  {command}" for command in recording.commands),
        f"{calls.total()} calls of {len(calls)} sizes. Sizes with under {SELDOM:.2%} of the calls stand in classes "
        f"of 1/{CLASSES_A_DOUBLING} of",
        "a power of two, above 64 KiB of 1/8, with their mean; the most frequent rows are kept, with "
        f"{kept.total() / calls.total():.3%} of the calls.",
    ]
    lines = [f"# {line}" for line in head] + [f"{size},{kept[size]}" for size in sorted(kept)]
    (SIZES / f"{name}.csv").write_text("\n".join(lines) + "\n")
    mean = sum(size * count for size, count in kept.items()) / kept.total()
    print(f"{name}: {calls.total()} calls of {len(calls)} sizes, {len(kept)} rows, mean {mean:.0f} bytes", flush=True)


def record(name, library):
    run_it, program = PROGRAMS[name]
    with tempfile.TemporaryDirectory(prefix="record-") as folder:
        pathlib.Path(folder).chmod(0o1777)  # servers run as users of their own, and write there
        recording = Recording(library, pathlib.Path(folder))
        run_it(recording)
        write(name, run_it, program, recording)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--library", default=ROOT / "build" / "bench" / "librecord_sizes.so", type=pathlib.Path)
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in PROGRAMS]
    if unknown:
        sys.exit(f"record.py: unknown: {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    if not chosen.library.is_file():
        sys.exit(f"record.py: no {chosen.library}; build it, or name it with --library")
    SIZES.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or PROGRAMS:
        try:
            record(name, chosen.library)
        except (Failure, OSError, subprocess.CalledProcessError) as failure:
            sys.exit(f"record.py: {name}: {failure}")


if __name__ == "__main__":
    main()
